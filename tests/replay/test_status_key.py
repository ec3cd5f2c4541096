"""Enter at a worker's terminal shows its status, and only there."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anabranch
import pytest

# Prints a line for each Enter; `background`: as a job of a shell that keeps the terminal for a while.
PROGRAM = """
import os, sys, time
from anabranch.replay.cli.status_key import call_on_enter
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # a session's leader that opens a terminal is controlled by it
if sys.argv[1:] == ["background"]:
    job = os.fork()
    if job:
        while os.getpgid(job) != job:
            time.sleep(0.01)
        print("moved", flush=True)
        time.sleep(2)
        print("back", flush=True)
        os.tcsetpgrp(0, job)
        os.waitpid(job, 0)
    os.setpgid(0, 0)
print("reads", call_on_enter(lambda: print("asked", flush=True)), flush=True)
time.sleep(60)
"""


class Terminal:
    """A process at a terminal of its own; `shown` is what it has written."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self._screen, its_side = pty.openpty()
        # Not `pty.fork`: between a fork and the program, Python may wait for ever for a lock of another thread.
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=its_side,
            stdout=its_side,
            stderr=its_side,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(Path(anabranch.__file__).parents[1])},
        )
        os.close(its_side)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := os.read(self._screen, 4096):
                self.shown += data.decode().replace("\r", "")
        except OSError:
            return

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    found = Terminal(*getattr(request, "param", ()))
    yield found
    found.end()


def test_enter_asks_as_often_as_it_is_typed(terminal: Terminal, eventually: Callable[..., None]) -> None:
    eventually(lambda: "reads True" in terminal.shown, "it reads the terminal")
    terminal.type("\n")
    eventually(lambda: terminal.shown.count("asked") == 1, "an answer")
    terminal.type("s\n")
    eventually(lambda: terminal.shown.count("asked") == 2, "another one")


@pytest.mark.parametrize("terminal", [("background",)], indirect=True)
def test_what_is_typed_for_another_job_is_left_to_it(terminal: Terminal, eventually: Callable[..., None]) -> None:
    eventually(lambda: "moved" in terminal.shown and "reads True" in terminal.shown, "a job in the background")
    terminal.type("\n")
    eventually(lambda: "back" in terminal.shown, "the shell gives the terminal to it")
    assert "asked" not in terminal.shown.partition("back")[0]
    eventually(lambda: "asked" in terminal.shown, "in the foreground it reads")


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_what_is_no_terminal_is_not_read(stdin: int) -> None:
    program = PROGRAM.replace("time.sleep(60)", "print(sys.stdin.read())")
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=None if stdin == subprocess.DEVNULL else "for the program\n",
        stdin=stdin if stdin == subprocess.DEVNULL else None,
        env={**os.environ, "PYTHONPATH": str(Path(anabranch.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.startswith("reads False\n")
    assert ("for the program" in ended.stdout) == (stdin == subprocess.PIPE)
