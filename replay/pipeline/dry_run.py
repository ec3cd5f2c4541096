"""A dry run: reads the sources of a replay and reports what would be sent; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...topics import clock
from ...topics.errors import Usage
from ...topics.partitioners import Partitioner
from ...topics.private_fields import NOTHING, PrivateFields
from ..replay_report import NEAR_1970_MS, Counters
from ..sources.file_history import is_socket
from ..sources.source import Replayable
from ..sources.source_record import SourceRecord
from .column_profile import Profile
from .pace import Pace
from .partitioning import record_partitions
from .pipeline import Pipeline

__all__ = ["DryRun", "TimeHistogram", "perform_dry_run"]

_FIRST = 5
_EXAMPLES = 5
_PROFILED = 50_000
# About what one process sends to a broker on the same machine; an upper bound of the estimated rate.
_USUAL_RATE = 200_000

MAX_BINS = 128


class TimeHistogram:
    """Counts of times in bins of equal width. The width doubles when there would be more than `MAX_BINS` bins.

    >>> histogram = TimeHistogram()
    >>> histogram.add([0, 1, 1, 1000])
    >>> histogram.width_ms, histogram.counts()
    (8, [(0, 3), (1000, 1)])
    """

    def __init__(self) -> None:
        self.width_ms = 1
        self._bins: Counter[int] = Counter()
        self._least = self._most = 0

    def add(self, times_ms: Sequence[int]) -> None:
        """Count times, given in milliseconds since 1970."""
        if not times_ms:
            return
        least, most = min(times_ms), max(times_ms)
        if self._bins:
            least, most = min(least, self._least), max(most, self._most)
        self._least, self._most = least, most
        while most // self.width_ms - least // self.width_ms >= MAX_BINS:
            self.width_ms *= 2
            halved: Counter[int] = Counter()
            for number, count in self._bins.items():
                halved[number // 2] += count
            self._bins = halved
        width_ms = self.width_ms
        self._bins.update([time // width_ms for time in times_ms])

    def counts(self) -> list[tuple[int, int]]:
        """Return (start, count) of each bin that is not empty; the start in milliseconds since 1970."""
        return [(number * self.width_ms, count) for number, count in sorted(self._bins.items())]

    @property
    def range_ms(self) -> tuple[int, int]:
        """The first and the last time."""
        return self._least, self._most


@dataclass(slots=True)
class DryRun:
    """The result of a dry run: the records that a replay would send in one round of its loop.

    Attributes:
        records: how many records would be sent.
        bad, blank: how many lines are no records; `examples` of bad ones as `file:line: reason`.
        first: the first records.
        partitions: how many records each partition would receive.
        over_time: times of the records that have one.
        counters: records that were filtered out or are out of order.
        profile: the columns of the first records; `Profile.scope` says of how many.
        near_1970: records of the year 1970: the result of reading numbers that are no seconds, such as 20130101 (which
            is in August 1970).
        complete: the sources were read to their end; otherwise the figures are those of their beginning.
        read_bytes, size_bytes: how much of the sources was read, and their size.
        seconds: how long reading took, without the profile.
    """

    records: int = 0
    bad: int = 0
    blank: int = 0
    examples: list[str] = field(default_factory=list[str])
    first: list[SourceRecord] = field(default_factory=list[SourceRecord])
    partitions: Counter[int] = field(default_factory=Counter[int])
    over_time: TimeHistogram = field(default_factory=TimeHistogram)
    counters: Counters = field(default_factory=Counters)
    profile: Profile = field(default_factory=Profile)
    near_1970: int = 0
    complete: bool = False
    read_bytes: int = 0
    size_bytes: int = 0
    seconds: float = 0.0

    @property
    def estimated_records(self) -> int:
        """Records of the whole history; estimated from its size where only the beginning was read."""
        if self.complete or not self.read_bytes:
            return self.records
        return round(self.records * max(1.0, self.size_bytes / self.read_bytes))

    def estimated_s(self, pace: Pace, rounds: int) -> float | None:
        """Return about how long the replay takes, in seconds; None if it cannot be estimated."""
        if not rounds or (pace.speed is not None and not self.complete):
            return None
        reading = self.records / self.seconds if self.seconds else _USUAL_RATE
        found = self.estimated_records / min(_USUAL_RATE, max(1.0, reading))
        if pace.rate is not None:
            found = max(found, self.estimated_records / pace.rate)
        if pace.speed is not None:
            begin_ms, end_ms = self.over_time.range_ms
            found = max(found, (end_ms - begin_ms) / 1000 / pace.speed)
        return found * rounds


def perform_dry_run(
    history: Replayable,
    pipeline: Pipeline,
    partitioner: Partitioner,
    *,
    max_records: int | None = None,
    value_type: object = None,
    private: PrivateFields = NOTHING,
) -> DryRun:
    """Read a history through its pipeline (blocking).

    Args:
        partitioner: that of the topic.
        max_records: about how many records are read at most; None reads all.
        value_type: of the topic, if it is known.
        private: the topic's private fields.

    Raises:
        Usage: the history can be read only once.
        Stop: it cannot be read; see `Source`.
    """
    if is_socket(history):
        raise Usage("a socket can be read only once", hint="--dry-run and --plot need a source that can be read again")
    began_s = clock.now_s()
    found = DryRun(size_bytes=history.size_bytes, profile=Profile(value_type, _PROFILED, private=private))
    source = replace(pipeline, rounds=1).open(history, partitioner=partitioner, counters=found.counters)
    try:
        while not source.ended and (max_records is None or found.records + found.counters.filtered_out < max_records):
            batch = source.next_batch()
            records = batch.records
            found.first += records[: _FIRST - len(found.first)]
            found.partitions.update(record_partitions(records, partitioner, found.records))
            times = [record[2] for record in records if record[2]]
            found.over_time.add(times)
            found.near_1970 += sum(time < NEAR_1970_MS for time in times)
            profile_began_s = clock.now_s()
            found.profile.add(records)
            began_s += clock.now_s() - profile_began_s  # a replay profiles fewer records
            found.records += len(records)
            found.examples += [bad.described for bad in batch.bad[: _EXAMPLES - len(found.examples)]]
            found.bad += len(batch.bad)
            found.blank += batch.blank
        found.complete, found.read_bytes = source.ended, source.done_bytes
    finally:
        source.close()
    found.seconds = clock.now_s() - began_s
    return found
