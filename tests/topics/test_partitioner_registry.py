"""Range partitioners: the partition of a key, learned split points, and the registry in the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.partitioner_registry import PartitionerRegistry
from anabranch.topics.partitioners import HashPartitioner, RangePartitioner
from hypothesis import assume, given
from hypothesis import strategies as st

KEYS = st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=60)


@given(st.sets(st.binary(min_size=1, max_size=3), max_size=6), KEYS)
def test_partitions_follow_each_other_in_the_order_of_keys(splits: set[bytes], keys: list[bytes]) -> None:
    partitioner = RangePartitioner(tuple(sorted(splits)))
    places = partitioner.partitions_of(sorted(keys))
    assert places == sorted(places)
    for key in keys:
        # The dumb twin: how many ranges begin at or before the key.
        assert partitioner.partition(key) == sum(split <= key for split in splits) < partitioner.partitions


@given(KEYS, st.integers(1, 6))
def test_learned_ranges_are_all_used_and_no_wider_than_they_must_be(keys: list[bytes], partitions: int) -> None:
    assume(len(set(keys)) >= partitions)
    partitioner = RangePartitioner.learned(keys, partitions)
    shares = Counter(partitioner.partitions_of(keys))
    assert set(shares) == set(range(partitions))
    # A range is over its even share by less than its borders' keys have records.
    heaviest = max(Counter(keys).values())
    if heaviest == 1:
        assert max(shares.values()) <= -(-len(keys) // partitions) + 1


@pytest.mark.parametrize("wrong", ["", "range:", "p,g", "g,g", "a,,b"])
def test_split_points_that_make_no_sense_are_refused(wrong: str) -> None:
    with pytest.raises(Usage) as caught:
        RangePartitioner.parsed(wrong)
    assert caught.value.hint


def test_a_partitioner_is_kept_with_its_topic_and_goes_with_it(broker: Cluster, fresh) -> None:
    topic, other, admin, partitioners = fresh("ranged"), fresh("hashed"), Admin(broker), PartitionerRegistry(broker)
    partitioner = RangePartitioner.parsed("g,p")
    partitioners.create(TopicSpec(topic, 3), partitioner)
    admin.create([TopicSpec(other, 3)])

    assert PartitionerRegistry(broker).of([topic, other]) == {topic: partitioner}
    assert partitioners.check(topic, 3, None) == partitioner == partitioners.check(topic, 3, partitioner)
    assert partitioners.check(other, 3, None) == HashPartitioner(3)
    with pytest.raises(Usage, match="is partitioned by range:g,p, not by range:h,p"):
        partitioners.check(topic, 3, RangePartitioner.parsed("h,p"))
    with pytest.raises(Usage, match="not by hash"):
        partitioners.check(topic, 3, HashPartitioner(3))

    admin.delete([topic])
    admin.create([TopicSpec(topic, 3)])
    assert partitioners.of([topic]) == {}, "it is another topic now"
    assert partitioners.check(topic, 3, partitioner) == partitioner, "an empty one can still be given a partitioner"
    assert partitioners.of([topic]) == {topic: partitioner}


def test_a_record_that_is_no_partitioner_stops_only_its_own_topic(
    broker: Cluster, fresh: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.topics.partitioner_registry.PARTITIONERS_TOPIC", registry := fresh("partitioners"))
    good, bad, admin = fresh("good"), fresh("bad"), Admin(broker)
    admin.create([TopicSpec(bad, 3), TopicSpec(registry, 1, config={"cleanup.policy": "compact"})])
    PartitionerRegistry(broker).create(TopicSpec(good, 2), partitioner := RangePartitioner((b"m",)))
    producer = broker.producer()

    def write(key: str, value: bytes | None) -> None:
        producer.produce(registry, value, key)
        assert producer.flush(60) == 0

    write("no-such-topic", b"{}")
    write(bad, b'{"x":' + b"[" * 100_000)
    assert PartitionerRegistry(broker).of([good]) == {good: partitioner}
    for asked in ([good, bad], None):
        with pytest.raises(Stop, match=rf"topic {bad}: its partitioner cannot be read: {registry}\[0\]@2"):
            PartitionerRegistry(broker).of(asked)
    write(bad, None)
    assert PartitionerRegistry(broker).of() == {good: partitioner}
