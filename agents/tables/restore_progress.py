"""How far a restore is, for the log, the terminal and HTTP."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RestoreProgress"]


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """Tables of a worker on their way to the ends of their changelogs.

    Offsets, not records, say how much is left: transaction markers and aborted records occupy some, and compaction
    leaves gaps.

    Attributes:
        records: read so far.
        offsets, offsets_left: between where the stores stood at first and the ends; of them, still to come.
        partitions, partitions_left: changelog partitions that had something to read; of them, not at their end yet.
        seconds: since it began.
    """

    records: int
    offsets: int
    offsets_left: int
    partitions: int
    partitions_left: int
    seconds: float

    @property
    def share(self) -> float:
        """What is done, from 0 to 1."""
        return 1 - self.offsets_left / self.offsets if self.offsets else 1.0

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None while there is none."""
        done = self.offsets - self.offsets_left
        return self.seconds * self.offsets_left / done if done > 0 else None

    def __str__(self) -> str:
        left = self.seconds_left
        return (
            f"restoring tables: {self.share:.0%}, {self.records:,} records, {self.rate:,.0f} records/s, "
            f"{self.partitions_left} of {self.partitions} partitions left"
            + (f", about {left:,.0f} s to go" if left is not None else "")
        )

    def facts(self) -> dict[str, Any]:
        """For a machine: the attributes, and `share`, `rate` and `seconds_left`."""
        return {**asdict(self), "share": self.share, "rate": self.rate, "seconds_left": self.seconds_left}
