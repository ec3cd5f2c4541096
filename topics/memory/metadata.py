"""The metadata that clients list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError
from confluent_kafka.admin import BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata

from .memory_topic import Topic

__all__ = ["cluster_metadata"]


def cluster_metadata(
    cluster_id: str, broker: tuple[int, str, int], topics: Mapping[str, Topic], only: str | None
) -> ClusterMetadata:
    """Return the metadata of a cluster of one broker (its id, host and port).

    Args:
        only: the topic that is asked for; None for all.
    """
    number, host, port = broker
    # The attributes' types in confluent_kafka are those of their initial values.
    found: Any = ClusterMetadata()
    node: Any = BrokerMetadata()
    node.id, node.host, node.port = number, host, port
    found.cluster_id, found.controller_id, found.brokers = cluster_id, number, {number: node}
    found.orig_broker_id, found.orig_broker_name = number, f"{host}:{port}/{number}"
    wanted = sorted(topics) if only is None else [only]
    found.topics = {name: _topic_metadata(name, topics.get(name), number) for name in wanted}
    return found


def _topic_metadata(name: str, topic: Topic | None, number: int) -> TopicMetadata:
    metadata = TopicMetadata()
    metadata.topic = name
    if topic is None:
        metadata.error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return metadata
    for log in topic.logs:
        partition = PartitionMetadata()
        partition.id, partition.leader, partition.replicas, partition.isrs = log.partition, number, [number], [number]
        metadata.partitions[log.partition] = partition
    return metadata
