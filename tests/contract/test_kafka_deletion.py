"""Records that are deleted: on request, by retention, by compaction. The real broker cleans late, so only promises are
asserted: what must survive and what a reader gets then.
"""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import OffsetSpec
from kafka_lab import CALL_S, KafkaLab, error_of, flags


def test_records_before_an_offset_are_deleted_on_request(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(), kafka.name("g")
    kafka.send(topic, *[b"%d" % n for n in range(6)], timestamp=1_000)
    kafka.commit(group, topic, 2)
    assert kafka.delete_records(topic, before=4) == 4
    assert kafka.offset(topic, OffsetSpec.earliest())[0] == 4
    assert kafka.end(topic) == 6
    assert kafka.offset(topic, OffsetSpec.for_timestamp(0)) == (4, 1_000)
    assert kafka.values(topic) == [b"4", b"5"]
    assert kafka.consumer().get_watermark_offsets(TopicPartition(topic, 0), timeout=CALL_S) == (4, 6)
    assert kafka.committed(group, (topic, 0)) == [(2, "")]  # a committed offset stays where it is
    assert kafka.delete_records(topic, before=-1) == 6
    assert kafka.values(topic) == []
    assert kafka.send(topic, b"next") == [6]
    error = error_of(kafka.delete_records, topic, before=100)
    assert flags(error) == (KafkaError.OFFSET_OUT_OF_RANGE, "")


def test_a_reader_of_deleted_records_gets_an_error_event(kafka: KafkaLab) -> None:
    topic, group = kafka.topic(), kafka.name("g")
    kafka.send(topic, b"a", b"b", b"c")
    kafka.commit(group, topic, 1)
    kafka.delete_records(topic, before=2)
    member = kafka.static(group, [topic], "a", auto_offset_reset="error")
    kafka.until(lambda: member.errors, meanwhile=[member])
    assert flags(member.errors[0]) == (KafkaError._AUTO_OFFSET_RESET, "")


def test_records_are_deleted_under_a_slow_reader(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    kafka.send(topic, b"a")
    consumer = kafka.consumer(auto_offset_reset="error")
    consumer.assign([TopicPartition(topic, 0, 0)])
    kafka.events(consumer)
    consumer.pause([TopicPartition(topic, 0)])
    kafka.send(topic, b"b", b"c")
    kafka.delete_records(topic, before=2)
    consumer.resume([TopicPartition(topic, 0)])
    (message,) = kafka.until(lambda: consumer.consume(10, kafka.wait_s))
    assert flags(message.error()) == (KafkaError._AUTO_OFFSET_RESET, "")
    assert (message.topic(), message.partition(), message.offset()) == (topic, 0, 1)


def test_compaction_keeps_the_last_value_of_each_key(kafka: KafkaLab) -> None:
    topic = kafka.topic(cleanup_policy="compact")
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"b", None)):
        kafka.send(topic, value, key=key)
    before = kafka.end(topic)
    kafka.clean()
    found = kafka.read(topic)
    last: dict[Any, Any] = {}
    for message in found:
        last[message.key()] = message.value()
    assert last == {b"a": b"3", b"b": None, b"c": b"4"}
    offsets = {m.key(): m.offset() for m in found}
    assert offsets == {b"a": 2, b"c": 3, b"b": 4}
    assert kafka.end(topic) == before
    if kafka.memory:
        assert [m.offset() for m in found] == [2, 3, 4]


def test_a_reader_at_a_compacted_offset_gets_the_next_record(kafka: KafkaLab) -> None:
    topic = kafka.topic(cleanup_policy="compact")
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")):
        kafka.send(topic, value, key=key)
    kafka.clean()
    assert [m.offset() for m in kafka.read(topic, start=1)] == [1, 2]
    assert kafka.offset(topic, OffsetSpec.earliest())[0] == 0


def test_compaction_leaves_transactions_as_they_are(kafka: KafkaLab) -> None:
    topic = kafka.topic(cleanup_policy="compact")
    producer, other = kafka.transactional(), kafka.transactional()
    kafka.send(topic, b"1", key=b"a")
    producer.begin_transaction()
    producer.produce(topic, b"aborted", b"a", partition=0)
    assert producer.flush(CALL_S) == 0
    producer.abort_transaction(CALL_S)
    kafka.until(lambda: kafka.end(topic, committed=True) == 3)
    other.begin_transaction()
    other.produce(topic, b"open", b"a", partition=0)
    assert other.flush(CALL_S) == 0
    kafka.clean()
    assert [m.value() for m in kafka.read(topic)] == [b"1"]
    other.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.end(topic, committed=True) == 5)
    kafka.clean()
    found = kafka.read(topic)
    assert found[-1].value() == b"open"
    assert b"aborted" not in [m.value() for m in found]


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_retention_deletes_from_the_beginning(kafka: KafkaLab, policy: str) -> None:
    topic = kafka.topic(cleanup_policy=policy, retention_ms="1000")
    kafka.send(topic, b"old", key=b"a", timestamp=1_000)
    kafka.send(topic, b"new", key=b"b")
    kafka.clean()
    begin = kafka.offset(topic, OffsetSpec.earliest())[0]
    found = [m.value() for m in kafka.read(topic)]
    assert (begin, found) in ((0, [b"old", b"new"]), (1, [b"new"]))
    if kafka.memory:
        assert begin == 1
    assert kafka.end(topic) == 2
