"""Records that `take` holds back: a group for each partition, until it is full or due.

A group is due when the time of `within` is over, or in a bounded run when the partition's history ends: nothing more
will arrive. Until the agent has processed a group, its records count as not handled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..topics.topic_partition import TopicPartition
from .engine.partition_queue import QueuedBatch
from .engine.record_queue import RecordQueue

__all__ = ["Group", "TakeBuffer"]

Group = list[tuple[Any, Any]]
"""A group of `take`: pairs of a message and its value."""


class TakeBuffer:
    """The groups of one stream.

    Args:
        most: records in a full group.
        within_s: seconds that the first record of a group waits for others; None: without limit.
        now_s: a monotonic clock.
    """

    def __init__(self, queue: RecordQueue, most: int, within_s: float | None, now_s: Callable[[], float]) -> None:
        self._queue, self._most, self._within_s, self._now_s = queue, most, within_s, now_s
        self._groups: dict[TopicPartition, Group] = {}
        self._due_at_s: dict[TopicPartition, float] = {}

    @property
    def wait_s(self) -> float | None:
        """Seconds until the next group is due; None while none waits."""
        return max(0.0, min(self._due_at_s.values()) - self._now_s()) if self._due_at_s else None

    def drop_revoked(self) -> None:
        """Forget partitions that were revoked."""
        for at in [at for at in self._groups if self._queue.at(at).held_back is None]:
            del self._groups[at]
            self._due_at_s.pop(at, None)

    def add(self, at: TopicPartition, message: Any, value: object) -> Group | None:
        """Hold a record back; return the group if it is full now."""
        group = self._groups.setdefault(at, [])
        if not group:
            self._queue.at(at).held_back = message.offset()
            if self._within_s is not None:
                self._due_at_s[at] = self._now_s() + self._within_s
        group.append((message, value))
        # One record at a time after a failure, so that a group cannot hide which record failed.
        return group if len(group) >= (1 if self._queue.isolating else self._most) else None

    def due(self, batch: QueuedBatch) -> dict[TopicPartition, Group]:
        """Return the groups that are due after this batch."""
        now_s = self._now_s()
        ended = {at for at, partition in self._queue.partitions.items() if partition.ended and at in self._groups}
        for partition in self._queue.partitions.values():
            partition.ended = False
        if batch.rows is not None and batch.at in self._groups and not self._queue.inside:
            ended.add(batch.at)  # a group never holds a part of a packed message
        ended |= {at for at, due_s in self._due_at_s.items() if due_s <= now_s}
        return {at: self._groups[at] for at in ended}

    def done(self, at: TopicPartition) -> None:
        """Forget the group of this partition: the agent has processed it."""
        del self._groups[at]
        self._due_at_s.pop(at, None)
        self._queue.at(at).held_back = None

    def leave(self, message: object) -> None:
        """Put the records of groups back into the queue, but for the group at hand, whose last record is `message`: the
        agent has left its loop there. None: it was between two groups, or the one at hand is back in the queue."""
        for at, group in self._groups.items():
            partition = self._queue.at(at)
            if partition.held_back is None:  # revoked, or rolled back
                continue
            partition.held_back, partition.ended = None, False
            if group[-1][0] is not message:
                self._queue.give_back(at, [held for held, _ in group])
        self._groups.clear()
        self._due_at_s.clear()
