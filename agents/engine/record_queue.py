"""The record queue of a stream: the records that are consumed and not yet processed, and the stream's progress.

It has a queue for each partition (`partition_queue.py`) and hands out their batches in the order in which they have
arrived. A stream takes a whole batch and iterates it without calling the engine for each record, which is fast. While
the agent is suspended in the middle of a batch, the engine may *cut* the batch at a record boundary; the records after
the cut return to the queue.

A packed batch is a unit of progress: it is never cut, and an agent that has received some of its rows receives all of
them before anything can be committed. Rows are distinguished only to identify records that fail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from ...topics.packed import Package, Row, Rows
from ...topics.topic_partition import TopicPartition
from .partition_queue import Message, PartitionQueue, QueuedBatch, place_of

__all__ = ["RecordQueue"]


class RecordQueue:
    """The record queue of one stream.

    Attributes:
        partitions: the partitions that the stream reads.
        isolating: hand out one record at a time, with a savepoint before each.
        cut: hand out no further records until the epoch is committed.
        entered: number of records added; a record that is reprocessed counts once. See `handled`.
        shared: several streams share the partition's records by key. Batches are then not cut, so that all of these
            streams have the same progress when the epoch is committed.
        waiting: number of records in the queue, without those of delayed partitions.
    """

    __slots__ = (
        "_handled_before",
        "_order",
        "_taken",
        "cut",
        "entered",
        "isolating",
        "partitions",
        "shared",
        "waiting",
    )

    def __init__(self) -> None:
        self.shared = False
        self.partitions: dict[TopicPartition, PartitionQueue] = {}
        # A partition is here once for each of its batches, unless it is delayed.
        self._order: deque[PartitionQueue] = deque()
        self._taken: tuple[PartitionQueue, QueuedBatch] | None = None
        self.isolating = False
        self.cut = False
        self.waiting = 0
        self.entered = self._handled_before = 0

    def begin(self, at: TopicPartition, offset: int, channel_state: object = None) -> PartitionQueue:
        """Add a partition, whose next record to process is at `offset`."""
        partition = self.partitions[at] = PartitionQueue(at, offset)
        partition.channel_state = partition.committed_channel_state = channel_state
        return partition

    def at(self, at: TopicPartition) -> PartitionQueue:
        """Return a partition; one that was lost is empty, and what is noted in it is forgotten."""
        return self.partitions.get(at) or PartitionQueue(at, 0)

    def put(self, batch: QueuedBatch) -> None:
        """Add a batch, without the records before the offset of its partition: those are already committed."""
        partition = self.partitions.get(batch.at) or self.begin(batch.at, 0)
        left = partition.trimmed(batch)
        if left is None:
            return
        self.entered += len(left.messages)
        partition.entered += len(left.messages)
        partition.batches.append(left)
        if partition.retries.until_s is None:
            self._order.append(partition)
            self.waiting += len(left.messages)

    def take(self) -> QueuedBatch | None:
        """Return the next batch to iterate; None if there is none, or if the queue is cut."""
        if self.cut and not (self.shared or self.inside):
            return None
        while True:
            if not self._order:
                return None
            partition = self._order.popleft()
            batch = partition.batches.popleft()
            if not batch.messages:
                partition.offset = batch.end  # only control records, or records of other streams
                continue
            if self.isolating or partition.poisoned or partition.retries.at_s:
                if batch.rows is None:
                    batch = self._part(partition, batch)
                due_s = partition.retry_due_s(batch)
                if due_s is not None:
                    self._delay(partition, batch, due_s)
                    continue
                if batch.rows is not None and batch.rows.package.damage is None:
                    batch = self._part(partition, batch)
            break
        self._taken = partition, batch
        self.waiting -= len(batch.messages)
        return batch

    def _part(self, partition: PartitionQueue, batch: QueuedBatch) -> QueuedBatch:
        """Return the first part of a batch (`PartitionQueue.split`), and put the rest back at the front."""
        part, rest = partition.split(batch, isolating=self.isolating)
        if rest is not None:
            self._put_back(partition, rest)
        return part

    def _put_back(self, partition: PartitionQueue, batch: QueuedBatch) -> None:
        partition.batches.appendleft(batch)
        if self.inside and self._order[0] is not partition:
            self._order.insert(1, partition)  # the rest of a packed batch stays in front
        else:
            self._order.appendleft(partition)

    @property
    def inside(self) -> bool:
        """True if some rows of a packed batch were handed out and the rest are still queued."""
        return bool(self._order) and self._order[0].inside

    @property
    def has_failed(self) -> bool:
        """True if a record will go to the failure policy instead of the agent, or is not processed since a rollback."""
        return any(partition.has_failed for partition in self.partitions.values())

    def _delay(self, partition: PartitionQueue, batch: QueuedBatch, due_s: float) -> None:
        """Delay the batch and all later batches of its partition until `due_s`."""
        assert batch.rows is None or not batch.rows.begun, "a packed batch waits whole"
        partition.batches.appendleft(batch)
        self._order = deque(other for other in self._order if other is not partition)
        self.waiting -= partition.waiting
        partition.retries.until_s, partition.unproven = due_s, False

    @property
    def delayed(self) -> list[PartitionQueue]:
        """The partitions whose next record is retried later."""
        return [partition for partition in self.partitions.values() if partition.retries.until_s is not None]

    def release(self, now_s: float) -> None:
        """Put the records of partitions whose retry is due back into the queue, and switch to isolating.

        Must not be called while the agent is at a record: this record was not isolated, so a failure could not be
        attributed to it.
        """
        for partition in self.delayed:
            assert partition.retries.until_s is not None
            if partition.retries.until_s <= now_s:
                partition.end_delay()
                self._queue_again(partition)
                self.isolating = True  # the record is likely to fail again

    def _queue_again(self, partition: PartitionQueue) -> None:
        self._order.extendleft([partition] * len(partition.batches))
        self.waiting += partition.waiting

    @property
    def handled(self) -> int:
        """Number of records processed since the start; valid only while the agent is parked."""
        return self.entered - self.waiting - sum(partition.waiting for partition in self.delayed)

    def newly_handled(self, handled: int) -> int:
        """Return the number of records processed since the previous commit; called once after each commit.

        Args:
            handled: number of records processed since the start, when the commit was prepared.
        """
        before, self._handled_before = self._handled_before, handled
        return handled - before

    def poison_of(self, batch: QueuedBatch) -> BaseException | None:
        """Return the error because of which the first record of a taken batch must not reach the agent, or None."""
        poisoned = self.at(batch.at).poisoned
        return poisoned.get(place_of(batch.messages[0])) if poisoned else None

    @property
    def has_taken(self) -> bool:
        """True if a batch was taken and is not marked as processed."""
        return self._taken is not None

    def done(self) -> None:
        """Mark the taken batch as processed, up to its cut if it was cut."""
        if self._taken is not None:
            partition, batch = self._taken
            self._taken = None
            partition.offset = batch.end

    def cut_after(self, message: Message | None) -> None:
        """Hand out no further records, and cut the taken batch after `message`, the record the agent works on.

        A packed batch and a batch of a shared partition are not cut.
        """
        self.cut = True
        if self._taken is not None and self._taken[1].rows is None and not self.shared:
            self.leave(message)

    def leave(self, message: Message | None) -> None:
        """Put the records of the taken batch after `message`, the record the agent works on, back into the queue: the
        loop over the batch ends there. A loop over rows has to see to its end itself."""
        if self._taken is None or message is None:
            return
        partition, batch = self._taken
        if batch.rows is not None:
            seen = batch.rows.until(message)
        else:
            seen = next((i for i, each in enumerate(batch.messages, 1) if each is message), len(batch.messages))
        if seen < len(batch.messages):
            head, rest = batch.cut(seen)
            if batch.rows is None:
                del batch.messages[seen:]
            self._put_back(partition, rest)
            self._taken = partition, head
            self.waiting += len(rest.messages)

    def give_back(self, at: TopicPartition, messages: Sequence[Message]) -> None:
        """Put records that were held back into the queue again, before all others of their partition."""
        partition = self.partitions[at]
        if self._taken is not None and self._taken[0] is partition:
            self.done()
        if partition.retries.until_s is not None:  # its first record waits again, behind these
            partition.retries.until_s = None
            self._queue_again(partition)
        for package, group in reversed([(key, list(run)) for key, run in groupby(messages, _package_of)]):
            batch = group if package is None else _rows(package, group)
            self._put_back(partition, QueuedBatch(at, batch, partition.offset))
            self.waiting += len(group)
            partition.offset = group[0].offset()

    def uncut(self) -> None:
        """Hand out records again."""
        self.cut = False

    def share(self) -> None:
        """Note that several streams share the partitions' records by key."""
        self.shared = True

    def isolate(self) -> None:
        """Hand out one record at a time from now on."""
        self.isolating = True

    def end_isolation(self) -> None:
        """Hand out batches again."""
        self.isolating = False

    @property
    def has_work(self) -> bool:
        """True if `take` would return a batch, or the agent must receive records that are held back."""
        return (bool(self._order) and (self.shared or not self.cut or self.inside)) or self.gives_rest

    @property
    def gives_rest(self) -> bool:
        """True if the agent must now receive the records that are held back of some partition."""
        return not self.cut and any(partition.ended for partition in self.partitions.values())

    def end(self, ends: Mapping[TopicPartition, int], reached: Mapping[TopicPartition, int]) -> None:
        """Mark partitions that have reached the end of their history: no further records will arrive for a group.

        Args:
            ends: offsets after the last records of history.
            reached: offsets up to which partitions were consumed, including transaction markers.
        """
        for at, partition in self.partitions.items():
            end = ends.get(at)
            if partition.held_back is None or end is None or end > max(partition.offset, reached.get(at, 0)):
                continue
            if not partition.batches:
                partition.ended = True

    def again_from(self, message: Message) -> None:
        """Put `message`, which was rolled back, and the records after it in the taken batch back into the queue."""
        taken, self._taken = self._taken, None
        if taken is None:
            return
        partition, batch = taken
        if batch.rows is not None:
            rest = batch.rows.since(message)
        else:
            rest = [m for m in batch.messages if m.offset() >= message.offset()]
        self._put_back(partition, QueuedBatch(batch.at, rest, batch.end))
        self.waiting += len(rest)
        partition.offset, partition.held_back = message.offset(), None
        if partition.state_before is not None:
            (partition.channel_state,) = partition.state_before

    def progress(self) -> dict[TopicPartition, int]:
        """Return partition -> offset of the next record to process; records held back count as not processed."""
        return {at: partition.progress for at, partition in self.partitions.items()}

    def taken(self) -> dict[TopicPartition, int]:
        """Return partition -> offset of the next record to hand out."""
        return {at: partition.offset for at, partition in self.partitions.items()}

    def channel_states(self) -> dict[TopicPartition, object]:
        """Return partition -> its channel state, where there is one."""
        states = {at: partition.channel_state for at, partition in self.partitions.items()}
        return {at: state for at, state in states.items() if state is not None}

    @property
    def moved(self) -> bool:
        """True if the progress in some partition has changed since the last commit."""
        return any(partition.progress != partition.committed for partition in self.partitions.values())

    def restart(self) -> None:
        """Clear the queue and continue from the committed offsets."""
        self._order.clear()
        self._taken = None
        self.waiting = 0
        self.entered = self._handled_before
        for partition in self.partitions.values():
            partition.restart()

    def restart_at(self, partitions: Iterable[TopicPartition]) -> None:
        """Clear some partitions, and continue there from their committed offsets."""
        again = {partition for at in partitions if (partition := self.partitions.get(at)) is not None}
        self._withdraw(again)
        for partition in again:
            self.entered -= partition.entered
            partition.restart()
            partition.unproven = self.isolating
        self._count_waiting()

    def _withdraw(self, partitions: set[PartitionQueue]) -> None:
        """Hand out no record of some partitions, nor regard their taken batch as processed when it is done."""
        self._order = deque(partition for partition in self._order if partition not in partitions)
        if self._taken is not None and self._taken[0] in partitions:
            self._taken = None

    def _count_waiting(self) -> None:
        now = (partition for partition in self.partitions.values() if partition.retries.until_s is None)
        self.waiting = sum(partition.waiting for partition in now)

    def remove(self, lost: Iterable[TopicPartition]) -> None:
        """Forget partitions that were revoked or lost."""
        handled = self.handled
        self._withdraw({partition for at in lost if (partition := self.partitions.pop(at, None)) is not None})
        self._count_waiting()
        self.entered += handled - self.handled


def _rows(package: Package, rows: Sequence[Row]) -> Rows:
    numbers = [row.row for row in rows]
    return Rows(package, numbers, begun=numbers[0] > 0)


def _package_of(message: Message) -> Package | None:
    """Return the packed batch that a row belongs to; None for a plain record."""
    return getattr(message, "package", None)
