"""Event time in a stream that is iterated record by record: what waits for it fires between two records.

Timers (`timers.py`) wait for event time, and so may others: who has called `Runtime.add_waiting` is asked for each
stream what waits in it (`Waiting`).

Invariants.
- The stream time of a source partition follows from its log (`event_time/channel.py`), and is part of the stream's
  progress: it is committed in the metadata of the offset.
- Something fires between two records, in the order in which it is due: before the record that brings stream time to it
  is handed out. What is due already when it is set fires behind the record at hand.
- What it does, and that it has fired, are committed together. If a commit is due meanwhile, the record in front of
  which it fires goes back into the queue, with stream time as before it; after the commit the rest fires.
- At the end of the input of a bounded run all fires that is there. See `Waiting.end` for what is set meanwhile.
- A failure rolls back what has fired alone, as that of a record, and goes to the agent's failure policy.
- Where records of several source partitions meet, time is the least of theirs: behind `group_by`, where each record
  says what time it is in its source partition (`forwarded_time.py`), and where an agent reads several topics. What
  fires there sees all records up to its time, and some later ones: which ones depends on the order of arrival.
- Windows that the agent writes (`agent_windows.py`) close in one order with what fires here: by the stream time with
  which each is due, at equal times windows first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ..topics import clock
from ..topics.control_records import END_OF_INPUT, carries_control, decode, is_control, records_of
from ..topics.errors import BadRecord, Stop, Usage
from ..topics.topic_partition import TopicPartition
from .decoded_batches import SKIPPED, decoded
from .engine.partition_queue import PartitionQueue, QueuedBatch
from .engine.protocols import topics_read
from .event_time.channel import END_MS, NEVER_MS, Channel, least_time, time_of
from .event_time.idleness import Idleness
from .event_time.time_keeper import TimeKeeper, channel_name
from .firings import Firing, fire
from .forwarded_time import TIMERS, is_behind_source, source_time
from .runtime import runtime_of

if TYPE_CHECKING:
    from ..topics.control_records import ControlRecord
    from ..topics.message import Message
    from .event_time.event_time import Timing
    from .stream import Stream
    from .tables.timer_table import SourceTimes

__all__ = ["StreamClock", "Waiting", "clock_of", "is_waited_in", "refuse_waiting", "timing_of"]

_LOOK_S = 1.0
# After so many, let the event loop see whether a commit is due.
_PAUSE_AFTER = 256


class Waiting(Protocol):
    """Timers, or the like, that wait for event time in a stream. Called while tables show the partition meant."""

    @property
    def next_ms(self) -> int | None:
        """The stream time at which the next of it may be due, in milliseconds, or earlier; None if nothing waits. Read
        for each record."""
        ...

    @property
    def last_ms(self) -> int | None:
        """The stream time at which all is due that waits now; None if nothing waits."""
        ...

    def sources(self, partition: int) -> SourceTimes:
        """Return the time of several source partitions, as it is committed with what waits in a partition."""
        ...

    def first(self, time_ms: int, at: TopicPartition, offset: int, *, anywhere: bool) -> Firing | None:
        """Return what is due next; None if nothing is, so that `next_ms` was too early. From then on it is later.

        Args:
            time_ms: stream time.
            at: partition of the source.
            offset: the offset of the record in front of which it fires.
            anywhere: see `FiringRecord`.
        """
        ...

    def again(self, message: Message, at: TopicPartition) -> Firing | None:
        """Return what a record stands for that comes from the retry topic of what waits here; None if it comes from
        another one.

        Raises:
            BadRecord: it cannot be read.
        """
        ...

    def end(self, time_ms: int) -> None:
        """Note that the input has ended at this stream time: all that waits is due now, and what is set from now on is
        due if it is so by this time. What is later than that never fires: things that set themselves again would fire
        without end."""
        ...


class _Again(NamedTuple):
    """The value of a record of a retry topic that stands for something that fires again."""

    firing: Firing


class StreamClock:
    """Stream time of the partitions that a stream reads.

    Args:
        waiting: what waits for it.
    """

    def __init__(self, stream: Stream, waiting: list[Waiting]) -> None:
        self._stream, self._waiting = stream, waiting
        topic, runtime = stream.topic, runtime_of(stream.app)
        timing = timing_of(stream)
        self._names = frozenset(topic.topics)
        self._group = runtime.conf.id
        self._max_jump_ms = timing.max_jump_ms
        idle_ms = None if runtime.run_id else timing.idle_after_ms
        self._is_behind_source = is_behind_source(stream)
        # Behind `group_by`, the stream in front of it has waited so long before it says that a partition is idle.
        self._idleness = None if idle_ms is None else Idleness(0 if self._is_behind_source else idle_ms)
        self._read = timing.time.reader(_fields_of(topic.declared))
        self._is_left = False  # something is due that has not fired, because a commit was

    def _wait_s(self) -> float | None:
        """Return the seconds until the next look, if no record comes."""
        if self._is_left:
            return 0.0
        if self._stream.windows is not None:
            return self._stream.windows.wait_s()
        return None if runtime_of(self._stream.app).run_id else _LOOK_S

    async def values(self) -> AsyncIterator[Any]:
        """Yield the values of the stream, as iterating it does, and fire between them what is due.

        Raises:
            Usage: the input has no end that could be known.
        """
        stream = self._stream
        runtime = runtime_of(stream.app)
        agent = runtime.agents.get(stream.name)
        read = () if agent is None else topics_read(agent)
        if runtime.run_id and agent is not None and not (self._is_behind_source or self._names <= {*read}):
            raise Usage(
                f"agent {stream.name}: timers behind through, or behind several group_by, in a bounded run: the time "
                "there is that of a log in which records of several partitions arrive in another order with each run",
                hint="one group_by of the topic that the agent reads; or give the input that key (--key)",
            )
        stream.takes_control = True
        self._is_left = stream.reading is not None  # what a record has made due at which another loop was left
        loop = await stream.begin()
        while True:
            if stream.reading is not loop:
                stream.turn_to(loop)
                self._is_left = True
            batch = await stream.next_batch(self._wait_s())
            if not batch.messages:
                await self._look()
                continue
            if stream.windows is not None and await stream.windows.told_again(batch):
                continue
            async for message, value in self._timed(batch):
                processed = await stream.process(message, value)
                if processed is not SKIPPED:
                    yield processed
                    self._end_record()
                    if stream.reading is not loop:
                        break

    # Between records ------------------------------------------------------------------------------------------------

    async def _timed(self, batch: QueuedBatch) -> AsyncIterator[tuple[Message, Any]]:
        """Yield the records of a batch that can be decoded and have a time, after firing what each of them makes due.

        Iteration ends early if a commit is due while something fires; the rest is back in the queue.
        """
        stream = self._stream
        own, at = self._source(batch.at)
        if self._idleness is not None and not self._is_behind_source:
            self._idleness.wake(stream.queue.at(at))
        channel = Channel(self._max_jump_ms, stream.queue.at(at).channel_state)
        for message, value, control in self._opened(batch):
            again, closes = type(value) is _Again, False
            if stream.windows is not None and not again:
                closes = stream.windows.advance(batch, message, control or value)
            if own:
                if control is None and not self._has_time(at, channel, message, value):
                    continue
                if not await self._pass(channel, at, batch, message, control, closes=closes):
                    return
            if control is not None:
                continue
            if again:
                await self._fire_one(value.firing)
            else:
                yield message, value
            # What the record has made due at once. Its own failures must be found before.
            time_ms = self._time_ms(at, channel)
            if self._is_due(time_ms):
                if stream.queue.isolating:
                    stream.context.savepoint(stream)
                await self._fire(at, time_ms, _next_offset(batch, message))

    async def skip(self, batch: QueuedBatch) -> bool:
        """Let event time pass a record that goes to the failure policy; False if it is back in the queue."""
        stream = self._stream
        if stream.queue.poison_of(batch) is None:
            return True
        own, at = self._source(batch.at)
        message = batch.messages[0]
        data = message.value()
        try:
            value: Any = None if data is None else stream.topic.decode_value(data)
            time_ms = self._read(value, message) if own and data is not None else None
        except Exception:  # noqa: BLE001 (it has no time, so it moves none)
            return True
        stream.context.at(stream, batch.at)
        closes = stream.windows is not None and stream.windows.advance(batch, message, value)
        if not own:
            return True
        channel = Channel(self._max_jump_ms, stream.queue.at(at).channel_state)
        self._advance(at, channel, message, time_ms)
        return await self._pass(channel, at, batch, message, None, closes=closes)

    async def _look(self) -> None:
        """Fire what is due although no record has come: after a restore, or because the partition is idle."""
        stream, queue = self._stream, self._stream.queue
        self._is_left = False
        for at in [at for at in queue.partitions if at.topic in self._names]:
            partition = queue.at(at)
            stream.context.at(stream, at)
            if stream.windows is not None:
                stream.windows.rest_at(at)
            channel = Channel(self._max_jump_ms, partition.channel_state)
            time_ms = self._time_ms(at, channel)
            if self._idleness is not None and time_ms != END_MS:
                silent = stream.context.is_silent(stream, at)
                if self._is_behind_source:
                    keeper = self._sources(at).keeper
                    idle_ms = _idle_ms(keeper, self._idleness, partition, silent=silent)
                    if idle_ms is not None:
                        time_ms = max(time_ms, min(time_ms + idle_ms, self._all_due_by(time_ms)))
                elif (idle_ms := self._idleness.idle_ms(partition, clock.now_s(), silent=silent)) is not None:
                    channel.rest(idle_ms, self._all_due_by)
                    partition.channel_state = channel.state
                    time_ms = self._time_ms(at, channel)
            await self._fire_until(at, time_ms, partition.offset, closes=True)

    # The source -----------------------------------------------------------------------------------------------------

    def _source(self, at: TopicPartition) -> tuple[bool, TopicPartition]:
        """Return whether a partition is one of the source, and that of the source: a retry topic has no time."""
        own = at.topic in self._names
        return own, at if own else at._replace(topic=self._stream.context.retries.read[at.topic][1])

    def _opened(self, batch: QueuedBatch) -> Iterator[tuple[Message, Any, ControlRecord | None]]:
        """Yield records with their values, and the control records that say what time it is."""
        messages, topic = batch.messages, batch.at.topic
        control = batch.rows is None and carries_control(topic, self._group) and records_of(messages) is not messages
        if topic not in self._names:
            for message in messages:  # also the rows of a packed batch
                yield from self._opened_again(batch, message)
            return
        if not control:
            yield from ((message, value, None) for message, value in decoded(self._stream, batch))
            return
        for message in messages:
            if is_control(message):
                yield message, None, decode(message)
            else:
                alone = batch._replace(messages=(message,))
                yield from ((record, value, None) for record, value in decoded(self._stream, alone))

    def _opened_again(self, batch: QueuedBatch, message: Message) -> Iterator[tuple[Message, Any, None]]:
        """Yield a record of a retry topic: a record of the topic, or something that fires again."""
        _, at = self._source(batch.at)
        try:
            firing = next((found for each in self._waiting if (found := each.again(message, at)) is not None), None)
        except BadRecord as exc:
            self._stream.context.apply_policy(self._stream, message, exc, "decode")
            return
        if firing is not None:
            yield message, _Again(firing), None
        else:
            alone = batch._replace(messages=(message,))
            yield from ((record, value, None) for record, value in decoded(self._stream, alone))

    def _has_time(self, at: TopicPartition, channel: Channel, message: Message, value: Any) -> bool:
        """Let a record move time; return False if it has none, and has gone to the failure policy."""
        if message.value() is None:
            self._advance(at, channel, message, None)
            return True
        try:
            time_ms = self._read(value, message)
        except Stop:
            raise
        except Exception as exc:  # noqa: BLE001 (the function may be the user's)
            self._stream.message = message
            self._stream.context.apply_policy(self._stream, message, exc, "time")
            return False
        self._advance(at, channel, message, time_ms)
        return True

    def _advance(self, at: TopicPartition, channel: Channel, message: Message, time_ms: int | None) -> None:
        """Let a record move time by its own time, if it has one; behind `group_by` by what it says of its source."""
        if self._is_behind_source:
            heard = source_time(message)
            if heard is not None:
                sources = self._sources(at)
                sources.keeper.hear_record(*heard)
                sources.note(heard[2])
        elif time_ms is not None:
            channel.advance(time_ms, message.timestamp()[1])

    # Time -----------------------------------------------------------------------------------------------------------

    def _sources(self, at: TopicPartition) -> SourceTimes:
        return self._waiting[0].sources(at.partition)

    @property
    def _is_of_several(self) -> bool:
        """True if time is that of several source partitions."""
        return self._is_behind_source or len(self._names) > 1

    def time_ms(self, at: TopicPartition) -> int:
        """Return stream time of a partition, as of its last record."""
        return self._time_ms(at, Channel(None, self._stream.queue.at(at).channel_state))

    def waits_for(self, at: TopicPartition) -> list[TopicPartition]:
        """Return the source partitions that hold stream time of a partition back."""
        time_ms = self.time_ms(at)
        if time_ms == END_MS:
            return []
        if self._is_behind_source:
            keeper, counts = self._sources(at).keeper, runtime_of(self._stream.app).engine.rebalance.partition_counts
            topics = cast("Stream", cast(Any, self._stream)._prev).topic.topics
            sources = [TopicPartition(topic, number) for topic in topics for number in range(counts.get(topic, 0))]
            unknown = [source for source in sources if channel_name(*source) not in keeper.times_ms]
            return sorted(unknown or (source for source in sources if channel_name(*source) in keeper.waits_for))
        states = ((other, queue.channel_state) for other, queue in self._stream.queue.partitions.items())
        same = ((other, state) for other, state in states if other.partition == at.partition)
        return sorted(other for other, state in same if other.topic in self._names and time_of(state) <= time_ms)

    def _time_ms(self, at: TopicPartition, channel: Channel) -> int:
        """Return stream time.

        Args:
            channel: that of the partition, which may be further than what is noted of it.
        """
        if self._is_behind_source:
            return self._sources(at).keeper.time_ms
        if len(self._names) == 1:
            return channel.time_ms
        channels, partitions = [channel], self._stream.queue.partitions
        counts = runtime_of(self._stream.app).engine.rebalance.partition_counts
        for topic in self._names - {at.topic}:
            other = partitions.get(TopicPartition(topic, at.partition))
            if other is not None:
                channels.append(Channel(None, other.channel_state))
            elif counts.get(topic, 0) > at.partition:
                return NEVER_MS  # it is assigned in a moment
        return least_time(channels)

    def _hear(self, at: TopicPartition, control: ControlRecord) -> None:
        sources = self._sources(at)
        sources.keeper.hear(control)
        last = cast("dict[str, dict[str, int]]", control.value).get("last", {})
        for time_ms in (*sources.keeper.times_ms.values(), *last.values()):
            sources.note(time_ms)

    async def _fire_until(
        self, at: TopicPartition, time_ms: int, offset: int, *, whole: bool = False, closes: bool = False
    ) -> bool:
        """Fire what is due, as `_fire`; at the end of several source partitions first what is due by the last of their
        times. So what is set meanwhile does not depend on which of them has ended first."""
        if time_ms == END_MS and self._is_of_several:
            last_ms = self._sources(at).last_ms
            if not await self._fire(at, last_ms, offset, whole=whole, closes=closes, ends=True):
                return False
            for waiting in self._waiting:
                waiting.end(END_MS if last_ms == NEVER_MS else last_ms)
        return await self._fire(at, time_ms, offset, whole=whole, closes=closes)

    def _take_control(self, channel: Channel, at: TopicPartition, control: ControlRecord) -> None:
        if control.kind == END_OF_INPUT:
            if self._is_of_several:
                self._sources(at).note(channel.time_ms)
            else:
                for waiting in self._waiting:
                    waiting.end(channel.time_ms)
            channel.end()
        elif self._is_behind_source and cast("dict[str, Any]", control.value).get("by") == TIMERS.name:
            self._hear(at, control)
            if not self._sources(at).keeper.idle_at_ms:
                self._stream.queue.at(at).silent_since_s = None

    async def _pass(
        self,
        channel: Channel,
        at: TopicPartition,
        batch: QueuedBatch,
        message: Message,
        control: ControlRecord | None,
        *,
        closes: bool,
    ) -> bool:
        """Fire what a record makes due, and note stream time; False if a commit is due before all has fired."""
        stream, partition = self._stream, self._stream.queue.at(at)
        partition.state_before = (partition.channel_state,)
        if control is not None:
            self._take_control(channel, at, control)
        whole, offset = batch.rows is not None, message.offset() or 0
        if not await self._fire_until(at, self._time_ms(at, channel), offset, whole=whole, closes=closes):
            stream.message = None
            stream.queue.again_from(message)
            return False
        if not self._is_behind_source:
            partition.channel_state = channel.state
        return True

    # Firing ---------------------------------------------------------------------------------------------------------

    def _is_due(self, time_ms: int) -> bool:
        return self._next(time_ms) is not None

    def _next(self, time_ms: int) -> Waiting | None:
        """Return what may be due first at a stream time; None if nothing is due."""
        if time_ms == NEVER_MS:
            return None
        due = [each for each in self._waiting if (next_ms := each.next_ms) is not None and next_ms <= time_ms]
        return min(due, key=lambda each: each.next_ms or 0) if due else None

    def _all_due_by(self, time_ms: int) -> int:
        return max((last_ms for each in self._waiting if (last_ms := each.last_ms) is not None), default=time_ms)

    async def _fire(
        self,
        at: TopicPartition,
        time_ms: int,
        offset: int,
        *,
        whole: bool = False,
        closes: bool = False,
        ends: bool = False,
    ) -> bool:
        """Fire what is due, and close the windows that are complete.

        Args:
            offset: the offset of the record in front of which it fires.
            whole: a packed batch is at hand, which cannot go back into the queue.
            closes: windows may be complete.
            ends: the input has ended at `time_ms`: windows that are complete because of that stay open.

        Returns:
            False: a commit is due before all has fired.
        """
        stream, fired, windows = self._stream, 0, self._stream.windows if closes else None
        while True:
            waiting = self._next(time_ms)
            window_ms = None if windows is None else windows.due_ms(at)
            if ends and window_ms is not None and window_ms > time_ms:
                window_ms = None
            if waiting is None and window_ms is None:
                break
            if not whole and (stream.queue.cut or stream.context.epoch.full):
                self._is_left = True
                if not stream.queue.cut:  # it is full of dead letters, which cut nothing
                    stream.context.router.cut()
                return False
            firing = None
            if waiting is not None:
                early_ms = waiting.next_ms
                firing = waiting.first(time_ms, self._fires_at(at), offset, anywhere=self._is_of_several)
                if waiting.next_ms != early_ms:
                    continue  # it was too early: what is due first is chosen again
            due_ms = END_MS if waiting is None or firing is None else waiting.next_ms or 0
            if windows is not None and window_ms is not None and window_ms <= due_ms:
                await windows.close_next(at)
            elif firing is not None:
                await self._fire_one(firing)
            fired += 1
            if fired % _PAUSE_AFTER == 0:
                await asyncio.sleep(0)
        return windows is None or ends or await windows.closed(at, divisible=False)

    def _fires_at(self, at: TopicPartition) -> TopicPartition:
        """Return the partition that what fires counts as a record of: if the agent reads several topics, always that of
        the same one."""
        if len(self._names) == 1:
            return at
        same = (TopicPartition(topic, at.partition) for topic in self._stream.topic.topics)
        return next(other for other in same if other in self._stream.queue.partitions)

    def _end_record(self) -> None:
        if self._stream.runner is not None and self._stream.runner.handed:
            self._stream.context.end_record(self._stream)

    async def _fire_one(self, firing: Firing) -> None:
        await fire(self._stream, firing)
        self._stream.context.count_fired(self._stream)


def timing_of(stream: Stream) -> Timing:
    """Return what is declared of the event time of a stream's records: that of its topic, else, behind `group_by` and
    `through`, that of the topic that the agent reads."""
    own = stream.topic.timing
    agent = runtime_of(stream.app).agents.get(stream.name)
    return own if own.is_declared else cast("Timing", getattr(getattr(agent, "channel", None), "timing", own))


def is_waited_in(stream: Stream) -> bool:
    """Return whether something waits for event time in a stream."""
    return any(find(stream) is not None for find in runtime_of(stream.app).waiting)


def clock_of(stream: Stream) -> StreamClock | None:
    """Return a clock for what waits for event time in a stream; None if nothing does."""
    waiting = [each for find in runtime_of(stream.app).waiting if (each := find(stream)) is not None]
    return StreamClock(stream, waiting) if waiting else None


def refuse_waiting(stream: Stream, call: str) -> None:
    """Refuse several records at a time where something fires between two of them.

    Raises:
        Usage: something waits for event time in the stream.
    """
    if is_waited_in(stream):
        raise Usage(
            f"agent {stream.name}: {call} of an agent with timers, which fire between two records",
            hint="iterate the stream itself",
        )


def _fields_of(declared: object) -> Any:
    from .flows.aggregates import getter
    from .flows.operators import field_reader

    return lambda name: getter(name, field_reader(declared))


def _next_offset(batch: QueuedBatch, message: Message) -> int:
    return batch.end if batch.rows is not None else (message.offset() or 0) + 1


def _idle_ms(keeper: TimeKeeper, idleness: Idleness, partition: PartitionQueue, *, silent: bool) -> int | None:
    """Return for how many milliseconds all source partitions behind `group_by` have been idle; None if they are not.

    Args:
        silent: nothing waits in the partition.
    """
    all_idle = keeper.time_ms != NEVER_MS and len(keeper.idle_at_ms) >= max(1, keeper.of)
    idle_ms = idleness.idle_ms(partition, clock.now_s(), silent=all_idle)
    if idle_ms is None or silent:
        return idle_ms
    # What waits may only say again that they are idle: it counts up to when they last said so.
    return idle_ms - max(0, clock.now_ms() - min(keeper.idle_at_ms.values()))
