"""Counting the committed records of a topic; by reading, since transaction markers occupy offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from confluent_kafka import TopicPartition

from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.control import carries_control, records_of
from ..topics.headers import headers_of
from ..topics.packed import LEAST_BYTES, packed_rows
from ..topics.partition_reader import read_to_end

__all__ = ["count_between", "count_records", "counted_between"]


def count_records(cluster: Cluster, topic: str, partitions: int) -> int:
    """Number of records (rows, where they are packed) a `read_committed` reader sees now."""
    at, admin = [TopicPartition(topic, p) for p in range(partitions)], Admin(cluster)
    return count_between(cluster, admin.begins(at), admin.ends(at, committed=True))


def count_between(cluster: Cluster, starts: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], int]) -> int:
    """Number of records (rows, where they are packed) a `read_committed` reader sees between offsets, by topic and
    partition; what has been deleted meanwhile is not among them."""
    return sum(counted_between(cluster, starts, ends))


def counted_between(
    cluster: Cluster, starts: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], int]
) -> Iterator[int]:
    """Likewise, a number for each run of them that was read."""
    for run in read_to_end(cluster, starts, ends):
        end = ends[run.at]
        messages = run.messages if run.position <= end else [m for m in run.messages if m.offset() < end]
        if carries_control(run.at[0]):
            messages = records_of(messages)
        yield len(messages) + sum(packed_rows(headers_of(m)) - 1 for m in messages if len(m) >= LEAST_BYTES)
