"""Which records go: by time, key, partition and fields, and how many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ...topics.partitioners import Partitioner
from ..sources.field_expression import Expression, expression
from ..sources.source import Batch, Source, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from .counters import Counters
from .cursor import Open
from .partitioning import place

__all__ = ["Limited", "Selection", "Step", "Through"]

# Gives what goes on of some records; the ones that it cannot judge go into the list.
Step = Callable[[Sequence[SourceRecord], list[BadLine]], list[SourceRecord]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """All of these have to hold; what is not given holds for every record.

    Attributes:
        start_ms, end_ms: event time, from the first to before the second.
        keys: the record's key is one of them.
        partitions: of the topic; where the record's key, or its own partition, leads to. None for records with neither.
        where: an expression over the fields of a JSON value, or over `value` where that is text; see `expression`.
    """

    start_ms: int | None = None
    end_ms: int | None = None
    keys: tuple[str, ...] = ()
    partitions: tuple[int, ...] = ()
    where: str | None = None

    def identity(self) -> dict[str, Any]:
        """What is given, as plain JSON."""
        given = {name: getattr(self, name) for name in ("start_ms", "end_ms", "keys", "partitions", "where")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}

    def steps(self, partitioner: Partitioner) -> list[Step]:
        """What has to be done with records, the cheapest first.

        Args:
            partitioner: of the topic.
        """
        steps: list[Step] = []
        start_ms, end_ms = self.start_ms, self.end_ms
        if start_ms is not None:
            steps.append(lambda items, _: [item for item in items if item[2] >= start_ms])
        if end_ms is not None:
            steps.append(lambda items, _: [item for item in items if item[2] < end_ms])
        if self.keys:
            keys = {key.encode() for key in self.keys}
            steps.append(lambda items, _: [item for item in items if item[0] in keys])
        if self.partitions:
            chosen = set(self.partitions)

            def led_there(items: Sequence[SourceRecord], _: list[BadLine]) -> list[SourceRecord]:
                placed = [item for item in items if item[0] is not None or item[4] is not None]
                places = place(placed, partitioner, 0) if placed else []
                return [item for item, at in zip(placed, places, strict=True) if at in chosen]

            steps.append(led_there)
        if self.where is not None:
            steps.append(_where(expression(self.where)))
        return steps


def _where(holds: Expression) -> Step:
    decode = msgspec.json.Decoder().decode
    seen = 0

    def step(items: Sequence[SourceRecord], bad: list[BadLine]) -> list[SourceRecord]:
        nonlocal seen
        found: list[SourceRecord] = []
        for number, item in enumerate(items, seen + 1):
            value = item[1] or b"null"
            try:
                record: Any = decode(value) if value[:1] == b"{" else {"value": value.decode(errors="replace")}
                if holds(record):
                    found.append(item)
            except (ValueError, RecursionError) as exc:
                bad.append(BadLine("record", number, f"--where {holds.text}: {exc}", value))
        seen += len(items)
        return found

    return step


class Through:
    """A source whose batches go through steps; positions are the source's own, since steps keep nothing.

    Args:
        end_ms: nothing follows the first record of that time, because the source is in order.
    """

    def __init__(self, source: Source, steps: list[Step], notes: Counters, *, end_ms: int | None = None) -> None:
        self.begins = source.begins
        self._source, self._steps, self._notes, self._end_ms = source, steps, notes, end_ms
        self._over = False

    @property
    def poll_again_s(self) -> float:
        """See `Source`."""
        return self._source.poll_again_s

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self._over or self._source.ended

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self._source.done_bytes

    def next_batch(self) -> Batch:
        """See `Source`."""
        batch = self._source.next_batch()
        items, bad = batch.records, [*batch.bad]
        read = len(items)
        if read and self._end_ms is not None and items[-1][2] >= self._end_ms:
            self._over = True
        for step in self._steps:
            if not items:
                break
            items = step(items, bad)
        self._notes.left_out += max(0, read - len(items))
        return replace(batch, records=items, bad=bad)

    def close(self) -> None:
        """See `Source`."""
        self._source.close()


class Limited:
    """The first records of a source. Position: how many were given, and the source's own, `at`."""

    def __init__(self, open_at: Open, limit: int, position: SourcePosition | None = None) -> None:
        self._limit = limit
        self._given: int = position["given"] if position else 0
        self._source = open_at(position["at"] if position else None)
        self.begins = self._last = self._at(self._source.begins)

    @property
    def poll_again_s(self) -> float:
        """See `Source`."""
        return self._source.poll_again_s

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self._given >= self._limit or self._source.ended

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self._source.done_bytes

    def next_batch(self) -> Batch:
        """See `Source`."""
        if self.ended:
            return Batch((), self._last)
        batch = self._source.next_batch()
        items = batch.records[: self._limit - self._given]
        self._given += len(items)
        self._last = self._at(batch.after)
        return replace(batch, records=items, after=self._last)

    def _at(self, position: SourcePosition) -> SourcePosition:
        return {"given": self._given, "at": position}

    def close(self) -> None:
        """See `Source`."""
        self._source.close()
