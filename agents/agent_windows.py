"""The windows that an agent writes (`tables/agent_window_table.py`): time, late records and closing.

    record ─▶ its time moves the stream time of its input ─▶ windows that are complete close ─▶ the agent gets it

Invariants.
- All records that the stream reads move stream time whose time can be read: also those that the agent skips, refuses or
  does not count, but not those that cannot be decoded. A record that is redelivered moves it once.
- Windows close between two records, before the record is handed out whose time has passed their end, in the order of
  their ends and then of their keys. `on_window_close` runs there, in the agent's context. What it has done is committed
  with the note that the window is closed, and a rollback of the record that follows does not undo it. If it fails, it
  is rolled back alone (`firings.py`); the window is closed, and goes to the agent's failure policy.
- If more windows close than an epoch may hold outputs of, the record goes back to the queue, and is taken again when
  the epoch is committed. Rows of packed batches cannot go back; their windows close in one epoch.
- A record is late if the watermark of its input, as it was before it, had passed the first window that it belongs to.
  (One that confirms an earlier, later record that was far ahead counts as behind that one: windows close before it.)
  It counts in none of its windows, and goes to `<topic>.late`, with the table as its operator, once for each table.
- Windows also close while no record comes: when a live input is idle, and at the end of a bounded run's input. That end
  passes through repartition topics.
- Behind `group_by`, time is that of the source partitions (`forwarded_time.py`). Behind `through`, or several
  `group_by`, it is that of the topic's own records; in a bounded run only its end, because the next run would not
  repeat their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, cast

from ..topics import clock
from ..topics.control_records import END_OF_INPUT, ControlRecord, carries_control, decode, is_control
from ..topics.dead_letter import LATE_SUFFIX
from ..topics.errors import BadRecord, Stop, Usage
from ..topics.topic_partition import TopicPartition
from .decoded_batches import decoded
from .engine.firing import FiringRecord
from .engine.partition_queue import QueuedBatch, place_of
from .event import to_event
from .event_time.channel import END_MS, NEVER_MS, Channel, watermark
from .event_time.idleness import Idleness
from .event_time.time_keeper import TimeKeeper, channel_name
from .firings import KIND
from .flows.aggregates import getter
from .flows.late_records import LateRecords
from .flows.operators import field_reader
from .flows.watermarked_partials import WatermarkedPartials
from .flows.window_agents import LOOK_S
from .forwarded_time import TIMERS, ForwardedTime, is_behind_source, source_time, time_before, times_of
from .runtime import runtime_of
from .stream_clock import is_waited_in, timing_of
from .tables.absent import ABSENT
from .tables.agent_window_table import AgentWindowTable, WindowWriter
from .tables.relative_time import STREAM
from .tables.window_content import WindowContent
from .tables.window_table import window_partition
from .window_teller import WindowTeller, first_topic

if TYPE_CHECKING:
    from ..topics.message import Message
    from .event_time.windows import Pane
    from .stream import Stream
    from .tables.agent_window_table import CloseCallback
    from .tables.open_windows import WindowKey
    from .tables.relative_time import RelativeTime
    from .tables.window_content import Input
    from .topic import Topic

__all__ = ["AgentWindows", "refuse_groups", "windows_of"]

# Until the next look at windows that could not close because the epoch has to end.
_SOON_S = 0.02

# Windows that close before the engine's loop has a turn.
_PAUSE_AFTER = 256

# How far a source partition may be ahead of another one where there are timers behind them, in event time.
_AHEAD_MS = 60_000


class _Record:
    """A record, as windowed tables see it.

    Attributes:
        times_ms: the times that were asked for; None where the record has no such time.
        late_for: the tables that it was late for.
    """

    __slots__ = ("_of", "late_for", "message", "times_ms", "value")

    def __init__(self, of: AgentWindows, message: Message, value: Any) -> None:
        self._of, self.message, self.value = of, message, value
        self.times_ms: dict[int, int | None] = {}  # by the id of the `RelativeTime`, whose hash takes longer
        self.late_for: set[str] = set()

    @property
    def stream_ms(self) -> int:
        """Its event time by its topic; raises what the declaration raises."""
        return self._of.read_time(self.value, self.message)

    @property
    def event(self) -> Any:
        """It as Faust's event."""
        return to_event(self._of.stream.app, self._of.stream.topic, self.message, self.value)

    def time_ms(self, time: RelativeTime) -> int | None:
        """Return its time in milliseconds; None if it has none."""
        known = self.times_ms.get(id(time), -1)
        if known != -1:
            return known
        try:
            time_ms = time.of_record(self)
        except BadRecord:
            time_ms = None
        self.times_ms[id(time)] = time_ms
        return time_ms


class AgentWindows(WindowWriter):
    """The windows of an app's tables, for one stream.

    Args:
        tables: the tables of windows that agents may write.
    """

    def __init__(self, stream: Stream, tables: list[AgentWindowTable[Any]]) -> None:
        self.stream, self._tables = stream, tables
        topic, runtime = stream.topic, runtime_of(stream.app)
        self._names = frozenset(topic.topics)
        self._group = runtime.conf.id
        timing = timing_of(stream)
        self.read_time = timing.time.reader(lambda name: getter(name, field_reader(topic.declared)))
        self._max_jump_ms = timing.max_jump_ms
        idle_after_ms = None if runtime.run_id else timing.idle_after_ms
        self._idleness = None if idle_after_ms is None else Idleness(idle_after_ms)
        # The order of records behind `through` depends on how far a run has read each source partition.
        self._waits_for_end = bool(runtime.run_id) and cast(Any, stream)._prev is not None
        self._times = times_of(tables)
        self._is_behind_source = is_behind_source(stream)
        behind = cast("Stream | None", cast(Any, stream)._next)
        self.forwarded = None
        # First, so that its message comes first, which windows by the same time go by too.
        times = {TIMERS: TIMERS.name, **self._times} if _forwards_for_timers(stream) else self._times
        if behind is not None and is_behind_source(behind) and times:
            self.forwarded = ForwardedTime(stream, behind.topic, times, self._closed_at)
            lengths = runtime.settings.max_ahead_windows
            bounds = [table.spec.max_ahead_ms(lengths) for table in tables if table.spec.closes]
            if TIMERS in times and lengths is not None:
                bounds.append(_AHEAD_MS + (timing.given_grace_ms or 0))
            stream.max_ahead_ms = min((bound for bound in bounds if bound is not None), default=None)
        self._teller = WindowTeller(stream, tables)
        self._record: _Record | None = None
        self.has_taken_groups = self._waits = False
        self.written: AgentWindowTable[Any] | None = None
        for table in tables:
            table.is_read = True

    # What tables ask ------------------------------------------------------------------------------------------------

    @property
    def record(self) -> _Record:
        """The record that the agent processes."""
        stream, record = self.stream, self._record
        if stream.message is None or type(stream.message) is FiringRecord:
            fires, where = "window that closes", "on_window_close"
            if stream.message is not None and stream.message.kind != KIND:
                fires, where = "timer that fires", "the function of a timer"
            raise Usage(
                f"agent {stream.name}: a {fires} has no record whose time could choose a window",
                hint=f"in {where}, read a table with windows by now(), or by [key][start, end]",
            )
        if record is None or record.message is not stream.message:
            event = cast(Any, stream.current_event)
            record = self._record = _Record(self, stream.message, event.value)
        return record

    def pane(self, table: AgentWindowTable[Any]) -> Pane | None:
        """Return the pane of the record that the agent processes; see `WindowWriter`."""
        stream, record = self.stream, self.record
        if stream.queue.shared or self.has_taken_groups:
            raise _not_alone(stream, table)
        self.written = table
        time_ms = record.time_ms(table.time)
        if time_ms is None:
            time_ms = table.time.of_record(record)  # raises, and says why
        _, content = window_partition(table)
        name, pane = self._input(), table.spec.windows.pane(time_ms)
        channel = content.inputs.get(name)
        if channel is None:
            channel = content.inputs[name] = Channel(self._max_jump_ms)
            if record.message.topic() in self._names:  # a record of a retry topic moves no time
                self._move(table, content, record)
            content.take_time(clock.now_ms())
        if not table.spec.closes:
            return pane
        horizon_ms, before_ms = table.spec.windows.horizon_ms(pane), channel.time_ms
        if self._is_behind_source:
            before_ms = time_before(record.message, self._times[table.time])
        own_ms = watermark(before_ms, table.spec.grace_ms)
        if horizon_ms >= max(own_ms, content.watermark_ms):
            return pane
        if table.name not in record.late_for:
            record.late_for.add(table.name)
            topic = name[1] if cast(Any, stream)._prev is None else first_topic(stream)
            late = LateRecords(table.name, table.spec.windows, f"{topic}{LATE_SUFFIX}")
            if own_ms > horizon_ms:
                late.send(stream, record.message, pane, own_ms, "late")
            else:
                late.send(stream, record.message, pane, content.watermark_ms, "closed")
        return None

    def _input(self) -> Input:
        message = self.stream.message
        assert message is not None
        topic = cast(str, message.topic())
        return self.stream.name, topic if topic in self._names else self.stream.context.retries.read[topic][1]

    # Records --------------------------------------------------------------------------------------------------------

    def wait_s(self) -> float:
        """Return the seconds until the next look at the windows, although no record has come."""
        return _SOON_S if self._waits else LOOK_S

    @property
    def tells(self) -> bool:
        """True if windows that close in this stream are told to the program."""
        return cast(Any, self.stream)._next is None and any(table.on_close is not None for table in self._tables)

    async def records(self, batch: QueuedBatch) -> AsyncIterator[tuple[Message, Any]]:
        """Yield the records of a batch, each with its value, after the windows have closed that end before it."""
        if await self.told_again(batch):
            return
        for message, value in _decoded(self.stream, batch):
            if not await self._pass(batch, message, value):
                return
            if isinstance(value, ControlRecord):
                continue
            self.stream.message = message
            yield message, value
        self._note_time(batch.at)

    async def told_again(self, batch: QueuedBatch) -> bool:
        """Tell the windows of a batch of the retry topic of windows; return False if it is of another topic."""
        if batch.at.topic != self._teller.retry_topic:
            return False
        for message in batch.messages:
            await self._teller.tell_again(batch.at, message)
        return True

    async def skip(self, batch: QueuedBatch) -> bool:
        """Let a record move time that goes to the failure policy instead of the agent.

        Returns:
            Whether it can go there; if not, it is in the queue again.
        """
        stream = self.stream
        if stream.grouped or stream.queue.poison_of(batch) is None:
            return True
        stream.context.at(stream, batch.at)
        for message, value in _decoded(self.stream, batch, policy=False):
            return await self._pass(batch, message, value)
        return True

    async def _pass(self, batch: QueuedBatch, message: Message, value: Any) -> bool:
        """Let a record move time, and close windows; return False if it is in the queue again because some are left."""
        stream = self.stream
        if not self.advance(batch, message, value) or await self.closed(batch.at, divisible=batch.rows is None):
            return True
        stream.queue.again_from(message)
        if not stream.queue.cut:
            stream.context.router.cut()
        return False

    def advance(self, batch: QueuedBatch, message: Message, value: Any) -> bool:
        """Let a record, or a control record, move time; return whether windows may be complete now."""
        stream, at = self.stream, batch.at
        stream.message = None
        if isinstance(value, ControlRecord):
            self._hear(at, value)
        elif at.topic in self._names:
            if self._idleness is not None:
                self._idleness.wake(self.stream.queue.at(at))
            self._record = record = _Record(self, message, value)
            if self._is_behind_source and STREAM in self._times and (heard := source_time(message)) is not None:
                self._hear_time(at, self._times[STREAM], heard)  # in one order with timers, not behind the epoch
            if self.forwarded is not None:
                self.forwarded.pass_record(at, message, record.time_ms)
            return self._moves(at, record)
        elif self.forwarded is not None:
            self.forwarded.pass_record(at, message, _Record(self, message, value).time_ms)
        return True

    def _contents(self, at: TopicPartition) -> Iterator[tuple[AgentWindowTable[Any], WindowContent]]:
        for table in self._tables:
            state = table.states.get(at.partition)
            if state is not None:
                content = cast(WindowContent, state.content)
                content.load()
                yield table, content

    def _moves(self, at: TopicPartition, record: _Record) -> bool:
        """Bring stream time forward to a record; return whether windows are complete now."""
        name, is_due = (self.stream.name, at.topic), False
        for table, content in self._contents(at):
            if name in content.inputs:
                self._move(table, content, record)
                if content.open.has_due(content.watermark_ms):
                    is_due = True
                else:
                    content.open.close_due(content.watermark_ms)  # windows expire with the record, not with a look
        return is_due

    def _move(self, table: AgentWindowTable[Any], content: WindowContent, record: _Record) -> None:
        """Bring the stream time of the stream's input forward to a record of its topic."""
        message, time_ms = record.message, record.time_ms(table.time)
        name, place = (self.stream.name, cast(str, message.topic())), place_of(message)
        if time_ms is None or content.moved_by.get(name) == place:
            return
        if self._waits_for_end or self._is_behind_source:
            return
        content.moved_by[name] = place
        channel = content.inputs[name]
        channel.max_jump_ms = self._max_jump_ms  # the program may declare another one than when the row was written
        channel.advance(time_ms, message.timestamp()[1])
        content.take_time(clock.now_ms())

    def _note_time(self, at: TopicPartition) -> None:
        """Commit stream time with the offset too, for those who want to know what would be late; see `late_history`."""
        if at.topic not in self._names or carries_control(at.topic, self._group):
            return
        for table, content in self._contents(at):
            channel = content.inputs.get((self.stream.name, at.topic))
            if channel is not None and table.time == STREAM:
                self.stream.queue.at(at).channel_state = channel.state
                return

    # The end of the input -------------------------------------------------------------------------------------------

    def _hear(self, at: TopicPartition, control: ControlRecord) -> None:
        """Take a control record into account: a time of source partitions, or the end of the input, which is that of a
        topic's own partition or of all that a repartition topic is made of."""
        partition = self.stream.queue.at(at)
        by: str = "" if control.kind == END_OF_INPUT else cast("dict[str, Any]", control.value).get("by", "")
        if by:
            if by == TIMERS.name and not cast("dict[str, Any]", control.value).get("idle"):
                by = self._times.get(STREAM, by)  # windows by the same time go by it too, in one order with timers
            self._hear_time(at, by, control)
            return
        if control.kind != END_OF_INPUT:
            keeper = TimeKeeper(partition.channel_state)
            keeper.hear(control)
            partition.channel_state = keeper.state
            if keeper.time_ms != END_MS:
                return
        for _, content in self._contents(at):
            channel = content.inputs.get((self.stream.name, at.topic))
            if channel is not None:
                channel.end()
                content.take_time(clock.now_ms())
        _pass_end_on(self.stream, self.forwarded, at)

    def forwarding(self, value: Any) -> dict[str, bytes]:
        """Return the headers of event time for a record that `group_by` forwards.

        Args:
            value: its value, which processors may have changed.
        """
        stream, forwarded = self.stream, self.forwarded
        if forwarded is None or stream.message is None or stream.runner is None or stream.runner.at is None:
            return {}
        if forwarded.lacks_time:
            forwarded.complete(stream.runner.at, stream.message, _Record(self, stream.message, value).time_ms)
        return forwarded.headers

    def _hear_time(self, at: TopicPartition, by: str, heard: ControlRecord | tuple[int, str, int, int]) -> None:
        """Take stream time of source partitions into account: a watermark message, or what a record says of it."""
        name = self.stream.name, at.topic
        for table, content in self._contents(at):
            if self._times.get(table.time) == by:
                keeper = content.heard.setdefault(name, TimeKeeper())
                keeper.hear(heard) if isinstance(heard, ControlRecord) else keeper.hear_record(*heard)
                if name in content.inputs:
                    content.take_time(clock.now_ms())

    def _closed_at(self, time: RelativeTime, time_ms: int) -> int:
        """Return the stream time at which the windows of all tables have closed that hold a time; NEVER_MS for timers,
        which are waited for behind `group_by`."""
        return max((table.spec.closed_at(time_ms) for table in self._tables if table.time == time), default=NEVER_MS)

    # Closing --------------------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Close windows although no record has come: those of idle partitions, and those of a restored one."""
        stream, self._waits = self.stream, False
        for at in [at for at in stream.queue.partitions if at.topic in self._names]:
            stream.context.at(stream, at)
            self.rest_at(at)
            if not await self.closed(at, divisible=True):
                self._waits = True

    def rest_at(self, at: TopicPartition) -> None:
        """Let the time of a partition go on if it is idle."""
        stream = self.stream
        idle_ms = None if self._is_behind_source else self._idle_ms(at)
        if idle_ms is None:
            return
        if self.forwarded is not None and self._idleness is not None:
            self.forwarded.rest(at, idle_ms, repeats=self._idleness.repeats(stream.queue.at(at), clock.now_s()))
        for table, content in self._contents(at):
            channel = content.inputs.get((stream.name, at.topic))
            if channel is not None:
                before_ms = channel.time_ms
                channel.rest(idle_ms, table.spec.closed_at)
                content.take_time(clock.now_ms())
                if channel.time_ms != before_ms and channel.time_ms == channel.rests_until_ms(table.spec.closed_at):
                    stream.context.epoch.touch()  # it goes no further: commit that

    def _idle_ms(self, at: TopicPartition) -> int | None:
        if self._idleness is None:
            return None
        silent = self.stream.context.is_silent(self.stream, at)
        return self._idleness.idle_ms(self.stream.queue.at(at), clock.now_s(), silent=silent)

    def due_ms(self, at: TopicPartition) -> int | None:
        """Return the stream time with which the next window is complete, of those of a partition that are complete and
        have to be told; None if there are none."""
        return min((due_ms for due_ms, _, _ in self._due(at)), default=None)

    async def close_next(self, at: TopicPartition) -> None:
        """Close the window that `due_ms` has meant; do nothing yet if the order of those that close is not known."""
        _, table, content = min(self._due(at), key=lambda due: due[0])
        rows = content.open.take_due(content.watermark_ms, 1)
        if rows and table.on_close is not None:
            await self._call(table, table.on_close, at, rows[0])

    def _due(self, at: TopicPartition) -> Iterator[tuple[int, AgentWindowTable[Any], WindowContent]]:
        for table, content in self._contents(at):
            first_ms, watermark_ms = content.open.first_ms, content.watermark_ms
            if table.on_close is None or first_ms is None or not content.open.has_due(watermark_ms):
                continue
            if (self.stream.name, at.topic) in content.inputs:
                yield first_ms + 1 + table.spec.grace_ms, table, content

    async def closed(self, at: TopicPartition, *, divisible: bool) -> bool:
        """Close the windows of a partition that are complete; return whether all of them are closed.

        Args:
            divisible: stop when the epoch has to end; the rest closes in the next one.
        """
        for table, content in self._contents(at):
            if (self.stream.name, at.topic) not in content.inputs:
                continue
            if table.on_close is None:
                if content.open.has_due(content.watermark_ms):
                    self.stream.context.epoch.touch()
                content.open.close_due(content.watermark_ms)
            elif not await self._told(table, table.on_close, content, at, divisible=divisible):
                return False
        return True

    async def _told(
        self,
        table: AgentWindowTable[Any],
        on_close: CloseCallback,
        content: WindowContent,
        at: TopicPartition,
        *,
        divisible: bool,
    ) -> bool:
        """Close the windows of a table that are complete, and tell the program; see `closed`."""
        runner, called = cast(Any, self.stream.runner), 0
        began_s, steps = clock.now_s(), runner.steps
        while not (divisible and _must_end(self.stream) and content.open.has_due(content.watermark_ms)):
            rows = content.open.take_due(content.watermark_ms, 1)
            if rows:
                await self._call(table, on_close, at, rows[0])
                called += 1
            elif not content.open.has_due(content.watermark_ms):
                return True
            if not rows or called % _PAUSE_AFTER == 0:
                if runner.steps == steps:  # else others have worked meanwhile, on their records
                    self.stream.context.note_unpolled(clock.now_s() - began_s)
                await asyncio.sleep(0)  # lets the loop see that a commit is due
                began_s, steps = clock.now_s(), runner.steps
        return False

    async def _call(
        self, table: AgentWindowTable[Any], on_close: CloseCallback, at: TopicPartition, row: WindowKey
    ) -> None:
        """Call `on_window_close` for a window, if the table has it; a failure goes to the failure policy."""
        partition, _ = window_partition(table)
        value = partition.find(row)
        if value is not ABSENT:
            await self._teller.tell(table, on_close, at, row, value)


def _must_end(stream: Stream) -> bool:
    """Return whether the epoch has to end before more windows close."""
    return stream.queue.cut or stream.context.epoch.full


def windows_of(stream: Stream) -> AgentWindows | None:
    """Return what a stream that begins to iterate knows of windows; None in an app without windowed tables, unless the
    stream has to tell timers behind `group_by` of its time."""
    if stream.windows is not None:
        return stream.windows
    tables = [table for table in runtime_of(stream.app).tables if isinstance(table, AgentWindowTable)]
    if not tables and not _forwards_for_timers(stream):
        return None
    stream.takes_control = stream.takes_control or not stream.grouped
    return AgentWindows(stream, tables)


def refuse_groups(windows: AgentWindows) -> None:
    """Refuse several records at a time to an agent that writes windows, also in another loop: while it takes them,
    records move no time, and no window closes. One that has not written yet must not do so any more.

    Raises:
        Usage: it has written since it began.
    """
    windows.has_taken_groups = True
    if windows.written is not None:
        raise _not_alone(windows.stream, windows.written)


def _not_alone(stream: Stream, table: AgentWindowTable[Any]) -> Usage:
    why = "has concurrency > 1" if stream.queue.shared else "takes several records at a time"
    return Usage(
        f"agent {stream.name} writes to table {table.name}, which has windows, and {why}",
        hint="windows need each record by itself, in order: iterate the stream, "
        "and use more partitions instead of concurrency",
    )


def _forwards_for_timers(stream: Stream) -> bool:
    """Return whether a stream with `group_by` has timers behind it."""
    behind = cast("Stream | None", cast(Any, stream)._next)
    return behind is not None and is_behind_source(behind) and is_waited_in(behind)


def _control(at: TopicPartition, message: Message) -> ControlRecord:
    try:
        return decode(message)
    except BadRecord as exc:
        raise Stop(f"{at.topic}[{at.partition}]: {exc}", hint="only anabranch may write to it") from exc


def _pass_end_on(stream: Stream, forwarded: ForwardedTime | None, at: TopicPartition) -> None:
    """Tell the partitions of the topic to which a stream forwards its records that its input has ended."""
    behind = cast(Any, stream)._next
    if behind is None:
        return
    if forwarded is not None:
        forwarded.end(at)
        return
    into = cast("Topic", behind.topic)
    into.need()
    name, known = into.get_topic_name(), runtime_of(stream.app).engine.rebalance.partition_counts
    partials = stream.context.epoch.outbox.partials
    if name not in partials:
        partials[name] = WatermarkedPartials(lambda *_: [], name, lambda: (known[name], known[at.topic]))
    cast(WatermarkedPartials, partials[name]).move(channel_name(*at), END_MS)


def _decoded(stream: Stream, batch: QueuedBatch, *, policy: bool = True) -> Iterator[tuple[Message, Any]]:
    if batch.rows is not None and policy:
        yield from decoded(stream, batch)
        return
    decode = stream.topic.decode_value
    control = batch.rows is None and carries_control(batch.at.topic, runtime_of(stream.app).conf.id)
    for message in batch.messages:
        if control and is_control(message):
            yield message, _control(batch.at, message)
            continue
        data = message.value()
        try:
            value: Any = None if data is None else decode(data)
        except BaseException as exc:  # noqa: BLE001 (decoders may be the user's, and panic)
            if policy:
                stream.message = message
                stream.context.apply_policy(stream, message, exc, "decode")
        else:
            yield message, value
