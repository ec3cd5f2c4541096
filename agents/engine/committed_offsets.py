"""Where a partition goes on: committed offsets, and the offsets of single agents in their metadata.

Metadata is JSON, `{"agents": {"<agent>": offset}}`, only where an agent is further than the committed offset. Kafka
bounds it by `offset.metadata.max.bytes`, 4,096 by default.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from ...topics import client_watchdog, clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import RETRY_SUFFIX
from ...topics.errors import Hung, Stop, from_kafka, is_lost, is_unreachable, kafka_error, passes
from ...topics.topic_partition import TopicPartition
from ..assignment import Assignment
from .settings import EngineSettings

__all__ = ["ASK_S", "SETTLED", "assigned", "begin_at_ends", "may_pass", "offsets_to_commit", "read_agent_offsets"]

MAX_METADATA_BYTES = 4096
ASK_S = 5.0

# Committed offsets are told when the transactions on their way are settled: that of a dead worker takes its timeout and
# the broker's 10 s. In waits for a client that hangs.
SETTLED = 2.5


def read_agent_offsets(metadata: str | None) -> dict[str, int]:
    """Agent -> offset; metadata of other programs is none of ours and gives nothing."""
    if not metadata:
        return {}
    try:
        return {str(agent): int(offset) for agent, offset in json.loads(metadata)["agents"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def offsets_to_commit(
    progress: Mapping[TopicPartition, int], agent_offsets: Mapping[tuple[TopicPartition, str], int]
) -> list[KafkaPartition]:
    """Offsets to commit.

    Raises:
        Stop: more agents read one topic than fit into the metadata.
    """
    by_partition: dict[TopicPartition, dict[str, int]] = {}
    for (at, agent), offset in agent_offsets.items():
        by_partition.setdefault(at, {})[agent] = offset
    offsets: list[KafkaPartition] = []
    for at, offset in progress.items():
        ahead = by_partition.get(at)
        metadata = json.dumps({"agents": ahead}, separators=(",", ":")) if ahead else ""
        if len(metadata) > MAX_METADATA_BYTES:
            raise Stop(
                f"{at.topic}: too many agents on one topic to keep their progress apart",
                hint="shorten their names, or spread them over several apps",
            )
        offsets.append(KafkaPartition(at.topic, at.partition, offset, metadata))
    return offsets


def assigned(
    kafka: Any, partitions: list[KafkaPartition], admin: Admin, cluster: Cluster, settings: EngineSettings
) -> Assignment:
    """Partitions that a consumer is given: committed offsets, the topic's beginning where there is none (blocking; it
    waits for offsets of open transactions).

    Raises:
        Hung: the consumer does not get an answer.
        Stop: no broker answers.
    """
    assignment = Assignment()
    without: list[KafkaPartition] = []
    for partition in _committed(kafka, partitions, cluster, settings.patience_s):
        at = TopicPartition(partition.topic, partition.partition)
        if partition.offset >= 0:
            assignment.starts[at] = partition.offset
            for agent, offset in read_agent_offsets(partition.metadata).items():
                assignment.agent_offsets[at, agent] = offset
        else:
            without.append(partition)
            assignment.uncommitted.append(at)
    for at, offset in admin.begins(without).items():
        assignment.starts[TopicPartition(*at)] = offset
    return assignment


def begin_at_ends(
    kafka: Any,
    uncommitted: Collection[TopicPartition],
    owned: Collection[TopicPartition],
    later: Collection[str],
    admin: Admin,
    cluster: Cluster,
    settings: EngineSettings,
) -> dict[TopicPartition, int]:
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
    every = [KafkaPartition(topic, number) for topic, count in counts.items() for number in range(count)]
    asked = {(at.topic, at.partition): at.offset for at in _committed(kafka, every, cluster, settings.patience_s)}
    found = {TopicPartition(*at): offset for at, offset in asked.items() if offset >= 0}
    fresh -= {at.topic for at in found}
    mine = [at for at in every if at.topic in fresh and TopicPartition(at.topic, 0) in owned]
    if mine:
        ends = admin.ends(mine, committed=True)
        if _commit(kafka, [KafkaPartition(*at, offset) for at, offset in ends.items()], cluster):
            found |= {TopicPartition(*at): offset for at, offset in ends.items()}
            fresh -= {at.topic for at in mine}
    begins = admin.begins(KafkaPartition(*at) for at in uncommitted if at.topic not in fresh and at not in found)
    found |= {TopicPartition(*at): offset for at, offset in begins.items()}
    return {at: found[at] for at in uncommitted if at in found}


def _commit(kafka: Any, offsets: list[KafkaPartition], cluster: Cluster) -> bool:
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
    kafka: Any, partitions: list[KafkaPartition], cluster: Cluster, patience_s: float
) -> list[KafkaPartition]:
    if not partitions:
        return []
    began = clock.now_s()
    while True:
        try:
            found: list[KafkaPartition] = kafka.committed(partitions, timeout=ASK_S)
            for partition in found:
                if partition.error is not None:  # not the same as a group that has committed nothing
                    raise KafkaException(partition.error)
            return found
        except KafkaException as exc:
            waited_s = clock.now_s() - began
            if not may_pass(exc) or waited_s > patience_s:
                raise from_kafka(exc, "read committed offsets", servers=cluster.bootstrap_servers) from exc
            if waited_s > SETTLED * client_watchdog.HUNG_S and client_watchdog.answers(cluster):
                raise Hung(f"the consumer has not read committed offsets for {waited_s:.0f} s") from exc
            clock.sleep(0.05)


def may_pass(exc: KafkaException) -> bool:
    """Whether asking again may help."""
    error = kafka_error(exc)
    return passes(error) or is_unreachable(error)
