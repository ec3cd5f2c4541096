"""Merges the parts of a history into one source, in order of event time.

There is one order, and it depends on the records alone: by time, then by the part's name, then by position. A record
that is out of order (see `out_of_order.py`) counts as having the latest time before it in its part, so it goes right
behind the record in front of it, and each part keeps its own order.

The merge proceeds in batches. What the open parts have read, up to the time up to which all of them are known, is
sorted at once; sorting runs that are in order costs little. Where there are many parts, each is opened to read its
first record, closed, and opened again when that record is due: of a year of daily files, one or two are open at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial

from ...topics.cleanup import on_failure
from ...topics.errors import Stop
from ..replay_report import Counters
from ..sources.formats.line_buffer import BATCH_LINES
from ..sources.source import Part, Source, SourceBatch, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from ..time_text import format_duration_ms, format_time
from .cursor import Cursor
from .out_of_order import OutOfOrder, SortedSource, numbers_of, ranges_of, running_max_times

__all__ = ["MergedSource"]

# How many parts may be open at a time.
MAX_OPEN = 256
# If there are no more parts than this, all of them are opened at the beginning and stay open.
KEPT_OPEN = 8
# Records of all open parts together that have been read and not returned; a part has `_MIN_BATCH` at least.
_BUFFERED = 40_000
_MIN_BATCH = 100
_FIRST_LINES = 10


class _OpenPart:
    """A part that is open, with the times by which its current batch is merged."""

    def __init__(self, rank: int, part: Part, cursor: Cursor, position: SourcePosition | None) -> None:
        self.rank, self.part, self.cursor = rank, part, cursor
        self.times: list[int] = []
        # Of the current batch.
        self.bad: Sequence[BadLine] = ()
        self.blank = 0
        self._anchored_max_time = self._max_time = position["max_time"] if position else 0

    def fill(self) -> list[int]:
        """Read the next batch.

        Returns:
            For each record how far it is out of order, in milliseconds (0 for the others); empty if none is.
        """
        cursor = self.cursor
        self.bad, self.blank = cursor.fill()
        if cursor.anchored:
            self._anchored_max_time = self._max_time
        records = cursor.records
        times = [record[2] for record in records]
        if not times or (times[0] >= self._max_time and times == sorted(times)):  # the usual case, and much faster
            self.times, self._max_time = times, times[-1] if times else self._max_time
            return []
        self.times = max_times = running_max_times(records, self._max_time)
        self._max_time = max_times[-1]
        taken = cursor.taken
        return [0] * taken + [
            max_time - time if time else 0 for max_time, time in zip(max_times[taken:], times[taken:], strict=True)
        ]

    def count_until(self, time: int, rank: int) -> int:
        """Return the index of the first record that goes behind a record of that time and rank."""
        cut = bisect_right if self.rank <= rank else bisect_left
        return cut(self.times, time, self.cursor.taken)

    def snapshot(self) -> SourcePosition:
        return {**self.cursor.snapshot(), "max_time": self._anchored_max_time}


class MergedSource:
    """Parts merged by time, as one source. Position: those of the open parts, and which parts have ended.

    Args:
        counters: counts records that are out of order and accepted.

    Raises:
        Stop: a record is out of order and not accepted, or too many parts overlap; see also `Source`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        position: SourcePosition | None = None,
        *,
        out_of_order: OutOfOrder | None = None,
        counters: Counters | None = None,
        batch_lines: int = BATCH_LINES,
    ) -> None:
        self.poll_again_s = 0.0
        # Of the batch that is being built.
        self._bad: list[BadLine] = []
        self._blank = 0
        self._out_of_order = out_of_order or OutOfOrder()
        self._counters = counters or Counters()
        self._parts = sorted(parts, key=lambda part: part.name)
        self._batch_lines = max(min(batch_lines, _BUFFERED // max(1, len(parts))), min(batch_lines, _MIN_BATCH))
        self._ended = set(numbers_of(position["ended"])) if position else set[int]()
        self._done_bytes = sum(self._parts[rank].size_bytes for rank in self._ended)
        self._open_parts: list[_OpenPart] = []
        # (time of the first record, rank) of parts that have not been opened yet; the next one is last.
        self._unopened: list[tuple[int, int]] = []
        begun = {int(rank): at for rank, at in position["open"].items()} if position else dict[int, SourcePosition]()
        with on_failure(self.close):
            for rank in range(len(self._parts)):
                if rank in begun:
                    self._open(rank, begun[rank])
                elif rank not in self._ended:
                    self._unopened.append((self._first_time(rank), rank))
            self._unopened.sort(reverse=True)
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return not self._open_parts and not self._unopened

    @property
    def done_bytes(self) -> int:
        """Bytes read so far; see `Source`."""
        return self._done_bytes + sum(part.cursor.source.done_bytes for part in self._open_parts)

    def next_batch(self) -> SourceBatch:
        """Return the next records of all parts, in order; see `Source`."""
        self._bad, self._blank = [], 0
        records = self._next_records()
        return SourceBatch(records, self._position(), self._bad, self._blank)

    def _next_records(self) -> Sequence[SourceRecord]:
        self.poll_again_s = 0.0
        while not self.ended:
            for part in self._open_parts:
                if part.cursor.used_up and not part.cursor.last:
                    self._fill(part)
                    if part.cursor.used_up and not part.cursor.last:
                        # The part has no records now, so it is not known yet which record is next.
                        self.poll_again_s = part.cursor.source.poll_again_s
                        return []
            self._close_ended()
            # Up to here all open parts are known.
            bound = min(
                ((part.times[-1], part.rank) for part in self._open_parts if not part.cursor.last), default=None
            )
            if self._unopened and (bound is None or self._unopened[-1] <= bound):
                records = self._take(*self._unopened[-1])
                if not records:
                    self._open(self._unopened.pop()[1])
                    continue
            elif bound is None:
                records = self._take(*max(((part.times[-1], part.rank) for part in self._open_parts), default=(0, 0)))
            else:
                records = self._take(*bound)
            self._close_ended()
            return records
        return []

    def _position(self) -> SourcePosition:
        return {"open": {str(part.rank): part.snapshot() for part in self._open_parts}, "ended": ranges_of(self._ended)}

    def close(self) -> None:
        """Close all parts."""
        for part in self._open_parts:
            part.cursor.close()

    def _take(self, time: int, rank: int) -> Sequence[SourceRecord]:
        """Take the records of all open parts up to a time and rank, inclusive."""
        chunks: list[Sequence[SourceRecord]] = []
        times: list[int] = []
        for part in self._open_parts:
            cursor = part.cursor
            end = part.count_until(time, rank)
            if end > cursor.taken:
                chunks.append(cursor.records[cursor.taken : end])
                times += part.times[cursor.taken : end]
                cursor.taken = end
        if len(chunks) <= 1:
            return chunks[0] if chunks else []
        records = [record for chunk in chunks for record in chunk]
        # Open parts are in the order of their ranks, and the sort is stable.
        return [records[i] for i in sorted(range(len(records)), key=times.__getitem__)]

    def _fill(self, part: _OpenPart) -> None:
        cursor = part.cursor
        behind = part.fill()
        self._bad += part.bad
        self._blank += part.blank
        worst = max(behind, default=0)
        if not worst:
            return
        if self._out_of_order.policy == "fail":
            first = next(i for i, ms in enumerate(behind) if ms)
            raise Stop(
                f"{part.part.name}: record {cursor.number + first + 1:,} is out of order: "
                f"its time {format_time(cursor.records[first][2])} is {format_duration_ms(behind[first])} before that "
                "of an earlier record",
                hint="--out-of-order accept resumes this run; --out-of-order sort needs another run, into another "
                "topic",
            )
        self._counters.out_of_order += sum(map(bool, behind))
        self._counters.out_of_order_ms = max(self._counters.out_of_order_ms, worst)

    def _open(self, rank: int, position: SourcePosition | None = None) -> None:
        if len(self._open_parts) >= MAX_OPEN:
            raise Stop(
                f"more than {MAX_OPEN} sources overlap in time, at {self._parts[rank].name}",
                hint="--order source reads them one after another; or join them into fewer files",
            )
        part = self._parts[rank]
        cursor = Cursor(partial(self._open_part, part, self._batch_lines), position)
        self._open_parts.append(_OpenPart(rank, part, cursor, position))
        self._open_parts.sort(key=lambda part: part.rank)

    def _open_part(self, part: Part, batch_lines: int, position: SourcePosition | None) -> Source:
        def open_at(position: SourcePosition | None) -> Source:
            return part.open(position, batch_lines)

        if self._out_of_order.policy == "sort":
            return SortedSource(part.name, open_at, self._out_of_order.records, position)
        return open_at(position)

    def _first_time(self, rank: int) -> int:
        """Return the time of a part's first record; 0 if it begins with a bad line, so that it is opened at once."""
        part = self._parts[rank]
        if len(self._parts) <= KEPT_OPEN:
            return 0
        lines = self._batch_lines if self._out_of_order.policy == "sort" else _FIRST_LINES
        source = self._open_part(part, lines, None)
        try:
            while not source.ended:
                batch = source.next_batch()
                if batch.records or batch.bad:
                    return 0 if batch.bad or not batch.records else batch.records[0][2]
            return 0
        finally:
            source.close()

    def _close_ended(self) -> None:
        """Close the parts that have ended."""
        for part in list(self._open_parts):
            if part.cursor.used_up and part.cursor.last:
                part.cursor.close()
                self._open_parts.remove(part)
                self._ended.add(part.rank)
                self._done_bytes += part.part.size_bytes
