"""Records that come out of a file as packed batches: by a replay into the live app, or by a bounded run that brings
its own workers. Both are processes under the same supervisor as workers, and are killed as they are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from audit import plainly
from crew import BANK, Worker

__all__ = ["RUN", "Replay", "Run", "write"]

RUN = "r"  # id of the bounded run


def write(path: Path, values: Iterable[bytes]) -> None:
    """A file of JSON lines that are all of the same fields, as columns are."""
    path.write_bytes(b"".join(plainly(value) + b"\n" for value in values))


class Replay(Worker):
    """`anabranch replay FILE --pack`, until it says that all is sent."""

    def command(self) -> list[str]:
        topic, file = f"{self.bank['BANK']}-transfers", self.folder / "transfers.jsonl"
        return ["replay", str(file), "--to", topic, *self._form]

    @property
    def _form(self) -> list[str]:
        return ["--key", "source", "--pack", "--rate", f"{self.bank['BANK_RATE']}/s", "-l", "info"]

    @property
    def ready(self) -> bool:
        return True

    @property
    def settled(self) -> bool:
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether it has come to its end."""
        return not self.wanted and self._process is None

    def _ended(self, code: int) -> None:
        if code == 0:
            self.wanted = False
        super()._ended(code)


class Run(Replay):
    """`anabranch run FILE --pack`, with workers of its own."""

    def command(self) -> list[str]:
        source = f"{self.bank['BANK']}-transfers={self.folder / 'transfers.jsonl'}"
        bad = ["--allow-failures", "100%"]  # those that are planned; the audit counts them
        return ["run", str(BANK), "--input", source, "--run-id", RUN, "--processes", "2", *bad, *self._form]

    @property
    def ready(self) -> bool:
        """Whether each of its workers has been."""
        logs = list(self.folder.glob(".anabranch/*/worker-*.log"))
        return len(logs) == 2 and all("ready on" in log.read_text(errors="replace") for log in logs)

    def show(self) -> None:
        """As a worker, and so do those it has started."""
        for pid in _children(self._process.pid) if self.runs else ():
            os.kill(pid, signal.SIGUSR1)
        super().show()

    def kill_worker(self, who: int) -> None:
        """One of those it has started, as long as there are any; it starts it again."""
        pids = sorted(_children(self._process.pid)) if self.runs else []
        if pids:
            os.kill(pids[who % len(pids)], signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == pid:
            found.append(int(stat.parent.name))
    return found
