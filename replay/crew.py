"""The worker processes of a bounded run: started, watched, started again when something kills them, ended with it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from ..topics.client import Cluster
from ..topics.errors import Stop

__all__ = ["Crew"]

logger = logging.getLogger(__name__)

# A worker that something kills is started again, exactly once holds; one that cannot live must not be for ever.
_RESTARTS = 10
_END_S = 60.0


class Crew:
    """Workers of one app.

    Args:
        app_name: as for `-A`.
        run_id: of the bounded run they work for.
        data: folder for their identities and logs (`worker-<n>.log`).
    """

    def __init__(self, cluster: Cluster, app_name: str, run_id: str, data: Path, *, processes: int = 1) -> None:
        self._command = [sys.executable, "-m", "anabranch", "-A", app_name, "worker", "--without-web", "-l", "info"]
        self._command += ["--datadir", str(data), "--end-with-stdin"]
        # Options may hold secrets, so they travel in the environment and not in the process list.
        self._environment = {
            **os.environ,
            "ANABRANCH_RUN": run_id,
            "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "ANABRANCH_OPTIONS": "\n".join(f"{name}={value}" for name, value in cluster.options.items()),
        }
        self._data, self._count = data, processes
        self._processes: list[subprocess.Popen[bytes]] = []
        self.restarts = 0

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return [process.pid for process in self._processes]

    def start(self) -> None:
        """Start all."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._processes = [self._spawn(number) for number in range(self._count)]

    def _log(self, number: int) -> Path:
        return self._data / f"worker-{number}.log"

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        with self._log(number).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 (our own interpreter, arguments in a list)
                self._command,
                stdin=subprocess.PIPE,  # closed by our death, whatever kills us: then the worker ends too
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the run, which ends its workers in order
            )

    def check(self) -> None:
        """Start again who was killed.

        Raises:
            Stop: a worker ended by itself, with what it said; or was killed too often.
        """
        for number, process in enumerate(self._processes):
            code = process.poll()
            if code is None:
                continue
            if code >= 0:
                raise Stop(f"worker {number} ended with exit code {code}: {self._last_words(number)}")
            if self.restarts >= _RESTARTS:
                raise Stop(f"worker {number} was killed {self.restarts} times", hint=f"its log is {self._log(number)}")
            self.restarts += 1
            logger.warning("worker %d was killed by signal %d: started again", number, -code)
            self._processes[number] = self._spawn(number)

    def _last_words(self, number: int) -> str:
        lines = self._log(number).read_text(errors="replace").splitlines()
        for i in range(len(lines) - 1, -1, -1):
            if lines[i].startswith("error: "):
                return "\n".join([lines[i].removeprefix("error: "), *lines[i + 1 : i + 2]])
        return "\n".join(lines[-3:]) or f"see {self._log(number)}"

    def end(self) -> None:
        """SIGTERM, so that they commit and leave; wait.

        Raises:
            Stop: one did not end well.
        """
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for number, process in enumerate(self._processes):
            try:
                code = process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Stop(f"worker {number} did not end in {_END_S:.0f} s", hint=f"see {self._log(number)}") from None
            if code:
                raise Stop(f"worker {number} ended with exit code {code}: {self._last_words(number)}")
        self._processes = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
