"""Consumers that assign partitions to themselves: positions, pauses, seeks, and offsets that do not exist."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, OFFSET_STORED, KafkaError, TopicPartition
from kafka_lab import KafkaLab, error_of, flags

NONE = OFFSET_INVALID  # a position before the first record


def position(consumer: Any, topic: str, partition: int = 0) -> int:
    return consumer.position([TopicPartition(topic, partition)])[0].offset


def found(kafka: KafkaLab, consumer: Any, ends: int = 1) -> list[Any]:
    """Values, and the offsets of ends."""
    return [m.value() if m.error() is None else m.offset() for m in kafka.events(consumer, ends)]


def test_a_consumer_without_partitions_gets_nothing(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    assert consumer.consume(10, 0) == []
    assert consumer.poll(0) is None
    assert consumer.assignment() == []
    assert consumer.memberid() is None
    assert position(consumer, topic) == NONE
    assert flags(error_of(consumer.seek, TopicPartition(topic, 0, 1))) == (KafkaError._STATE, "")


def test_positions_are_behind_the_last_record_or_marker_that_was_consumed(kafka: KafkaLab) -> None:
    topic = kafka.topic(2)
    kafka.send(topic, b"a", b"b", b"c")
    consumer = kafka.consumer()
    consumer.assign([TopicPartition(topic, 0, 1), TopicPartition(topic, 1, 0)])
    assert position(consumer, topic) == NONE  # nothing was consumed yet
    assert sorted(kafka.events(consumer, 2), key=lambda m: m.partition())[0].offset() == 1
    assert position(consumer, topic) == 3
    assert position(consumer, topic, 1) == NONE  # an end alone does not move a position
    assert [(p.topic, p.partition, p.offset) for p in consumer.assignment()] == [(topic, 0, 1), (topic, 1, 0)]


def test_a_call_returns_at_most_what_was_asked_for(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer(enable_partition_eof=False)
    kafka.send(topic, *[b"%d" % n for n in range(5)])
    consumer.assign([TopicPartition(topic, 0, 0)])
    got: list[Any] = []
    kafka.until(lambda: got.extend(consumer.consume(2, kafka.wait_s)) or got)
    assert len(got) <= 2
    kafka.until(lambda: got.append(consumer.poll(kafka.wait_s)) or len([m for m in got if m]) == 5)
    assert [m.value() for m in got if m] == [b"0", b"1", b"2", b"3", b"4"]
    assert position(consumer, topic) == 5
    assert consumer.consume(10, 0) == []


def test_partitions_are_added_and_removed(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(2), kafka.consumer()
    kafka.send(topic, b"a", b"b")
    kafka.send(topic, b"c", partition=1)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert found(kafka, consumer) == [b"a", b"b", 2]
    consumer.incremental_assign([TopicPartition(topic, 1, 0)])
    assert found(kafka, consumer) == [b"c", 1]
    assert position(consumer, topic) == 2  # the other partition went on
    error = error_of(consumer.incremental_assign, [TopicPartition(topic, 1, 0)])
    assert flags(error) == (KafkaError._CONFLICT, "")
    consumer.incremental_unassign([TopicPartition(topic, 0)])
    error = error_of(consumer.incremental_unassign, [TopicPartition(topic, 0)])
    assert flags(error) == (KafkaError._INVALID_ARG, "")
    assert position(consumer, topic) == NONE
    kafka.send(topic, b"not read")
    kafka.send(topic, b"d", partition=1)
    assert found(kafka, consumer) == [b"d", 2]


def test_records_of_removed_partitions_are_not_returned(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(2), kafka.consumer()
    for partition in (0, 1):
        kafka.send(topic, *[b"%d" % partition] * 20, partition=partition)
    consumer.assign([TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0)])
    kafka.until(lambda: consumer.consume(1, kafka.wait_s))  # both may be fetched now
    consumer.incremental_unassign([TopicPartition(topic, 0)])
    values = found(kafka, consumer)
    assert b"0" not in values


def test_another_assignment_begins_where_it_says(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    kafka.send(topic, b"a", b"b", b"c")
    consumer.assign([TopicPartition(topic, 0, 0)])
    found(kafka, consumer)
    consumer.assign([TopicPartition(topic, 0, 1)])
    assert found(kafka, consumer) == [b"b", b"c", 3]
    consumer.assign([])
    assert consumer.assignment() == []
    assert position(consumer, topic) == NONE
    consumer.unassign()


def test_a_seek_reads_again(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    kafka.send(topic, b"a", b"b", b"c")
    consumer.assign([TopicPartition(topic, 0, 2)])
    assert found(kafka, consumer) == [b"c", 3]
    consumer.seek(TopicPartition(topic, 0, 1))
    assert found(kafka, consumer) == [b"b", b"c", 3]


def test_paused_partitions_return_nothing_until_they_resume(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(2), kafka.consumer()
    consumer.assign([TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0)])
    kafka.events(consumer, 2)
    consumer.pause([TopicPartition(topic, 0)])
    kafka.send(topic, b"paused")
    kafka.send(topic, b"flows", partition=1)
    assert found(kafka, consumer) == [b"flows", 1]
    consumer.resume([TopicPartition(topic, 0)])
    assert found(kafka, consumer) == [b"paused", 1]


def test_a_pause_drops_what_was_fetched_and_not_what_was_consumed(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    kafka.send(topic, *[b"%d" % n for n in range(20)])
    consumer.assign([TopicPartition(topic, 0, 0)])
    got: list[Any] = []
    kafka.until(lambda: got.extend(m.value() for m in consumer.consume(3, kafka.wait_s)) or got)
    consumer.pause([TopicPartition(topic, 0)])
    assert consumer.consume(10, 0) == []
    consumer.resume([TopicPartition(topic, 0)])
    assert [*got, *found(kafka, consumer)] == [*(b"%d" % n for n in range(20)), 20]


def test_a_pause_outlives_an_assignment(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(2), kafka.consumer()
    kafka.send(topic, b"a")
    consumer.assign([TopicPartition(topic, 0, 0)])
    kafka.events(consumer)
    consumer.pause([TopicPartition(topic, 0)])
    consumer.unassign()
    consumer.assign([TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0)])
    assert found(kafka, consumer) == [0]  # of partition 1
    consumer.resume([TopicPartition(topic, 0)])
    assert found(kafka, consumer) == [b"a", 1]


@pytest.mark.parametrize(
    ("start", "values"),
    [
        (OFFSET_BEGINNING, [b"c", b"d", 4]),
        (OFFSET_END, [4]),
        (OFFSET_STORED, [b"d", 4]),
        (OFFSET_INVALID, [b"d", 4]),
        (4, [4]),
    ],
    ids=["beginning", "end", "stored", "unset", "at the end"],
)
def test_where_an_assignment_may_begin(kafka: KafkaLab, start: int, values: list[Any]) -> None:
    topic, group = kafka.topic(), kafka.name("g")
    kafka.send(topic, b"a", b"b", b"c", b"d")
    kafka.delete_records(topic, before=2)
    kafka.commit(group, topic, 3)
    consumer = kafka.consumer(group, auto_offset_reset="error")
    consumer.assign([TopicPartition(topic, 0, start)])
    assert found(kafka, consumer) == values


@pytest.mark.parametrize("start", [1, 99], ids=["deleted", "beyond the end"])
@pytest.mark.parametrize("reset", ["earliest", "latest", "error"])
def test_offsets_out_of_range(kafka: KafkaLab, start: int, reset: str) -> None:
    topic = kafka.topic()
    kafka.send(topic, b"a", b"b", b"c")
    kafka.delete_records(topic, before=2)
    consumer = kafka.consumer(auto_offset_reset=reset)
    consumer.assign([TopicPartition(topic, 0, start)])
    if reset != "error":
        assert found(kafka, consumer) == {"earliest": [b"c", 3], "latest": [3]}[reset]
        return
    (message,) = kafka.until(lambda: consumer.consume(10, kafka.wait_s))
    assert (message.topic(), message.partition(), message.offset()) == (topic, 0, start)
    assert flags(message.error()) == (KafkaError._AUTO_OFFSET_RESET, "")
    assert "Offset out of range" in message.error().str()


@pytest.mark.parametrize("reset", ["earliest", "latest", "error"])
def test_no_committed_offset(kafka: KafkaLab, reset: str) -> None:
    topic = kafka.topic()
    kafka.send(topic, b"a")
    consumer = kafka.consumer(auto_offset_reset=reset)
    consumer.assign([TopicPartition(topic, 0)])
    if reset != "error":
        assert found(kafka, consumer) == {"earliest": [b"a", 1], "latest": [1]}[reset]
        return
    (message,) = kafka.until(lambda: consumer.consume(10, kafka.wait_s))
    assert flags(message.error()) == (KafkaError._AUTO_OFFSET_RESET, "")
    assert message.offset() is None


def test_a_topic_that_does_not_exist(kafka: KafkaLab) -> None:
    name, consumer = kafka.name("nope"), kafka.consumer()
    consumer.subscribe([name])
    (message,) = kafka.until(lambda: consumer.consume(10, kafka.wait_s))
    assert (message.topic(), flags(message.error())) == (name, (KafkaError.UNKNOWN_TOPIC_OR_PART, ""))


def test_a_closed_consumer_says_so(kafka: KafkaLab) -> None:
    topic, consumer = kafka.topic(), kafka.consumer()
    at = [TopicPartition(topic, 0)]
    consumer.close()
    for call in (
        lambda: consumer.consume(1, 0),
        lambda: consumer.poll(0),
        lambda: consumer.committed(at),
        lambda: consumer.position(at),
        consumer.assignment,
        consumer.consumer_group_metadata,
        consumer.unsubscribe,
        lambda: consumer.subscribe([topic]),
        lambda: consumer.assign(at),
        lambda: consumer.commit(offsets=at, asynchronous=False),
    ):
        with pytest.raises(RuntimeError, match="Consumer closed"):
            call()
    consumer.close()


def test_options_are_checked_when_a_client_is_made(kafka: KafkaLab) -> None:
    for make in (
        lambda: kafka.cluster.consumer(group_id="g", nonsense=1),
        lambda: kafka.cluster.consumer(group_id="g", isolation_level="x"),
        lambda: kafka.cluster.producer(linger_ms="x"),
        lambda: kafka.cluster.admin(nonsense=1),
    ):
        assert flags(error_of(make)) == (KafkaError._INVALID_ARG, "")
    with pytest.raises(ValueError, match=r"group\.id"):
        kafka.cluster.consumer()
