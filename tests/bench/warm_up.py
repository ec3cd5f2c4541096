"""Warms up the broker before the first turn, with requests of the kinds that all contenders make.

A broker that has just started runs interpreted, and its Java compiles what is called often. Whoever comes first would
pay for that, and the others would not.
"""

from __future__ import annotations

import time
import uuid
from itertools import count
from pathlib import Path

from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import Consumer, TopicPartition
from records import PARTITIONS

__all__ = ["warm_broker", "warm_files"]

_TRANSACTION = 4_000
_VALUE = b'{"user":"user-%d","amount":%d,"at":1700000000000}'
_READ_BYTES = 1 << 20


def warm_broker(cluster: Cluster, seconds: float) -> int:
    """Write in transactions, with offsets in them, and read what they commit; returns how many there were."""
    topic = f"bench-warm-{uuid.uuid4().hex[:8]}"
    Admin(cluster).create([TopicSpec(topic, PARTITIONS)])
    partitions = [TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)]
    reader = Consumer(
        cluster.config(
            group_id=topic, enable_auto_commit=False, isolation_level="read_committed", fetch_queue_backoff_ms=2
        )
    )
    writer = TransactionalProducer(cluster, topic)
    until_s = time.monotonic() + seconds
    try:
        reader.assign(partitions)
        writer.open()
        for done in count(1):
            writer.begin()
            for number in range(_TRANSACTION):
                key = b"user-%d" % (number * done % 100_000)
                writer.produce(topic, _VALUE % (number, done % 100), key, number % PARTITIONS)
            offsets = [TopicPartition(topic, at.partition, done) for at in partitions]
            writer.send_offsets(offsets, reader.consumer_group_metadata())
            writer.commit()
            reader.consume(2 * _TRANSACTION, 0)
            if time.monotonic() > until_s:
                return done
    finally:
        writer.close()
        reader.close()
        Admin(cluster).delete([topic])
    raise AssertionError("unreachable")


def warm_files(*paths: Path) -> None:
    """Have the system hold files in memory, as it does from the second reading on."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass
