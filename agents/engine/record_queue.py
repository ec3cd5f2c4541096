"""What one stream has been handed, and how far it is.

Progress is kept per stream and partition as the offset of the next record to handle. A stream takes a batch whole and
iterates it without asking anybody (that is what makes it fast); the engine may *cut* the batch at a record boundary
while the agent is suspended in the middle of it, and gets the rest back.

A packed batch is a unit of progress: it is never cut, and an agent that has been handed some of its rows is handed all
before anything can be committed. Only records that fail are told apart by row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...topics.topic_partition import TopicPartition
from .packed_rows import Rows

__all__ = ["Batch", "RecordPosition", "RecordQueue", "position_of"]

Message = Any
"""A confluent_kafka.Message; its accessors cost as much as decoding JSON, so they are called as little as can be."""


RecordPosition = tuple[TopicPartition, int, int]
"""A record: its partition, offset and row; plain ones are row 0."""


def position_of(at: TopicPartition, message: Message) -> RecordPosition:
    """Which record a message of this partition is."""
    return at, message.offset(), getattr(message, "row", 0)


class Batch(NamedTuple):
    """A run of consecutive records of one partition; `end` is the offset after the last one.

    `messages` is a list of messages, or rows of one packed message.
    """

    at: TopicPartition
    messages: Any
    end: int

    @property
    def rows(self) -> Rows | None:
        """The rows, if these are rows."""
        return self.messages if type(self.messages) is Rows else None


class Delayed(NamedTuple):
    """A partition whose next record is to be tried again later; it and all behind it wait."""

    due_s: float
    batches: deque[Batch]


class RecordQueue:
    """The records of one stream.

    Attributes:
        offsets: partition -> offset of the next record to handle.
        poisoned: records that made the agent fail: which -> why. They go to the policy instead.
        failures: which record -> how often the agent has failed at it.
        retry_at_s: records that are to be retried: position -> not before this time (monotonic seconds).
        delayed: partitions that wait for such a record.
        isolating: hand out record by record, with a savepoint before each.
        cut: no further records until the epoch is committed.
        held_back: partition -> offset of the first record that was taken and is held back (`take`).
        ended: partitions whose history is over, so that what is held back of them is to be given away.
        entered: records that were put in, each once whatever is redone; see `handled`.
        shared: several streams share the partition's records by key; then a batch is not cut, so that all of them
            are equally far when the epoch is committed.
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
        self._queue: deque[Batch] = deque()
        self._taken: Batch | None = None
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

    def put(self, batch: Batch) -> None:
        """Add a batch, without records that an epoch has committed already."""
        next_offset = self.offsets.setdefault(batch.at, 0)
        if batch.end <= next_offset:
            return
        messages = batch.messages
        if batch.rows is not None:
            pass
        elif messages and messages[0].offset() < next_offset:
            messages = [m for m in messages if m.offset() >= next_offset]
        else:
            messages = list(messages)  # a cut takes the rest out of our list, and nobody else's
        batch = Batch(batch.at, messages, batch.end)
        self.entered += len(messages)
        if batch.at in self.delayed:
            self.delayed[batch.at].batches.append(batch)
            return
        self._queue.append(batch)
        self.waiting += len(messages)

    def take(self) -> Batch | None:
        """The next batch to iterate; None while there is nothing or the epoch is cut."""
        if self.cut and not (self.shared or self.inside):
            return None
        while True:
            if not self._queue:
                return None
            batch = self._queue.popleft()
            if not batch.messages:
                self.offsets[batch.at] = batch.end  # all of this run went to streams beside us
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
        """Whether some rows of a packed message were handed out, and some were not."""
        rows = self._queue[0].rows if self._queue else None
        return rows is not None and rows.begun

    def _due_s(self, batch: Batch) -> float | None:
        """When the first record, or any row of that message, is to be tried again."""
        if not self.retry_at_s:
            return None
        first = batch.at, batch.messages[0].offset()
        return max((due_s for (at, offset, _), due_s in self.retry_at_s.items() if (at, offset) == first), default=None)

    def _delay(self, batch: Batch, due_s: float) -> None:
        """The batch, and all behind it of its partition, wait."""
        assert batch.rows is None or not batch.rows.begun, "a packed batch waits whole"
        at = batch.at
        batches = deque([batch, *(other for other in self._queue if other.at == at)])
        self._queue = deque(other for other in self._queue if other.at != at)
        self.waiting -= sum(len(other.messages) for other in batches)
        self.delayed[at] = Delayed(due_s, batches)

    def release(self, now_s: float) -> None:
        """Partitions whose record is due go on; not while the stream is at a record, which it could not tell apart."""
        for at, (due_s, batches) in list(self.delayed.items()):
            if due_s <= now_s:
                del self.delayed[at]
                first = at, batches[0].messages[0].offset()
                self.retry_at_s = {which: due for which, due in self.retry_at_s.items() if which[:2] != first}
                self._queue.extendleft(reversed(batches))
                self.waiting += sum(len(batch.messages) for batch in batches)
                self.isolating = True  # it may well fail again

    @property
    def handled(self) -> int:
        """Records handled since the start, by an agent that is parked."""
        delayed = sum(len(batch.messages) for _, batches in self.delayed.values() for batch in batches)
        return self.entered - self.waiting - delayed

    def newly_handled(self) -> int:
        """Records handled since the last commit; this one is through."""
        before, self._handled_before = self._handled_before, self.handled
        return self._handled_before - before

    def committed(self) -> None:
        """What lies below the offsets is behind us: forget what is known of failures there."""
        offsets = self.offsets
        self.poisoned = {w: why for w, why in self.poisoned.items() if w[1] >= offsets.get(w[0], 0)}
        self.failures = {w: count for w, count in self.failures.items() if w[1] >= offsets.get(w[0], 0)}

    def _part(self, batch: Batch) -> Batch:
        """Up to the next record that is poisoned or has to wait, or one record."""
        count = 1 if self.isolating else len(batch.messages)
        if self.poisoned or self.retry_at_s:
            for i, message in enumerate(batch.messages[:count]):
                which = position_of(batch.at, message)
                if which in self.poisoned or which in self.retry_at_s:
                    count = i or 1  # what comes before it first; then it, alone
                    break
        if count == len(batch.messages):
            return batch
        head, rest = batch.messages[:count], batch.messages[count:]
        self._queue.appendleft(Batch(batch.at, rest, batch.end))
        return Batch(batch.at, head, rest[0].offset())

    def poison_of(self, batch: Batch) -> BaseException | None:
        """Why the first record of a taken batch must not reach the agent, if so."""
        return self.poisoned.get(position_of(batch.at, batch.messages[0])) if self.poisoned else None

    def done(self) -> None:
        """The taken batch is handled up to where it was cut."""
        batch = self._taken
        if batch is not None:
            self._taken = None
            self.offsets[batch.at] = batch.end

    def cut_after(self, message: Message | None) -> None:
        """No further records; of the taken batch nothing after `message`, the one the agent works on."""
        self.cut = True
        batch = self._taken
        if batch is None or message is None or self.shared or batch.rows is not None:
            return
        for i, candidate in enumerate(batch.messages):  # noqa: B007 (where the loop broke off is what we want)
            if candidate is message:
                break
        else:
            return
        rest = batch.messages[i + 1 :]
        if rest:
            del batch.messages[i + 1 :]
            self._queue.appendleft(Batch(batch.at, rest, batch.end))
            self._taken = Batch(batch.at, batch.messages, rest[0].offset())
            self.waiting += len(rest)

    @property
    def has_work(self) -> bool:
        """Whether `take` would give something, or what is held back is to be given away."""
        return (bool(self._queue) and (self.shared or not self.cut or self.inside)) or self.gives_rest

    @property
    def gives_rest(self) -> bool:
        """Whether what is held back of some partition is to be given away now."""
        return bool(self.ended) and not self.cut

    def end(self, ends: Mapping[tuple[str, int], int], reached: Mapping[TopicPartition, int]) -> None:
        """Note partitions that are at the end of their history: nothing is to come that a group could wait for.

        Args:
            ends: offsets behind the last records of history.
            reached: offsets to which partitions were read, transaction markers included.
        """
        for at in self.held_back:
            end = ends.get(at)
            if end is None or end > max(self.offsets.get(at, 0), reached.get(at, 0)):
                continue
            if at not in self.delayed and not any(batch.at == at for batch in self._queue):
                self.ended.add(at)

    def again_from(self, message: Message) -> None:
        """`message` is undone: it and what follows it in the taken batch come again."""
        batch = self._taken
        self._taken = None
        if batch is None:
            return
        if batch.rows is not None:
            rest: Any = batch.rows.since(message)
        else:
            rest = [m for m in batch.messages if m.offset() >= message.offset()]
        self._queue.appendleft(Batch(batch.at, rest, batch.end))
        self.waiting += len(rest)
        self.offsets[batch.at] = message.offset()

    def progress(self) -> dict[TopicPartition, int]:
        """Partition -> offset of the next record to handle, what is held back counted as not handled."""
        if not self.held_back:
            return self.offsets
        return {at: min(next_offset, self.held_back.get(at, next_offset)) for at, next_offset in self.offsets.items()}

    def reset(self, offsets: dict[TopicPartition, int]) -> None:
        """Forget everything that was handed over; continue from `offsets`."""
        self._queue.clear()
        self.delayed.clear()
        self._taken = None
        self.waiting = 0
        self.entered = self._handled_before
        self.held_back.clear()
        self.ended.clear()
        self.offsets = dict(offsets)

    def drop(self, lost: set[TopicPartition]) -> None:
        """Forget partitions that are gone."""
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
