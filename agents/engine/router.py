"""Distributes consumed records to the record queues of the streams.

Tasks keep the records until the epoch that processed them is committed, so that a rollback can deliver them again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from confluent_kafka import Message

from ...topics import clock
from ...topics.control_records import carries_control, is_repartition_topic_of, records_of
from ...topics.errors import Stop
from ...topics.headers import UnreadableHeaders, all_headers
from ...topics.packed import LEAST_BYTES, PackedLimits, Rows, limits, rows_of
from ...topics.topic_partition import TopicPartition
from .alignment import AlignedRun, Alignment
from .held_partitions import HeldPartitions, HeldRun
from .partition_queue import QueuedBatch, place_of
from .protocols import RecordFeed
from .rollback import RollbackScope
from .task import TaskInput, Tasks

__all__ = ["Router", "StreamProgress"]

# Approximate memory of a message besides its value, in bytes.
_MESSAGE_BYTES = 400

# What workers pack for each other is within these; see `partial_records`.
_OWN_LIMITS = PackedLimits()

_partition_of: Any = Message.partition
_topic_of: Any = Message.topic


class StreamProgress(NamedTuple):
    """The progress of a stream when an epoch was prepared.

    Attributes:
        next_offsets: partition -> offset of the next record to process; see `PartitionQueue.progress`.
        taken: partition -> offset of the next record to hand out.
        handled: number of records processed since the start.
        channel_states: partition -> its channel state, where there is one; see `PartitionQueue`.
    """

    stream: RecordFeed
    next_offsets: dict[TopicPartition, int]
    taken: dict[TopicPartition, int]
    handled: int
    channel_states: dict[TopicPartition, object]


class _Unaligned:
    """No bounded run."""

    aligned: Sequence[Sequence[str]] = ()
    history_ends: Mapping[TopicPartition, int] = {}


class Router:
    """Gives consumed records to the streams.

    Args:
        tasks: the tasks of this worker.
        streams: all streams that have begun to iterate.
        most: size limits for opening packed batches of topics that others write to; None: `limits()`.
        run: says which inputs are aligned; None: none.
        wait_s: see `Alignment`.

    Attributes:
        streams: see above.
        alignment: the records of aligned inputs wait there.
        ahead: the records of partitions that are far ahead of others wait there.
        records_total: records and rows delivered since the start; records that a rollback repeats count once.
        gathered_bytes: approximate memory of the records delivered in this epoch.
    """

    def __init__(
        self,
        tasks: Tasks,
        streams: list[RecordFeed],
        most: PackedLimits | None = None,
        run: AlignedRun | None = None,
        *,
        wait_s: float | None = None,
    ) -> None:
        self._tasks, self.streams = tasks, streams
        self._most = most or limits()
        self.alignment = Alignment(run or _Unaligned(), tasks, wait_s)
        self.ahead = HeldPartitions(tasks, streams)
        self.records_total = 0
        self.gathered_bytes = 0
        self._with_control: set[str] = set()  # topics that may hold control records
        self._own: set[str] = set()  # repartition topics of this app

    def add(self, stream: RecordFeed) -> None:
        """Add a stream that begins to iterate. The caller calls `route` next."""
        topic = stream.topic
        if stream not in topic.streams:
            topic.streams.append(stream)
        self.streams.append(stream)
        if topic.expected_streams > 1:
            stream.queue.share()

    def route(self, index: Mapping[Any, Iterable[Any]], *, group: str) -> None:
        """Find the streams of each active partition.

        Args:
            index: Faust's index, partition -> channels.
            group: id of the consumer group.
        """
        active = self._tasks.active
        for tp, channels in index.items():
            input = active.get(TopicPartition(tp.topic, tp.partition))
            if input is not None:
                input.route([c.streams if len(c.streams) >= c.expected_streams else [] for c in channels])
        topics = {at.topic for at in active}
        self._with_control = {topic for topic in topics if carries_control(topic, group)}
        self._own = {topic for topic in topics if is_repartition_topic_of(group, topic)}
        self.alignment.follow()

    @property
    def lacks_stream(self) -> bool:
        """True if some agent has not begun to iterate, so that no stream would receive its records."""
        return any(not streams for input in self._tasks.active.values() for streams in input.routes)

    @property
    def waiting(self) -> int:
        """Number of records delivered to record queues and not yet taken."""
        return sum(stream.queue.waiting for stream in self.streams)

    def release(self, now_s: float) -> None:
        """Let parked streams take the records whose retry is due; see `RecordQueue.release`."""
        for stream in self.streams:
            if not stream.running:
                stream.queue.release(now_s)

    def end(self, ends: Mapping[TopicPartition, int], reached: Mapping[TopicPartition, int]) -> None:
        """Mark partitions of parked streams that are at the end of a bounded run's history; see `RecordQueue.end`."""
        reached = self.ahead.without_waiting(self.alignment.without_waiting(reached))
        for stream in self.streams:
            if not stream.running:
                stream.queue.end(ends, reached)

    def held_back(self, most: int) -> set[TopicPartition]:
        """Return the partitions that must not be consumed now.

        Those that wait for a retry, if at least `most` records wait in them, and those of which that many records wait
        for other inputs, or for partitions that are behind.
        """
        delayed = [partition for stream in self.streams for partition in stream.queue.delayed]
        held = {partition.at for partition in delayed} if sum(each.waiting for each in delayed) >= most else set()
        return held | self.alignment.held_back(most) | self.ahead.paused()

    def deliver(self, messages: list[Any], *, one_topic: bool) -> None:
        """Deliver consumed messages to the streams, and keep them until they are committed.

        Args:
            messages: at least one message.
            one_topic: all messages are from the same topic.
        """
        # A packed batch has headers and at least LEAST_BYTES bytes: without such a message the slower check is skipped.
        headers, unreadable = all_headers(messages)
        some_headers = any(headers)
        some_packed = some_headers and max(map(len, messages)) >= LEAST_BYTES
        for number in unreadable:
            self._poison(messages[number])
        for at, run in _runs(messages, one_topic=one_topic):
            input = self._tasks.active.get(at)
            if input is not None and input.routes:  # false if the partition was revoked shortly after its assignment
                if input.waiting is not None:
                    if some_packed:
                        self._refuse_packed(at, run)
                    input.waiting.add(run)
                    continue
                if self.ahead.keeps(input):
                    self.ahead.add(input, HeldRun(run, some_headers, some_packed), _about_bytes(run))
                    continue
                self._deliver_run(input, run, some_headers=some_headers, some_packed=some_packed)

    def deliver_aligned(self) -> bool:
        """Deliver the next records of aligned inputs; see `alignment.py`.

        Returns:
            Whether nothing has to be consumed before agents have processed them.
        """
        if not self.alignment.groups:
            return False
        delivered = False
        for input, run in self.alignment.runs():
            self._deliver_run(input, run, some_headers=True, some_packed=False)
            delivered = True
        return delivered and self.alignment.suffices(clock.now_s())

    def deliver_released(self, unread: Callable[[TopicPartition, int], int], most: int) -> bool:
        """Decide which partitions are far ahead of others, and deliver records of those that are not any more.

        Args:
            unread, most: see `HeldPartitions.look`.

        Returns:
            Whether some were delivered.
        """
        self.ahead.look(unread, most)
        delivered = False
        for input, run in self.ahead.released():
            self._deliver_run(input, run.messages, some_headers=run.some_headers, some_packed=run.some_packed)
            delivered = True
        return delivered

    def _deliver_run(self, input: TaskInput, run: list[Any], *, some_headers: bool, some_packed: bool) -> None:
        at, records = input.at, run
        self.gathered_bytes += _about_bytes(run)
        if some_headers and at.topic in self._with_control:
            records = records_of(run)
        control = records is not run
        batches = self._unpacked(at, run) if some_packed else (QueuedBatch(at, run, run[-1].offset() + 1),)
        self.records_total -= len(run) - len(records)
        self.ahead.moved = True
        before = self.records_total
        for unmarked in batches:
            batch = unmarked._replace(control=True) if control else unmarked
            self.records_total += len(batch.messages)
            input.kept.append(batch)
            _give(batch, input.routes)
        if some_packed:
            input.rows_each = max(1, (self.records_total - before) // len(run))

    def _refuse_packed(self, at: TopicPartition, run: Iterable[Any]) -> None:
        for message in run:
            if rows_of(*at, message, self._most) is not None:
                raise Stop(
                    f"{at.topic}[{at.partition}]@{message.offset()} is a packed batch, which cannot be aligned with "
                    "other topics by time",
                    hint="--then TOPIC=PATH gives the topic a phase of its own; live: EngineSettings(align_s=None)",
                )

    def _unpacked(self, at: TopicPartition, run: Iterable[Any]) -> Iterator[QueuedBatch]:
        """Split messages into batches: each packed batch is a batch of its own."""
        plain: list[Any] = []
        most = self._limits_of(at.topic)
        for message in run:
            rows = rows_of(*at, message, most)
            if rows is None:
                plain.append(message)
                continue
            if plain:
                yield QueuedBatch(at, plain, plain[-1].offset() + 1)
                plain = []
            yield QueuedBatch(at, rows, message.offset() + 1)
        if plain:
            yield QueuedBatch(at, plain, plain[-1].offset() + 1)

    def _limits_of(self, topic: str) -> PackedLimits:
        """Return the size limits of the packed batches of a topic.

        The settings protect from what others write. The partial results in a repartition topic were packed by workers
        of this app within the defaults, so no worker may refuse them, whatever its settings: they would be lost to the
        totals.
        """
        return _OWN_LIMITS if topic in self._own else self._most

    def _poison(self, message: Any) -> None:
        """Have each agent apply its failure policy to a message with unreadable headers, when its turn comes.

        This does not depend on whether the agent uses headers.
        """
        at = TopicPartition(message.topic(), message.partition())
        input = self._tasks.active.get(at)
        for stream in [stream for streams in (input.routes if input is not None else ()) for stream in streams]:
            stream.queue.at(at).poisoned[place_of(message)] = UnreadableHeaders()

    def begin_epoch(self) -> None:
        """Count the memory of delivered records anew."""
        self.gathered_bytes = 0

    def redeliver(self) -> None:
        """Deliver the kept records again after a rollback: each stream restarts at its committed offsets."""
        for stream in self.streams:
            stream.running = False
            stream.message = None
            stream.queue.restart()
        self.uncut()
        self._give_kept(self._tasks.active.values())

    def _give_kept(self, inputs: Iterable[TaskInput]) -> None:
        for input in inputs:
            if input.waiting is not None:
                kept, input.kept = input.kept, []
                input.waiting.put_back([message for batch in kept for message in batch.messages])
                continue
            for batch in input.kept:
                _give(batch, input.routes)

    @property
    def is_divisible(self) -> bool:
        """True if each stream can begin anew in some partitions and go on in others.

        Streams with event time cannot: their watermarks are of all partitions.
        """
        return not any(
            stream.queue.shared or stream.queue.inside or stream.takes_control or stream.queue.channel_states()
            for stream in self.streams
        )

    def take_back(self, scope: RollbackScope) -> None:
        """Take the records of some tasks back from the queues of all streams."""
        for stream in self.streams:
            stream.queue.restart_at(scope.partitions)

    def redeliver_tasks(self, scope: RollbackScope) -> None:
        """Deliver the kept records of some tasks again, after `take_back`."""
        for stream in scope.streams:
            stream.message = None
        self.uncut()
        self._give_kept([input for task in scope.tasks for input in task.inputs.values() if input.active])

    def cut(self) -> None:
        """Hand out no further records, and cut the batches in progress after the current record."""
        for stream in self.streams:
            stream.queue.cut_after(stream.message if stream.running else None)

    def uncut(self) -> None:
        """Let streams take records again."""
        for stream in self.streams:
            stream.queue.uncut()

    @property
    def moved(self) -> bool:
        """True if the progress of some stream has changed since the last commit."""
        return any(stream.queue.moved for stream in self.streams)

    def progress(self) -> dict[TopicPartition, int]:
        """Return partition -> smallest offset that some stream still needs. Called at a commit."""
        assert not any(stream.queue.inside for stream in self.streams), "a packed batch is a unit of progress"
        smallest: dict[TopicPartition, int] = {}
        for stream in self.streams:
            for at, offset in stream.queue.progress().items():
                if offset < smallest.get(at, offset + 1):
                    smallest[at] = offset
        return smallest

    def agent_offsets(self, progress: Mapping[TopicPartition, int]) -> dict[tuple[TopicPartition, str], int]:
        """Return (partition, agent) -> offset of the agent, where it is ahead of `progress`."""
        return {
            (at, stream.progress_name): offset
            for stream in self.streams
            for at, offset in stream.queue.progress().items()
            if at in progress and offset != progress[at]
        }

    def channel_states(self, progress: Container[TopicPartition]) -> dict[tuple[TopicPartition, str], object]:
        """Return (partition, agent) -> channel state, of the agents that have one; see `PartitionQueue`."""
        return {
            (at, stream.progress_name): state
            for stream in self.streams
            for at, state in stream.queue.channel_states().items()
            if at in progress
        }

    def stream_progress(self) -> list[StreamProgress]:
        """Return the progress of all streams, as a commit needs it. All agents must be parked."""
        queues = ((stream, stream.queue) for stream in self.streams)
        return [
            StreamProgress(stream, queue.progress(), queue.taken(), queue.handled, queue.channel_states())
            for stream, queue in queues
        ]

    def committed(self, progress: Iterable[StreamProgress]) -> dict[str, int]:
        """Note a commit in the queues of the streams.

        Args:
            progress: the progress of the streams that was committed.

        Returns:
            Agent -> number of records processed since the previous commit.
        """
        handled: dict[str, int] = {}
        for stream, next_offsets, taken, count, channel_states in progress:
            for at, next_offset in next_offsets.items():
                stream.queue.at(at).commit(next_offset, taken[at], channel_states.get(at))
            handled[stream.name] = handled.get(stream.name, 0) + stream.queue.newly_handled(count)
        return handled

    def end_isolation(self) -> None:
        """Stop isolating in all streams whose failed records are processed."""
        for stream in self.streams:
            if not stream.queue.has_failed:
                stream.queue.end_isolation()

    @property
    def isolating(self) -> bool:
        """True if some stream is isolating: it processes one record at a time after a failure."""
        return any(stream.queue.isolating for stream in self.streams)

    def isolate(self) -> bool:
        """Switch all streams to isolating; return False if all are isolating already."""
        if all(stream.queue.isolating for stream in self.streams):
            return False
        for stream in self.streams:
            stream.queue.isolate()
        return True


def _about_bytes(run: Sequence[Any]) -> int:
    """Return the approximate memory of consecutive records, estimated from the first and the last one: to read the size
    of each would cost as much as to group them."""
    return ((len(run[0]) + len(run[-1])) // 2 + _MESSAGE_BYTES) * len(run)


def _runs(messages: list[Any], *, one_topic: bool) -> Iterable[tuple[TopicPartition, list[Any]]]:
    """Group messages by partition, in order. An accessor of a message costs a tenth of decoding it."""
    runs: dict[tuple[str, int], list[Any]] = {}
    for topic, of_topic in ((messages[0].topic(), messages),) if one_topic else _runs_of(_topic_of, messages):
        for partition, run in _runs_of(_partition_of, of_topic):
            at = topic, partition
            if at in runs:
                runs[at] += run
            else:
                runs[at] = run
    return [(TopicPartition(*at), run) for at, run in runs.items()]


def _runs_of(accessor: Any, messages: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Cut messages where the result of an accessor changes."""
    begin = 0
    for found, run in groupby(map(accessor, messages)):
        end = begin + len(list(run))
        yield found, messages[begin:end]
        begin = end


def _give(batch: QueuedBatch, routes: Iterable[list[RecordFeed]]) -> None:
    without = batch
    if batch.control and batch.rows is None:
        # Control records advance the offsets of all agents; only those that ask for them receive them.
        without = QueuedBatch(batch.at, records_of(batch.messages), batch.end)
    for streams in routes:
        if not streams:
            continue
        given = batch if streams[0].takes_control else without
        if len(streams) == 1:
            streams[0].queue.put(given)
        else:
            _deal(given, streams)


def _deal(batch: QueuedBatch, streams: list[RecordFeed]) -> None:
    """Distribute records to concurrent streams by key, so that the records of a key stay in order."""
    if batch.rows is not None:
        for stream, rows in zip(streams, _dealt(batch.rows, len(streams)), strict=True):
            stream.queue.put(QueuedBatch(batch.at, rows, batch.end))
        return
    hands: list[list[Any]] = [[] for _ in streams]
    for message in batch.messages:
        key = message.key()
        hands[zlib.crc32(key) % len(streams) if key else message.offset() % len(streams)].append(message)
    for stream, hand in zip(streams, hands, strict=True):
        stream.queue.put(QueuedBatch(batch.at, hand, batch.end))


def _dealt(rows: Rows, hands: int) -> list[Rows]:
    if rows.package.damage is not None:
        return [rows, *[rows.only(())] * (hands - 1)]
    numbers: list[list[int]] = [[] for _ in range(hands)]
    for number, key in enumerate(rows.package.open().keys()):
        numbers[zlib.crc32(key) % hands if key else number % hands].append(number)
    rows.package.close()  # it is opened again when a stream takes its rows
    return [rows.only(hand) for hand in numbers]
