"""Where a partition goes on: committed offsets, and the marks that ride in their metadata.

Metadata is JSON, `{"marks": {"<agent>": offset}}`, only where an agent is further than the committed offset. Kafka
bounds it by `offset.metadata.max.bytes`, 4,096 by default.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from ...topics import pulse
from ...topics.admin import Admin
from ...topics.client import Cluster
from ...topics.deadletter import RETRY_SUFFIX
from ...topics.errors import Hung, Stop, from_kafka, is_lost, is_unreachable, kafka_error, passes
from ..engine.inbox import Position
from ..settings import EngineSettings

__all__ = ["ASK_S", "SETTLED", "Assignment", "assigned", "begin_at_ends", "may_pass", "read_marks", "write_marks"]

MAX_METADATA_BYTES = 4096
ASK_S = 5.0

# Committed offsets are told when the transactions on their way are settled: that of a dead worker takes its timeout and
# the broker's 10 s. In waits for a client that hangs.
SETTLED = 2.5


@dataclass(slots=True)
class Assignment:
    """Partitions that have come to this worker.

    Attributes:
        starts: partition -> offset of the next record to handle.
        marks: (partition, agent) -> its own next offset, where it is further.
        uncommitted: partitions without a committed offset; they start where the topic begins.
        flowing: numbers of partitions that this worker has, restored, of other topics.
        ids: topic -> its id, asked for before its offsets were read.
        anew: topics that were deleted and made anew since this worker has read them.
        began_s: when the rebalance began that brought them, on the monotonic clock.
    """

    starts: dict[Position, int] = field(default_factory=dict[Position, int])
    marks: dict[tuple[Position, str], int] = field(default_factory=dict[tuple[Position, str], int])
    uncommitted: list[Position] = field(default_factory=list[Position])
    flowing: set[int] = field(default_factory=set[int])
    ids: dict[str, str] = field(default_factory=dict[str, str])
    anew: set[str] = field(default_factory=set[str])
    began_s: float = 0.0

    def add(self, other: Assignment) -> None:
        """These have come, too."""
        self.drop(set(other.starts))
        self.starts |= other.starts
        self.marks |= other.marks
        self.uncommitted += other.uncommitted
        self.flowing |= other.flowing
        self.ids |= other.ids
        self.anew |= other.anew

    def take(self, numbers: set[int]) -> Assignment:
        """Take out the partitions of these numbers, of all topics."""
        taken = Assignment(
            {at: start for at, start in self.starts.items() if at.partition in numbers},
            {who: mark for who, mark in self.marks.items() if who[0].partition in numbers},
            [at for at in self.uncommitted if at.partition in numbers],
            self.flowing,
            self.ids,
            self.anew,
        )
        self.drop(set(taken.starts))
        return taken

    def drop(self, gone: set[Position]) -> None:
        """These have gone again."""
        self.starts = {at: start for at, start in self.starts.items() if at not in gone}
        self.marks = {who: mark for who, mark in self.marks.items() if who[0] not in gone}
        self.uncommitted = [at for at in self.uncommitted if at not in gone]

    def place(self, starts: Mapping[Position, int]) -> None:
        """It is certain where these begin, of those that are still here."""
        self.starts |= {at: start for at, start in starts.items() if at in self.starts}
        self.uncommitted = [at for at in self.uncommitted if at not in starts]

    def committed_beside(self, at: Position) -> bool:
        """Whether some topic's partition of the same number has a committed offset."""
        committed = (other.partition for other in self.starts if other not in self.uncommitted)
        return at.partition in self.flowing or at.partition in committed


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


def assigned(
    kafka: Any, partitions: list[TopicPartition], admin: Admin, cluster: Cluster, settings: EngineSettings
) -> Assignment:
    """Partitions that a consumer is given: committed offsets, the topic's beginning where there is none (blocking; it
    waits for offsets of open transactions).

    Raises:
        Hung: the consumer does not get an answer.
        Stop: no broker answers.
    """
    assignment = Assignment()
    without: list[TopicPartition] = []
    for partition in _committed(kafka, partitions, cluster, settings.patience_s):
        at = Position(partition.topic, partition.partition)
        if partition.offset >= 0:
            assignment.starts[at] = partition.offset
            for agent, mark in read_marks(partition.metadata).items():
                assignment.marks[at, agent] = mark
        else:
            without.append(partition)
            assignment.uncommitted.append(at)
    for at, offset in admin.begins(without).items():
        assignment.starts[Position(*at)] = offset
    return assignment


def begin_at_ends(
    kafka: Any,
    uncommitted: Collection[Position],
    owned: Collection[Position],
    later: Collection[str],
    admin: Admin,
    cluster: Cluster,
    settings: EngineSettings,
) -> dict[Position, int]:
    """Where a group that starts at the ends of its topics begins, of partitions for which it has no offset (blocking).

    That is for partitions that are there when the group first commits offsets of their topic. The member that owns
    partition 0 commits the last stable offsets of all of them at once, through the group; then it is certain where each
    begins, whether or not a record comes before the next start. A partition of a topic that has offsets in others came
    later, and begins at its beginning.

    Args:
        later: topics that came later as a whole.

    Returns:
        The offsets of those of which it is certain. The others wait for another member, or for the group to settle.
    """
    # What `dlq replay` re-published before a worker saw the topic was meant for it.
    fresh = {at.topic for at in uncommitted if at.topic not in later and not at.topic.endswith(RETRY_SUFFIX)}
    counts = admin.partitions(fresh) if fresh else {}
    every = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
    asked = {(at.topic, at.partition): at.offset for at in _committed(kafka, every, cluster, settings.patience_s)}
    found = {Position(*at): offset for at, offset in asked.items() if offset >= 0}
    fresh -= {at.topic for at in found}
    mine = [at for at in every if at.topic in fresh and Position(at.topic, 0) in owned]
    if mine:
        ends = admin.ends(mine, committed=True)
        if _commit(kafka, [TopicPartition(*at, offset) for at, offset in ends.items()], cluster):
            found |= {Position(*at): offset for at, offset in ends.items()}
            fresh -= {at.topic for at in mine}
    begins = admin.begins(TopicPartition(*at) for at in uncommitted if at.topic not in fresh and at not in found)
    found |= {Position(*at): offset for at, offset in begins.items()}
    return {at: found[at] for at in uncommitted if at in found}


def _commit(kafka: Any, offsets: list[TopicPartition], cluster: Cluster) -> bool:
    """Commit through the group (blocking); False where it is rebalancing, or does not answer yet."""
    try:
        for committed in kafka.commit(offsets=offsets, asynchronous=False):
            if committed.error is not None:
                raise KafkaException(committed.error)
    except KafkaException as exc:
        if is_lost(kafka_error(exc)) or may_pass(exc):
            return False
        raise from_kafka(exc, "commit where the group begins", servers=cluster.bootstrap_servers) from exc
    return True


def _committed(
    kafka: Any, partitions: list[TopicPartition], cluster: Cluster, patience_s: float
) -> list[TopicPartition]:
    if not partitions:
        return []
    began = time.monotonic()
    while True:
        try:
            found: list[TopicPartition] = kafka.committed(partitions, timeout=ASK_S)
            for partition in found:
                if partition.error is not None:  # not the same as a group that has committed nothing
                    raise KafkaException(partition.error)
            return found
        except KafkaException as exc:
            waited_s = time.monotonic() - began
            if not may_pass(exc) or waited_s > patience_s:
                raise from_kafka(exc, "read committed offsets", servers=cluster.bootstrap_servers) from exc
            if waited_s > SETTLED * pulse.HUNG_S and pulse.answers(cluster):
                raise Hung(f"the consumer has not read committed offsets for {waited_s:.0f} s") from exc
            time.sleep(0.05)


def may_pass(exc: KafkaException) -> bool:
    """Whether asking again may help."""
    error = kafka_error(exc)
    return passes(error) or is_unreachable(error)
