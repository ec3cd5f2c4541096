"""The result of one run of a measurement, written by its process to a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from records import Truth, truth_of

__all__ = ["Outcome", "peak_bytes"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times are seconds since 1970, of the clock that all processes of a machine share.

    Attributes:
        begun_at: the measure's own code starts: the worker is started, or the consumer made. Imports are before it.
        first_at: the first record is handed over.
        done_at: all records are counted, or handled and committed.
        peak_bytes: the most memory the process has had resident.
        found: the figures of the result; None where there is only a count to compare.
        cpu_s: user and system time of the process from `begun_at` to `done_at`; 0 where it is not measured.
    """

    records: int
    begun_at: float
    first_at: float
    done_at: float
    peak_bytes: int
    found: Truth | None
    cpu_s: float = 0.0

    @classmethod
    def of(
        cls,
        records: int,
        begun_at: float,
        first_at: float,
        done_at: float,
        totals: Mapping[str, int] | None = None,
        cpu_s: float = 0.0,
    ) -> Outcome:
        """The outcome of this process."""
        found = None if totals is None else truth_of(totals, records)
        return cls(records, begun_at, first_at, done_at, peak_bytes(os.getpid()), found, cpu_s)

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """What `write` wrote."""
        facts = json.loads(path.read_text())
        found = facts.pop("found")
        return cls(**facts, found=None if found is None else Truth(**found))

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        # Two workers write beside each other, in names that differ by their ending.
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(path)

    @property
    def seconds(self) -> float:
        """From the first record to the last."""
        return self.done_at - self.first_at


def peak_bytes(pid: int) -> int:
    """Peak resident memory. Not `ru_maxrss`: that counts what the parent had when it forked."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
