"""Records that librdkafka or the broker refuses."""

from __future__ import annotations

import os
from typing import Any

import pytest
from confluent_kafka import KafkaError
from kafka_lab import KafkaLab, error_of, flags

DAY_MS = 86_400_000


def refused(kafka: KafkaLab, topic: str, value: Any, key: Any = None, **more: Any) -> tuple[int, str]:
    """How a report refuses a record that was produced without a transaction."""
    end = kafka.end(topic)
    error, message = kafka.sent(topic, value, key, partition=0, **more)
    assert error is not None
    assert message.offset() is None
    assert (message.topic(), message.partition(), message.value(), message.key()) == (topic, 0, value, key)
    assert message.error().code() == error.code()
    assert kafka.end(topic) == end
    return flags(error)


def test_records_that_are_too_large_for_their_topic(kafka: KafkaLab) -> None:
    topic = kafka.topic(max_message_bytes="1000")
    assert refused(kafka, topic, os.urandom(1_001)) == (KafkaError.MSG_SIZE_TOO_LARGE, "")
    assert refused(kafka, topic, os.urandom(100), os.urandom(900)) == (KafkaError.MSG_SIZE_TOO_LARGE, "")
    assert kafka.send(topic, os.urandom(900)) == [0]


def test_records_that_are_too_large_for_the_producer(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.producer(message_max_bytes=2_000)
    error = error_of(producer.produce, topic, b"x" * 3_000, on_delivery=lambda *_: pytest.fail("no report"))
    assert flags(error) == (KafkaError.MSG_SIZE_TOO_LARGE, "")
    assert len(producer) == 0
    error, _ = kafka.sent(topic, b"x" * 1_500, producer=producer, partition=0)
    assert error is None


def test_the_batch_is_measured_as_compressed(kafka: KafkaLab) -> None:
    topic = kafka.topic(max_message_bytes="1000")
    assert kafka.send(topic, b"x" * 5_000) == [0]
    plain = kafka.producer(compression_type="none")
    error, _ = kafka.sent(topic, b"x" * 5_000, producer=plain, partition=0)
    assert flags(error) == (KafkaError.MSG_SIZE_TOO_LARGE, "")


def test_a_batch_that_is_too_large_is_refused_as_a_whole(kafka: KafkaLab) -> None:
    kafka.needs_queue()
    topic, producer = kafka.topic(max_message_bytes="1000"), kafka.producer(linger_ms=200)
    reports: list[Any] = []
    for _ in range(10):
        producer.produce(topic, os.urandom(400), partition=0, on_delivery=lambda e, _: reports.append(e and e.code()))
    assert producer.flush(60) == 0
    assert reports == [KafkaError.MSG_SIZE_TOO_LARGE] * 10
    assert kafka.end(topic) == 0


def test_records_without_a_key_in_a_compacted_topic(kafka: KafkaLab) -> None:
    topic = kafka.topic(cleanup_policy="compact")
    assert refused(kafka, topic, b"v") == (KafkaError.INVALID_RECORD, "")
    assert kafka.send(topic, b"v", key=b"") == [0]  # an empty key is a key
    assert kafka.send(topic, None, key=b"k") == [1]


def test_times_out_of_bounds(kafka: KafkaLab) -> None:
    late = kafka.topic(message_timestamp_before_max_ms="1000")
    assert refused(kafka, late, b"v", timestamp=kafka.now_ms - DAY_MS) == (KafkaError.INVALID_TIMESTAMP, "")
    assert kafka.send(late, b"v") == [0]
    early = kafka.topic()  # an hour ahead at most
    assert refused(kafka, early, b"v", timestamp=kafka.now_ms + DAY_MS) == (KafkaError.INVALID_TIMESTAMP, "")
    assert kafka.send(early, b"v", timestamp=kafka.now_ms + 60_000) == [0]
    assert kafka.send(early, b"v", timestamp=1) == [1]


def test_partitions_that_do_not_exist(kafka: KafkaLab) -> None:
    topic = kafka.topic(2)
    kafka.send(topic, b"v")  # now the producer knows the partitions
    for partition in (2, 7, -2, -1001):
        error = error_of(kafka.sent, topic, b"v", partition=partition)
        assert flags(error) == (KafkaError._UNKNOWN_PARTITION, "")


@pytest.mark.parametrize("partition", [7, -2])
def test_partitions_that_do_not_exist_in_a_topic_not_asked_for_yet(kafka: KafkaLab, partition: int) -> None:
    topic = kafka.topic(2)
    error, message = kafka.sent(topic, b"v", partition=partition)
    assert flags(error) == (KafkaError._UNKNOWN_PARTITION, "")
    assert message.offset() is None


def test_topics_that_do_not_exist(kafka: KafkaLab) -> None:
    producer, name = kafka.producer(topic_metadata_propagation_max_ms=100), kafka.name("nope")
    error, message = kafka.sent(name, b"v", producer=producer)
    assert flags(error) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "")
    assert (message.topic(), message.offset()) == (name, None)
    error = error_of(kafka.sent, name, b"v", producer=producer)  # known by now
    assert flags(error) == (KafkaError._UNKNOWN_TOPIC, "")


def test_one_refused_record_takes_its_batch_along(kafka: KafkaLab) -> None:
    kafka.needs_queue()
    topic, strict = kafka.topic(), kafka.topic(cleanup_policy="compact")
    producer = kafka.producer(linger_ms=50)
    reports: list[Any] = []
    for where, key in ((topic, None), (strict, b"k"), (strict, None), (topic, None)):
        producer.produce(where, b"v", key, partition=0, on_delivery=lambda e, m: reports.append((m.topic(), e)))
    assert producer.flush(60) == 0
    assert [error for where, error in reports if where == topic] == [None, None]
    assert kafka.values(topic) == [b"v", b"v"]
    codes = [error.code() for where, error in reports if where == strict]
    assert codes == [KafkaError.INVALID_RECORD] * 2
    assert kafka.values(strict) == []


def test_queued_records_are_purged(kafka: KafkaLab) -> None:
    kafka.needs_queue()
    topic, producer = kafka.topic(), kafka.producer(linger_ms=60_000)
    reports: list[Any] = []
    producer.produce(topic, b"v", partition=0, on_delivery=lambda error, _: reports.append(flags(error)))
    assert len(producer) == 1
    producer.purge()
    kafka.until(lambda: producer.flush(0) == 0)
    assert reports == [(KafkaError._PURGE_QUEUE, "")]
    assert kafka.end(topic) == 0


def test_a_full_queue_raises_and_takes_more_once_it_was_served(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.producer(queue_buffering_max_messages=3)
    reports: list[Any] = []

    def produce() -> None:
        producer.produce(topic, b"v", partition=0, on_delivery=lambda error, _: reports.append(error))

    for _ in range(3):
        produce()
    kafka.until(lambda: kafka.end(topic) == 3)  # what is delivered counts until its report was served
    with pytest.raises(BufferError):
        produce()
    assert len(producer) >= 3
    kafka.until(lambda: producer.poll(0) or len(reports) == 3)
    produce()
    assert producer.flush(60) == 0
    assert (reports, kafka.end(topic)) == ([None] * 4, 4)
