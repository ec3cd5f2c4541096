"""Processes that read the records from a file as packed batches: a replay into the live app, or a bounded run with
workers of its own. Both run under the same supervisor as workers, and are killed in the same way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from audit import with_all_fields
from supervised_process import BANK, Worker

__all__ = ["RUN", "Replay", "Run", "write"]

RUN = "r"  # id of the bounded run


def write(path: Path, values: Iterable[bytes]) -> None:
    """Write a file of JSON lines with equal fields."""
    path.write_bytes(b"".join(with_all_fields(value) + b"\n" for value in values))


class Replay(Worker):
    """`anabranch replay FILE --pack`."""

    def command(self) -> list[str]:
        topic, file = f"{self.bank['BANK']}-transfers", self.folder / "transfers.jsonl"
        return ["replay", str(file), "--to", topic, *self._options]

    @property
    def _options(self) -> list[str]:
        return ["--key", "source", "--pack", "--rate", f"{self.bank['BANK_RATE']}/s", "-l", "info"]

    @property
    def ready(self) -> bool:
        return True

    @property
    def settled(self) -> bool:
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether it has ended with exit code 0."""
        return not self.wanted and self._process is None

    def _ended(self, code: int) -> None:
        if code == 0:
            self.wanted = False
        super()._ended(code)


class Run(Replay):
    """`anabranch run FILE --pack`, with workers of its own."""

    def command(self) -> list[str]:
        source = f"{self.bank['BANK']}-transfers={self.folder / 'transfers.jsonl'}"
        bad = ["--allow-failures", "100%"]  # the audit counts the failures
        return ["run", str(BANK), "--input", source, "--run-id", RUN, "--processes", "2", *bad, *self._options]

    @property
    def ready(self) -> bool:
        """Whether each of its workers was ready."""
        logs = list(self.folder.glob(".anabranch/*/worker-*.log"))
        return len(logs) == 2 and all("ready on" in log.read_text(errors="replace") for log in logs)

    def show(self) -> None:
        """Write the stacks of the run and of its workers into their logs."""
        for pid in _children(self._process.pid) if self.runs else ():
            os.kill(pid, signal.SIGUSR2)
        super().show()

    def kill_worker(self, worker: int) -> None:
        """kill -9 one of its workers; the run restarts it."""
        pids = sorted(_children(self._process.pid)) if self.runs else []
        if pids:
            os.kill(pids[worker % len(pids)], signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it ended in the meantime
            continue
        if int(parent) == pid:
            found.append(int(stat.parent.name))
    return found
