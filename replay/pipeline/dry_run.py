"""What a replay would send, found by reading its sources; nothing is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from ...topics import clock
from ...topics.errors import Usage
from ...topics.partitioners import Partitioner
from ..replay_report import NEAR_1970_MS
from ..sources.file_history import is_socket
from ..sources.source import Replayable
from ..sources.source_record import SourceRecord
from .column_profile import Profile
from .counters import Counters
from .pace import Pace
from .partitioning import place
from .pipeline import Pipeline
from .time_histogram import Histogram

__all__ = ["DryRun", "survey"]

_FIRST = 5
_EXAMPLES = 5
_PROFILED = 50_000
# About what one process moves into a broker beside it; what a full speed is estimated by.
_USUAL_RATE = 200_000


@dataclass(slots=True)
class DryRun:
    """What was found, of one round of a loop.

    Attributes:
        records: that would be sent.
        bad, blank: lines that would be none; `examples` as `file:line: reason`.
        first: the first records.
        partitions: how many records each would get.
        over_time: of records with times.
        profile: of the columns of the first records.
        near_1970: records of the year 1970, which numbers that are no seconds come to: 20130101 is of August 1970.
        whole: the sources were read to their end; otherwise the figures are those of their beginning.
        read_bytes, size_bytes: of the sources.
        seconds: that reading took.
    """

    records: int = 0
    bad: int = 0
    blank: int = 0
    examples: list[str] = field(default_factory=list[str])
    first: list[SourceRecord] = field(default_factory=list[SourceRecord])
    partitions: Counter[int] = field(default_factory=Counter[int])
    over_time: Histogram = field(default_factory=Histogram)
    notes: Counters = field(default_factory=Counters)
    profile: Profile = field(default_factory=Profile)
    near_1970: int = 0
    whole: bool = False
    read_bytes: int = 0
    size_bytes: int = 0
    seconds: float = 0.0

    @property
    def in_all(self) -> int:
        """Records of everything, estimated by bytes where not all was read."""
        if self.whole or not self.read_bytes:
            return self.records
        return round(self.records * max(1.0, self.size_bytes / self.read_bytes))

    def takes_s(self, pace: Pace, rounds: int) -> float | None:
        """About how long sending takes; None where that cannot be told."""
        if not rounds or (pace.speed is not None and not self.whole):
            return None
        reading = self.records / self.seconds if self.seconds else _USUAL_RATE
        found = self.in_all / min(_USUAL_RATE, max(1.0, reading))
        if pace.rate is not None:
            found = max(found, self.in_all / pace.rate)
        if pace.speed is not None:
            begin_ms, end_ms = self.over_time.span_ms
            found = max(found, (end_ms - begin_ms) / 1000 / pace.speed)
        return found * rounds


def survey(
    history: Replayable, course: Pipeline, partitioner: Partitioner, *, most: int | None = None, value_type: Any = None
) -> DryRun:
    """Read a history on its course.

    Args:
        most: about how many records are read at most; None reads all.
        value_type: of the topic, where it is known.

    Raises:
        Usage: it cannot be read twice.
        Stop: it cannot be read; see `Source`.
    """
    if is_socket(history):
        raise Usage("a socket can be read only once", hint="--dry-run and --plot are for what can be read again")
    began_s = clock.now_s()
    found = DryRun(size_bytes=history.size_bytes, profile=Profile(value_type, _PROFILED))
    source = replace(course, rounds=1).open(history, partitioner=partitioner, notes=found.notes)
    try:
        while not source.ended and (most is None or found.records + found.notes.left_out < most):
            batch = source.next_batch()
            items = batch.records
            found.first += items[: _FIRST - len(found.first)]
            found.partitions.update(place(items, partitioner, found.records))
            times = [item[2] for item in items if item[2]]
            found.over_time.add(times)
            found.near_1970 += sum(time < NEAR_1970_MS for time in times)
            looked_s = clock.now_s()
            found.profile.add(items)
            began_s += clock.now_s() - looked_s  # which a replay does less of
            found.records += len(items)
            found.examples += [f"{bad.position}: {bad.reason}" for bad in batch.bad[: _EXAMPLES - len(found.examples)]]
            found.bad += len(batch.bad)
            found.blank += batch.blank
        found.whole, found.read_bytes = source.ended, source.done_bytes
    finally:
        source.close()
    found.seconds = clock.now_s() - began_s
    return found
