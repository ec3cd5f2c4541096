"""The records of one partition that wait for one stream, and the stream's progress in the partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from ...topics.packed import Rows
from ...topics.topic_partition import TopicPartition
from .firing import ANYWHERE, FiringRecord
from .retry_delays import RetryDelays

__all__ = ["PartitionQueue", "QueuedBatch", "RecordPosition", "place_of"]

Message = Any
"""A `confluent_kafka.Message`. Its accessors cost as much as decoding JSON, so they are rarely called."""

Place = tuple[int, Hashable]
"""The place of a record in its partition: offset and row (0 for a plain record); or of what fires in front of it, with
the offset `ANYWHERE` if that is a window, and `ANY_RECORD` for a timer of several partitions."""

RecordPosition = tuple[TopicPartition, Place]
"""The position of a record."""


def place_of(message: Message) -> Place:
    """Return the place of a record in its partition."""
    return message.place if type(message) is FiringRecord else (message.offset(), getattr(message, "row", 0))


class _Again(NamedTuple):
    """The identity of something that fires where others with this identity have fired in the epoch: `before` times."""

    identity: Hashable
    before: int


def _plain(place: Place) -> Place:
    """Return the place of something that fires, without its number."""
    return (place[0], place[1].identity) if type(place[1]) is _Again else place


class QueuedBatch(NamedTuple):
    """Consecutive records of one partition; `end` is the offset after the last one.

    `messages` is a list of messages, or the rows of one packed batch. `control` says that control records are among
    them.
    """

    at: TopicPartition
    messages: Any
    end: int
    control: bool = False

    @property
    def rows(self) -> Rows | None:
        """The rows of a packed batch; None for plain records."""
        return self.messages if type(self.messages) is Rows else None

    def cut(self, count: int) -> tuple[QueuedBatch, QueuedBatch]:
        """Return the first `count` records, and the others, of which there is at least one."""
        rest = self.messages[count:]
        head = QueuedBatch(self.at, self.messages[:count], rest[0].offset())
        return head, QueuedBatch(self.at, rest, self.end)


class PartitionQueue:
    """One partition in the record queue of one stream. It is forgotten as a whole when the partition is lost.

    Args:
        offset: where the stream begins.

    Attributes:
        batches: the records that wait, in order.
        offset: offset of the next record to process.
        committed: offset of the next record to process, as of the last commit.
        held_back: offset of the first record that the stream has taken and holds back for a group (`Stream.take`).
        entered: number of records added that were not committed when the last commit ended.
        ended: the end of history is reached, so that the agent must receive the records held back.
        unproven: its task was rolled back, and nothing was processed since: isolating must not end before.
        poisoned: place -> error of each record that made the agent fail. These records go to the failure policy instead
            of the agent.
        fired: those of the poisoned places that are done in this epoch, although the offset may stay.
        firings: place -> number of times that something has fired there in the epoch `firings_of`.
        failures: place of a record -> number of times the agent has failed at it.
        retries: the waits for retries of records.
        channel_state: what the agent knows of the partition's event time, as JSON; None: nothing. It belongs to the
            progress: it is committed with the offset, and a rollback returns to the committed one.
        silent_since_s: since when the partition has no more records; None: it has some, or nobody looks (`Idleness`).
        state_before: the channel state before the record that the agent processes, in a tuple; None: it is not kept.
    """

    __slots__ = (
        "__weakref__",
        "at",
        "batches",
        "channel_state",
        "committed",
        "committed_channel_state",
        "ended",
        "entered",
        "failures",
        "fired",
        "firings",
        "firings_of",
        "held_back",
        "offset",
        "poisoned",
        "retries",
        "silent_since_s",
        "state_before",
        "unproven",
    )

    def __init__(self, at: TopicPartition, offset: int) -> None:
        self.at = at
        self.batches: deque[QueuedBatch] = deque()
        self.offset = self.committed = offset
        self.held_back: int | None = None
        self.ended = False
        self.entered = 0
        self.poisoned: dict[Place, BaseException] = {}
        self.fired: set[Place] = set()
        self.firings: dict[Place, int] = {}
        self.firings_of = -1
        self.failures: dict[Place, int] = {}
        self.retries = RetryDelays()
        self.channel_state: object = None
        self.committed_channel_state: object = None
        self.silent_since_s: float | None = None
        self.state_before: tuple[object] | None = None
        self.unproven = False

    @property
    def progress(self) -> int:
        """Offset of the next record to process, if records held back count as not processed."""
        return self.offset if self.held_back is None else min(self.offset, self.held_back)

    @property
    def waiting(self) -> int:
        """Number of records that wait."""
        return sum(len(batch.messages) for batch in self.batches)

    @property
    def is_empty(self) -> bool:
        """True if no record waits here, for a retry, or for a group."""
        return not self.batches and self.retries.until_s is None and self.held_back is None

    @property
    def inside(self) -> bool:
        """True if some rows of a packed batch were handed out and the rest are still queued."""
        rows = self.batches[0].rows if self.batches else None
        return rows is not None and rows.begun

    def trimmed(self, batch: QueuedBatch) -> QueuedBatch | None:
        """Return a batch without the records before `offset`, which are committed; None if nothing is left."""
        if batch.end <= self.offset:
            return None
        messages = batch.messages
        if batch.rows is not None:
            pass
        elif messages and messages[0].offset() < self.offset:
            messages = [message for message in messages if message.offset() >= self.offset]
        else:
            messages = list(messages)  # a copy: a cut removes records from this list only
        return QueuedBatch(batch.at, messages, batch.end)

    def split(self, batch: QueuedBatch, *, isolating: bool) -> tuple[QueuedBatch, QueuedBatch | None]:
        """Return the part of a batch that may be handed out now, and the rest.

        The part is one record while isolating. Otherwise it ends before the next record that is poisoned or must wait
        for a retry; such a record at the front is returned alone.
        """
        count = 1 if isolating else len(batch.messages)
        if self.poisoned or self.retries.at_s:
            for i, message in enumerate(batch.messages[:count]):
                place = place_of(message)
                if place in self.poisoned or place in self.retries.at_s:
                    count = i or 1  # first the records before it, then this record alone
                    break
        return (batch, None) if count == len(batch.messages) else batch.cut(count)

    def retry_due_s(self, batch: QueuedBatch) -> float | None:
        """Return when the first message may be retried: the latest time of its rows. None if it does not wait."""
        return self.retries.due_s(batch.messages[0].offset()) if self.retries.at_s else None

    def end_delay(self) -> None:
        """Let the records be taken: the retry of the first one is due."""
        self.retries.end(self.batches[0].messages[0].offset())

    def numbered(self, place: Place, epoch: int) -> Place:
        """Return the place of something that fires, apart from what has fired at the same one in this epoch: a timer
        that was set again for the same time.

        Numbers begin anew with each epoch, so failures at places where the one before, which may still be under way,
        has let something fire mean others now. They are forgotten: what fails again is found again.
        """
        if self.firings_of != epoch:
            if self.firings:
                self.poisoned = {at: why for at, why in self.poisoned.items() if _plain(at) not in self.firings}
            self.firings, self.firings_of = {}, epoch
        before = self.firings.get(place, 0)
        self.firings[place] = before + 1
        return (place[0], _Again(place[1], before)) if before else place

    def commit(self, progress: int, taken: int, channel_state: object = None) -> None:
        """Note a commit, and forget the failures of its records.

        Args:
            progress: offset of the next record to process, when the commit was prepared.
            taken: offset of the next record to hand out then.
            channel_state: the channel state then.
        """
        self.unproven = self.unproven and progress <= self.committed
        self.committed, self.committed_channel_state, self.entered = progress, channel_state, self.waiting
        if self.poisoned:
            self.poisoned = {
                place: why
                for place, why in self.poisoned.items()
                if (place[0] >= taken or place[0] == ANYWHERE) and place not in self.fired
            }
            self.fired.clear()
        if self.failures:
            self.failures = {place: count for place, count in self.failures.items() if place[0] >= taken}

    @property
    def has_failed(self) -> bool:
        """True if a record here will go to the failure policy, or is not processed since a rollback."""
        return self.unproven or any(place[0] >= 0 for place in self.poisoned)

    def restart(self) -> None:
        """Forget the records that wait, and continue from the last commit. Failures are kept."""
        self.batches.clear()
        self.entered = 0
        self.offset, self.held_back, self.ended, self.retries.until_s = self.committed, None, False, None
        self.channel_state, self.state_before = self.committed_channel_state, None
        self.fired.clear()
        self.firings.clear()
