"""The worker processes of a bounded run: started, watched, started again when something kills them, ended with it."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ...topics.cluster import Cluster
from ...topics.errors import Stop
from ...topics.private_folder import private_folder
from .worker_processes import Processes

__all__ = ["WorkerPool", "last_words"]

logger = logging.getLogger(__name__)

# A worker that something kills is started again, exactly once holds; one that cannot live must not be for ever.
_RESTARTS = 10
_END_S = 60.0

Key = tuple[str, int]


class WorkerPool:
    """Workers of one app.

    Args:
        app_name: as for `-A`.
        run_id: of the bounded run they work for.
        data: folder for their identities and logs (`worker-<n>.log`).
    """

    def __init__(self, cluster: Cluster, app_name: str, run_id: str, data: Path, *, processes: int = 1) -> None:
        self._app_name, self._data, self._count = app_name, data, processes
        self._processes = Processes(cluster, {"ANABRANCH_RUN": run_id})
        self.restarts = 0
        self._complete = False
        self._ends: dict[Key, int] = {}

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return self._processes.pids

    def start(self) -> None:
        """Start all."""
        private_folder(self._data)
        for number in range(self._count):
            self._start(number)

    def _log(self, number: int) -> Path:
        return self._data / f"worker-{number}.log"

    def _start(self, number: int) -> None:
        arguments = ["--without-web", "-l", "info", "--datadir", str(self._data), "--complete-by-stdin"]
        self._processes.start(number, self._app_name, arguments, self._log(number).open("ab"))
        self._tell()

    def check(self) -> None:
        """Start again who was killed.

        Raises:
            Stop: a worker ended by itself, with what it said; or was killed too often.
        """
        for number, code in self._processes.ended():
            if code >= 0:
                raise Stop(f"worker {number} ended with exit code {code}: {self._last_words(number)}")
            if self.restarts >= _RESTARTS:
                raise Stop(f"worker {number} was killed {self.restarts} times", hint=f"its log is {self._log(number)}")
            self.restarts += 1
            logger.warning("worker %d was killed by signal %d: started again", number, -code)
            self._start(number)

    def _last_words(self, number: int) -> str:
        return last_words(self._log(number).read_text(errors="replace").splitlines()) or f"see {self._log(number)}"

    def complete(self) -> None:
        """All is in Kafka: from now on somebody waits for what workers have done, so they commit when they are idle."""
        if not self._complete:
            self._complete = True
            self._tell()

    def history_ends(self, ends: Mapping[Key, int]) -> None:
        """Of these partitions history ends at these offsets: what agents hold back of it (`take`) is the rest."""
        if not ends.items() <= self._ends.items():
            self._ends |= ends
            self._tell()

    def _tell(self) -> None:
        """Tell all workers what they have to know; who knows it already hears nothing new."""
        if self._complete:
            self._processes.write(b"complete\n")
        if self._ends:
            told = json.dumps([[*at, end] for at, end in self._ends.items()], separators=(",", ":"))
            self._processes.write(f"ends {told}\n".encode())

    def end(self) -> None:
        """SIGTERM, so that they commit and leave; wait.

        Raises:
            Stop: one did not end well.
        """
        self._processes.tell()
        codes, killed = self._processes.wait(_END_S)
        if killed:
            raise Stop(f"worker {killed[0]} did not end in {_END_S:.0f} s", hint=f"see {self._log(killed[0])}")
        for number, code in codes.items():
            if code and code != -signal.SIGTERM:  # that is who had not begun to listen to signals
                raise Stop(f"worker {number} ended with exit code {code}: {self._last_words(number)}")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._processes.__exit__(kind, exc, tb)


def last_words(lines: list[str]) -> str:
    """Why a worker ended, of what it wrote: its error and the hint, else the last lines."""
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("error: "):
            return "\n".join([lines[i].removeprefix("error: "), *lines[i + 1 : i + 2]])
    return "\n".join(lines[-3:])
