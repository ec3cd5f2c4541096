"""The parts of a history as one source, in order of event time.

The order is one and depends on nothing but the records: by time, then by the part's name, then by position. A late
record (see `disorder`) counts as being of the latest time before it in its part, so it goes right behind the record in
front of it, and each part keeps its own order.

It is made batch by batch: what is at hand of all parts, up to the time that the first of them is known to, is sorted at
once, and sorting runs that are in order costs little. Of many parts, those whose first record is not due yet are closed
again after a look at it: a year of daily files has one or two open at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial

from ...topics.cleanup import on_failure
from ...topics.errors import Stop
from ..sources.formats.lines import BATCH_LINES
from ..sources.source import Batch, Part, Source, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from ..time_text import shown_ms, shown_time
from .counters import Counters
from .cursor import Cursor
from .lateness import Disorder, Sorted, high_times, pack, unpack

__all__ = ["Merge"]

# Parts that may be open at a time. Fewer than this are kept open from the beginning.
MOST_OPEN = 256
KEPT_OPEN = 8
# What parts have at hand together, at least a little each.
_AT_HAND = 40_000
_LEAST_BATCH = 100
_LOOK_LINES = 10


class _Lane:
    """An open part, with the times that order it."""

    def __init__(self, rank: int, part: Part, cursor: Cursor, position: SourcePosition | None) -> None:
        self.rank, self.part, self.cursor = rank, part, cursor
        self.times: list[int] = []
        # Of the batch at hand.
        self.bad: Sequence[BadLine] = ()
        self.blank = 0
        self._high_at = self._high = position["high"] if position else 0

    def fill(self) -> list[int]:
        """Get the next batch; returns by how much its late records are late, with 0 for the others, or nothing."""
        cursor = self.cursor
        self.bad, self.blank = cursor.fill()
        if cursor.anchored:
            self._high_at = self._high
        items = cursor.records
        written = [item[2] for item in items]
        if not written or (written[0] >= self._high and written == sorted(written)):  # the usual, and much faster
            self.times, self._high = written, written[-1] if written else self._high
            return []
        self.times = times = high_times(items, self._high)
        self._high = times[-1]
        fresh = cursor.taken
        return [0] * fresh + [
            high - time if time else 0 for high, time in zip(times[fresh:], written[fresh:], strict=True)
        ]

    def upto(self, time: int, rank: int) -> int:
        """Index of the first record that goes behind one of that time and rank."""
        cut = bisect_right if self.rank <= rank else bisect_left
        return cut(self.times, time, self.cursor.taken)

    def snapshot(self) -> SourcePosition:
        return {**self.cursor.snapshot(), "high": self._high_at}


class Merge:
    """Parts merged by time, as one source. Position: of the parts that are open, and which have ended.

    Args:
        notes: counts late records that are accepted.

    Raises:
        Stop: a late record, where that is not accepted; too many parts overlap; see `Source`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        position: SourcePosition | None = None,
        *,
        disorder: Disorder | None = None,
        notes: Counters | None = None,
        batch_lines: int = BATCH_LINES,
    ) -> None:
        self.poll_again_s = 0.0
        # Of the batch that is being made.
        self._bad: list[BadLine] = []
        self._blank = 0
        self._disorder = disorder or Disorder()
        self._notes = notes or Counters()
        self._parts = sorted(parts, key=lambda part: part.name)
        self._batch_lines = max(min(batch_lines, _AT_HAND // max(1, len(parts))), min(batch_lines, _LEAST_BATCH))
        self._ended = set(unpack(position["ended"])) if position else set[int]()
        self._done_bytes = sum(self._parts[rank].size_bytes for rank in self._ended)
        self._lanes: list[_Lane] = []
        # (time of the first record, rank) of parts that nothing was taken of, the next one last.
        self._waiting: list[tuple[int, int]] = []
        begun = {int(rank): at for rank, at in position["open"].items()} if position else dict[int, SourcePosition]()
        with on_failure(self.close):
            for rank in range(len(self._parts)):
                if rank in begun:
                    self._open(rank, begun[rank])
                elif rank not in self._ended:
                    self._waiting.append((self._look(rank), rank))
            self._waiting.sort(reverse=True)
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return not self._lanes and not self._waiting

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self._done_bytes + sum(lane.cursor.source.done_bytes for lane in self._lanes)

    def next_batch(self) -> Batch:
        """See `Source`."""
        self._bad, self._blank = [], 0
        items = self._next_items()
        return Batch(items, self._position(), self._bad, self._blank)

    def _next_items(self) -> Sequence[SourceRecord]:
        self.poll_again_s = 0.0
        while not self.ended:
            for lane in self._lanes:
                if lane.cursor.used_up and not lane.cursor.last:
                    self._fill(lane)
                    if lane.cursor.used_up and not lane.cursor.last:
                        # Nobody knows yet what comes first.
                        self.poll_again_s = lane.cursor.source.poll_again_s
                        return []
            self._move_on()
            bound = min(((lane.times[-1], lane.rank) for lane in self._lanes if not lane.cursor.last), default=None)
            if self._waiting and (bound is None or self._waiting[-1] <= bound):
                items = self._take(*self._waiting[-1])
                if not items:
                    self._open(self._waiting.pop()[1])
                    continue
            elif bound is None:
                items = self._take(*max(((lane.times[-1], lane.rank) for lane in self._lanes), default=(0, 0)))
            else:
                items = self._take(*bound)
            self._move_on()
            return items
        return []

    def _position(self) -> SourcePosition:
        return {"open": {str(lane.rank): lane.snapshot() for lane in self._lanes}, "ended": pack(self._ended)}

    def close(self) -> None:
        """See `Source`."""
        for lane in self._lanes:
            lane.cursor.close()

    def _take(self, time: int, rank: int) -> Sequence[SourceRecord]:
        """Take all that goes before a time and rank, or is of it."""
        chunks: list[Sequence[SourceRecord]] = []
        times: list[int] = []
        for lane in self._lanes:
            cursor = lane.cursor
            end = lane.upto(time, rank)
            if end > cursor.taken:
                chunks.append(cursor.records[cursor.taken : end])
                times += lane.times[cursor.taken : end]
                cursor.taken = end
        if len(chunks) <= 1:
            return chunks[0] if chunks else []
        items = [item for chunk in chunks for item in chunk]
        # Lanes stand in the order of their ranks, and sorting keeps what is equal in its order.
        return [items[i] for i in sorted(range(len(items)), key=times.__getitem__)]

    def _fill(self, lane: _Lane) -> None:
        cursor = lane.cursor
        late = lane.fill()
        self._bad += lane.bad
        self._blank += lane.blank
        worst = max(late, default=0)
        if not worst:
            return
        if self._disorder.policy == "fail":
            first = next(i for i, by in enumerate(late) if by)
            raise Stop(
                f"{lane.part.name}: record {cursor.number + first + 1:,} is of {shown_time(cursor.records[first][2])}, "
                f"{shown_ms(late[first])} before one in front of it",
                hint="--disorder accept goes on with the same run; --disorder sort is another run, for another topic",
            )
        self._notes.late += sum(map(bool, late))
        self._notes.late_ms = max(self._notes.late_ms, worst)

    def _open(self, rank: int, position: SourcePosition | None = None) -> None:
        if len(self._lanes) >= MOST_OPEN:
            raise Stop(
                f"more than {MOST_OPEN} sources overlap in time, at {self._parts[rank].name}",
                hint="--order source reads them one after another; or join them into fewer files",
            )
        part = self._parts[rank]
        lane = _Lane(rank, part, Cursor(partial(self._open_part, part, self._batch_lines), position), position)
        self._lanes.append(lane)
        self._lanes.sort(key=lambda lane: lane.rank)

    def _open_part(self, part: Part, batch_lines: int, position: SourcePosition | None) -> Source:
        def open_at(position: SourcePosition | None) -> Source:
            return part.open(position, batch_lines)

        if self._disorder.policy == "sort":
            return Sorted(part.name, open_at, self._disorder.records, position)
        return open_at(position)

    def _look(self, rank: int) -> int:
        """The time of a part's first record; 0 where it begins with something else, so that it is opened at once."""
        part = self._parts[rank]
        if len(self._parts) <= KEPT_OPEN:
            return 0
        lines = self._batch_lines if self._disorder.policy == "sort" else _LOOK_LINES
        source = self._open_part(part, lines, None)
        try:
            while not source.ended:
                batch = source.next_batch()
                if batch.records or batch.bad:
                    return 0 if batch.bad or not batch.records else batch.records[0][2]
            return 0
        finally:
            source.close()

    def _move_on(self) -> None:
        """Close the parts that have ended."""
        for lane in list(self._lanes):
            if lane.cursor.used_up and lane.cursor.last:
                lane.cursor.close()
                self._lanes.remove(lane)
                self._ended.add(lane.rank)
                self._done_bytes += lane.part.size_bytes
