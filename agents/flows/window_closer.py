"""Closing of windows: the windows of a table that are complete are closed, and sent where the program wants them.

`window_agents.py` documents the invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...topics import clock
from ...topics.control_records import carries_control, is_control
from ...topics.errors import BadRecord, Stop
from ...topics.packed import Rows
from ...topics.topic_partition import TopicPartition
from ..engine.partition_queue import PartitionQueue, QueuedBatch
from ..event_time.channel import END_MS, Channel
from ..firings import KIND, ClosingWindow, fire
from ..runtime import runtime_of
from ..tables.absent import ABSENT
from ..tables.window_table import WindowTable, window_content, window_partition
from .closing_pace import STEP_S, ClosingPace
from .window_agents import LOOK_S
from .window_letters import is_whole, retold, window_element
from .window_sender import Portion, Receiver, timestamp_within

if TYPE_CHECKING:
    from ...topics.message import Message
    from ..stream import Stream
    from ..tables.open_windows import WindowKey
    from ..tables.window_content import WindowContent

__all__ = ["Listeners", "Passage", "WindowCloser"]

_CHUNK = 20_000
"""Windows that are closed before the worker does something else: commits, or processes records of other agents."""

# The pause between two such steps, in seconds. Without one, the engine would not see that all agents are parked, and
# could neither commit nor poll.
_PAUSE_S = 0.001

# Windows that are closed at most before the worker looks at the clock, and whether the epoch is full. The first time
# they are fewer: a program's functions may take milliseconds for each.
_PORTION, _FIRST_PORTION = 100, 10


class Passage(Receiver, Protocol):
    """Passes closed windows on to another table of windows, and how far time is: see `window_chains.py`."""

    def move(self, at: TopicPartition, watermark_ms: int, *, woke: bool, idle: bool) -> None:
        """Pass on the watermark of a partition whose complete windows were all passed on.

        Args:
            at: partition of the stream.
            woke: whether the source partition was idle before its last record.
            idle: whether it has to be told now that the source partition is idle.
        """
        ...


@dataclass
class Listeners:
    """The receivers of a table's windows.

    Attributes:
        finals: get each window that closes.
        updates: get each window that has changed, and is open.
        passages: make the passages to other tables, for the stream of an agent's call.
        every_s: how long a window has changed, at most, before `updates` get it; by the wall clock.
        updated: when `updates` got windows last, and how many commits the worker had made then; before that, when the
            agent began. An agent that fails is restarted, and has to know it.
    """

    finals: list[Receiver] = field(default_factory=list["Receiver"])
    updates: list[Receiver] = field(default_factory=list["Receiver"])
    passages: list[Callable[[Stream], Passage]] = field(default_factory=list["Callable[[Stream], Passage]"])
    every_s: float = LOOK_S
    updated: tuple[float, int] | None = None


class WindowCloser:
    """Closes the windows of a table that are complete, and sends them where the program wants them; also open ones that
    have changed.

    Args:
        listeners: who is told of windows.
    """

    def __init__(self, stream: Stream, table: WindowTable, listeners: Listeners) -> None:
        self._stream, self._table, self._listeners = stream, table, listeners
        # By queue, not by partition: a partition that another worker had meanwhile has a new one, and begins anew.
        self._held: dict[PartitionQueue, int] = {}
        for partition in stream.queue.partitions.values():
            partition.held_back = None  # of the agent function's last call
        self._seen: set[PartitionQueue] = set()
        self._passages = [begin(stream) for begin in listeners.passages]
        self._finals = [*listeners.finals, *self._passages]
        self._woke: set[PartitionQueue] = set()
        self._idle: set[PartitionQueue] = set()
        self._left = _CHUNK  # windows that may still be sent in the running call of `close`
        self._until_s = 0.0  # when that call ends in any case: a program's functions may take their time
        self._portion = _FIRST_PORTION
        self._pace = ClosingPace()
        self._next_updates_s, self._more_updates = self._first_updates_s(), False
        self._retry_topic = stream.context.retries.of_fired(stream.name, KIND)

    @property
    def tells(self) -> bool:
        """True if somebody gets the windows that close: a function of the program, or another table.

        Where nobody does, it does not matter when in an epoch they close.
        """
        return bool(self._finals)

    def _first_updates_s(self) -> float:
        now_s, listeners = clock.now_s(), self._listeners
        updated_s, commits = listeners.updated = listeners.updated or (now_s, -1)
        was_rolled_back = commits == self._stream.context.epoch.commits_total
        return now_s if was_rolled_back else updated_s + listeners.every_s

    def wait_s(self) -> float:
        """Return the seconds until the next look at the windows, although no record has come."""
        if self._held or self._more_updates:
            return _PAUSE_S
        if not self._listeners.updates:
            return LOOK_S
        return min(LOOK_S, max(0.0, self._next_updates_s - clock.now_s()))

    def look_at(self, at: TopicPartition, *, idle: bool = False) -> None:
        """Close what is complete in a partition with the next call of `close`, although no record has come.

        Args:
            idle: whether it has to be told now that the partition is idle.
        """
        partition = self._stream.queue.at(at)
        self._held.setdefault(partition, -1)
        if idle:
            self._idle.add(partition)

    def wake(self, at: TopicPartition) -> None:
        """Note that a partition was idle before its last record."""
        self._woke.add(self._stream.queue.at(at))

    async def told_again(self, batch: QueuedBatch) -> bool:
        """Send the windows of a batch of the retry topic of windows again; return False if it is of another topic."""
        if batch.at.topic != self._retry_topic:
            return False
        for message in batch.messages:
            await self._tell_again(batch.at, message)
        return True

    async def _tell_again(self, at: TopicPartition, message: Message) -> None:
        stream, table, finals, again = self._stream, self._table, self._listeners.finals, message.offset() or 0
        stream.message = message
        try:
            row, value, origin = retold(table, message)
            if not finals:
                raise BadRecord(f"a window of {table.name} cannot be sent again: the program has no final() for it")
        except BadRecord as exc:
            stream.context.apply_policy(stream, message, exc, "decode")
            return
        stream.message = None
        if value is ABSENT:
            value = window_partition(table)[0].find(row)
        own = TopicPartition(stream.topic.topics[0], at.partition)
        place = (again if origin is None else origin.offset), again
        await fire(stream, self._firing(finals, own, row, value, END_MS, again=place))

    def begin(self, batch: QueuedBatch) -> None:
        """Note that a batch is about to be processed, so that its partition can no longer stay where it is."""
        if batch.messages:
            self._stream.queue.at(batch.at).held_back = None

    async def close(self, batch: QueuedBatch) -> None:
        """Close windows after a batch, an empty one if none has come."""
        stream, queue = self._stream, self._stream.queue
        present = set(queue.partitions.values())
        self._held = {partition: offset for partition, offset in self._held.items() if partition in present}
        self._seen &= present
        if batch.messages:
            self._held[queue.at(batch.at)] = _held_offset(stream, batch)
        else:
            for partition in queue.partitions.values():
                partition.ended = False
            # Also those that were restored: a worker may have ended in the middle of closing.
            self._held |= {partition: -1 for partition in queue.partitions.values() if partition not in self._seen}
        if queue.isolating and batch.messages:
            stream.context.savepoint(stream)  # what the record does is kept, whatever becomes of windows behind it
        began_s, epoch = clock.now_s(), stream.context.epoch
        step_s = self._pace.step_s(epoch.number, epoch.commit_s)
        if not step_s and not epoch.dirty:  # closed windows without outputs, or being sorted: no next epoch comes
            step_s = STEP_S
        self._left, self._until_s = _CHUNK if step_s else 0, began_s + step_s
        for partition in list(self._held):
            self._seen.add(partition)
            if batch.messages and partition.at != batch.at and (epoch.full or not self._left):
                continue
            stream.context.at(stream, partition.at)
            if await self._closed(partition.at):
                del self._held[partition]
                partition.held_back = None
                self._pass_time_on(partition)
            elif self._held[partition] >= 0:
                partition.held_back = self._held[partition]

        self._idle.clear()  # it was so when this call began; it is repeated
        if self._listeners.updates:
            await self._send_updates()
        if self._left <= 0 and epoch.dirty:  # otherwise other agents' records would wait until the epoch is full
            # Without a cut: agents that were resumed beside this one take their records before the epoch ends.
            epoch.hurry()
        spent_s = clock.now_s() - began_s
        self._pace.spend(spent_s)
        stream.context.note_unpolled(spent_s)

    def _pass_time_on(self, partition: PartitionQueue) -> None:
        if not self._passages or partition.at.topic not in self._stream.topic.topics:
            return  # a retry topic has no time of its own
        _, state = window_content(self._table)
        woke, idle = partition in self._woke, partition in self._idle and not self._closes_more(partition, state)
        self._woke.discard(partition)
        for passage in self._passages:
            passage.move(partition.at, state.watermark_ms, woke=woke, idle=idle)

    def _closes_more(self, partition: PartitionQueue, state: WindowContent) -> bool:
        """Return whether time closes more windows of an idle partition. It holds the other table back until then: these
        windows are still to come."""
        next_ms, spec = state.open.next_ms, self._table.spec
        if next_ms is None:
            return False
        return next_ms + spec.grace_ms < Channel(None, partition.channel_state).rests_until_ms(spec.closed_at)

    async def _send_updates(self) -> None:
        """Send open windows that have changed, if it is time; as many as a chunk and the epoch may hold."""
        now_s, stream = clock.now_s(), self._stream
        if not self._more_updates:
            if now_s < self._next_updates_s:
                return
            self._next_updates_s = now_s + self._listeners.every_s
            self._listeners.updated = now_s, stream.context.epoch.commits_total
        self._more_updates = False
        for at in list(stream.queue.partitions):
            stream.context.at(stream, at)
            _, state = window_partition(self._table)
            while self._left and not stream.context.epoch.full:
                rows = state.open.take_changed(self._most)
                if not rows:
                    break
                stream.context.epoch.touch()  # what is taken is committed; and if one fails, it is rolled back
                await self._send(self._listeners.updates, at, rows, state.keeper.time_ms)
            else:
                self._more_updates = True

    async def _send(
        self, receivers: Sequence[Receiver], at: TopicPartition, rows: Sequence[WindowKey], time_ms: int
    ) -> None:
        """Send windows. One that cannot be sent goes to the failure policy, and nothing of it is sent."""
        stream, partition = self._stream, window_partition(self._table)[0]
        self._left -= len(rows)
        began_s = clock.now_s()
        message, stream.message = stream.message, None
        if stream.queue.isolating or stream.queue.at(at).poisoned:
            for row in rows:
                value = partition.find(row)
                if value is not ABSENT:
                    await fire(stream, self._firing(receivers, at, row, value, time_ms))
        else:
            values = partition.get_many(rows)
            windows = [pair for pair in zip(rows, values, strict=True) if pair[1] is not ABSENT]
            if len({receiver.into for receiver in receivers}) == len(receivers):
                portions = [windows] if windows else []
            else:  # in one topic, the records of a window are behind those of the window before
                portions = [[window] for window in windows]
            for portion in portions:
                self._send_together(receivers, at, Portion(stream, portion, time_ms))
        self._adjust_portion(len(rows), clock.now_s() - began_s)
        stream.message = message
        self._look_at_clock()

    def _send_together(self, receivers: Sequence[Receiver], at: TopicPartition, portion: Portion) -> None:
        try:
            for receiver in receivers:
                receiver.send(portion)
        except Stop:
            raise
        except BaseException as exc:
            # As `fire` does it. Its record is made only here, because many windows close at once.
            firing = self._firing(receivers, at, *portion.windows[portion.number], portion.time_ms)
            self._stream.message = firing.record  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(exc, Exception):
                self._stream.context.epoch.want_rollback()
            raise

    @property
    def _most(self) -> int:
        """How many windows the next portion may have."""
        return min(self._left, self._portion, _PORTION)

    def _adjust_portion(self, count: int, took_s: float) -> None:
        """Have the next portion take no longer than a step, given what one has taken."""
        if took_s > STEP_S:
            self._portion = max(1, int(count * STEP_S / took_s))
        elif took_s < STEP_S / 2 and count >= self._portion:
            self._portion = min(_PORTION, 2 * count)

    def _look_at_clock(self) -> None:
        if clock.now_s() >= self._until_s:
            self._left = 0

    def _firing(
        self,
        receivers: Sequence[Receiver],
        at: TopicPartition,
        row: WindowKey,
        value: Any,
        time_ms: int,
        again: tuple[int, int] | None = None,
    ) -> ClosingWindow:
        table, is_update = self._table, receivers is self._listeners.updates
        return ClosingWindow(
            self._stream,
            table,
            at,
            row,
            lambda: window_element(table, row, {} if value is ABSENT else value),
            source=table.spec.source,
            due_ms=timestamp_within(row, time_ms),
            as_="update" if is_update else "final",
            tell=lambda: _tell(receivers, Portion(self._stream, [(row, value)], time_ms)),
            # Other windows that are made of it have closed without it.
            returns=lambda: not (is_update or self._passages) and (value is ABSENT or is_whole(table, row, value)),
            again=again,
        )

    async def _closed(self, at: TopicPartition) -> bool:
        """Close windows of a partition, in portions; return whether all that are complete are closed."""
        partition, state = window_content(self._table)
        watermark_ms, epoch = state.watermark_ms, self._stream.context.epoch
        if not self.tells:
            if not partition.pending:  # else they close when that is joined with the table
                if state.open.has_due(watermark_ms):
                    epoch.touch()  # it may be the clock that closes them
                state.open.close_due(watermark_ms)
            return True
        if not state.open.may_be_due(watermark_ms):
            state.open.close_due(watermark_ms)
            return True
        window_partition(self._table)  # with what was pending
        while self._left and not epoch.full:
            rows = state.open.take_due(watermark_ms, self._most)
            if rows:
                epoch.touch()  # likewise, and nothing may be sent for them
                await self._send(self._finals, at, rows, END_MS)
            elif state.open.has_due(watermark_ms):
                self._look_at_clock()  # they are being sorted
            if not state.open.has_due(watermark_ms):
                state.open.close_due(watermark_ms)
                return True
        return not state.open.has_due(watermark_ms)


async def _tell(receivers: Sequence[Receiver], portion: Portion) -> None:
    """Send a single window."""
    if portion.windows[0][1] is ABSENT:
        raise BadRecord(
            "the table does not have the window any more, and neither has its dead letter",
            hint="its value was larger than a dead letter may be",
        )
    for receiver in receivers:
        receiver.send(portion)


def _held_offset(stream: Stream, batch: QueuedBatch) -> int:
    """Return the offset to stay at while windows close: that of the control record at the end of a batch, which can be
    processed again; -1 if the batch ends with another record."""
    if isinstance(batch.messages, Rows):
        return -1
    last = batch.messages[-1]
    own = carries_control(batch.at.topic, runtime_of(stream.app).conf.id) and is_control(last)
    return cast(int, last.offset()) if own else -1
