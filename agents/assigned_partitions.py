"""The partitions that a rebalance has assigned to this worker, and their start offsets."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..topics.topic_partition import TopicPartition

__all__ = ["Assignment"]


@dataclass(slots=True)
class Assignment:
    """Partitions that were assigned to this worker, before they are part of its tasks (`engine/task.py`).

    Attributes:
        starts: partition -> offset of the next record to process.
        agent_offsets: (partition, agent) -> the agent's own next offset, if it is ahead of the partition's.
        channel_states: (partition, agent) -> the channel state that the agent has committed with it.
        uncommitted: partitions without a committed offset; they start at the beginning of the topic.
        ids: topic -> its id, which was requested before the offsets of the topic were read.
        began_s: time at which the rebalance began, in seconds on the monotonic clock.
    """

    starts: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    agent_offsets: dict[tuple[TopicPartition, str], int] = field(default_factory=dict[tuple[TopicPartition, str], int])
    uncommitted: list[TopicPartition] = field(default_factory=list[TopicPartition])
    ids: dict[str, str] = field(default_factory=dict[str, str])
    began_s: float = 0.0
    channel_states: dict[tuple[TopicPartition, str], object] = field(
        default_factory=dict[tuple[TopicPartition, str], object]
    )

    def add(self, other: Assignment) -> None:
        """Add the partitions of another assignment; they replace partitions that are already in this one."""
        self.drop(set(other.starts))
        self.starts |= other.starts
        self.agent_offsets |= other.agent_offsets
        self.channel_states |= other.channel_states
        self.uncommitted += other.uncommitted
        self.ids |= other.ids

    def drop(self, dropped: set[TopicPartition]) -> None:
        """Remove partitions, such as those that were revoked."""
        self.starts = {at: start for at, start in self.starts.items() if at not in dropped}
        self.agent_offsets = {
            reader: offset for reader, offset in self.agent_offsets.items() if reader[0] not in dropped
        }
        self.channel_states = {r: state for r, state in self.channel_states.items() if r[0] not in dropped}
        self.uncommitted = [at for at in self.uncommitted if at not in dropped]
