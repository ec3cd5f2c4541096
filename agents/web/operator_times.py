"""Event time of a worker's operators, tables of windows and agents with timers: how far each partition is, which source
partitions it waits for, what is open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ...topics.topic_partition import TopicPartition
from ..event_time.channel import watermark
from ..event_time.time_keeper import TimeKeeper, channel_name
from ..stream_clock import StreamClock, timing_of
from ..tables.timer_table import TimerTable
from ..tables.window_table import WindowTable, window_contents

if TYPE_CHECKING:
    from ..runtime import Runtime
    from ..stream import Stream
    from ..tables.timer_table import TimerContent
    from ..timers import Timers

__all__ = ["OperatorTime", "WaitingPartition", "operator_times", "operators", "waiting_partitions", "windowed"]


@dataclass(frozen=True)
class OperatorTime:
    """Event time of one partition of an operator.

    Attributes:
        operator: name of its table of windows, or of timers.
        partition: number of the partition.
        watermark_ms: the watermark; `NEVER_MS` before it is known, `END_MS` behind the end of the input.
        held_back_by: the partitions that the watermark waits for; none behind the end of the input. They are those of
            the source; of a chained table, those in which the windows close that it is filled from.
        since_ms: since when, by the wall clock; None if the watermark has not moved since the worker has started.
        open: number of windows that are not closed, or of timers that have not fired.
        next_ms: the watermark at which the next of them does; None if none is open.
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


@dataclass(frozen=True)
class WaitingPartition:
    """A source partition that is far ahead in event time, so that its records wait.

    Attributes:
        partition: the partition.
        waits_for: the partition that is furthest behind.
        ahead_ms: how far it is ahead of that one; None if that one has no time yet.
        since_ms: since when it waits, by the wall clock.
        records: how many of its records wait in the worker; others do in Kafka.
    """

    partition: TopicPartition
    waits_for: TopicPartition
    ahead_ms: int | None
    since_ms: int
    records: int


def waiting_partitions(runtime: Runtime) -> list[WaitingPartition]:
    """Return the source partitions of this worker that are held back because they are far ahead of others."""
    if not runtime.engine_started:
        return []
    ahead = runtime.context.router.ahead
    return [
        WaitingPartition(at, held.by, held.ahead_ms, held.since_ms, ahead.records_of(at))
        for at, held in sorted(ahead.held.items())
    ]


def operators(runtime: Runtime) -> list[str]:
    """Return the names of the app's operators that go by event time."""
    return [table.name for table in runtime.tables if isinstance(table, WindowTable | TimerTable)]


def windowed(runtime: Runtime) -> list[str]:
    """Return the names of the app's tables of windows."""
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
                or _waits_for(keeper, table.spec.channels_of),
                keeper.moved_at_ms or None,
                len(content.open),
                None if next_ms is None else next_ms + 1,
            )

    for stream in cast("list[Stream]", runtime.context.router.streams) if runtime.engine_started else ():
        timers = getattr(runtime.agents.get(stream.name), "timers", None)
        if timers is not None and stream.clock is not None:
            yield from _of_timers(timers, stream, stream.clock)


def _of_timers(timers: Timers, stream: Stream, clock: StreamClock) -> Iterator[OperatorTime]:
    stored, topics, seen = timers.table.states, stream.topic.topics, set[int]()
    for at in sorted(stream.queue.partitions):
        if at.topic not in topics or at.partition in seen:
            continue  # a retry topic, or another topic of the agent
        seen.add(at.partition)
        content = cast("TimerContent | None", getattr(stored.get(at.partition), "content", None))
        entry = content.queue.first if content is not None and content.queue is not None else None
        yield OperatorTime(
            timers.table.name,
            at.partition,
            watermark(clock.time_ms(at), timing_of(stream).given_grace_ms or 0),
            clock.waits_for(at),
            None,
            0 if content is None else content.approximate_count(),
            None if entry is None else entry[0],
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
