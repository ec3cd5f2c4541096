"""Selects the records that are replayed: by time, key, partition and fields, and by number (`--limit`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from ...topics.json_value import JsonValue
from ...topics.partitioners import Partitioner
from ..replay_report import Counters
from ..sources.field_expression import FieldExpression, expression
from ..sources.source import Source, SourceBatch, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from .cursor import Open
from .partitioning import record_partitions

__all__ = ["LimitedSource", "Selection", "Step", "SteppedSource"]

# Returns the records that remain of some records, and appends those at which it fails to the list.
Step = Callable[[Sequence[SourceRecord], list[BadLine]], list[SourceRecord]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Conditions on records; a record is selected if it meets all that are given.

    Attributes:
        start_ms, end_ms: event time, start inclusive, end exclusive.
        keys: the record has one of these keys.
        partitions: the record goes to one of these partitions of the topic, because of its key or because it names its
            partition. Records with neither are not selected.
        where: an expression over the fields of a JSON value, or over `value` for text; see `expression`.
    """

    start_ms: int | None = None
    end_ms: int | None = None
    keys: tuple[str, ...] = ()
    partitions: tuple[int, ...] = ()
    where: str | None = None

    def identity(self) -> dict[str, object]:
        """Return the conditions that are given, as plain JSON."""
        given = {name: getattr(self, name) for name in ("start_ms", "end_ms", "keys", "partitions", "where")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}

    def steps(self, partitioner: Partitioner) -> list[Step]:
        """Return a step for each condition, the cheapest first.

        Args:
            partitioner: that of the topic.
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

            def in_partitions(items: Sequence[SourceRecord], _: list[BadLine]) -> list[SourceRecord]:
                placed = [item for item in items if item[0] is not None or item[4] is not None]
                found = record_partitions(placed, partitioner, 0) if placed else []
                return [item for item, partition in zip(placed, found, strict=True) if partition in chosen]

            steps.append(in_partitions)
        if self.where is not None:
            steps.append(_where(expression(self.where)))
        return steps


def _where(holds: FieldExpression) -> Step:
    decode = msgspec.json.Decoder().decode
    seen = 0

    def step(items: Sequence[SourceRecord], bad: list[BadLine]) -> list[SourceRecord]:
        nonlocal seen
        found: list[SourceRecord] = []
        for number, item in enumerate(items, seen + 1):
            value = item[1] or b"null"
            try:
                record: dict[str, JsonValue] = (
                    decode(value) if value[:1] == b"{" else {"value": value.decode(errors="replace")}
                )
                if holds(record):
                    found.append(item)
            except (ValueError, RecursionError) as exc:
                bad.append(BadLine("record", number, f"--where {holds.text}: {exc}", value))
        seen += len(items)
        return found

    return step


class SteppedSource:
    """A source to whose records steps are applied. Steps have no state, so positions are those of the wrapped source.

    Args:
        end_ms: the source is in order of time and ends at the first record of this time or later.
    """

    def __init__(self, source: Source, steps: list[Step], counters: Counters, *, end_ms: int | None = None) -> None:
        self.begins = source.begins
        self._source, self._steps, self._counters, self._end_ms = source, steps, counters, end_ms
        self._end_reached = False

    @property
    def poll_again_s(self) -> float:
        """Seconds to wait after an empty batch; see `Source`."""
        return self._source.poll_again_s

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return self._end_reached or self._source.ended

    @property
    def done_bytes(self) -> int:
        """Bytes read so far; see `Source`."""
        return self._source.done_bytes

    def next_batch(self) -> SourceBatch:
        """Return the records that remain of the next batch; see `Source`."""
        batch = self._source.next_batch()
        items, bad = batch.records, [*batch.bad]
        read = len(items)
        if read and self._end_ms is not None and items[-1][2] >= self._end_ms:
            self._end_reached = True
        for step in self._steps:
            if not items:
                break
            items = step(items, bad)
        self._counters.filtered_out += max(0, read - len(items))
        return replace(batch, records=items, bad=bad)

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()


class LimitedSource:
    """The first `limit` records of a source. Position: `given`, how many were returned, and the source's own, `at`."""

    def __init__(self, open_at: Open, limit: int, position: SourcePosition | None = None) -> None:
        self._limit = limit
        self._given: int = position["given"] if position else 0
        self._source = open_at(position["at"] if position else None)
        self.begins = self._last = self._at(self._source.begins)

    @property
    def poll_again_s(self) -> float:
        """Seconds to wait after an empty batch; see `Source`."""
        return self._source.poll_again_s

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return self._given >= self._limit or self._source.ended

    @property
    def done_bytes(self) -> int:
        """Bytes read so far; see `Source`."""
        return self._source.done_bytes

    def next_batch(self) -> SourceBatch:
        """Return the next records, up to the limit; see `Source`."""
        if self.ended:
            return SourceBatch((), self._last)
        batch = self._source.next_batch()
        items = batch.records[: self._limit - self._given]
        self._given += len(items)
        self._last = self._at(batch.after)
        return replace(batch, records=items, after=self._last)

    def _at(self, position: SourcePosition) -> SourcePosition:
        return {"given": self._given, "at": position}

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()
