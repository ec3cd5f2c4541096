"""The `anabranch` command as a user types it, in a folder of its own, on the tests' broker.

`Shell.start` starts a process; `Shell.run` and `Shell.fork` fork one, which is cheaper: see `fork_server.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
from anabranch.topics.cluster import Cluster
from fork_server import ForkServer


class Output:
    """The lines that a process has written so far, without line ends; a thread reads them.

    Attributes:
        reader: the thread, which ends with the output.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self.reader.start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self.lines.append(line.rstrip("\n"))

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def found(self, pattern: str) -> list[tuple[str, ...]]:
        return [match.groups() for line in list(self.lines) if (match := re.search(pattern, line))]

    def count(self, words: str) -> int:
        return sum(words in line for line in list(self.lines))


@dataclass
class Shell:
    """Runs commands in `folder`; what is still running at the end is ended."""

    folder: Path
    environment: dict[str, str]
    forks: ForkServer
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def run(
        self, *arguments: object, timeout_s: float = 240, stdin: IO[str] | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return self.forks.run(
            [*map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **more},
            timeout_s=timeout_s,
            stdin=stdin,
        )

    def start(self, *arguments: object, **more: str) -> subprocess.Popen[str]:
        """Start a process of its own, for tests of its children, its end, or what a signal does to it."""
        return self._started([sys.executable, "-m", "anabranch", *map(str, arguments)], more)

    def fork(self, *arguments: object, **more: str) -> subprocess.Popen[str]:
        """Start a command that goes on beside the test; signals reach it."""
        return self._started([str(self.forks.program), *map(str, arguments)], more)

    def _started(self, command: list[str], more: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def output(self, process: subprocess.Popen[str]) -> Output:
        """Read the output of a process from now on."""
        return Output(process)


@pytest.fixture
def shell(tmp_path: Path, broker: Cluster, forks: ForkServer) -> Iterator[Shell]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "ANABRANCH_"))}
    environment["KAFKA_BOOTSTRAP_SERVERS"] = broker.bootstrap_servers
    environment["ANABRANCH_JAVA_OPTIONS"] = os.environ["ANABRANCH_JAVA_OPTIONS"]  # for brokers that commands start
    here = Shell(tmp_path, environment, forks)
    yield here
    for process in here.started:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
