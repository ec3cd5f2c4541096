"""Worker processes of one app: started with the cluster's secrets kept out of sight, told to end, ended with us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from ...topics import clock
from ...topics.cluster import Cluster

__all__ = ["Processes"]

# Less than what a command that was told to end has for all of it; workers end by themselves when we are gone.
_LAST_S = 4.0


class Processes:
    """Numbered worker processes; whoever uses it decides what a death means.

    A worker ends when we do, whatever kills us: it reads the end of its input then (`--end-with-stdin`).

    Args:
        environment: of the workers, beside ours.
    """

    def __init__(self, cluster: Cluster, environment: Mapping[str, str] | None = None) -> None:
        # Options may hold secrets, so they travel in the environment and not in the process list.
        self._environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "ANABRANCH_OPTIONS": "\n".join(f"{name}={value}" for name, value in cluster.options.items()),
            **(environment or {}),
        }
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> list[int]:
        """Of the workers that were started and not seen to end."""
        return [process.pid for process in self._running.values()]

    def start(self, number: int, app_name: str, arguments: Sequence[str], output: IO[Any]) -> None:
        """Start worker `number`; `output`, which it writes to, is closed on our side.

        Args:
            arguments: of `anabranch -A <app_name> worker`.
        """
        with output:
            self._running[number] = subprocess.Popen(  # noqa: S603 (our own interpreter, arguments in a list)
                [sys.executable, "-m", "anabranch", "-A", app_name, "worker", "--end-with-stdin", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for us, who end the workers in order
            )

    def ended(self) -> list[tuple[int, int]]:
        """(number, exit code) of those that ended since the last call; a code below 0 is the signal that killed."""
        found = [(number, code) for number, p in self._running.items() if (code := p.poll()) is not None]
        for number, _ in found:
            self._forget(number)
        return found

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to all."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(number)

    def write(self, line: bytes) -> None:
        """Into the input of all."""
        for process in self._running.values():
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # it has just died
                process.stdin.write(line)
                process.stdin.flush()

    def wait(self, most_s: float) -> tuple[dict[int, int], list[int]]:
        """Wait for all: number -> exit code, and the numbers of those that had to be killed after `most_s`."""
        codes: dict[int, int] = {}
        killed: list[int] = []
        deadline_s = clock.now_s() + most_s
        for number, process in list(self._running.items()):
            try:
                codes[number] = process.wait(max(0.0, deadline_s - clock.now_s()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed.append(number)
            self._forget(number)
        return codes, killed

    def _forget(self, number: int) -> None:
        stdin = self._running.pop(number).stdin
        assert stdin is not None
        stdin.close()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.tell()
        self.wait(_LAST_S)
