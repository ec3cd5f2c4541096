"""The partitions that a rebalance has assigned to this worker, and their start offsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..topics.topic_partition import TopicPartition

__all__ = ["Assignment"]


@dataclass(slots=True)
class Assignment:
    """Partitions that are assigned to this worker and not active yet.

    Attributes:
        starts: partition -> offset of the next record to process.
        agent_offsets: (partition, agent) -> the agent's own next offset, if it is ahead of the partition's.
        uncommitted: partitions without a committed offset; they start at the beginning of the topic.
        active_numbers: numbers of the partitions, of any topic, that are already active on this worker.
        ids: topic -> its id, which was requested before the offsets of the topic were read.
        recreated: topics that were deleted and recreated since this worker read them.
        began_s: time at which the rebalance began, in seconds on the monotonic clock.
    """

    starts: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    agent_offsets: dict[tuple[TopicPartition, str], int] = field(default_factory=dict[tuple[TopicPartition, str], int])
    uncommitted: list[TopicPartition] = field(default_factory=list[TopicPartition])
    active_numbers: set[int] = field(default_factory=set[int])
    ids: dict[str, str] = field(default_factory=dict[str, str])
    recreated: set[str] = field(default_factory=set[str])
    began_s: float = 0.0

    def add(self, other: Assignment) -> None:
        """Add the partitions of another assignment; they replace partitions that are already in this one."""
        self.drop(set(other.starts))
        self.starts |= other.starts
        self.agent_offsets |= other.agent_offsets
        self.uncommitted += other.uncommitted
        self.active_numbers |= other.active_numbers
        self.ids |= other.ids
        self.recreated |= other.recreated

    def take(self, numbers: set[int]) -> Assignment:
        """Remove the partitions with these numbers, of all topics, and return them as an assignment."""
        taken = Assignment(
            {at: start for at, start in self.starts.items() if at.partition in numbers},
            {reader: offset for reader, offset in self.agent_offsets.items() if reader[0].partition in numbers},
            [at for at in self.uncommitted if at.partition in numbers],
            self.active_numbers,
            self.ids,
            self.recreated,
        )
        self.drop(set(taken.starts))
        return taken

    def drop(self, dropped: set[TopicPartition]) -> None:
        """Remove partitions, such as those that were revoked."""
        self.starts = {at: start for at, start in self.starts.items() if at not in dropped}
        self.agent_offsets = {
            reader: offset for reader, offset in self.agent_offsets.items() if reader[0] not in dropped
        }
        self.uncommitted = [at for at in self.uncommitted if at not in dropped]

    def set_starts(self, starts: Mapping[TopicPartition, int]) -> None:
        """Set the start offsets of partitions; partitions that are no longer in this assignment are ignored."""
        self.starts |= {at: start for at, start in starts.items() if at in self.starts}
        self.uncommitted = [at for at in self.uncommitted if at not in starts]

    def committed_beside(self, at: TopicPartition) -> bool:
        """Return whether a partition of the same number, of any topic, is active or has a committed offset."""
        committed = (other.partition for other in self.starts if other not in self.uncommitted)
        return at.partition in self.active_numbers or at.partition in committed
