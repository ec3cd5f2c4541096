"""The record queue of a stream: the records that are consumed and not yet processed, and the stream's progress.

Progress is kept per stream and partition as the offset of the next record to process. A stream takes a whole batch and
iterates it without calling the engine for each record, which is fast. While the agent is suspended in the middle of a
batch, the engine may *cut* the batch at a record boundary; the records after the cut return to the queue.

A packed batch is a unit of progress: it is never cut, and an agent that has received some of its rows receives all of
them before anything can be committed. Rows are distinguished only to identify records that fail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...topics.packed import Rows
from ...topics.topic_partition import TopicPartition

__all__ = ["QueuedBatch", "RecordPosition", "RecordQueue", "position_of"]

Message = Any
"""A `confluent_kafka.Message`. Its accessors cost as much as decoding JSON, so they are rarely called."""


RecordPosition = tuple[TopicPartition, int, int]
"""The position of a record: topic partition, offset and row (0 for a plain record)."""


def position_of(at: TopicPartition, message: Message) -> RecordPosition:
    """Return the position of a message of this partition."""
    return at, message.offset(), getattr(message, "row", 0)


class QueuedBatch(NamedTuple):
    """Consecutive records of one partition; `end` is the offset after the last one.

    `messages` is a list of messages, or the rows of one packed batch.
    """

    at: TopicPartition
    messages: Any
    end: int

    @property
    def rows(self) -> Rows | None:
        """The rows of a packed batch; None for plain records."""
        return self.messages if type(self.messages) is Rows else None


class Delayed(NamedTuple):
    """A partition whose next record is retried later; this record and all records after it wait until `due_s`."""

    due_s: float
    batches: deque[QueuedBatch]


class RecordQueue:
    """The record queue of one stream.

    Attributes:
        offsets: partition -> offset of the next record to process.
        poisoned: position -> error of each record that made the agent fail. These records go to the failure policy
            instead of the agent.
        failures: position of a record -> number of times the agent has failed at it.
        retry_at_s: position of a record to retry -> earliest time of the retry (monotonic seconds).
        delayed: partitions that wait for such a retry.
        isolating: hand out one record at a time, with a savepoint before each.
        cut: hand out no further records until the epoch is committed.
        held_back: partition -> offset of the first record that the stream has taken and holds back for a group
            (`Stream.take`).
        ended: partitions that have reached the end of their history: the agent must receive the records held back.
        entered: number of records added; a record that is reprocessed counts once. See `handled`.
        shared: several streams share the partition's records by key. Batches are then not cut, so that all of these
            streams have the same progress when the epoch is committed.
        waiting: number of records in the queue, without those in `delayed`.
    """

    __slots__ = (
        "_handled_before",
        "_queue",
        "_taken",
        "cut",
        "delayed",
        "ended",
        "entered",
        "failures",
        "held_back",
        "isolating",
        "offsets",
        "poisoned",
        "retry_at_s",
        "shared",
        "waiting",
    )

    def __init__(self) -> None:
        self.shared = False
        self._queue: deque[QueuedBatch] = deque()
        self._taken: QueuedBatch | None = None
        self.offsets: dict[TopicPartition, int] = {}
        self.held_back: dict[TopicPartition, int] = {}
        self.poisoned: dict[RecordPosition, BaseException] = {}
        self.ended: set[TopicPartition] = set()
        self.failures: dict[RecordPosition, int] = {}
        self.retry_at_s: dict[RecordPosition, float] = {}
        self.delayed: dict[TopicPartition, Delayed] = {}
        self.isolating = False
        self.cut = False
        self.waiting = 0
        self.entered = self._handled_before = 0

    def put(self, batch: QueuedBatch) -> None:
        """Add a batch, without the records before the offset of its partition: those are already committed."""
        next_offset = self.offsets.setdefault(batch.at, 0)
        if batch.end <= next_offset:
            return
        messages = batch.messages
        if batch.rows is not None:
            pass
        elif messages and messages[0].offset() < next_offset:
            messages = [m for m in messages if m.offset() >= next_offset]
        else:
            messages = list(messages)  # a copy: a cut removes records from this list only
        batch = QueuedBatch(batch.at, messages, batch.end)
        self.entered += len(messages)
        if batch.at in self.delayed:
            self.delayed[batch.at].batches.append(batch)
            return
        self._queue.append(batch)
        self.waiting += len(messages)

    def take(self) -> QueuedBatch | None:
        """Return the next batch to iterate; None if there is none, or if the queue is cut."""
        if self.cut and not (self.shared or self.inside):
            return None
        while True:
            if not self._queue:
                return None
            batch = self._queue.popleft()
            if not batch.messages:
                self.offsets[batch.at] = batch.end  # only control records, or records of other streams
                continue
            if self.isolating or self.poisoned or self.retry_at_s:
                if batch.rows is None:
                    batch = self._part(batch)
                due_s = self._due_s(batch)
                if due_s is not None:
                    self._delay(batch, due_s)
                    continue
                if batch.rows is not None and batch.rows.package.damage is None:
                    batch = self._part(batch)
            break
        self._taken = batch
        self.waiting -= len(batch.messages)
        return batch

    @property
    def inside(self) -> bool:
        """True if some rows of a packed batch were handed out and the rest are still queued."""
        rows = self._queue[0].rows if self._queue else None
        return rows is not None and rows.begun

    def _due_s(self, batch: QueuedBatch) -> float | None:
        """Return when the first message may be retried: the latest time of its rows. None if it does not wait."""
        if not self.retry_at_s:
            return None
        first = batch.at, batch.messages[0].offset()
        return max((due_s for (at, offset, _), due_s in self.retry_at_s.items() if (at, offset) == first), default=None)

    def _delay(self, batch: QueuedBatch, due_s: float) -> None:
        """Delay the batch and all later batches of its partition until `due_s`."""
        assert batch.rows is None or not batch.rows.begun, "a packed batch waits whole"
        at = batch.at
        batches = deque([batch, *(other for other in self._queue if other.at == at)])
        self._queue = deque(other for other in self._queue if other.at != at)
        self.waiting -= sum(len(other.messages) for other in batches)
        self.delayed[at] = Delayed(due_s, batches)

    def release(self, now_s: float) -> None:
        """Put the records of partitions whose retry is due back into the queue, and switch to isolating.

        Must not be called while the agent is at a record: this record was not isolated, so a failure could not be
        attributed to it.
        """
        for at, (due_s, batches) in list(self.delayed.items()):
            if due_s <= now_s:
                del self.delayed[at]
                first = at, batches[0].messages[0].offset()
                self.retry_at_s = {which: due for which, due in self.retry_at_s.items() if which[:2] != first}
                self._queue.extendleft(reversed(batches))
                self.waiting += sum(len(batch.messages) for batch in batches)
                self.isolating = True  # the record is likely to fail again

    @property
    def handled(self) -> int:
        """Number of records processed since the start; valid only while the agent is parked."""
        delayed = sum(len(batch.messages) for _, batches in self.delayed.values() for batch in batches)
        return self.entered - self.waiting - delayed

    def newly_handled(self, handled: int) -> int:
        """Return the number of records processed since the previous commit; called once after each commit.

        Args:
            handled: number of records processed since the start, when the commit was prepared.
        """
        before, self._handled_before = self._handled_before, handled
        return handled - before

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Forget the failures of records below the offsets: these records are committed."""
        self.poisoned = {w: why for w, why in self.poisoned.items() if w[1] >= offsets.get(w[0], 0)}
        self.failures = {w: count for w, count in self.failures.items() if w[1] >= offsets.get(w[0], 0)}

    def _part(self, batch: QueuedBatch) -> QueuedBatch:
        """Return the first part of a batch, and put the rest back at the front of the queue.

        The part is one record while isolating. Otherwise it ends before the next record that is poisoned or must wait
        for a retry; such a record at the front is returned alone.
        """
        count = 1 if self.isolating else len(batch.messages)
        if self.poisoned or self.retry_at_s:
            for i, message in enumerate(batch.messages[:count]):
                which = position_of(batch.at, message)
                if which in self.poisoned or which in self.retry_at_s:
                    count = i or 1  # first the records before it, then this record alone
                    break
        if count == len(batch.messages):
            return batch
        head, rest = batch.messages[:count], batch.messages[count:]
        self._queue.appendleft(QueuedBatch(batch.at, rest, batch.end))
        return QueuedBatch(batch.at, head, rest[0].offset())

    def poison_of(self, batch: QueuedBatch) -> BaseException | None:
        """Return the error because of which the first record of a taken batch must not reach the agent, or None."""
        return self.poisoned.get(position_of(batch.at, batch.messages[0])) if self.poisoned else None

    def done(self) -> None:
        """Mark the taken batch as processed, up to its cut if it was cut."""
        batch = self._taken
        if batch is not None:
            self._taken = None
            self.offsets[batch.at] = batch.end

    def cut_after(self, message: Message | None) -> None:
        """Hand out no further records, and cut the taken batch after `message`, the record the agent works on.

        A packed batch and a batch of a shared partition are not cut.
        """
        self.cut = True
        batch = self._taken
        if batch is None or message is None or self.shared or batch.rows is not None:
            return
        for i, candidate in enumerate(batch.messages):  # noqa: B007 (the index at the break is used below)
            if candidate is message:
                break
        else:
            return
        rest = batch.messages[i + 1 :]
        if rest:
            del batch.messages[i + 1 :]
            self._queue.appendleft(QueuedBatch(batch.at, rest, batch.end))
            self._taken = QueuedBatch(batch.at, batch.messages, rest[0].offset())
            self.waiting += len(rest)

    @property
    def has_work(self) -> bool:
        """True if `take` would return a batch, or the agent must receive records that are held back."""
        return (bool(self._queue) and (self.shared or not self.cut or self.inside)) or self.gives_rest

    @property
    def gives_rest(self) -> bool:
        """True if the agent must now receive the records that are held back of some partition."""
        return bool(self.ended) and not self.cut

    def end(self, ends: Mapping[TopicPartition, int], reached: Mapping[TopicPartition, int]) -> None:
        """Mark partitions that have reached the end of their history: no further records will arrive for a group.

        Args:
            ends: offsets after the last records of history.
            reached: offsets up to which partitions were consumed, including transaction markers.
        """
        for at in self.held_back:
            end = ends.get(at)
            if end is None or end > max(self.offsets.get(at, 0), reached.get(at, 0)):
                continue
            if at not in self.delayed and not any(batch.at == at for batch in self._queue):
                self.ended.add(at)

    def again_from(self, message: Message) -> None:
        """Put `message`, which was rolled back, and the records after it in the taken batch back into the queue."""
        batch = self._taken
        self._taken = None
        if batch is None:
            return
        if batch.rows is not None:
            rest: Any = batch.rows.since(message)
        else:
            rest = [m for m in batch.messages if m.offset() >= message.offset()]
        self._queue.appendleft(QueuedBatch(batch.at, rest, batch.end))
        self.waiting += len(rest)
        self.offsets[batch.at] = message.offset()

    def progress(self) -> dict[TopicPartition, int]:
        """Return partition -> offset of the next record to process; records held back count as not processed."""
        if not self.held_back:
            return self.offsets
        return {at: min(next_offset, self.held_back.get(at, next_offset)) for at, next_offset in self.offsets.items()}

    def reset(self, offsets: dict[TopicPartition, int]) -> None:
        """Clear the queue and continue from `offsets`."""
        self._queue.clear()
        self.delayed.clear()
        self._taken = None
        self.waiting = 0
        self.entered = self._handled_before
        self.held_back.clear()
        self.ended.clear()
        self.offsets = dict(offsets)

    def drop(self, lost: set[TopicPartition]) -> None:
        """Forget partitions that were revoked or lost."""
        handled = self.handled
        self._queue = deque(batch for batch in self._queue if batch.at not in lost)
        self.waiting = sum(len(batch.messages) for batch in self._queue)
        for at in lost:
            self.offsets.pop(at, None)
            self.held_back.pop(at, None)
            self.ended.discard(at)
            self.delayed.pop(at, None)
        self.entered += handled - self.handled
        self.poisoned = {which: why for which, why in self.poisoned.items() if which[0] not in lost}
        self.failures = {which: count for which, count in self.failures.items() if which[0] not in lost}
        self.retry_at_s = {which: due_s for which, due_s in self.retry_at_s.items() if which[0] not in lost}
