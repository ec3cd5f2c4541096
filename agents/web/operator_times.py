"""Event time of a worker's operators: how far each partition is, which source partitions it waits for, what is open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...topics.topic_partition import TopicPartition
from ..event_time.time_keeper import TimeKeeper, channel_name
from ..tables.window_table import WindowTable, window_contents

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["OperatorTime", "operator_times", "operators"]


@dataclass(frozen=True)
class OperatorTime:
    """Event time of one partition of an operator.

    Attributes:
        operator: name of its table.
        partition: number of the partition.
        watermark_ms: the watermark; `NEVER_MS` before it is known, `END_MS` behind the end of the input.
        held_back_by: the source partitions that the watermark waits for, .
        since_ms: since when, by the wall clock; None if the watermark has not moved since the worker has started.
        open: number of windows that are not closed.
        next_ms: the watermark at which the next of them closes; None if none is open.
    """

    operator: str
    partition: int
    watermark_ms: int
    held_back_by: list[TopicPartition]
    since_ms: int | None
    open: int
    next_ms: int | None

    def held_back_s(self, now_ms: int) -> float | None:
        """Return for how many seconds something open has been waiting for the watermark to move; None if nothing is.

        Args:
            now_ms: the time by the wall clock.
        """
        if not self.open or not self.held_back_by or self.since_ms is None:
            return None
        return max(0, now_ms - self.since_ms) / 1000


def operators(runtime: Runtime) -> list[str]:
    """Return the names of the app's operators that go by event time."""
    return [table.name for table in _tables(runtime)]


def operator_times(runtime: Runtime) -> Iterator[OperatorTime]:
    """Return event time of each operator in each partition of this worker."""
    for table in _tables(runtime):
        for partition, content in sorted(window_contents(table).items()):
            keeper, next_ms = content.keeper, content.open.next_ms
            yield OperatorTime(
                table.name,
                partition,
                content.watermark_ms,
                [TopicPartition(topic, partition) for topic in sorted(content.waits_for)]
                or _waits_for(keeper, table.spec.source),
                keeper.moved_at_ms or None,
                len(content.open),
                None if next_ms is None else next_ms + 1,
            )


def _tables(runtime: Runtime) -> list[WindowTable]:
    return [table for table in runtime.tables if isinstance(table, WindowTable) and table.spec.closes]


def _waits_for(keeper: TimeKeeper, source: str) -> list[TopicPartition]:
    known = keeper.times_ms
    unknown = [name for n in range(keeper.of) if (name := channel_name(source, n)) not in known]
    return sorted(map(_channel, unknown or keeper.waits_for))


def _channel(name: str) -> TopicPartition:
    topic, _, partition = name.rpartition(":")
    return TopicPartition(topic, int(partition))
