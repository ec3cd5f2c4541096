"""Groups of KIP-848's protocol (`group.protocol=consumer`): incremental assignments by the broker."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupType, KafkaError, TopicPartition
from kafka_lab import CALL_S, KafkaLab, error_of, flags
from test_kafka_groups import moved


def member_of(kafka: KafkaLab, group: str, topics: list[str], name: str, log: list[str] | None = None) -> Any:
    config = {"group_protocol": "consumer", "group_remote_assignor": "range", "client_id": name}
    return kafka.member(group, topics, name, log, **config)


def test_members_keep_what_an_assignment_does_not_name(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    log: list[str] = []
    first = member_of(kafka, group, [topic], "a", log)
    moved(kafka, (first, 2))
    assert log == ["a assigned [0:0 0:1] in consume"]
    assert first.generation > 0
    del log[:]
    second = member_of(kafka, group, [topic], "b", log)
    moved(kafka, (first, 1), (second, 1))
    (given,) = second.owned
    verbs = [line for line in log if not line.startswith("a assigned []")]
    assert verbs == [f"a revoked [0:{given[1]}] in consume", f"b assigned [0:{given[1]}] in consume"]
    assert first.owned | second.owned == {(topic, 0), (topic, 1)}
    del log[:]
    second.call("close")
    assert log == [f"b revoked [0:{given[1]}] in close"]
    moved(kafka, (first, 2))
    assert log[1:] == [f"a assigned [0:{given[1]}] in consume"]


def test_a_new_member_joins_before_its_consumer_is_polled(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = member_of(kafka, group, [topic], "a")

    def assigned() -> list[int]:
        return [p.partition for m in kafka.described(group).members for p in m.assignment.topic_partitions]

    kafka.until(lambda: assigned() == [0], "the group assigns the partition")
    assert member.log == []
    moved(kafka, (member, 1))


def test_records_flow_while_other_partitions_move(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    for partition in (0, 1):
        kafka.send(topic, *[b"%d" % partition] * 3, partition=partition)
    first = member_of(kafka, group, [topic], "a")
    kafka.until(lambda: len(first.values) == 6, meanwhile=[first])
    second = member_of(kafka, group, [topic], "b")
    moved(kafka, (first, 1), (second, 1))
    (kept,) = first.owned
    kafka.send(topic, b"more", partition=kept[1])
    kafka.until(lambda: len(first.values) == 7, meanwhile=[first, second])
    assert first.values[6:] == [b"more"]


def test_two_topics_are_placed_alike(kafka: KafkaLab) -> None:
    one, other, group = kafka.topic(2), kafka.topic(2), kafka.name("g")
    members = [member_of(kafka, group, [one, other], name) for name in "ab"]
    moved(kafka, (members[0], 2), (members[1], 2))
    for member in members:
        assert len({partition for _, partition in member.owned}) == 1


@pytest.mark.parametrize("way", ["commit", "transaction"])
def test_offsets_of_a_member_that_has_left_are_refused(kafka: KafkaLab, way: str) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = member_of(kafka, group, [topic], "a")
    moved(kafka, (member, 1))
    old = member.metadata
    producer = kafka.transactional()
    offsets = [TopicPartition(topic, 0, 5)]
    producer.begin_transaction()
    producer.send_offsets_to_transaction(offsets, old, CALL_S)
    producer.commit_transaction(CALL_S)
    member.kafka.unsubscribe()
    kafka.until(lambda: not kafka.described(group).members, "it has left", meanwhile=[member])
    if way == "commit":
        error = error_of(member.kafka.commit, offsets=offsets, asynchronous=False)
        assert flags(error) == (KafkaError.UNKNOWN_MEMBER_ID, "")
    else:
        producer.begin_transaction()
        error = error_of(producer.send_offsets_to_transaction, offsets, old, CALL_S)
        assert flags(error) == (KafkaError.UNKNOWN_MEMBER_ID, "abort")
        producer.abort_transaction(CALL_S)


def test_offsets_of_a_former_epoch_are_refused(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    first = member_of(kafka, group, [topic], "a")
    moved(kafka, (first, 2))
    old = first.metadata
    second = member_of(kafka, group, [topic], "b")
    moved(kafka, (first, 1), (second, 1))
    kafka.until(lambda: first.generation == second.generation, meanwhile=[first, second])
    ((_, given),) = second.owned  # Kafka 4.3 and later accept them for the partition that the first has kept
    producer = kafka.transactional()
    producer.begin_transaction()
    error = error_of(producer.send_offsets_to_transaction, [TopicPartition(topic, given, 5)], old, CALL_S)
    assert flags(error) == (KafkaError.ILLEGAL_GENERATION, "abort")
    producer.abort_transaction(CALL_S)


def test_such_groups_are_described(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = member_of(kafka, group, [topic], "a")
    moved(kafka, (member, 1))
    found = kafka.described(group)
    assert (found.state, found.type) == (ConsumerGroupState.STABLE, ConsumerGroupType.CONSUMER)
    assert found.partition_assignor == "range"
    (shown,) = found.members
    assert (shown.client_id, shown.group_instance_id) == ("a", None)
    assert [(p.topic, p.partition) for p in shown.assignment.topic_partitions] == [(topic, 0)]
    assert shown.member_id == member.kafka.memberid()


def test_assignments_change_in_the_way_of_the_protocol(kafka: KafkaLab) -> None:
    topic = kafka.topic(1)
    eager = kafka.static(kafka.name("g"), [topic], "a")
    incremental = member_of(kafka, kafka.name("g"), [topic], "a")
    moved(kafka, (eager, 1))
    moved(kafka, (incremental, 1))
    at = [TopicPartition(topic, 0)]
    for call in (eager.kafka.incremental_unassign, incremental.kafka.assign):
        assert flags(error_of(call, at)) == (KafkaError._STATE, "")
    incremental.kafka.incremental_unassign(at)
    eager.kafka.assign(at)
    alone = kafka.consumer()
    alone.incremental_assign(at)
    alone.assign(at)
    assert [p.topic for p in alone.assignment()] == [topic]
