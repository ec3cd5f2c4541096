"""Partitions as logs: offsets, what a record holds, where it goes, and the offsets that Kafka lists for a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anabranch.topics.control_records import CONTROL_KEY, ControlRecord, decode, is_control
from anabranch.topics.headers import UNREADABLE, all_headers, headers_of
from anabranch.topics.partitioners import HashPartitioner
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, KafkaError, TopicPartition
from confluent_kafka.admin import OffsetSpec
from kafka_lab import KafkaLab


def test_offsets_count_from_zero_in_each_partition_and_are_reported(kafka: KafkaLab) -> None:
    topic = kafka.topic(2)
    assert kafka.send(topic, b"a", b"b") == [0, 1]
    assert kafka.send(topic, b"c", partition=1) == [0]
    assert kafka.values(topic) == [b"a", b"b"]
    assert kafka.values(topic, 1) == [b"c"]
    assert (kafka.end(topic), kafka.end(topic, 1)) == (2, 1)


def test_a_record_comes_back_as_it_was_produced(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    headers = [("a", b"1"), ("b", None), ("a", "text"), ("c", b"")]
    error, report = kafka.sent(topic, b"v", b"k", headers=headers, timestamp=1_234)
    assert error is None
    assert (report.topic(), report.partition(), report.offset()) == (topic, 0, 0)
    assert (report.key(), report.value()) == (b"k", b"v")
    assert report.timestamp() == (TIMESTAMP_CREATE_TIME, 1_234)
    (message,) = kafka.read(topic)
    assert (message.topic(), message.partition(), message.offset()) == (topic, 0, 0)
    assert (message.key(), message.value(), message.error()) == (b"k", b"v", None)
    assert message.headers() == [("a", b"1"), ("b", None), ("a", b"text"), ("c", b"")]
    assert message.timestamp() == (TIMESTAMP_CREATE_TIME, 1_234)


def test_a_record_may_lack_each_part(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    kafka.send(topic, None, key=b"k")
    kafka.send(topic, b"v")
    kafka.send(topic, b"", key=b"")
    kafka.send(topic, b"v", headers=[])
    found = [(m.key(), m.value(), m.headers()) for m in kafka.read(topic)]
    assert found == [(b"k", None, None), (None, b"v", None), (b"", b"", None), (None, b"v", None)]


def test_a_header_name_that_is_not_utf8_makes_the_headers_unreadable_and_no_others(
    kafka: KafkaLab, send_with_unreadable_header: Callable[..., None]
) -> None:
    topic = kafka.topic()
    kafka.send(topic, b"before", headers=[("trace", b"1")])
    send_with_unreadable_header(topic, b"odd", cluster=kafka.cluster)
    kafka.send(topic, b"after")
    messages = kafka.read(topic)
    found, unreadable = all_headers(messages)
    assert found == [[("trace", b"1")], UNREADABLE, None]
    assert found[1] is UNREADABLE
    assert unreadable == [1]
    assert headers_of(messages[1]) == (), "they are replaced"
    assert headers_of(kafka.read(topic, start=1)[0]) is UNREADABLE
    assert [(message.key(), message.value()) for message in messages][1] == (b"k", b"odd")


def test_text_is_utf8_and_other_values_are_refused(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    kafka.send(topic, "täxt", key="kéy", headers={"x": b"1"})
    (message,) = kafka.read(topic)
    assert (message.key(), message.value(), message.headers()) == ("kéy".encode(), "täxt".encode(), [("x", b"1")])
    with pytest.raises(TypeError, match="bytes-like object is required, not 'int'"):
        kafka.producer().produce(topic, 5)
    for given in (bytearray(b"v"), memoryview(b"v")):
        with pytest.raises(TypeError, match="must be read-only bytes-like object"):
            kafka.producer().produce(topic, given)
        with pytest.raises(TypeError, match="must be read-only bytes-like object"):
            kafka.producer().produce(topic, b"v", key=given)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"a": 5}, "None, binary, or unicode string, not int"),
        ([("a", bytearray(b"1"))], "None, binary, or unicode string, not bytearray"),
        ([["a", b"1"]], "a list of .key, value. tuples"),
        ([("a", b"1", b"2")], "a list of .key, value. tuples"),
        ((), "dict or list of .key, value. tuples, not tuple"),
        ((("a", b"1"),), "dict or list of .key, value. tuples, not tuple"),
    ],
)
def test_headers_of_other_types_are_refused(kafka: KafkaLab, headers: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        kafka.producer().produce(kafka.topic(), b"v", headers=headers)


def test_times_are_the_producers_unless_the_topic_says_otherwise(kafka: KafkaLab) -> None:
    topic, appended = kafka.topic(), kafka.topic(message_timestamp_type="LogAppendTime")
    before_ms = kafka.now_ms - 1
    for timestamp_ms in (1_000, -1, -5_000, 0):
        kafka.send(topic, b"v", timestamp=timestamp_ms)
    kafka.send(topic, b"v")
    kafka.send(appended, b"v", timestamp=1_000)
    times = [m.timestamp() for m in kafka.read(topic)]
    assert times[:3] == [(TIMESTAMP_CREATE_TIME, 1_000), (TIMESTAMP_CREATE_TIME, -1), (TIMESTAMP_CREATE_TIME, -5_000)]
    assert all(kind == TIMESTAMP_CREATE_TIME and before_ms <= ms <= kafka.now_ms for kind, ms in times[3:])
    ((kind, time_ms),) = [m.timestamp() for m in kafka.read(appended)]
    assert kind == TIMESTAMP_LOG_APPEND_TIME
    assert time_ms >= before_ms


def test_the_key_decides_the_partition_as_it_does_for_java(kafka: KafkaLab) -> None:
    topic, hashing = kafka.topic(5), HashPartitioner(5)
    for number in range(20):
        key = f"key-{number}".encode()
        error, message = kafka.sent(topic, b"v", key)
        assert error is None
        assert message.partition() == hashing.partition(key), key
        assert message.partition() == kafka.sent(topic, b"v", key)[1].partition()


def test_records_without_a_key_go_to_any_partition(kafka: KafkaLab) -> None:
    topic = kafka.topic(3)
    producer = kafka.producer(sticky_partitioning_linger_ms=0)
    found = {kafka.sent(topic, b"v", producer=producer)[1].partition() for _ in range(60)}
    assert found == {0, 1, 2}


def test_records_of_a_partition_keep_their_order(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.producer(linger_ms=5)
    reported: list[int] = []
    for number in range(500):
        producer.produce(
            topic, str(number), partition=0, on_delivery=lambda _, message: reported.append(message.offset())
        )
    assert producer.flush(60) == 0
    assert len(producer) == 0
    assert reported == list(range(500))
    assert kafka.values(topic) == [str(number).encode() for number in range(500)]


def test_reports_come_from_poll_and_flush_alone(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.producer()
    reported: list[Any] = []
    producer.produce(topic, b"v", partition=0, on_delivery=lambda *report: reported.append(report))
    kafka.until(lambda: kafka.end(topic) == 1)
    assert not reported
    kafka.until(lambda: producer.poll(0) or reported)
    assert len(reported) == 1


def test_the_end_of_a_partition_is_an_event_with_its_offset(kafka: KafkaLab) -> None:
    topic = kafka.topic(2)
    kafka.send(topic, b"a", b"b")
    consumer = kafka.consumer()
    consumer.assign([TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0)])
    ends = {m.partition(): m for m in kafka.events(consumer, 2) if m.error()}
    assert {partition: m.offset() for partition, m in ends.items()} == {0: 2, 1: 0}
    assert ends[0].error().code() == KafkaError._PARTITION_EOF
    assert (ends[0].topic(), ends[0].key()) == (topic, None)
    assert consumer.consume(10, 0) == []  # once only
    kafka.send(topic, b"c")
    assert [m.value() if m.error() is None else m.offset() for m in kafka.events(consumer)] == [b"c", 3]


def test_listed_offsets_of_an_empty_partition(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    assert kafka.offset(topic, OffsetSpec.earliest()) == (0, -1)
    assert kafka.offset(topic, OffsetSpec.latest()) == (0, -1)
    assert kafka.offset(topic, OffsetSpec.for_timestamp(0)) == (-1, -1)
    assert kafka.offset(topic, OffsetSpec.max_timestamp()) == (-1, -1)


def test_the_offset_of_a_time_is_the_first_record_that_is_not_older(kafka: KafkaLab) -> None:
    #  offset     0      1      2      3
    #  time   1,000  3,000  2,000  3,000
    topic = kafka.topic()
    for time_ms in (1_000, 3_000, 2_000, 3_000):
        kafka.send(topic, b"v", timestamp=time_ms)
    found = {ms: kafka.offset(topic, OffsetSpec.for_timestamp(ms)) for ms in (0, 1_000, 1_001, 2_500, 3_000, 3_001)}
    assert found == {
        0: (0, 1_000),
        1_000: (0, 1_000),
        1_001: (1, 3_000),
        2_500: (1, 3_000),
        3_000: (1, 3_000),
        3_001: (-1, -1),
    }
    assert kafka.offset(topic, OffsetSpec.max_timestamp()) == (1, 3_000)


def test_a_consumer_finds_the_offset_of_a_time_and_the_end_where_there_is_none(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    for time_ms in (1_000, 3_000):
        kafka.send(topic, b"v", timestamp=time_ms)
    found = [consumer.offsets_for_times([TopicPartition(topic, 0, ms)], 10)[0].offset for ms in (0, 2_000, 4_000)]
    assert found == [0, 1, -1]


def test_listed_offsets_of_what_does_not_exist(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    for at in (TopicPartition(topic, 7), TopicPartition(kafka.name("nope"), 0)):
        (future,) = kafka.admin.list_offsets({at: OffsetSpec.latest()}).values()
        assert future.exception().args[0].code() == KafkaError._NOENT


def test_watermarks_of_a_partition(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    kafka.send(topic, b"a", b"b")
    at = TopicPartition(topic, 0, 0)
    assert consumer.get_watermark_offsets(at, cached=True) == (-1001, -1001)
    assert consumer.get_watermark_offsets(at, timeout=60) == (0, 2)
    consumer.assign([at])
    kafka.events(consumer)
    assert consumer.get_watermark_offsets(at, cached=True) == (0, 2)
    kafka.send(topic, b"c")
    kafka.events(consumer)
    assert consumer.get_watermark_offsets(at, cached=True) == (0, 3)


def test_control_records_are_records_of_their_own_offset(kafka: KafkaLab) -> None:
    topic = kafka.topic(cleanup_policy="compact")  # which takes no record without a key
    record = ControlRecord("end", {"orders:0": 5})
    kafka.send(topic, b"1", key=b"k")
    kafka.send(topic, record.encoded(), key=CONTROL_KEY, headers=record.headers)
    kafka.send(topic, b"2", key=b"k")
    assert kafka.end(topic) == 3
    found = kafka.read(topic)
    assert [is_control(message) for message in found][1:] == [True, False]
    assert decode(found[1]) == record
