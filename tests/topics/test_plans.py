"""Range plans: where keys go, how split points are learned, and that everybody keeps to a topic's plan."""

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
    plan = RangePartitioner(tuple(sorted(splits)))
    places = plan.places(sorted(keys))
    assert places == sorted(places)
    for key in keys:
        # The dumb twin: how many ranges begin at or before the key.
        assert plan.partition(key) == sum(split <= key for split in splits) < plan.partitions


@given(KEYS, st.integers(1, 6))
def test_learned_ranges_are_all_used_and_no_wider_than_they_must_be(keys: list[bytes], partitions: int) -> None:
    assume(len(set(keys)) >= partitions)
    plan = RangePartitioner.learned(keys, partitions)
    shares = Counter(plan.places(keys))
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


def test_a_plan_is_kept_with_its_topic_and_goes_with_it(broker: Cluster, fresh) -> None:
    topic, other, admin, plans = fresh("ranged"), fresh("hashed"), Admin(broker), PartitionerRegistry(broker)
    plan = RangePartitioner.parsed("g,p")
    plans.create(TopicSpec(topic, 3), plan)
    admin.create([TopicSpec(other, 3)])

    assert PartitionerRegistry(broker).of([topic, other]) == {topic: plan}
    assert plans.check(topic, 3, None) == plan == plans.check(topic, 3, plan)
    assert plans.check(other, 3, None) == HashPartitioner(3)
    with pytest.raises(Usage, match="is spread by range:g,p, not by range:h,p"):
        plans.check(topic, 3, RangePartitioner.parsed("h,p"))
    with pytest.raises(Usage, match="not by hash"):
        plans.check(topic, 3, HashPartitioner(3))

    admin.delete([topic])
    admin.create([TopicSpec(topic, 3)])
    assert plans.of([topic]) == {}, "it is another topic now"
    assert plans.check(topic, 3, plan) == plan, "an empty one can still be given a plan"
    assert plans.of([topic]) == {topic: plan}


def test_a_record_that_is_no_plan_stops_only_its_own_topic(
    broker: Cluster, fresh: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.topics.partitioner_registry.PLANS_TOPIC", of_plans := fresh("plans"))
    good, bad, admin = fresh("good"), fresh("bad"), Admin(broker)
    admin.create([TopicSpec(bad, 3), TopicSpec(of_plans, 1, config={"cleanup.policy": "compact"})])
    PartitionerRegistry(broker).create(TopicSpec(good, 2), plan := RangePartitioner((b"m",)))
    producer = broker.producer()

    def write(key: str, value: bytes | None) -> None:
        producer.produce(of_plans, value, key)
        assert producer.flush(30) == 0

    write("no-such-topic", b"{}")
    write(bad, b'{"x":' + b"[" * 100_000)
    assert PartitionerRegistry(broker).of([good]) == {good: plan}
    for asked in ([good, bad], None):
        with pytest.raises(Stop, match=rf"topic {bad}: its plan cannot be read: {of_plans}\[0\]@2"):
            PartitionerRegistry(broker).of(asked)
    write(bad, None)
    assert PartitionerRegistry(broker).of() == {good: plan}
