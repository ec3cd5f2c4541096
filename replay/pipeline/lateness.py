"""Records of one source that are earlier than one before them: accepted, refused, or put in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal

from ...topics.errors import Stop, Usage
from ..sources.source import Batch, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from ..time_text import shown_time
from .cursor import Open

__all__ = ["Disorder", "Sorted", "high_times", "pack", "unpack"]

SORT_RECORDS = 10_000
# What a sorted source has read and not yet given stands in the run's position, so it must stay well below a message.
MOST_RECORDS = 50_000


@dataclass(frozen=True, slots=True)
class Disorder:
    """What is done with a late record: one whose time is before that of a record in front of it in the same source.

    Attributes:
        policy: `accept` gives it its place right behind the record in front of it, and counts it; `fail` ends the
            replay; `sort` puts it in order, within `records`.
        records: how many records of each source a buffer holds.
    """

    policy: Literal["accept", "fail", "sort"] = "accept"
    records: int = SORT_RECORDS

    @classmethod
    def parse(cls, text: str) -> Disorder:
        """From `accept`, `fail`, `sort` or `sort:N`.

        >>> Disorder.parse("sort:500").records
        500

        Raises:
            Usage: it is none of these.
        """
        found = re.fullmatch(r"(accept|fail|sort)(?::(\d+))?", text)
        if found is None or (found[2] and found[1] != "sort"):
            raise Usage(f"--disorder {text}: expected accept, fail, sort or sort:N")
        records = int(found[2] or SORT_RECORDS)
        if not 0 < records <= MOST_RECORDS:
            raise Usage(f"--disorder {text}: between 1 and {MOST_RECORDS:,} records", hint="sort the file itself first")
        return cls(found[1], records)  # pyright: ignore[reportArgumentType] (the pattern lists the policies)


def high_times(items: Sequence[SourceRecord], high: int) -> list[int]:
    """For each item the latest time up to it; what orders a source, whether it is in order or not.

    >>> high_times([(None, b"", 5, None), (None, b"", 3, None), (None, b"", 6, None)], high=4)
    [5, 5, 6]
    """
    return list(accumulate((item[2] for item in items), max, initial=high))[1:]


# A place to read from: number of the next record, position, bad and blank lines seen, high time.
_Anchor = tuple[int, SourcePosition, int, int, int]


class Sorted:
    """One source, its records in order of time as far as a buffer reaches; those of one time stay in their order.

    A position has to say what was read and not yet given: `at`, the source's own before the first such record; `read`,
    how many records follow it that were read; `held`, which of those were not given, as runs of [first, count]. Opened
    at it, the source is read again from there. One record from the far future stays in the buffer to the end and keeps
    `at` back, so that going on takes as long as reading did; it still is exact.

    Raises:
        Stop: a record is later than the buffer reaches.
    """

    poll_again_s = 0.0

    def __init__(self, name: str, open_at: Open, records: int, position: SourcePosition | None = None) -> None:
        self._name, self._records = name, records
        self._source = open_at(position["at"] if position else None)
        self._next = self._source.begins
        # Of the batch that is being made.
        self._bad: list[BadLine] = []
        self._blank = 0
        # (time, number of the record since it was opened, record); sorted, so that ties keep their order.
        self._held: list[tuple[int, int, SourceRecord]] = []
        self._high = self._last = 0
        self._read = self._bad_seen = self._blank_seen = 0
        self._skip_bad = self._skip_blank = 0
        # One before each batch that something is still held of.
        self._anchors: list[_Anchor] = []
        if position:
            self._high, self._last = position["high"], position["last"]
            self._skip_bad, self._skip_blank = position["bad"], position["blank"]
            self._read_again(position)
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return not self._held and self._source.ended

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self._source.done_bytes

    def next_batch(self) -> Batch:
        """See `Source`."""
        items = self._next_items()
        bad, blank = self._bad, self._blank
        self._bad, self._blank = [], 0
        return Batch(items, self._position(), bad, blank)

    def _next_items(self) -> Sequence[SourceRecord]:
        gained = 0
        # Sorting what is held again for a few records would cost more than it brings.
        while not self._source.ended and gained < max(1, self._records // 2):
            batch = self._read_batch()
            gained += len(batch)
            self._held += batch
            if self._bad:
                break
        self._held.sort()
        going = len(self._held) if self._source.ended else max(0, len(self._held) - self._records)
        out, self._held = self._held[:going], self._held[going:]
        if not out:
            return []
        if out[0][0] < self._last:
            raise Stop(
                f"{self._name}: a record of {shown_time(out[0][0])} is late by more than {self._records:,} records: "
                f"later ones have been sent, up to {shown_time(self._last)}",
                hint="another run with a larger --disorder sort:N, or with --disorder accept",
            )
        self._last = out[-1][0]
        self._forget()
        return [item for _, _, item in out]

    def _position(self) -> SourcePosition:
        self._forget()
        if not self._anchors:
            at, first, bad, blank, high = (
                self._next,
                self._read,
                self._bad_seen,
                self._blank_seen,
                self._high,
            )
        else:
            first, at, bad, blank, high = self._anchors[0]
        return {
            "at": at,
            "read": self._read - first,
            "held": pack(number - first for _, number, _ in self._held),
            "bad": self._bad_seen - bad + self._skip_bad,
            "blank": self._blank_seen - blank + self._skip_blank,
            "high": high,
            "last": self._last,
        }

    def close(self) -> None:
        """See `Source`."""
        self._source.close()

    def _read_batch(self) -> list[tuple[int, int, SourceRecord]]:
        self._anchors.append((self._read, self._next, self._bad_seen, self._blank_seen, self._high))
        batch = self._source.next_batch()
        self._next, items = batch.after, batch.records
        known = min(self._skip_bad, len(batch.bad))
        self._skip_bad -= known
        self._bad_seen += len(batch.bad)
        self._bad += batch.bad[known:]
        known = min(self._skip_blank, batch.blank)
        self._skip_blank -= known
        self._blank_seen += batch.blank
        self._blank += batch.blank - known
        times = [item[2] for item in items]
        highs = high_times(items, self._high)
        if 0 in times:  # a record without a time stays behind the one in front of it
            times = [time or high for time, high in zip(times, highs, strict=True)]
        if items:
            self._high = highs[-1]
        entries = list(zip(times, count(self._read), items))
        self._read += len(items)
        return entries

    def _read_again(self, position: SourcePosition) -> None:
        held = set(unpack(position["held"]))
        while self._read < position["read"]:
            before = self._read
            for entry in self._read_batch():
                # A batch may go beyond what was read before: that is new.
                if entry[1] in held or entry[1] >= position["read"]:
                    self._held.append(entry)
            assert self._read > before or not self._source.ended, "the source has become shorter"
        self._held.sort()

    def _forget(self) -> None:
        first = min((number for _, number, _ in self._held), default=self._read)
        while self._anchors and (self._anchors[1][0] if len(self._anchors) > 1 else self._read) <= first:
            del self._anchors[0]


def pack(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as runs of [first, count].

    >>> pack([7, 1, 2, 3])
    [[1, 3], [7, 1]]
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


def unpack(runs: Iterable[Sequence[int]]) -> Iterable[int]:
    """The numbers of `pack`."""
    return (number for first, many in runs for number in range(first, first + many))
