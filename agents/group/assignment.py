"""Where a partition goes on: committed offsets, and the marks that ride in their metadata.

Metadata is JSON, `{"marks": {"<agent>": offset}}`, only where an agent is further than the committed offset. Kafka
bounds it by `offset.metadata.max.bytes`, 4,096 by default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import TopicPartition

from ...topics.errors import Stop
from ..engine.inbox import Position

__all__ = ["Assignment", "read_marks", "write_marks"]

MAX_METADATA_BYTES = 4096


@dataclass(slots=True)
class Assignment:
    """Partitions that have come to this worker.

    Attributes:
        starts: partition -> offset of the next record to handle.
        marks: (partition, agent) -> its own next offset, where it is further.
        uncommitted: partitions without a committed offset; they start where the topic begins.
        began_s: when the rebalance began that brought them, on the monotonic clock.
    """

    starts: dict[Position, int] = field(default_factory=dict[Position, int])
    marks: dict[tuple[Position, str], int] = field(default_factory=dict[tuple[Position, str], int])
    uncommitted: list[Position] = field(default_factory=list[Position])
    began_s: float = 0.0

    def add(self, other: Assignment) -> None:
        """These have come, too."""
        self.drop(set(other.starts))
        self.starts |= other.starts
        self.marks |= other.marks
        self.uncommitted += other.uncommitted

    def take(self, numbers: set[int]) -> Assignment:
        """Take out the partitions of these numbers, of all topics."""
        taken = Assignment(
            {at: start for at, start in self.starts.items() if at.partition in numbers},
            {who: mark for who, mark in self.marks.items() if who[0].partition in numbers},
            [at for at in self.uncommitted if at.partition in numbers],
        )
        self.drop(set(taken.starts))
        return taken

    def drop(self, gone: set[Position]) -> None:
        """These have gone again."""
        self.starts = {at: start for at, start in self.starts.items() if at not in gone}
        self.marks = {who: mark for who, mark in self.marks.items() if who[0] not in gone}
        self.uncommitted = [at for at in self.uncommitted if at not in gone]

    def committed_beside(self, at: Position) -> bool:
        """Whether some topic's partition of the same number has a committed offset."""
        return any(other.partition == at.partition and other not in self.uncommitted for other in self.starts)


def read_marks(metadata: str | None) -> dict[str, int]:
    """Agent -> mark; metadata of other programs is none of ours and gives nothing."""
    if not metadata:
        return {}
    try:
        return {str(agent): int(mark) for agent, mark in json.loads(metadata)["marks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def write_marks(progress: Mapping[Position, int], marks: Mapping[tuple[Position, str], int]) -> list[TopicPartition]:
    """Offsets to commit.

    Raises:
        Stop: more agents read one topic than fit into the metadata.
    """
    by_partition: dict[Position, dict[str, int]] = {}
    for (at, agent), mark in marks.items():
        by_partition.setdefault(at, {})[agent] = mark
    offsets: list[TopicPartition] = []
    for at, offset in progress.items():
        ahead = by_partition.get(at)
        metadata = json.dumps({"marks": ahead}, separators=(",", ":")) if ahead else ""
        if len(metadata) > MAX_METADATA_BYTES:
            raise Stop(
                f"{at.topic}: too many agents on one topic to keep their progress apart",
                hint="shorten their names, or spread them over several apps",
            )
        offsets.append(TopicPartition(at.topic, at.partition, offset, metadata))
    return offsets
