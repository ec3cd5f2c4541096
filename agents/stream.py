"""Streams: what an agent iterates.

`async for value in stream` yields values one by one, `async for batch in stream.batches()` runs of records that arrived
together. The engine may park a stream between two records, while there are none or an epoch is committed. An agent is
*running* from the moment it gets a record until it requests the next one.

A hot loop pays only for what it uses: events, headers and timestamps are looked up when `stream.current_event` is read
or `current_event()` is called.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, cast

import faust
from faust.exceptions import Skip
from faust.streams import _current_event  # pyright: ignore[reportPrivateUsage]
from mode.utils.futures import maybe_async
from typing_extensions import TypeVar

from ..topics import clock
from ..topics.durations import interval_s
from ..topics.errors import Usage
from ..topics.packed import Package
from ..topics.topic_partition import TopicPartition
from .agent_windows import AgentWindows, refuse_groups, windows_of
from .decoded_batches import SKIPPED, decoded, in_memory, last_of, record_batch
from .engine.firing import FiringRecord
from .engine.partition_queue import QueuedBatch
from .engine.record_queue import RecordQueue
from .engine.runner import Runner
from .event import Event, RecordBatch, to_event
from .processors import Processor, changing, filtering, key_function, keyed_by, passing_on
from .reading import Reading, refuse_others
from .runtime import runtime_of
from .stream_clock import StreamClock, clock_of, refuse_waiting
from .take_buffer import Group, TakeBuffer

if TYPE_CHECKING:
    from faust.types import ChannelT
    from faust.types.models import FieldDescriptorT

    from ..topics.durations import Duration
    from ..topics.message import Message
    from .engine.agent_context import AgentContext
    from .topic import Topic

__all__ = ["RecordBatch", "Stream"]

V_co = TypeVar("V_co", covariant=True, default=Any)
Made = TypeVar("Made")

_PROCESSING: Any = object()  # in `Stream._processed_of`: the processors of a record have not come to an end


def refuse_noack(stream: Stream) -> NoReturn:
    """Refuse manual acknowledgement.

    Raises:
        Usage: always; offsets are committed together with the agent's results.
    """
    raise _no_manual_acks("noack()")


def refuse_noack_take(stream: Stream, max_: int, within: Duration | None = None) -> NoReturn:
    """Refuse manual acknowledgement; see `refuse_noack`."""
    raise _no_manual_acks("noack_take()")


def _single_values(stream: Stream) -> Usage:
    return Usage(
        f"agent {stream.name}: batches() of a stream with processors (filter, echo, …), which take single values",
        hint="process the batch in the agent, or iterate the stream itself",
    )


def _no_manual_acks(name: str) -> Usage:
    return Usage(
        f"stream.{name}: records are not acknowledged one by one",
        hint="offsets are committed with the agent's results, exactly once, so a record that was not processed is read "
        "again; take(n, within=…) holds records back",
    )


class Stream(faust.Stream[V_co]):
    """A stream of values of type `V`: a Faust stream that takes batches from the engine."""

    def __init__(self, channel: AsyncIterator[V_co], **kwargs: Any) -> None:
        super().__init__(channel, **kwargs)
        self.queue = RecordQueue()
        self.running = False
        self.by_batch = False
        self.runner: Runner | None = None
        self.wakeup: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.takes_control = False
        self.max_ahead_ms: int | None = None
        self.message: Message | None = None  # the record that the agent processes
        self.windows: AgentWindows | None = None  # of an app with windowed tables
        self.clock: StreamClock | None = None  # of an agent with timers
        self._package: Package | None = None
        self._looks = _Looks()
        self._event: Any = None
        self._event_of: Message | None = None
        self._processed_of: Message | None = None  # the record whose value has passed all processors
        self._processed_value: Any = None
        self._registered = False
        self.reading: Reading | None = None  # the one that the agent is in
        self.grouped = False  # whether the agent gets several records at a time
        self.in_hand = False  # whether the agent works on a value that is not a record of a topic

    # What the engine reads and calls ------------------------------------------------------------------------------

    @cached_property
    def context(self) -> AgentContext:
        """The agent context: the interface to the engine."""
        return runtime_of(self.app).context

    @property
    def topic(self) -> Topic[Any, V_co]:
        """The topic this stream iterates."""
        return cast("Topic[Any, V_co]", self.channel)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.prefix or ("stream" if self._prev is None else cast("Stream", self._prev).name)

    @property
    def progress_name(self) -> str:
        """Identifies this stream's progress: each concurrent instance may be at another position (`take`).

        The name is stable over restarts with the same concurrency. After a change of the concurrency, all instances
        resume at the position of the one that was furthest behind.
        """
        return self.name if self.concurrency_index is None else f"{self.name}#{self.concurrency_index}"

    # Iteration ----------------------------------------------------------------------------------------------------

    @property
    def from_engine(self) -> bool:
        """True if records come from the engine; Faust iterates channels in memory and plain iterables."""
        return hasattr(self.channel, "decode_value") and not self.app.client_only

    def __aiter__(self) -> AsyncIterator[V_co]:
        if not self.from_engine:
            return in_memory(self, super().__aiter__())
        # A passive stream only forwards its records: the agent iterates another one.
        self.clock = None if self._passive else clock_of(self)
        return self._values() if self.clock is None else self.clock.values()

    async def begin(self, *, grouped: bool = False, by_batch: bool = False) -> Reading:
        """Begin to take records from the engine, behind the record at which the agent has left another loop."""
        refuse_others(self)
        self._finalized = True
        self.turn_to(loop := Reading(grouped, by_batch))
        if self.context.current is not None:
            self.context.current.begun = True
        _current_event.set(cast(Any, self._current))
        await self.maybe_start()
        self._looks = _Looks()
        self.windows = windows_of(self)
        if grouped and self.windows is not None:
            refuse_groups(self.windows)
        if not self._registered:
            self._registered = True
            self.context.add_stream(self)
        return loop

    def turn_to(self, loop: Reading) -> None:
        """Make `loop` the one that the agent is in. Another one is left, perhaps in the middle of a batch: what the
        agent has taken there and not seen is for this loop. Loops call it before each batch, because the agent may be
        back from one inside of them."""
        left, self.reading = self.reading, loop
        self.grouped, self.by_batch = loop.grouped, loop.by_batch
        if left is not None and left is not loop:
            left.leave(self, is_processing=self._processed_of is _PROCESSING)

    async def _values(self) -> AsyncIterator[V_co]:
        loop = await self.begin()
        decode, windows = self.topic.decode_value, self.windows
        while True:
            self.turn_to(loop)
            batch = await self.next_batch(None if windows is None else windows.wait_s())
            if windows is not None and not batch.messages:
                await windows.rest()
                continue
            handed = self.handed
            if self._processors or windows is not None:
                async for _, value in self.processed(batch):
                    yield value
                    if handed:
                        self.context.end_record(self)
                    if self.reading is not loop:
                        break
                continue
            if batch.rows is not None:
                for row, value in decoded(self, batch):
                    self.message = row
                    yield value
                    if handed:
                        self.context.end_record(self)
                    if self.reading is not loop:
                        break
                continue
            for message in batch.messages:
                self.message = message
                try:
                    value = decode(message.value())
                except BaseException as exc:  # noqa: BLE001 (decoders may be the user's, and panic)
                    if message.value() is not None:
                        self.context.apply_policy(self, message, exc, "decode")
                        continue
                    value = cast("V_co", None)  # a tombstone
                yield value
                if handed:
                    self.context.end_record(self)

    @property
    def handed(self) -> list[Any]:
        """Values of tables that the agent holds of its record; while empty, the record's end is free."""
        return cast(Any, self.runner).handed

    async def processed(self, batch: QueuedBatch) -> AsyncIterator[tuple[Message, V_co]]:
        """Yield the records of a batch, each with its value after all processors."""
        if self.windows is None or self.grouped:
            for message, value in decoded(self, batch):
                if not self._processors or (value := await self.process(message, value)) is not SKIPPED:
                    yield message, value
            return
        async for message, value in self.windows.records(batch):
            if not self._processors or (value := await self.process(message, value)) is not SKIPPED:
                yield message, value

    async def process(self, message: Message, value: Any) -> Any:
        """Return the value of the record at hand after all processors; `SKIPPED` if one of them skips it."""
        self.message, self._event_of, self._processed_of = message, None, _PROCESSING  # not those of an attempt before
        try:
            for processor in self._processors:
                value = await maybe_async(cast(Any, processor)(value))
        except Skip:
            self._processed_of = None
            return SKIPPED
        except Exception:  # by a processor; after a cancellation it is not known how far they have come
            self._processed_of = None
            raise
        self._processed_of, self._processed_value = message, value
        return value

    def batches(self) -> AsyncIterator[RecordBatch[V_co]]:
        """Iterate over runs of records; each is a `RecordBatch` of one partition.

        A batch is processed as one. If the agent raises, the batch is rolled back and reprocessed record by record, so
        that exactly the failing record goes to the failure policy. A packed batch stays whole; rows that do not fit the
        declared type go to the failure policy alone, and the batch comes without them.

        Raises:
            Usage: the stream has processors (`filter`, `echo`, …), which take single values.
        """
        return self._batches(record_batch)

    def queued_batches(self, wait_s: Callable[[], float | None] | None = None) -> AsyncIterator[QueuedBatch]:
        """Iterate as `batches`, over records that are not decoded; for flows, which do not decode what they process by
        column. With `wait_s`, yield an empty batch where none come for the seconds that it returns, and at least once a
        second where they keep coming: an agent that looks after several partitions has to see to the silent ones."""
        return self._batches(lambda _, batch: batch, wait_s)

    async def _batches(
        self,
        make: Callable[[Stream[V_co], QueuedBatch], Made | None],
        wait_s: Callable[[], float | None] | None = None,
    ) -> AsyncIterator[Made]:
        refuse_waiting(self, "batches()")
        if self._processors:
            raise _single_values(self)
        loop = await self.begin(grouped=True, by_batch=True)
        while True:
            self.turn_to(loop)
            batch = await self.next_batch(wait_s() if wait_s else None)
            made = make(self, batch)
            if made:
                self.message = last_of(batch) if batch.messages else None
                yield made
                if batch.messages and self.handed:
                    self.context.end_record(self)

    async def next_batch(self, timeout_s: float | None = None) -> QueuedBatch:
        """Wait for the next records, and for a running commit. With a timeout, return an empty batch after it, or after
        a second of records."""
        context, queue = self.context, self.queue
        if queue.isolating and self.running:
            context.savepoint(self)
        queue.done()
        self.message = None
        if self._package is not None and not queue.inside:
            self._package.close()
            self._package = None
            await asyncio.sleep(0)  # it may have taken long: let the engine check the time
        waited = False
        while True:
            if timeout_s is not None and self.running and self._looks.are_due(queue, timeout_s):
                return self._looks.nothing()
            batch = queue.take() if self.running else None
            if batch is None:
                if self.running and ((waited and timeout_s is not None) or queue.gives_rest):
                    return self._looks.nothing()
                await context.park(self, timeout_s)
                waited = True
                continue
            if batch.rows is not None:
                self._package = batch.rows.package
            keeper = self.clock or self.windows
            if keeper is not None and not await keeper.skip(batch):
                continue
            if _is_given_up(self, batch):
                queue.done()
                continue
            if queue.isolating:
                # Again, right before the record: its rollback must not cover what happened in between (a dead letter,
                # records of other agents while this one was parked).
                context.savepoint(self)
            context.at(self, batch.at)
            return batch

    # Taking several records at a time -----------------------------------------------------------------------------

    async def take(self, max_: int, within: Duration | None = None) -> AsyncIterator[list[V_co]]:
        """Iterate over lists of up to `max_` values of one partition.

        A bounded run yields the rest at the end of history. Values that are held back count as not handled: after a
        crash they are read again.

        Args:
            max_: the largest number of values in a list.
            within: seconds after the first value of a list, or a timedelta, when it is yielded in any case; None waits
                until it is full.
        """
        async for taken in _groups(self, max_, within):
            yield [value for _, value in taken]

    async def take_events(self, max_: int, within: Duration | None = None) -> AsyncIterator[list[Event[V_co]]]:
        """Iterate over lists of events; see `take`."""
        async for taken in _groups(self, max_, within):
            yield [to_event(self.app, self.topic, message, value) for message, value in taken]

    async def take_with_timestamp(
        self, max_: int, within: Duration | None, timestamp_field_name: str
    ) -> AsyncIterator[list[V_co]]:
        """Iterate as `take`; values that are dicts get the record's timestamp in seconds in a field."""
        async for taken in _groups(self, max_, within):
            for message, value in taken:
                if isinstance(value, dict):
                    value[timestamp_field_name] = message.timestamp()[1] / 1000
            yield [value for _, value in taken]

    noack, noack_take = cast(Any, refuse_noack), cast(Any, refuse_noack_take)

    # Events -------------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        def events(self) -> AsyncIterator[Event[V_co]]:
            """Iterate over the records as events."""
            ...

        def items(self) -> AsyncIterator[tuple[Any, V_co]]:
            """Iterate over the records as pairs of key and value."""
            ...

        def enumerate(self, start: int = 0) -> AsyncIterator[tuple[int, V_co]]:
            """Iterate over the values as pairs of a number and a value."""
            ...

    def _current(self) -> Event[V_co] | None:
        return self.current_event

    @property
    def current_event(self) -> Event[V_co] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The event that is processed; it is made when it is read."""
        message = self.message
        if message is None or type(message) is FiringRecord:
            return None if message is not None else self._event
        if self._event_of is not message:
            self._event = to_event(self.app, self.topic, message)
            self._event_of = message
        if self._processed_of is message:
            self._event.value = self._processed_value
        return self._event

    @current_event.setter
    def current_event(self, event: Any) -> None:
        self._event = event

    async def ack(self, event: object) -> bool:
        """Do nothing: progress is kept by offset, not by acknowledging records."""
        del event
        return True

    # Repartitioning -----------------------------------------------------------------------------------------------

    def add_processor(self, processor: Callable[..., object]) -> None:
        """Add a processor; do nothing if the agent was restarted, because its first call has added it."""
        # anabranch does not use the envelope of Faust's old requests, so its processor would only cost time.
        if not self._finalized and getattr(processor, "__name__", "") != "_maybe_unwrap_reply_request":
            super().add_processor(cast(Any, processor))

    def filter(self, fun: Callable[[V_co], object]) -> Stream[V_co]:
        """Skip values for which the function, async or not, is false; also before a `group_by`, `through` or `echo`."""
        self.add_processor(filtering(fun))
        return self

    def echo(self, *channels: str | ChannelT[object]) -> Stream[V_co]:
        """Send a copy of each record to channels, or topics by name; copies keep key, headers and timestamp."""
        targets = [self.derive_topic(channel) if isinstance(channel, str) else channel for channel in channels]
        self.add_processor(passing_on(self, targets, changed=changing(self._processors)))
        return self

    def group_by(
        self,
        key: Callable[[V_co], object] | FieldDescriptorT[object],
        *,
        name: str | None = None,
        topic: Topic | None = None,
        partitions: int | None = None,
    ) -> Stream[V_co]:
        """Return a stream of the same values, repartitioned by another key.

        Args:
            key: a function of the value, async or not, or a field of the value's class (`Order.user`), which is a Faust
                record or a `msgspec.Struct`.
            name: part of the repartition topic's name; required for a function, else the name of class and field.
            topic: the repartition topic; default: one that is made for it.
            partitions: its number of partitions; default: that of the stream's topic.

        Raises:
            Usage: the key is neither a function nor a field.
        """
        if self._finalized and self._next is not None:
            return cast("Stream[V_co]", self._next)  # the agent was restarted: the chain is there
        key, own_name = key_function(key)
        if topic is None and (name := name or own_name):
            topic = _repartition_topic(self, name, partitions)
        return self._instead(super().group_by(cast(Any, key), name=name, topic=topic), keyed_by(key))

    def through(self, channel: str | ChannelT[object]) -> Stream[V_co]:
        """Return a stream of the same values, sent through another topic."""
        if self._finalized and self._next is not None:
            return cast("Stream[V_co]", self._next)
        return self._instead(super().through(channel))

    def _chain(self, **kwargs: Any) -> Stream[V_co]:
        # Faust moves the processors of this stream to the new one, so they would run behind the other topic.
        made = cast("Stream[V_co]", self.clone(on_start=self.maybe_start, prev=self, processors=[], **kwargs))
        self._next = made
        return made

    def _instead(self, chained: object, key_of: Processor | None = None) -> Stream[V_co]:
        """Replace Faust's processor that forwards records to the chained stream unchanged."""
        stream = cast("Stream[V_co]", chained)
        if stream is not self:
            del self._processors[-1]
            changed = changing(self._processors)
            self.add_processor(passing_on(self, [stream.channel], key_of, changed=changed))
        return stream

    def derive_topic(self, name: str, **kwargs: Any) -> Topic:
        """Return the topic that `through` and `echo` take by name; in a bounded run, the run's own."""
        return cast("Topic", super().derive_topic(runtime_of(self.app).resolve_topic(name), **kwargs))

    def _enable_passive(self, channel: ChannelT[object], *, declare: bool = False) -> None:
        if not self._passive:
            self._passive = True
            self.add_future(self._drain(channel, declare))

    async def _drain(self, channel: ChannelT[object], declare: bool) -> None:
        if declare:
            await channel.maybe_declare()
        self._passive_started.set()
        await Runner(
            self.context, f"{self.name} (repartitioning)", self._exhaust, self, lambda: self.should_stop
        ).main()

    async def _exhaust(self) -> None:
        async for _ in self:
            pass


def _repartition_topic(stream: Stream[Any], name: str, partitions: int | None) -> Topic:
    """Return the topic of a `group_by`, by Faust's name.

    Faust would give it the number of partitions that topics of the app have by default.
    """
    prefix = f"{stream.prefix}-" if stream.prefix and not stream.topic.has_prefix else ""
    names, runtime = stream.topic.topics, runtime_of(stream.app)
    derived = stream.topic.derive(
        # One topic, also where the stream's records come from several.
        topics=None if len(names) == 1 else ["-".join(map(runtime.name_in_program, names))],
        prefix=prefix,
        suffix=f"-{name}-repartition",
        partitions=partitions,
        internal=True,
    )
    made = cast("Topic", derived)
    on_failure = getattr(runtime.agents.get(stream.name), "on_failure", "dead_letter")
    runtime.own_repartition(made.get_topic_name(), f"agent {stream.name} ({', '.join(names)})", on_failure)
    return made


async def _groups(stream: Stream[Any], max_: int, within: Duration | None) -> AsyncIterator[Group]:
    refuse_waiting(stream, "take(…)")
    loop = await stream.begin(grouped=True)
    held = loop.held = TakeBuffer(
        stream.queue, max_, interval_s(within, "take: within") if within else None, clock.now_s
    )
    while True:
        stream.turn_to(loop)
        batch = await stream.next_batch(held.wait_s)
        held.drop_revoked()
        async for message, value in stream.processed(batch):
            group = held.add(batch.at, message, value)
            if group is not None:
                stream.message = message
                yield group
                if stream.handed:
                    stream.context.end_record(stream)
                if stream.reading is not loop:
                    break
                held.done(batch.at)
        if stream.reading is not loop:
            continue
        for at, group in held.due(batch).items():
            stream.context.at(stream, at)
            stream.message = group[-1][0]
            yield group
            if stream.handed:
                stream.context.end_record(stream)
            if stream.reading is not loop:
                break
            held.done(at)


def _is_given_up(stream: Stream[Any], batch: QueuedBatch) -> bool:
    """Return whether the agent must not get a batch; its records then went to the failure policy."""
    why = stream.queue.poison_of(batch)
    if why is not None:
        stream.context.apply_policy(stream, batch.messages[0], why, "agent")
    elif batch.rows is not None and (damage := batch.rows.package.damage) is not None:
        stream.context.apply_policy(stream, batch.rows.package.message, damage, "decode", len(batch.messages))
    else:
        return False
    return True


_NOTHING = QueuedBatch(TopicPartition("", -1), [], 0)


class _Looks:
    """Empty batches for an agent that looks after several partitions: also while one of them has records all the time,
    it has to see to the silent ones. The first comes at once: a restarted agent has lost what it did in the last one,
    and would lose the next one likewise if it came after records that fail."""

    _APART_S = 1.0

    def __init__(self) -> None:
        self._last_s = -math.inf

    def are_due(self, queue: RecordQueue, timeout_s: float) -> bool:
        """Return whether the agent gets an empty batch before the next records, because it had none for long."""
        if not queue.has_work or queue.inside:
            return False
        return clock.now_s() - self._last_s >= max(timeout_s, self._APART_S)

    def nothing(self) -> QueuedBatch:
        """Return an empty batch, and note when."""
        self._last_s = clock.now_s()
        return _NOTHING
