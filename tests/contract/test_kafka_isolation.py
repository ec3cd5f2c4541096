"""What readers see of open, committed and aborted transactions, and the offsets that markers take."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import OffsetSpec
from kafka_lab import CALL_S, KafkaLab, error_of, flags


def write(producer: Any, topic: str, *values: bytes, end: str = "") -> None:
    """Write in a transaction, and end it."""
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0, timestamp=1_000)
    assert producer.flush(CALL_S) == 0
    if end:
        getattr(producer, f"{end}_transaction")(CALL_S)


def settled(kafka: KafkaLab, topic: str, end: int) -> None:
    """Wait for markers, which are written after the answer."""
    kafka.until(lambda: kafka.end(topic, committed=True) == end, f"the last stable offset is {end}")


def test_records_of_an_open_transaction_are_not_committed(kafka: KafkaLab) -> None:
    #  0  1 | 2
    #  a  b   plain          the transaction of a and b is open
    topic, producer = kafka.topic(), kafka.transactional()
    write(producer, topic, b"a", b"b")
    kafka.send(topic, b"plain")
    assert (kafka.end(topic), kafka.end(topic, committed=True)) == (3, 0)
    found, end = kafka.read_to_end(topic)
    assert ([m.value() for m in found], end) == ([], 0)
    found, end = kafka.read_to_end(topic, committed=False)
    assert ([m.value() for m in found], end) == ([b"a", b"b", b"plain"], 3)
    producer.commit_transaction(CALL_S)
    settled(kafka, topic, 4)
    found, end = kafka.read_to_end(topic)
    assert ([(m.offset(), m.value()) for m in found], end) == ([(0, b"a"), (1, b"b"), (2, b"plain")], 4)
    producer.begin_transaction()


def test_a_marker_takes_an_offset_whichever_way_a_transaction_ends(kafka: KafkaLab) -> None:
    #  0  1  2       3  4      5
    #  a  b  commit  c  abort  d
    topic, producer = kafka.topic(), kafka.transactional()
    write(producer, topic, b"a", b"b", end="commit")
    settled(kafka, topic, 3)
    write(producer, topic, b"c", end="abort")
    settled(kafka, topic, 5)
    kafka.send(topic, b"d")
    assert [(m.offset(), m.value()) for m in kafka.read(topic)] == [(0, b"a"), (1, b"b"), (5, b"d")]
    everything = [(m.offset(), m.value()) for m in kafka.read(topic, committed=False)]
    assert everything == [(0, b"a"), (1, b"b"), (3, b"c"), (5, b"d")]
    assert kafka.values(topic, start=2) == kafka.values(topic, start=5) == [b"d"]


def test_the_end_behind_markers_moves_the_position_once_something_was_consumed(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(2), kafka.transactional()
    write(producer, topic, b"a", end="commit")
    settled(kafka, topic, 2)
    write(producer, topic, b"b", end="abort")
    settled(kafka, topic, 4)
    consumer = kafka.consumer(isolation_level="read_committed")
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert [m.offset() for m in kafka.events(consumer)] == [0, 4]
    (position,) = consumer.position([TopicPartition(topic, 0)])
    assert position.offset == 4
    consumer.assign([TopicPartition(topic, 0, 1)])
    assert [m.offset() for m in kafka.events(consumer)] == [4]


def test_watermarks_of_a_consumer_that_reads_committed_records(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.transactional()
    write(producer, topic, b"a", end="commit")
    settled(kafka, topic, 2)
    write(producer, topic, b"b")
    consumer = kafka.consumer(isolation_level="read_committed")
    at = TopicPartition(topic, 0, 0)
    consumer.assign([at])
    assert [m.offset() for m in kafka.events(consumer)] == [0, 2]
    assert consumer.get_watermark_offsets(at, timeout=CALL_S) == (0, 2)  # up to the last stable offset
    assert consumer.get_watermark_offsets(at, cached=True) == (0, 3)  # the high watermark of the last fetch
    producer.abort_transaction(CALL_S)


def test_offsets_of_times_see_markers_and_not_records_after_the_last_stable_offset(kafka: KafkaLab) -> None:
    #  0      1       2
    #  1,000  commit  open
    topic, producer = kafka.topic(), kafka.transactional()
    kafka.send(topic, b"old", timestamp=500)
    write(producer, topic, b"a", end="commit")
    settled(kafka, topic, 3)
    write(producer, topic, b"b")
    assert kafka.offset(topic, OffsetSpec.for_timestamp(600)) == (1, 1_000)
    offset, time_ms = kafka.offset(topic, OffsetSpec.for_timestamp(1_001))
    assert (offset, time_ms > 1_001) == (2, True)  # the marker, whose time is the broker's
    assert kafka.offset(topic, OffsetSpec.for_timestamp(1_001), committed=True)[0] == 2
    assert kafka.offset(topic, OffsetSpec.max_timestamp())[0] == 2
    assert kafka.offset(topic, OffsetSpec.for_timestamp(kafka.now_ms + 60_000)) == (-1, -1)
    empty, second = kafka.topic(), kafka.transactional()
    write(second, empty, b"a")
    assert kafka.offset(empty, OffsetSpec.for_timestamp(0)) == (0, 1_000)
    assert kafka.offset(empty, OffsetSpec.for_timestamp(0), committed=True) == (-1, -1)
    assert kafka.offset(empty, OffsetSpec.earliest(), committed=True)[0] == 0


def test_the_earliest_open_transaction_holds_readers_back(kafka: KafkaLab) -> None:
    #  0      1       2              3
    #  first  second  commit second  commit first
    topic, first, second = kafka.topic(), kafka.transactional(), kafka.transactional()
    write(first, topic, b"first")
    write(second, topic, b"second", end="commit")
    kafka.until(lambda: kafka.end(topic) == 3)
    assert kafka.end(topic, committed=True) == 0
    assert kafka.values(topic) == []
    first.commit_transaction(CALL_S)
    settled(kafka, topic, 4)
    assert kafka.values(topic) == [b"first", b"second"]


def test_transactions_interleave(kafka: KafkaLab) -> None:
    topic, kept, dropped = kafka.topic(), kafka.transactional(), kafka.transactional()
    kept.begin_transaction()
    dropped.begin_transaction()
    for number in range(3):
        for producer, name in ((kept, b"kept"), (dropped, b"dropped")):
            producer.produce(topic, name + b"%d" % number, partition=0)
            assert producer.flush(CALL_S) == 0
    dropped.abort_transaction(CALL_S)
    kept.commit_transaction(CALL_S)
    settled(kafka, topic, 8)
    assert kafka.values(topic) == [b"kept0", b"kept1", b"kept2"]


def test_a_transaction_over_two_topics_has_a_marker_in_each_partition(kafka: KafkaLab) -> None:
    one, other, producer = kafka.topic(2), kafka.topic(), kafka.transactional()
    producer.begin_transaction()
    producer.produce(one, b"a", partition=1)
    producer.produce(other, b"b", partition=0)
    producer.commit_transaction(CALL_S)
    kafka.until(lambda: [kafka.end(one), kafka.end(one, 1), kafka.end(other)] == [0, 2, 2])


def test_a_consumer_that_waits_sees_a_transaction_when_it_commits(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.transactional()
    consumer = kafka.consumer(isolation_level="read_committed", enable_partition_eof=False)
    consumer.assign([TopicPartition(topic, 0, 0)])
    write(producer, topic, b"a", b"b")
    assert consumer.consume(10, kafka.wait_s) == []
    producer.commit_transaction(CALL_S)
    found: list[Any] = []
    kafka.until(lambda: found.extend(consumer.consume(10, kafka.wait_s)) or len(found) == 2)
    assert [m.value() for m in found] == [b"a", b"b"]


def test_committed_offsets_wait_for_an_open_transaction(kafka: KafkaLab) -> None:
    topic, group, producer = kafka.topic(2), kafka.name("g"), kafka.transactional()
    kafka.commit(group, topic, 3, metadata="before")
    producer.begin_transaction()
    offsets = [TopicPartition(topic, 0, 7, "after")]
    producer.send_offsets_to_transaction(offsets, kafka.outside(group), CALL_S)
    consumer = kafka.consumer(group)
    error = error_of(consumer.committed, [TopicPartition(topic, 0)], 0.2)
    assert flags(error) == (KafkaError._TIMED_OUT, "")
    producer.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.committed(group, (topic, 0), (topic, 1)) == [(7, "after"), (-1001, "")])


def test_aborted_offsets_are_dropped(kafka: KafkaLab) -> None:
    topic, group, producer = kafka.topic(), kafka.name("g"), kafka.transactional()
    kafka.commit(group, topic, 3, metadata="before")
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 7)], kafka.outside(group), CALL_S)
    producer.abort_transaction(CALL_S)
    assert kafka.committed(group, (topic, 0)) == [(3, "before")]
