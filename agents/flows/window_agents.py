"""Windows of a flow: `flow.window(Tumbling("5m"), grace="30s").aggregate(n=Count())`, made into agents.

    sales ─▶ agent: judge, reduce by pane and key ─▶ …-repartition ─▶ agent: windows, close ─▶ table ─▶ its changelog
                 │ late records                        watermarks in it            │ finals
                 ▼                                                                 ▼
            <topic>.late                                                     .final().to(topic)

Without `key_by` one agent does all of it, on the source partition.

Invariants.
- Whether a record is late is decided once, by the agent that reads the source, from the log of the record's own
  partition (`event_time/channel.py`). The channel's stream time is part of the agent's progress: it is committed in the
  metadata of its offset.
- All records move stream time whose time can be read: also those that are late, that an operator of the flow filters
  out, or that go to the failure policy. Tombstones do not.
- The repartition topic carries the stream time of all source partitions behind the records that it follows, in the same
  transaction (`event_time/time_keeper.py`). The operator's time is the least of them.
- A record that is on time at its source cannot meet a closed window. One that does all the same (the offsets were set
  back) is not counted: it goes to the late topic with the reason `closed`.
- What is sent for windows that close is committed with their being closed. If more windows close at once than an epoch
  may hold outputs of, they close in several epochs; until then the control record behind which they close counts as
  not processed, so that a bounded run waits for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...topics import clock
from ...topics.control_records import (
    END_OF_INPUT,
    ControlRecord,
    carries_control,
    decode,
    is_control,
    records_of,
)
from ...topics.errors import BadRecord, Stop
from ...topics.packed import Rows
from ...topics.topic_partition import TopicPartition
from ..decoded_batches import record_batch
from ..engine.partition_queue import QueuedBatch
from ..event_time.channel import END_MS, NEVER_MS, Channel, watermark
from ..event_time.idleness import Idleness
from ..event_time.time_keeper import channel_name
from ..event_time.windows import Pane
from ..runtime import runtime_of
from .aggregates import getter
from .combiner import Combiner, columns_of, give_up
from .expressions import NotVectorizable
from .late_records import LateRecords
from .operators import field_reader, is_columnar
from .window_states import States, WaitingRows, merge_panes

if TYPE_CHECKING:
    from ...topics.message import Message
    from ..stream import Stream
    from ..tables.window_content import WindowSpec

__all__ = [
    "LOOK_S",
    "Source",
    "control_apart",
]

LOOK_S = 1.0
"""Seconds between two looks at partitions without new records: they may be idle, or hold windows that are complete."""


class Judged(NamedTuple):
    """A batch of a source that was processed.

    Attributes:
        channel: the source partition that the batch belongs to, as watermark messages name it.
        time_ms: its stream time after the batch.
        woke: whether the channel was idle before it.
    """

    channel: str
    time_ms: int
    woke: bool = False


class Resting(NamedTuple):
    """A channel that is idle.

    Attributes:
        at: the source partition.
        channel: its name in watermark messages.
        time_ms: its stream time.
        repeats: whether it has to be told now that it is idle.
    """

    at: TopicPartition
    channel: str
    time_ms: int
    repeats: bool


class Source:
    """Reads a source partition: judges which records are late, and reduces the others by key and pane.

    Args:
        stream: the stream of the agent.
        combiner: reduces elements.
        spec: the declaration of the table.
        idle_after_ms: see `Idleness`; None: channels are never idle.
        late: takes the late records.
    """

    def __init__(
        self,
        stream: Stream,
        combiner: Combiner,
        spec: WindowSpec,
        *,
        idle_after_ms: int | None,
        late: LateRecords,
    ) -> None:
        self._stream, self._combiner, self._spec, self._late = stream, combiner, spec, late
        windows, time = spec.windows, spec.timing.time
        self._windows, self._grace_ms, self._max_jump_ms = windows, spec.grace_ms, spec.timing.max_jump_ms
        # Functions of the program might read the table, and so have the given states applied to it.
        self._adds_in_place = combiner.columnar
        self._may_wait = combiner.how.adds() is not None
        self._is_columnar = combiner.columnar and windows.gap_ms is None and (time.of is None or is_columnar(time.of))
        self._idleness = None if idle_after_ms is None else Idleness(idle_after_ms)
        topic = stream.topic
        self._names = frozenset(topic.topics)
        self._name = topic.get_topic_name()
        fields = field_reader(topic.declared)
        self._time, self._read = time, time.reader(lambda name: getter(name, fields))
        self._read_all = time.batch_reader(lambda name: getter(name, fields))

    def judge(
        self, batch: QueuedBatch, states: States, closed_ms: int = NEVER_MS, waiting: WaitingRows | None = None
    ) -> Judged:
        """Process a batch.

        Args:
            states: receives the partial results of the records that are on time. Where a function raises, they hold a
                part of the batch, and the epoch has to be rolled back.
            closed_ms: the watermark of the table's partition, where the source is the table's own partition.
            waiting: rows that are reduced into `states` later; receives those that may be. None: no row may wait.

        Raises:
            Exception: whatever the flow's functions raise. While the stream isolates records, a record that makes them
                raise goes to the failure policy here, so that its time counts.
        """
        stream, queue = self._stream, self._stream.queue
        waiting = waiting if self._may_wait else None
        own = batch.at.topic in self._names
        at = batch.at if own else TopicPartition(self._name, batch.at.partition)  # a retry topic has no time of its own
        records, control = control_apart(stream, batch)
        channel = Channel(self._max_jump_ms, queue.at(at).channel_state)
        rested = channel.rests_at_ms is not None
        if self._idleness is not None:
            self._idleness.wake(queue.at(at))
        if records.messages:
            after = self._by_column(batch, states, channel.state, closed_ms, waiting) if own else None
            if after is None:
                if waiting is not None:
                    waiting.reduce_into(states)  # they are in front of these
                self._by_row(records, states, channel, move=own, closed_ms=closed_ms)
            else:
                channel = after
        if own and any(record.kind == END_OF_INPUT for record in control):
            channel.end()
        if own:
            queue.at(at).channel_state = channel.state
        woke = rested and channel.rests_at_ms is None
        return Judged(channel_name(self._name, at.partition), channel.time_ms, woke)

    def wait_s(self) -> float | None:
        """Return the seconds until the next look at idle channels; None if they are never idle."""
        return None if self._idleness is None else LOOK_S

    def rest(self) -> Iterator[Resting]:
        """Let the channels rest of which no record comes; see `Channel.rest`."""
        idleness, stream = self._idleness, self._stream
        if idleness is None:
            return
        now_s = clock.now_s()
        for at, queue in [(at, queue) for at, queue in stream.queue.partitions.items() if at.topic in self._names]:
            idle_ms = idleness.idle_ms(queue, now_s, silent=stream.context.is_silent(stream, at))
            if idle_ms is None:
                continue
            channel = Channel(self._max_jump_ms, queue.channel_state)
            if channel.time_ms == END_MS:
                continue
            channel.rest(idle_ms, self._spec.closed_at)
            queue.channel_state = channel.state
            repeats = idleness.repeats(queue, now_s)
            yield Resting(at, channel_name(self._name, at.partition), channel.time_ms, repeats)

    def _by_column(
        self, batch: QueuedBatch, states: States, state: object, closed_ms: int, waiting: WaitingRows | None
    ) -> Channel | None:
        """Process a packed batch by column. Return the channel after it; None, and nothing has happened, where the
        result might differ from that of `_by_row`."""
        rows = columns_of(batch, self._combiner) if self._is_columnar and not self._stream.queue.isolating else None
        if rows is None:
            return None
        from .window_columns import reduce_columns

        channel, decode = Channel(self._max_jump_ms, state), self._stream.topic.decode_value
        try:
            done = reduce_columns(
                rows,
                self._combiner,
                self._windows,
                self._time,
                lambda row: self._read(decode(row.value()), row),
                channel,
                grace_ms=self._grace_ms,
                closed_ms=closed_ms,
                waits=waiting is not None,
            )
        except NotVectorizable:
            if waiting is None:
                return None
            waiting.reduce_into(states)  # they are in front of these
            return self._by_column(batch, states, state, closed_ms, None)
        for row, error in done.untimed:
            self._stream.context.apply_policy(self._stream, rows[row], error, "time")
        give_up(self._stream, rows, done.failed)
        for number, pane, watermark_ms, reason in done.late:
            self._tell_late(rows[number], decode(rows[number].value()), pane, watermark_ms, reason)
        if isinstance(done.states, dict):
            if waiting is not None:
                waiting.reduce_into(states)
            merge_panes(states, done.states, self._combiner.how)
        elif waiting is not None:
            waiting.add(done.states, states)
        return channel

    def _tell_late(self, message: Message, value: object, pane: Pane, watermark_ms: int, reason: str) -> None:
        """Send a late record, if the operators do not filter it out."""
        if self._combiner.by_row((message,), (value,)):
            self._late.send(self._stream, message, pane, watermark_ms, reason)

    def _by_row(self, batch: QueuedBatch, states: States, channel: Channel, *, move: bool, closed_ms: int) -> None:
        messages, values, times = self._with_times(batch)
        if not times:
            return
        if move:
            before = channel.before_each(times, lambda number: messages[number].timestamp()[1])
        else:
            before = [channel.time_ms] * len(times)
        panes, late = self._panes(times, before)
        isolating = self._stream.queue.isolating
        try:
            made = States()
            for pane, numbers in panes.items():
                some = len(numbers) < len(messages)
                of_pane = [messages[number] for number in numbers] if some else messages
                if self._windows.horizon_ms(pane) < closed_ms:
                    late += [(number, pane, closed_ms, "closed") for number in numbers]
                    continue
                known = states.get(pane) if self._adds_in_place and not isolating else None
                made[pane] = self._combiner.by_row(of_pane, [values[n] for n in numbers] if some else values, known)
            for number, pane, watermark_ms, reason in sorted(late):
                self._tell_late(messages[number], values[number], pane, watermark_ms, reason)
        except Stop:
            raise
        except Exception as exc:
            if not isolating or len(messages) > 1:
                raise
            self._stream.context.apply_policy(self._stream, messages[0], exc, "agent")
            return
        merge_panes(states, made, self._combiner.how)

    def _with_times(self, batch: QueuedBatch) -> tuple[Sequence[Message], Sequence[Any], list[int]]:
        """Return the records that have a time. Others go to the failure policy, except for tombstones."""
        decoded = record_batch(self._stream, batch)
        messages, values, read = decoded.messages, decoded.values, self._read
        if None in values:
            present = [number for number, message in enumerate(messages) if message.value() is not None]
            messages, values = [messages[number] for number in present], [values[number] for number in present]
        try:
            return messages, values, self._read_all(values, messages)
        except Exception:  # noqa: BLE001, S110 (below, each record is looked at alone)
            pass
        timed: list[tuple[Message, Any, int]] = []
        for message, value in zip(messages, values, strict=True):
            try:
                timed.append((message, value, read(value, message)))
            except Stop:
                raise
            except Exception as exc:  # noqa: BLE001 (the function may be the user's)
                self._stream.context.apply_policy(self._stream, message, exc, "time")
        return [one[0] for one in timed], [one[1] for one in timed], [one[2] for one in timed]

    def _panes(
        self, times: list[int], before: list[int] | None
    ) -> tuple[dict[Pane, Sequence[int]], list[tuple[int, Pane, int, str]]]:
        """Return the numbers of the records by pane, and those that are late with the watermark before them.

        Args:
            before: stream time before each of them; None where they are in order, and none is late.
        """
        windows, late = self._windows, list[tuple[int, Pane, int, str]]()
        panes: dict[Pane, list[int]] = {}
        if before is None:
            return self._panes_in_order(times), late
        if watermark(before[-1], self._grace_ms) <= windows.horizon_ms(windows.pane(min(times))):
            before = None  # none is late: stream time never goes back, and earlier panes have earlier horizons
        start = end = NEVER_MS
        numbers: list[int] = []
        for number, time_ms in enumerate(times):
            if not start <= time_ms < end:
                start, end = pane = windows.pane(time_ms)
                numbers = panes.setdefault(pane, [])
            if before is not None:
                watermark_ms = watermark(before[number], self._grace_ms)
                if watermark_ms > windows.horizon_ms((start, end)):
                    late.append((number, (start, end), watermark_ms, "late"))
                    continue
            numbers.append(number)
        return {pane: numbers for pane, numbers in panes.items() if numbers}, late

    def _panes_in_order(self, times: list[int]) -> dict[Pane, Sequence[int]]:
        panes: dict[Pane, Sequence[int]] = {}
        begin = 0
        while begin < len(times):
            pane = self._windows.pane(times[begin])
            end = len(times) if times[-1] < pane[1] else bisect_left(times, pane[1], begin)
            panes[pane] = range(begin, end)
            begin = end
        return panes


def control_apart(stream: Stream, batch: QueuedBatch) -> tuple[QueuedBatch, list[ControlRecord]]:
    """Separate the control records of a batch, where they count, from the others."""
    group = runtime_of(stream.app).conf.id
    if isinstance(batch.messages, Rows) or not carries_control(batch.at.topic, group):
        return batch, []
    records = records_of(batch.messages)
    if records is batch.messages:
        return batch, []
    try:
        control = [decode(message) for message in batch.messages if is_control(message)]
    except BadRecord as exc:
        raise Stop(f"{batch.at.topic}[{batch.at.partition}]: {exc}", hint="only anabranch may write to it") from exc
    return batch._replace(messages=records), control
