"""Counting the committed records of a topic; by reading, since transaction markers occupy offsets."""

from __future__ import annotations

from confluent_kafka import TopicPartition

from ..topics.admin import Admin
from ..topics.client import Cluster
from ..topics.reading import read_to_end

__all__ = ["count_records"]


def count_records(cluster: Cluster, topic: str, partitions: int) -> int:
    """Number of records a `read_committed` reader sees now."""
    at, admin = [TopicPartition(topic, p) for p in range(partitions)], Admin(cluster)
    runs = read_to_end(cluster, admin.begins(at), admin.ends(at, committed=True))
    return sum(len(run.messages) for run in runs)
