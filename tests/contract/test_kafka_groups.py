"""Groups of the classic protocol: range assignment, callbacks, generations, static members, commits."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupType, KafkaError, TopicPartition
from kafka_lab import CALL_S, KafkaLab, error_of, flags

DYNAMIC = {"partition_assignment_strategy": "range", "session_timeout_ms": 6_000, "heartbeat_interval_ms": 300}


def moved(kafka: KafkaLab, *counts: tuple[Any, int]) -> None:
    """Wait until members have so many partitions each."""
    members = [member for member, _ in counts]
    wanted = [count for _, count in counts]
    kafka.until(lambda: [len(m.owned) for m in members] == wanted, f"{wanted} partitions", meanwhile=members)


def test_the_only_member_gets_all_partitions(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(3), kafka.name("g")
    assert kafka.outside(group)[7:11] == b"\xff" * 4  # no generation
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 3))
    assert member.log == ["a assigned [0:0 0:1 0:2] in consume"]
    assert member.generation == 1
    assert member.kafka.memberid().startswith("a-")
    assert {(p.topic, p.partition) for p in member.kafka.assignment()} == member.owned
    assert all(p.offset == -1001 for p in member.kafka.position(member.kafka.assignment()))


def test_a_member_that_has_unsubscribed_has_no_member_id_and_keeps_its_generation(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 1))
    member.kafka.unsubscribe()
    kafka.until(lambda: not member.kafka.memberid(), meanwhile=[member])
    assert (member.owned, member.generation) == (set(), 1)


def test_a_new_member_joins_before_its_consumer_is_polled(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = kafka.static(group, [topic], "a")

    def assigned() -> list[int]:
        return [p.partition for m in kafka.described(group).members for p in m.assignment.topic_partitions]

    kafka.until(lambda: assigned() == [0], "the group assigns the partition")
    assert member.log == []
    moved(kafka, (member, 1))


def test_a_member_begins_at_the_committed_offsets(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    for partition in (0, 1):
        kafka.send(topic, b"a", b"b", b"c", partition=partition)
    kafka.commit(group, topic, 2)
    member = kafka.static(group, [topic], "a")
    kafka.until(lambda: len(member.values) == 4, meanwhile=[member])
    assert sorted(member.values) == [b"a", b"b", b"c", b"c"]


def test_two_members_share_and_the_first_gives_all_away_before(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(3), kafka.name("g")
    log: list[str] = []
    first = kafka.static(group, [topic], "a", log)
    moved(kafka, (first, 3))
    second = kafka.static(group, [topic], "b", log)
    moved(kafka, (first, 2), (second, 1))
    assert log[1] == "a revoked [0:0 0:1 0:2] in consume"
    assert sorted(log[2:]) == ["a assigned [0:0 0:1] in consume", "b assigned [0:2] in consume"]
    assert (first.generation, second.generation) == (2, 2)
    del log[:]
    second.leave()
    moved(kafka, (first, 3))
    assert log == [
        "b revoked [0:2] in consume",
        "a revoked [0:0 0:1] in consume",
        "a assigned [0:0 0:1 0:2] in consume",
    ]
    assert first.generation == 3


def test_a_member_that_has_missed_the_generation_it_joined_joins_the_next_one(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(3), kafka.name("g")
    first = kafka.static(group, [topic], "a")
    moved(kafka, (first, 3))
    second = kafka.static(group, [topic], "b")
    second.consume()
    kafka.until(lambda: len(first.owned) == 2, meanwhile=[first])  # `second` has joined, and is not heard of any more
    third = kafka.static(group, [topic], "c")
    kafka.until(lambda: not first.owned, "the next rebalance", meanwhile=[first, third])
    moved(kafka, (first, 1), (second, 1), (third, 1))


def test_ranges_of_two_topics_over_three_members_go_together(kafka: KafkaLab) -> None:
    narrow, wide, group = kafka.topic(3), kafka.topic(5), kafka.name("g")
    members = [kafka.static(group, [narrow, wide], name) for name in "cab"]
    moved(kafka, (members[0], 2), (members[1], 3), (members[2], 3))
    by_name = {member.name: member for member in members}  # by the instance's name, not in the order of joining
    assert {p for t, p in by_name["a"].owned if t == narrow} == {0}
    assert {name: sorted(p for t, p in m.owned if t == wide) for name, m in by_name.items()} == {
        "a": [0, 1],
        "b": [2, 3],
        "c": [4],
    }


def test_members_need_not_subscribe_to_the_same_topics(kafka: KafkaLab) -> None:
    one, other, group = kafka.topic(2), kafka.topic(4), kafka.name("g")
    both = kafka.static(group, [one, other], "a")
    single = kafka.static(group, [other], "b")
    moved(kafka, (both, 4), (single, 2))
    assert both.owned == {(one, 0), (one, 1), (other, 0), (other, 1)}
    assert single.owned == {(other, 2), (other, 3)}
    single.subscribe([one, other])
    moved(kafka, (both, 3), (single, 3))
    assert single.owned == {(one, 1), (other, 2), (other, 3)}


def test_a_member_without_partitions_is_assigned_none(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    first = kafka.static(group, [topic], "a")
    moved(kafka, (first, 1))
    second = kafka.static(group, [topic], "b")
    kafka.until(lambda: second.log, meanwhile=[first, second])
    assert second.log == ["b assigned [] in consume"]
    kafka.until(lambda: first.owned, meanwhile=[first, second])


def test_members_without_an_instance_leave_when_they_close(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    members = [kafka.member(group, [topic], name, **DYNAMIC) for name in "ab"]
    moved(kafka, (members[0], 1), (members[1], 1))
    members[0].call("close")
    assert members[0].log[-1].startswith("a revoked [0:")
    assert members[0].log[-1].endswith("in close")
    moved(kafka, (members[1], 2))
    assert len(kafka.described(group).members) == 1


def test_the_callback_of_a_member_that_unsubscribes_comes_from_its_next_call(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 1))
    member.call("unsubscribe")
    assert member.log == ["a assigned [0:0] in consume"]
    moved(kafka, (member, 0))
    assert member.log[1:] == ["a revoked [0:0] in consume"]
    kafka.until(lambda: member.kafka.memberid() is None, meanwhile=[member])
    assert member.generation == 1  # of its last membership
    kafka.until(lambda: not kafka.described(group).members, "it has left", meanwhile=[member])


def test_a_static_member_that_closes_has_its_partitions_back(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    first, second = (kafka.static(group, [topic], name) for name in "ab")
    moved(kafka, (first, 1), (second, 1))
    before = first.generation
    second.call("close")
    assert second.log[-1] == "b revoked [0:1] in close"
    described = kafka.described(group)
    assert (described.state, len(described.members)) == (ConsumerGroupState.STABLE, 2)
    del first.log[:]
    again = kafka.static(group, [topic], "b")
    moved(kafka, (first, 1), (again, 1))
    assert again.log == ["b assigned [0:1] in consume"]
    assert (first.log, first.generation, again.generation) == ([], before, before)


def test_a_static_member_that_does_not_come_back_loses_its_partitions(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    first = kafka.static(group, [topic], "a")
    second = kafka.static(group, [topic], "b", session_timeout_ms=1_000)
    moved(kafka, (first, 1), (second, 1))
    second.call("close")
    moved(kafka, (first, 2))


def test_the_former_owner_of_an_instance_is_fenced(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    other, former = kafka.static(group, [topic], "a"), kafka.static(group, [topic], "b")
    moved(kafka, (other, 1), (former, 1))
    metadata = former.metadata
    owner = kafka.static(group, [topic], "b")
    moved(kafka, (other, 1), (owner, 1))
    assert owner.owned == former.owned
    offsets = [TopicPartition(topic, 1, 5)]
    error = error_of(former.kafka.commit, offsets=offsets, asynchronous=False)
    assert flags(error) == (KafkaError.FENCED_INSTANCE_ID, "")
    kafka.until(lambda: former.errors, "the fatal error is a message", meanwhile=[former])
    assert flags(former.errors[0]) == (KafkaError._FATAL, "")
    error = error_of(former.kafka.commit, offsets=offsets, asynchronous=False)
    assert flags(error) == (KafkaError._FATAL, "")
    producer = kafka.transactional()
    producer.begin_transaction()
    error = error_of(producer.send_offsets_to_transaction, offsets, metadata, CALL_S)
    assert flags(error) == (KafkaError.FENCED_INSTANCE_ID, "abort")
    producer.abort_transaction(CALL_S)
    assert kafka.committed(group, (topic, 1)) == [(-1001, "")]


def test_a_fenced_member_finds_out_by_itself(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    former = kafka.static(group, [topic], "a")
    moved(kafka, (former, 1))
    owner = kafka.static(group, [topic], "a")
    moved(kafka, (owner, 1))
    kafka.until(lambda: former.errors, "its heartbeat is refused", meanwhile=[former, owner])
    assert flags(former.errors[0]) == (KafkaError._FATAL, "")
    assert "fenced" in former.errors[0].str()


@pytest.mark.parametrize("way", ["commit", "transaction"])
def test_offsets_of_a_former_generation_are_refused(kafka: KafkaLab, way: str) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    first = kafka.static(group, [topic], "a")
    moved(kafka, (first, 2))
    old = first.metadata
    second = kafka.static(group, [topic], "b")
    moved(kafka, (first, 1), (second, 1))
    offsets = [TopicPartition(topic, 0, 5)]
    if way == "transaction":
        producer = kafka.transactional()
        producer.begin_transaction()
        error = error_of(producer.send_offsets_to_transaction, offsets, old, CALL_S)
        assert flags(error) == (KafkaError.ILLEGAL_GENERATION, "abort")
        assert flags(error_of(producer.commit_transaction, CALL_S)) == (KafkaError.ILLEGAL_GENERATION, "abort")
        producer.abort_transaction(CALL_S)
        producer.begin_transaction()
        producer.send_offsets_to_transaction(offsets, first.metadata, CALL_S)
        producer.commit_transaction(CALL_S)
    else:
        first.kafka.commit(offsets=offsets, asynchronous=False)
    kafka.until(lambda: kafka.committed(group, (topic, 0)) == [(5, "")])


@pytest.mark.parametrize("way", ["commit", "transaction"])
def test_offsets_of_a_member_that_has_left_are_refused(kafka: KafkaLab, way: str) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 1))
    old = member.metadata
    member.kafka.unsubscribe()
    kafka.until(lambda: not kafka.described(group).members, "it has left", meanwhile=[member])
    offsets = [TopicPartition(topic, 0, 5)]
    if way == "commit":
        error = error_of(member.kafka.commit, offsets=offsets, asynchronous=False)
        assert flags(error) == (KafkaError.UNKNOWN_MEMBER_ID, "")
    else:
        producer = kafka.transactional()
        producer.begin_transaction()
        error = error_of(producer.send_offsets_to_transaction, offsets, old, CALL_S)
        assert flags(error) == (KafkaError.UNKNOWN_MEMBER_ID, "abort")
        producer.abort_transaction(CALL_S)
    assert kafka.committed(group, (topic, 0)) == [(-1001, "")]


def test_outsiders_commit_only_to_groups_without_members(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    outsider = kafka.consumer(group)
    offsets = [TopicPartition(topic, 0, 5, "m")]
    (committed,) = outsider.commit(offsets=offsets, asynchronous=False)
    assert (committed.topic, committed.partition, committed.offset, committed.error) == (topic, 0, 5, None)
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 1))
    error = error_of(outsider.commit, offsets=offsets, asynchronous=False)
    assert flags(error) == (KafkaError.UNKNOWN_MEMBER_ID, "")
    assert kafka.committed(group, (topic, 0)) == [(5, "m")]


def test_transactions_of_outsiders_may_commit_to_any_group(kafka: KafkaLab) -> None:
    topic, group, producer = kafka.topic(1), kafka.name("g"), kafka.transactional()
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 1))
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 5)], kafka.outside(group), CALL_S)
    producer.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.committed(group, (topic, 0)) == [(5, "")])


def test_commits_that_cannot_be(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    consumer = kafka.consumer(group)
    assert flags(error_of(consumer.commit, asynchronous=False)) == (KafkaError._NO_OFFSET, "")
    for at in (TopicPartition(topic, 9, 2), TopicPartition(kafka.name("nope"), 0, 2)):
        error = error_of(consumer.commit, offsets=[at], asynchronous=False)
        assert flags(error) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "")
    assert consumer.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=True) is None
    kafka.until(lambda: kafka.committed(group, (topic, 0)) == [(2, "")])
    at = [TopicPartition(topic, 9), TopicPartition(kafka.name("nope"), 0)]
    assert [(p.offset, p.error) for p in consumer.committed(at, CALL_S)] == [(-1001, None)] * 2


def test_a_member_that_does_not_poll_in_time_is_removed(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    slow = kafka.static(group, [topic], "a", session_timeout_ms=1_000, max_poll_interval_ms=1_000)
    moved(kafka, (slow, 2))
    other = kafka.static(group, [topic], "b")
    moved(kafka, (other, 2))
    error = error_of(slow.kafka.commit, offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    assert flags(error) == (KafkaError.UNKNOWN_MEMBER_ID, "")
    kafka.until(lambda: slow.errors and not slow.owned, meanwhile=[slow])
    assert flags(slow.errors[0]) == (KafkaError._MAX_POLL_EXCEEDED, "")
    assert slow.log[-1] in ("a revoked [0:0 0:1] in consume", "a lost [0:0 0:1] in consume")
    moved(kafka, (slow, 1), (other, 1))  # it has joined again


def test_added_partitions_are_assigned(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    member = kafka.static(group, [topic], "a", topic_metadata_refresh_interval_ms=200)
    moved(kafka, (member, 1))
    kafka.add_partitions(topic, 3)
    moved(kafka, (member, 3))
    assert member.log[1:] == ["a revoked [0:0] in consume", "a assigned [0:0 0:1 0:2] in consume"]


def test_an_assignment_may_be_held_back(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")
    kafka.send(topic, b"a")
    got: list[list[TopicPartition]] = []

    def assigned(consumer: Any, partitions: list[TopicPartition]) -> None:
        got.append(partitions)
        consumer.assign([])

    consumer = kafka.consumer(group, enable_partition_eof=False, group_instance_id="a")
    consumer.subscribe([topic], on_assign=assigned)
    kafka.until(lambda: consumer.consume(10, kafka.wait_s) or got)
    assert consumer.consume(10, 0) == []
    assert consumer.assignment() == []
    consumer.assign([TopicPartition(topic, 0, 0)])
    (message,) = kafka.until(lambda: consumer.consume(10, kafka.wait_s))
    assert message.value() == b"a"


def test_groups_are_described(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(2), kafka.name("g")
    gone = kafka.described(group)
    assert (gone.state, gone.members) == (ConsumerGroupState.DEAD, [])
    members = [kafka.static(group, [topic], name, client_id=f"client-{name}") for name in "ab"]
    moved(kafka, (members[0], 1), (members[1], 1))
    found = kafka.described(group)
    assert (found.group_id, found.state, found.type) == (
        group,
        ConsumerGroupState.STABLE,
        ConsumerGroupType.CLASSIC,
    )
    assert found.partition_assignor == "range"
    shown = sorted(
        (m.group_instance_id, m.client_id, [(p.topic, p.partition) for p in m.assignment.topic_partitions])
        for m in found.members
    )
    assert shown == [("a", "client-a", [(topic, 0)]), ("b", "client-b", [(topic, 1)])]
    assert all(m.member_id.startswith(f"{m.group_instance_id}-") for m in found.members)
    for member in members:
        member.leave()
    found = kafka.described(group)
    assert (found.state, found.members) == (ConsumerGroupState.EMPTY, [])


def test_groups_are_listed_and_deleted(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(1), kafka.name("g")

    def listed() -> bool:
        return group in [found.group_id for found in kafka.admin.list_consumer_groups().result().valid]

    def delete() -> None:
        kafka.admin.delete_consumer_groups([group])[group].result()

    assert not listed()
    assert flags(error_of(delete)) == (KafkaError.GROUP_ID_NOT_FOUND, "")
    kafka.commit(group, topic, 3)
    assert listed()
    member = kafka.static(group, [topic], "a")
    moved(kafka, (member, 1))
    assert flags(error_of(delete)) == (KafkaError.NON_EMPTY_GROUP, "")
    member.leave()
    assert kafka.committed(group, (topic, 0)) == [(3, "")]
    delete()
    assert not listed()
    assert kafka.committed(group, (topic, 0)) == [(-1001, "")]
