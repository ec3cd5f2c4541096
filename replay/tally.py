"""Counting the committed records of a topic; by reading, since transaction markers occupy offsets."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from ..topics.admin import Admin
from ..topics.client import Cluster
from ..topics.errors import Stop

__all__ = ["count_records"]

_IDLE_S = 30.0


def count_records(cluster: Cluster, topic: str, partitions: int) -> int:
    """Number of records a `read_committed` reader sees now."""
    at = [TopicPartition(topic, p) for p in range(partitions)]
    ends = Admin(cluster).ends(at, committed=True)
    waiting = {p: end for (_, p), end in ends.items() if end}
    if not waiting:
        return 0
    consumer = Consumer(
        cluster.config(
            group_id="anabranch-tally",  # required by librdkafka; nothing is ever committed under it
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_partition_eof=True,
            fetch_wait_max_ms=10,
        )
    )
    count, moved_s = 0, time.monotonic()
    try:
        consumer.assign([TopicPartition(topic, p, 0) for p in waiting])
        while waiting:
            messages: list[Any] = consumer.consume(10_000, 0.1)
            if messages:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > _IDLE_S:
                raise Stop(f"topic {topic}: nothing arrived for {_IDLE_S:.0f} s", hint="is the broker up?")
            for message in messages:
                error = message.error()
                reached = message.offset() + (error is None)
                if error is None:
                    count += 1
                elif error.code() != KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
                    continue
                if reached >= waiting.get(message.partition(), reached + 1):
                    del waiting[message.partition()]
    finally:
        consumer.close()
    return count
