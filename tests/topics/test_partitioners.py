"""Keys have the same partition as with Kafka's Java client."""

from __future__ import annotations

import pytest
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.partitioners import HashPartitioner, murmur2
from anabranch.topics.producer import TransactionalProducer

# From Kafka's own UtilsTest, as the signed numbers that Java shows.
GOLDEN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}

KEYS = [
    b"",
    b"a",
    b"ab",
    b"abc",
    b"abcd",
    "Zürich".encode(),
    "東京".encode(),
    "🛶".encode(),
    bytes(range(256)),
    b"\0" * 7,
]
KEYS += [f"user-{n}".encode() for n in range(200)]


@pytest.mark.parametrize(("data", "expected"), GOLDEN.items(), ids=lambda x: repr(x)[:24])
def test_murmur2_is_kafkas(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected & 0xFFFFFFFF


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 12, 100])
def test_every_partition_is_in_range_and_used(partitions: int) -> None:
    partitioner = HashPartitioner(partitions)
    assert {partitioner.partition(str(n).encode()) for n in range(100 * partitions)} == set(range(partitions))


def test_records_land_where_the_partitioner_says(broker: Cluster, fresh, drain) -> None:
    topic, partitions = fresh("partitioner"), 7
    Admin(broker).create([TopicSpec(topic, partitions)])
    producer = TransactionalProducer(broker, fresh("tx"), transaction_timeout_ms=120_000)
    producer.open()
    producer.begin()
    for key in KEYS:
        producer.produce(topic, b"v", key)
    producer.commit()

    partitioner = HashPartitioner(partitions)
    landed = {message.key(): message.partition() for message in drain(topic)}
    assert landed == {key: partitioner.partition(key) for key in KEYS}
