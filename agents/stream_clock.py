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
from .engine.partition_queue import QueuedBatch
from .engine.protocols import topics_read
from .event_time.channel import END_MS, NEVER_MS, Channel
from .event_time.idleness import Idleness
from .firings import Firing, fire
from .runtime import runtime_of

if TYPE_CHECKING:
    from ..topics.message import Message
    from .event_time.event_time import Timing
    from .stream import Stream

__all__ = ["StreamClock", "Waiting", "clock_of", "refuse_waiting", "timing_of"]

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

    def first(self, time_ms: int, at: TopicPartition, offset: int) -> Firing | None:
        """Return what is due next; None if nothing is, so that `next_ms` was too early. From then on it is later.

        Args:
            time_ms: stream time.
            at: partition of the source.
            offset: the offset of the record in front of which it fires.
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
        self._name = topic.get_topic_name()
        self._group = runtime.conf.id
        self._max_jump_ms = timing.max_jump_ms
        idle_ms = None if runtime.run_id else timing.idle_after_ms
        self._idleness = None if idle_ms is None else Idleness(idle_ms)
        self._read = timing.time.reader(_fields_of(topic.declared))
        self._is_left = False  # something is due that has not fired, because a commit was

    def _wait_s(self) -> float | None:
        """Return the seconds until the next look, if no record comes."""
        if self._is_left:
            return 0.0
        return None if runtime_of(self._stream.app).run_id else _LOOK_S

    async def values(self) -> AsyncIterator[Any]:
        """Yield the values of the stream, as iterating it does, and fire between them what is due.

        Raises:
            Usage: the input has no end that could be known.
        """
        stream = self._stream
        runtime = runtime_of(stream.app)
        agent = runtime.agents.get(stream.name)
        if runtime.run_id and agent is not None and self._name not in topics_read(agent):
            raise Usage(
                f"agent {stream.name}: timers behind group_by or through in a bounded run: what they see would depend "
                "on the order in which records of several partitions arrive",
                hint="give the input that key (--key), and let the agent read it without group_by",
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
        partition = stream.queue.at(at)
        if self._idleness is not None:
            self._idleness.wake(partition)
        channel = Channel(self._max_jump_ms, partition.channel_state)
        for message, value, is_end in self._opened(batch):
            if own and (is_end or message.value() is not None):
                if not is_end and not self._advance(channel, message, value):
                    continue
                if not await self._pass(channel, at, batch, message, is_end=is_end):
                    return
            elif own:
                partition.state_before = (partition.channel_state,)
            if not is_end:
                if type(value) is _Again:
                    await self._fire_one(value.firing)
                else:
                    yield message, value
                # What the record has made due at once. Its own failures must be found before.
                if self._is_due(channel.time_ms):
                    if stream.queue.isolating:
                        stream.context.savepoint(stream)
                    await self._fire(at, channel.time_ms, _next_offset(batch, message))

    async def skip(self, batch: QueuedBatch) -> bool:
        """Let event time pass a record that goes to the failure policy; False if it is back in the queue."""
        if self._stream.queue.poison_of(batch) is None:
            return True
        own, at = self._source(batch.at)
        message = batch.messages[0]
        if not own or message.value() is None:
            return True
        try:
            time_ms = self._read(self._stream.topic.decode_value(message.value()), message)
        except Exception:  # noqa: BLE001 (it has no time, so it moves none)
            return True
        channel = Channel(self._max_jump_ms, self._stream.queue.at(at).channel_state)
        channel.advance(time_ms, message.timestamp()[1])
        self._stream.context.at(self._stream, batch.at)
        return await self._pass(channel, at, batch, message, is_end=False)

    async def _look(self) -> None:
        """Fire what is due although no record has come: after a restore, or because the partition is idle."""
        stream, queue = self._stream, self._stream.queue
        self._is_left = False
        for at in [at for at in queue.partitions if at.topic in self._names]:
            partition = queue.at(at)
            stream.context.at(stream, at)
            channel = Channel(self._max_jump_ms, partition.channel_state)
            if self._idleness is not None and channel.time_ms != END_MS:
                silent = stream.context.is_silent(stream, at)
                idle_ms = self._idleness.idle_ms(partition, clock.now_s(), silent=silent)
                if idle_ms is not None:
                    channel.rest(idle_ms, self._all_due_by)
                    partition.channel_state = channel.state
            await self._fire(at, channel.time_ms, partition.offset)

    def _source(self, at: TopicPartition) -> tuple[bool, TopicPartition]:
        """Return whether a partition is one of the source, and that of the source: a retry topic has no time."""
        own = at.topic in self._names
        return own, at if own else TopicPartition(self._name, at.partition)

    def _opened(self, batch: QueuedBatch) -> Iterator[tuple[Message, Any, bool]]:
        """Yield records with their values, and ends of the input."""
        messages, topic = batch.messages, batch.at.topic
        control = batch.rows is None and carries_control(topic, self._group) and records_of(messages) is not messages
        if topic not in self._names:
            for message in messages:  # also the rows of a packed batch
                yield from self._opened_again(batch, message)
            return
        if not control:
            yield from ((message, value, False) for message, value in decoded(self._stream, batch))
            return
        for message in messages:
            if not is_control(message):
                alone = batch._replace(messages=(message,))
                yield from ((record, value, False) for record, value in decoded(self._stream, alone))
            elif decode(message).kind == END_OF_INPUT:
                yield message, None, True

    def _opened_again(self, batch: QueuedBatch, message: Message) -> Iterator[tuple[Message, Any, bool]]:
        """Yield a record of a retry topic: a record of the topic, or something that fires again."""
        _, at = self._source(batch.at)
        try:
            firing = next((found for each in self._waiting if (found := each.again(message, at)) is not None), None)
        except BadRecord as exc:
            self._stream.context.apply_policy(self._stream, message, exc, "decode")
            return
        if firing is not None:
            yield message, _Again(firing), False
        else:
            alone = batch._replace(messages=(message,))
            yield from ((record, value, False) for record, value in decoded(self._stream, alone))

    def _advance(self, channel: Channel, message: Message, value: Any) -> bool:
        try:
            time_ms = self._read(value, message)
        except Stop:
            raise
        except Exception as exc:  # noqa: BLE001 (the function may be the user's)
            self._stream.message = message
            self._stream.context.apply_policy(self._stream, message, exc, "time")
            return False
        channel.advance(time_ms, message.timestamp()[1])
        return True

    async def _pass(
        self, channel: Channel, at: TopicPartition, batch: QueuedBatch, message: Message, *, is_end: bool
    ) -> bool:
        """Fire what a record makes due, and note stream time; False if a commit is due before all has fired."""
        stream, partition = self._stream, self._stream.queue.at(at)
        partition.state_before = (partition.channel_state,)
        if is_end:
            for waiting in self._waiting:
                waiting.end(channel.time_ms)
            channel.end()
        if not await self._fire(at, channel.time_ms, message.offset() or 0, whole=batch.rows is not None):
            stream.message = None
            stream.queue.again_from(message)
            return False
        partition.channel_state = channel.state
        return True

    # Firing ---------------------------------------------------------------------------------------------------------

    def _is_due(self, time_ms: int) -> bool:
        return time_ms > NEVER_MS and any(
            (next_ms := each.next_ms) is not None and next_ms <= time_ms for each in self._waiting
        )

    def _all_due_by(self, time_ms: int) -> int:
        return max((last_ms for each in self._waiting if (last_ms := each.last_ms) is not None), default=time_ms)

    async def _fire(self, at: TopicPartition, time_ms: int, offset: int, *, whole: bool = False) -> bool:
        """Fire what is due.

        Args:
            offset: the offset of the record in front of which it fires.
            whole: a packed batch is at hand, which cannot go back into the queue.

        Returns:
            False: a commit is due before all has fired.
        """
        stream, fired = self._stream, 0
        while self._is_due(time_ms):
            if not whole and (stream.queue.cut or stream.context.epoch.full):
                self._is_left = True
                return False
            due = [each for each in self._waiting if each.next_ms is not None]
            firing = min(due, key=lambda each: each.next_ms or 0).first(time_ms, at, offset)
            if firing is None:
                continue
            await self._fire_one(firing)
            fired += 1
            if fired % _PAUSE_AFTER == 0:
                await asyncio.sleep(0)
        return True

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


def clock_of(stream: Stream) -> StreamClock | None:
    """Return a clock for what waits for event time in a stream; None if nothing does."""
    waiting = [each for find in runtime_of(stream.app).waiting if (each := find(stream)) is not None]
    return StreamClock(stream, waiting) if waiting else None


def refuse_waiting(stream: Stream, call: str) -> None:
    """Refuse several records at a time where something fires between two of them.

    Raises:
        Usage: something waits for event time in the stream.
    """
    if clock_of(stream) is not None:
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
