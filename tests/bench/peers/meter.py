"""Measures the time, CPU and memory of a command with all processes that it starts.

The command gets a session of its own, and all of that session counts. Looked at ten times a second: memory is the
largest sum of what the processes have resident (pages that two share count twice), CPU what they had used when last
seen, or what the system says of the command and those it has waited for, if that is more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import BenchError

__all__ = ["Usage", "metered"]

_LOOK_S = 0.1
_PATIENCE_S = 900.0
_GRACE_S = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """From the start of the command to its end."""

    started_at: float
    seconds: float
    cpu_s: float
    peak_bytes: int


def metered(command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str] | None = None) -> Usage:
    """Run it to its end; what it says goes to `log`, what it leaves running is ended. `environment`: None for ours.

    Raises:
        BenchError: it ended with an error, or not within 15 minutes.
    """
    with log.open("wb") as logged:
        started_at, began_s = time.time(), time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=logged,
            stderr=logged,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    watch = _Watch(process.pid)
    watch.start()
    ender = threading.Timer(_PATIENCE_S, os.killpg, (process.pid, signal.SIGKILL))
    ender.start()
    try:
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        ender.cancel()
        watch.stop()
        _end_session(process.pid)
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BenchError(f"{command[0]}: ended with {process.returncode}, see {log}\n{tail}")
    cpu_s = max(used.ru_utime + used.ru_stime, sum(watch.cpu_s.values()))
    return Usage(started_at, seconds, cpu_s, watch.peak_bytes)


@dataclass(slots=True)
class _Watch:
    session: int
    peak_bytes: int = 0
    cpu_s: dict[int, float] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_S):
            resident_bytes = 0
            for pid, cpu_s, bytes_ in _members(self.session):
                self.cpu_s[pid] = cpu_s
                resident_bytes += bytes_
            self.peak_bytes = max(self.peak_bytes, resident_bytes)


def _members(session: int) -> list[tuple[int, float, int]]:
    """(process id, CPU seconds, resident bytes) of all processes of a session."""
    found: list[tuple[int, float, int]] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # What follows the name, which is in brackets and may hold anything.
            stat = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # Who is dead and not buried (Z) uses nothing and cannot be ended.
        if int(stat[3]) == session and stat[0] != "Z":
            found.append((int(name), (int(stat[11]) + int(stat[12])) / _TICKS, int(stat[21]) * _PAGE))
    return found


def _end_session(session: int) -> None:
    """End what is left of it: politely, then not."""
    deadline, sign = time.monotonic() + _GRACE_S, signal.SIGTERM
    while left := [pid for pid, _, _ in _members(session)]:
        for pid in left:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            sign = signal.SIGKILL
        time.sleep(0.05)  # they need a moment to end
