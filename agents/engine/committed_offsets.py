"""Reads and writes committed offsets, and what their metadata say of agents.

The metadata is JSON, `{"agents": {"<agent>": offset}, "time": {"<agent>": channel state}}`: the offsets of agents that
are ahead of the committed offset, and the event time of the partition as an agent with windows knows it at its own
offset. Each part is left out where there is nothing to say. Kafka limits the size by `offset.metadata.max.bytes`, 4,096
by default.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from ...topics import client_watchdog
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import RETRY_SUFFIX
from ...topics.errors import Stop, from_kafka, is_fatal, is_lost, kafka_error, may_pass
from ...topics.topic_partition import TopicPartition, listed
from ..assigned_partitions import Assignment
from .settings import EngineSettings

__all__ = [
    "ASK_S",
    "SETTLED",
    "assigned",
    "begin_at_ends",
    "commit_starts",
    "commit_through_group",
    "offsets_to_commit",
    "read_agent_offsets",
    "read_channel_states",
    "refuse_open_transactions",
]

logger = logging.getLogger(__name__)

MAX_METADATA_BYTES = 4096
ASK_S = 5.0

# In units of `client_watchdog.HUNG_S`. The broker returns committed offsets only after pending transactions have ended;
# the transaction of a dead worker ends after its timeout and the broker's check interval of 10 s.
SETTLED = 2.5


def read_agent_offsets(metadata: str | None) -> dict[str, int]:
    """Return agent -> offset; empty for metadata that another program has written."""
    try:
        return {agent: int(offset) for agent, offset in _of_agents(metadata, "agents").items()}
    except (ValueError, TypeError, OverflowError):
        return {}


def read_channel_states(metadata: str | None) -> dict[str, object]:
    """Return agent -> channel state; empty for metadata that another program has written."""
    return _of_agents(metadata, "time")


def _of_agents(metadata: str | None, part: str) -> dict[str, Any]:
    """Return agent -> what a part of the metadata says of it; empty if there is no such part."""
    if not metadata:
        return {}
    try:
        return dict(json.loads(metadata)[part].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def offsets_to_commit(
    progress: Mapping[TopicPartition, int],
    agent_offsets: Mapping[tuple[TopicPartition, str], int],
    channel_states: Mapping[tuple[TopicPartition, str], object] | None = None,
) -> list[KafkaPartition]:
    """Return the offsets to commit, with agent offsets and channel states in their metadata.

    Raises:
        Stop: the offsets of the agents that read one topic do not fit into the metadata.
    """
    by_partition: dict[TopicPartition, dict[str, dict[str, object]]] = {}
    for name, of_agents in (("agents", agent_offsets), ("time", channel_states or {})):
        for (at, agent), said in of_agents.items():
            by_partition.setdefault(at, {}).setdefault(name, {})[agent] = said
    offsets: list[KafkaPartition] = []
    for at, offset in progress.items():
        said = by_partition.get(at)
        metadata = json.dumps(said, separators=(",", ":")) if said else ""
        if len(metadata) > MAX_METADATA_BYTES:
            raise Stop(
                f"{at.topic}: too many agents on one topic to store the offset of each",
                hint="shorten the names of the agents, or distribute them over several apps",
            )
        offsets.append(KafkaPartition(at.topic, at.partition, offset, metadata))
    return offsets


def assigned(
    kafka: Any, partitions: list[KafkaPartition], admin: Admin, cluster: Cluster, settings: EngineSettings
) -> Assignment:
    """Return the assignment of partitions: each starts at its committed offset, or else at its beginning (blocking).

    Wait until open transactions that contain offsets of these partitions have ended.

    Raises:
        Hung: this consumer is fenced or broken, or gets no answer although the cluster answers.
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
            for agent, state in read_channel_states(partition.metadata).items():
                assignment.channel_states[at, agent] = state
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
    """Find the start offsets of partitions without a committed offset, in a group that starts at the ends (blocking).

    A group starts at the end of those partitions that exist when it first commits offsets of their topic. The member
    that owns partition 0 commits the last stable offsets of all partitions of the topic at once, through the group. The
    start of each partition is then fixed, even if no record arrives before the next start of a worker. If other
    partitions of the topic have committed offsets, the partition was added later and starts at its beginning.

    Args:
        uncommitted: the partitions without a committed offset.
        owned: the partitions that this worker owns.
        later: topics that count as added later as a whole, such as recreated topics and those that the app creates;
            all their partitions start at the beginning.

    Returns:
        The start offsets that are fixed. The other partitions wait until another member commits their offsets, or until
        the rebalance is complete.
    """
    # Retry topics are read from their beginning: `dlq replay` may re-publish records before a worker sees the topic.
    fresh = {at.topic for at in uncommitted if at.topic not in later and not at.topic.endswith(RETRY_SUFFIX)}
    counts = admin.partitions(fresh) if fresh else {}
    every = [KafkaPartition(topic, number) for topic, count in counts.items() for number in range(count)]
    known = {(at.topic, at.partition): at.offset for at in _committed(kafka, every, cluster, settings.patience_s)}
    found = {TopicPartition(*at): offset for at, offset in known.items() if offset >= 0}
    fresh -= {at.topic for at in found}
    own = [at for at in every if at.topic in fresh and TopicPartition(at.topic, 0) in owned]
    if own:
        ends = admin.ends(own, committed=True)
        if commit_starts(kafka, [KafkaPartition(*at, offset) for at, offset in ends.items()], cluster):
            found |= {TopicPartition(*at): offset for at, offset in ends.items()}
            fresh -= {at.topic for at in own}
    begins = admin.begins(KafkaPartition(*at) for at in uncommitted if at.topic not in fresh and at not in found)
    found |= {TopicPartition(*at): offset for at, offset in begins.items()}
    return {at: found[at] for at in uncommitted if at in found}


def commit_starts(kafka: Any, offsets: list[KafkaPartition], cluster: Cluster) -> bool:
    """Commit through the group (blocking); return False if it is rebalancing or does not answer yet.

    Raises:
        Hung: the consumer is fenced or broken.
    """
    try:
        commit_through_group(kafka, offsets)
    except KafkaException as exc:
        error = kafka_error(exc)
        if is_lost(error) or may_pass(error):
            return False
        if is_fatal(error):
            raise client_watchdog.unusable("commit where the group begins", error) from exc
        raise from_kafka(exc, "commit where the group begins", servers=cluster.bootstrap_servers) from exc
    return True


def refuse_open_transactions(admin: Admin, group: str, partitions: Iterable[KafkaPartition]) -> None:
    """Check that no transaction holds back the committed offsets of these partitions (blocking).

    To be called after `assigned` has waited for longer than such a transaction can last.

    Raises:
        Stop: one of them is still open, so only an operator can end it.
    """
    if held := admin.in_open_transactions(group, partitions):
        raise Stop(
            f"group {group}: the committed offsets of {listed(held)} are part of a transaction that has not ended for "
            f"{SETTLED * client_watchdog.HUNG_S:.0f} s",
            hint="find it with kafka-transactions.sh find-hanging, and end it with abort. Kafka 4.3 and 4.4 leave "
            "transactions open that are committed while a partition has no leader (KAFKA-20734)",
        )


def _committed(
    kafka: Any, partitions: list[KafkaPartition], cluster: Cluster, patience_s: float
) -> list[KafkaPartition]:
    """Return the committed offsets of the group (blocking); an error of a partition does not count as no offset."""
    if not partitions:
        return []
    warned = False

    def ask() -> list[KafkaPartition]:
        nonlocal warned
        try:
            return _without_errors(kafka.committed(partitions, timeout=ASK_S))
        except KafkaException as exc:
            if not warned and may_pass(kafka_error(exc)):
                warned = True
                logger.warning(
                    "waiting for committed offsets: no broker answers, or they are part of an open transaction, which "
                    "ends at most %.0f s after its worker has died",
                    SETTLED * client_watchdog.HUNG_S,
                )
            raise

    return client_watchdog.until_answered(
        "read committed offsets",
        ask,
        cluster,
        patience_s=patience_s,
        hung_s=SETTLED * client_watchdog.HUNG_S,
    )


def commit_through_group(kafka: Any, offsets: list[KafkaPartition]) -> None:
    """Commit offsets with the consumer's generation (blocking).

    Raises:
        KafkaException: the group did not take the offset of one of the partitions.
    """
    _without_errors(kafka.commit(offsets=offsets, asynchronous=False))


def _without_errors(partitions: list[KafkaPartition]) -> list[KafkaPartition]:
    for partition in partitions:
        if partition.error is not None:
            raise KafkaException(partition.error)
    return partitions
