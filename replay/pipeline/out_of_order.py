"""Late records of a source, that is records out of order: accepted, refused, or put in order by a buffer.

A record is out of order if its time is before that of an earlier record in the same source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal

from ...topics.errors import Stop, Usage
from ..sources.source import SourceBatch, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from ..time_text import format_time
from .cursor import Open

__all__ = ["OutOfOrder", "SortedSource", "numbers_of", "ranges_of", "running_max_times"]

SORT_RECORDS = 10_000
# The numbers of the buffered records are part of the run's position, which must stay well below the size of a message.
MAX_RECORDS = 50_000

_Policy = Literal["accept", "fail", "sort"]
_POLICIES: dict[str, _Policy] = {"accept": "accept", "fail": "fail", "sort": "sort"}


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """The handling of records that are out of order.

    Attributes:
        policy: `accept` keeps it right behind the record in front of it, and counts it; `fail` ends the replay; `sort`
            puts it in order with a buffer.
        records: size of the buffer of each source, in records.
    """

    policy: _Policy = "accept"
    records: int = SORT_RECORDS

    @classmethod
    def parse(cls, text: str) -> OutOfOrder:
        """Parse `accept`, `fail`, `sort` or `sort:N`.

        >>> OutOfOrder.parse("sort:500").records
        500

        Raises:
            Usage: the text is none of these.
        """
        found = re.fullmatch(r"(accept|fail|sort)(?::(\d+))?", text)
        if found is None or (found[2] and found[1] != "sort"):
            raise Usage(f"--out-of-order {text}: expected accept, fail, sort or sort:N")
        records = int(found[2] or SORT_RECORDS)
        if not 0 < records <= MAX_RECORDS:
            raise Usage(
                f"--out-of-order {text}: between 1 and {MAX_RECORDS:,} records", hint="sort the file itself first"
            )
        return cls(_POLICIES[found[1]], records)


def running_max_times(records: Sequence[SourceRecord], start_ms: int) -> list[int]:
    """Return for each record the latest time up to it; a source is merged by these times, which are in order.

    >>> running_max_times([(None, b"", 5, None), (None, b"", 3, None), (None, b"", 6, None)], start_ms=4)
    [5, 5, 6]
    """
    return list(accumulate((record[2] for record in records), max, initial=start_ms))[1:]


# Where a source can be read from again: number of the next record, position, bad and blank lines before it, latest time
# before it.
_Anchor = tuple[int, SourcePosition, int, int, int]


class SortedSource:
    """A source whose records are put in order of time by a buffer; records of one time stay in their order.

    The position says which records have been read but not returned yet: `at` is the wrapped source's position before
    the first such record; `read`, how many records were read from there; `held`, which of those were not returned, as
    ranges of [first, count]. A source that is opened at a position reads again from `at`. One record from the far
    future stays in the buffer to the end and keeps `at` back, so resuming takes as long as reading did; it is exact
    nevertheless.

    Raises:
        Stop: a record is out of order by more than the buffer holds.
    """

    poll_again_s = 0.0

    def __init__(self, name: str, open_at: Open, records: int, position: SourcePosition | None = None) -> None:
        self._name, self._records = name, records
        self._source = open_at(position["at"] if position else None)
        self._next = self._source.begins
        # Of the batch that is being built.
        self._bad: list[BadLine] = []
        self._blank = 0
        # (time, number of the record since the source was opened, record): when sorted, equal times keep their order.
        self._held: list[tuple[int, int, SourceRecord]] = []
        self._max_time = self._last_time = 0
        self._read = self._bad_seen = self._blank_seen = 0
        self._skip_bad = self._skip_blank = 0
        # One before each batch of which a record is still held.
        self._anchors: list[_Anchor] = []
        if position:
            self._max_time, self._last_time = position["max_time"], position["last"]
            self._skip_bad, self._skip_blank = position["bad"], position["blank"]
            self._read_again(position)
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return not self._held and self._source.ended

    @property
    def done_bytes(self) -> int:
        """Bytes read so far; see `Source`."""
        return self._source.done_bytes

    def next_batch(self) -> SourceBatch:
        """Return the next records in order; see `Source`."""
        records = self._next_records()
        bad, blank = self._bad, self._blank
        self._bad, self._blank = [], 0
        return SourceBatch(records, self._position(), bad, blank)

    def _next_records(self) -> Sequence[SourceRecord]:
        gained = 0
        # Sorting the buffer again for a few records would cost more than it gains.
        while not self._source.ended and gained < max(1, self._records // 2):
            batch = self._read_batch()
            gained += len(batch)
            self._held += batch
            if self._bad:
                break
        self._held.sort()
        count = len(self._held) if self._source.ended else max(0, len(self._held) - self._records)
        out, self._held = self._held[:count], self._held[count:]
        if not out:
            return []
        if out[0][0] < self._last_time:
            raise Stop(
                f"{self._name}: a record of {format_time(out[0][0])} is out of order by more than {self._records:,} "
                f"records: later records have been sent, up to {format_time(self._last_time)}",
                hint="start another run with a larger --out-of-order sort:N, or with --out-of-order accept",
            )
        self._last_time = out[-1][0]
        self._drop_anchors()
        return [record for _, _, record in out]

    def _position(self) -> SourcePosition:
        self._drop_anchors()
        if self._anchors:
            first, at, bad, blank, max_time = self._anchors[0]
        else:
            first, at, bad, blank = self._read, self._next, self._bad_seen, self._blank_seen
            max_time = self._max_time
        return {
            "at": at,
            "read": self._read - first,
            "held": ranges_of(number - first for _, number, _ in self._held),
            "bad": self._bad_seen - bad + self._skip_bad,
            "blank": self._blank_seen - blank + self._skip_blank,
            "max_time": max_time,
            "last": self._last_time,
        }

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()

    def _read_batch(self) -> list[tuple[int, int, SourceRecord]]:
        self._anchors.append((self._read, self._next, self._bad_seen, self._blank_seen, self._max_time))
        batch = self._source.next_batch()
        self._next, records = batch.after, batch.records
        skipped = min(self._skip_bad, len(batch.bad))
        self._skip_bad -= skipped
        self._bad_seen += len(batch.bad)
        self._bad += batch.bad[skipped:]
        skipped = min(self._skip_blank, batch.blank)
        self._skip_blank -= skipped
        self._blank_seen += batch.blank
        self._blank += batch.blank - skipped
        times = [record[2] for record in records]
        max_times = running_max_times(records, self._max_time)
        if 0 in times:  # a record without a time stays behind the record in front of it
            times = [time or max_time for time, max_time in zip(times, max_times, strict=True)]
        if records:
            self._max_time = max_times[-1]
        entries = list(zip(times, count(self._read), records))
        self._read += len(records)
        return entries

    def _read_again(self, position: SourcePosition) -> None:
        held = set(numbers_of(position["held"]))
        while self._read < position["read"]:
            before = self._read
            for entry in self._read_batch():
                # Records of the batch beyond what was read before are new.
                if entry[1] in held or entry[1] >= position["read"]:
                    self._held.append(entry)
            assert self._read > before or not self._source.ended, "the source has become shorter"
        self._held.sort()

    def _drop_anchors(self) -> None:
        first = min((number for _, number, _ in self._held), default=self._read)
        while self._anchors and (self._anchors[1][0] if len(self._anchors) > 1 else self._read) <= first:
            del self._anchors[0]


def ranges_of(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers as ranges of [first, count].

    >>> ranges_of([7, 1, 2, 3])
    [[1, 3], [7, 1]]
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and sum(ranges[-1]) == number:
            ranges[-1][1] += 1
        else:
            ranges.append([number, 1])
    return ranges


def numbers_of(ranges: Iterable[Sequence[int]]) -> Iterable[int]:
    """Return the numbers of ranges; the reverse of `ranges_of`."""
    return (number for first, many in ranges for number in range(first, first + many))
