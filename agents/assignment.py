"""The partitions that a rebalance has given to this worker, and where each of them begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..topics.topic_partition import TopicPartition

__all__ = ["Assignment"]


@dataclass(slots=True)
class Assignment:
    """Partitions that have come to this worker.

    Attributes:
        starts: partition -> offset of the next record to handle.
        agent_offsets: (partition, agent) -> its own next offset, where it is further.
        uncommitted: partitions without a committed offset; they start where the topic begins.
        active_numbers: numbers of partitions that this worker has, restored, of other topics.
        ids: topic -> its id, asked for before its offsets were read.
        recreated: topics that were deleted and made anew since this worker has read them.
        began_s: when the rebalance began that brought them, on the monotonic clock.
    """

    starts: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    agent_offsets: dict[tuple[TopicPartition, str], int] = field(default_factory=dict[tuple[TopicPartition, str], int])
    uncommitted: list[TopicPartition] = field(default_factory=list[TopicPartition])
    active_numbers: set[int] = field(default_factory=set[int])
    ids: dict[str, str] = field(default_factory=dict[str, str])
    recreated: set[str] = field(default_factory=set[str])
    began_s: float = 0.0

    def add(self, other: Assignment) -> None:
        """These have come, too."""
        self.drop(set(other.starts))
        self.starts |= other.starts
        self.agent_offsets |= other.agent_offsets
        self.uncommitted += other.uncommitted
        self.active_numbers |= other.active_numbers
        self.ids |= other.ids
        self.recreated |= other.recreated

    def take(self, numbers: set[int]) -> Assignment:
        """Take out the partitions of these numbers, of all topics."""
        taken = Assignment(
            {at: start for at, start in self.starts.items() if at.partition in numbers},
            {who: offset for who, offset in self.agent_offsets.items() if who[0].partition in numbers},
            [at for at in self.uncommitted if at.partition in numbers],
            self.active_numbers,
            self.ids,
            self.recreated,
        )
        self.drop(set(taken.starts))
        return taken

    def drop(self, gone: set[TopicPartition]) -> None:
        """These have gone again."""
        self.starts = {at: start for at, start in self.starts.items() if at not in gone}
        self.agent_offsets = {who: offset for who, offset in self.agent_offsets.items() if who[0] not in gone}
        self.uncommitted = [at for at in self.uncommitted if at not in gone]

    def place(self, starts: Mapping[TopicPartition, int]) -> None:
        """It is certain where these begin, of those that are still here."""
        self.starts |= {at: start for at, start in starts.items() if at in self.starts}
        self.uncommitted = [at for at in self.uncommitted if at not in starts]

    def committed_beside(self, at: TopicPartition) -> bool:
        """Whether some topic's partition of the same number has a committed offset."""
        committed = (other.partition for other in self.starts if other not in self.uncommitted)
        return at.partition in self.active_numbers or at.partition in committed
