"""Transactional producers: their states, fencing, time-outs, refused records, and offsets in transactions."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition
from kafka_lab import CALL_S, KafkaLab, error_of, fatal_error_of, flags

STATE = KafkaError._STATE, ""
FENCED = KafkaError._FENCED, "fatal"


def test_calls_in_the_wrong_state(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.producer(transactional_id=kafka.name("x"))
    assert flags(error_of(producer.begin_transaction)) == STATE
    assert flags(error_of(producer.produce, topic, b"v")) == STATE
    producer.init_transactions(CALL_S)
    assert flags(error_of(producer.init_transactions, CALL_S)) == STATE
    for call in (producer.commit_transaction, producer.abort_transaction):
        assert flags(error_of(call, CALL_S)) == STATE
    assert flags(error_of(producer.produce, topic, b"v")) == STATE
    producer.begin_transaction()
    assert flags(error_of(producer.begin_transaction)) == STATE
    producer.abort_transaction(CALL_S)
    assert kafka.end(topic) == 0


def test_a_transaction_without_records_leaves_nothing(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.transactional()
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        end(CALL_S)
    assert kafka.end(topic) == 0


def test_a_commit_delivers_what_is_queued(kafka: KafkaLab) -> None:
    topic, producer = kafka.topic(), kafka.transactional()
    reports: list[Any] = []
    producer.begin_transaction()
    for value in (b"a", b"b"):
        producer.produce(topic, value, partition=0, on_delivery=lambda e, m: reports.append((e, m.offset())))
    producer.commit_transaction(CALL_S)
    assert reports == [(None, 0), (None, 1)]
    kafka.until(lambda: kafka.values(topic) == [b"a", b"b"])


def test_an_abort_purges_what_is_queued(kafka: KafkaLab) -> None:
    kafka.needs_queue()
    topic, producer = kafka.topic(), kafka.transactional(linger_ms=5_000)
    reports: list[Any] = []
    producer.begin_transaction()
    producer.produce(topic, b"never", partition=0, on_delivery=lambda e, m: reports.append((flags(e), m.offset())))
    producer.abort_transaction(CALL_S)
    assert reports == [((KafkaError._PURGE_QUEUE, ""), None)]
    assert kafka.end(topic) == 0


def test_a_new_owner_of_the_id_aborts_the_transaction_left_open(kafka: KafkaLab) -> None:
    topic, name = kafka.topic(), kafka.name("x")
    kafka.interrupted(topic, name)
    owner = kafka.transactional(name)
    assert (kafka.end(topic), kafka.end(topic, committed=True)) == (2, 2)  # the marker is written
    owner.begin_transaction()
    owner.produce(topic, b"kept", partition=0)
    owner.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.values(topic) == [b"kept"])


def _send(kafka: KafkaLab, producer: Any, topic: str) -> KafkaError:
    at, metadata = TopicPartition(topic, 0, 1), kafka.outside(kafka.name("g"))
    return error_of(producer.send_offsets_to_transaction, [at], metadata, CALL_S)


ZOMBIES: dict[str, Callable[[KafkaLab, Any, str], KafkaError]] = {
    "commits": lambda kafka, zombie, topic: error_of(zombie.commit_transaction, CALL_S),
    "aborts": lambda kafka, zombie, topic: error_of(zombie.abort_transaction, CALL_S),
    "sends offsets": _send,
}


@pytest.mark.parametrize("step", ZOMBIES)
def test_a_fenced_producer_is_finished(kafka: KafkaLab, step: str) -> None:
    topic, name = kafka.topic(), kafka.name("x")
    zombie = kafka.interrupted(topic, name)
    kafka.transactional(name)
    error = ZOMBIES[step](kafka, zombie, topic)
    assert flags(error) == FENCED
    for call in (zombie.commit_transaction, zombie.abort_transaction, zombie.init_transactions):
        assert flags(error_of(call, CALL_S)) == FENCED
    assert flags(error_of(zombie.begin_transaction)) == FENCED
    assert flags(error_of(zombie.produce, topic, b"v")) == (KafkaError._FATAL, "")
    zombie.purge()
    assert kafka.values(topic) == []


def test_a_fenced_producers_records_are_refused(kafka: KafkaLab) -> None:
    topic, name = kafka.topic(), kafka.name("x")
    zombie = kafka.interrupted(topic, name)
    owner = kafka.transactional(name)
    zombie.produce(topic, b"late", partition=0)
    assert flags(fatal_error_of(zombie.flush, CALL_S)) == FENCED
    assert flags(error_of(zombie.commit_transaction, CALL_S)) == FENCED
    owner.begin_transaction()
    owner.produce(topic, b"kept", partition=0)
    owner.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.values(topic) == [b"kept"])
    assert b"late" not in kafka.values(topic, committed=False)


def test_a_producer_that_was_fenced_between_transactions_finds_out_when_it_sends(kafka: KafkaLab) -> None:
    topic, name = kafka.topic(), kafka.name("x")
    zombie = kafka.transactional(name)
    kafka.transactional(name)
    zombie.begin_transaction()
    zombie.produce(topic, b"late", partition=0)
    assert flags(error_of(zombie.commit_transaction, CALL_S)) == FENCED
    assert kafka.end(topic) == 0


def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    producer = kafka.transactional(transaction_timeout_ms=1_000, message_timeout_ms=1_000)
    producer.begin_transaction()
    producer.produce(topic, b"slow", partition=0)
    assert producer.flush(CALL_S) == 0
    kafka.until(lambda: kafka.end(topic, committed=True) == 2, "the broker aborts the transaction")
    assert kafka.values(topic) == []
    assert flags(error_of(producer.commit_transaction, CALL_S)) == FENCED
    assert flags(error_of(producer.begin_transaction)) == FENCED


def test_records_after_the_time_out_are_refused(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    producer = kafka.transactional(transaction_timeout_ms=1_000, message_timeout_ms=1_000)
    producer.begin_transaction()
    producer.produce(topic, b"slow", partition=0)
    assert producer.flush(CALL_S) == 0
    kafka.until(lambda: kafka.end(topic, committed=True) == 2, "the broker aborts the transaction")
    reports: list[Any] = []
    producer.produce(topic, b"late", partition=0, on_delivery=lambda error, _: reports.append(error.code()))
    fatal_error = error_of(producer.commit_transaction, CALL_S)
    assert flags(fatal_error) == FENCED
    assert kafka.end(topic) == 2


def test_a_producer_that_was_idle_for_long_goes_on(kafka: KafkaLab) -> None:
    topic = kafka.topic()
    producer = kafka.transactional(transaction_timeout_ms=1_000, message_timeout_ms=1_000)
    producer.begin_transaction()  # nothing was sent in it
    other = kafka.transactional(transaction_timeout_ms=1_000, message_timeout_ms=1_000)
    other.begin_transaction()
    other.produce(topic, b"slow", partition=0)
    assert other.flush(CALL_S) == 0
    kafka.until(lambda: kafka.end(topic, committed=True) == 2, "the other is aborted")
    producer.produce(topic, b"kept", partition=0)
    producer.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.values(topic) == [b"kept"])


REFUSED = {
    "too large": ({"max_message_bytes": "1000"}, lambda: os.urandom(2_000), KafkaError.MSG_SIZE_TOO_LARGE),
    "no key": ({"cleanup_policy": "compact"}, lambda: b"v", KafkaError.INVALID_RECORD),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_record_has_its_transaction_aborted(kafka: KafkaLab, why: str) -> None:
    config, value, code = REFUSED[why]
    topic, strict, producer = kafka.topic(), kafka.topic(**config), kafka.transactional()
    reports: list[Any] = []
    producer.begin_transaction()
    producer.produce(topic, b"fine", partition=0, on_delivery=lambda e, m: reports.append((e, m.offset())))
    producer.produce(strict, value(), partition=0, on_delivery=lambda e, m: reports.append((flags(e), m.offset())))
    assert producer.flush(CALL_S) == 0
    assert sorted(reports, key=str) == [((code, ""), None), (None, 0)]
    assert flags(error_of(producer.produce, topic, b"more")) == STATE
    assert flags(_send(kafka, producer, topic)) == (code, "abort")
    assert flags(error_of(producer.commit_transaction, CALL_S)) == (code, "abort")
    producer.abort_transaction(CALL_S)
    producer.begin_transaction()
    producer.produce(topic, b"next", partition=0)
    producer.commit_transaction(CALL_S)
    kafka.until(lambda: kafka.values(topic) == [b"next"])


def test_a_refused_record_that_is_still_queued_fails_the_commit(kafka: KafkaLab) -> None:
    strict, producer = kafka.topic(cleanup_policy="compact"), kafka.transactional()
    producer.begin_transaction()
    producer.produce(strict, b"v", partition=0)
    assert flags(error_of(producer.commit_transaction, CALL_S)) == (KafkaError.INVALID_RECORD, "abort")
    producer.abort_transaction(CALL_S)


def test_a_topic_that_does_not_exist_fails_the_transaction(kafka: KafkaLab) -> None:
    producer = kafka.transactional(topic_metadata_propagation_max_ms=100)
    reports: list[Any] = []
    producer.begin_transaction()
    producer.produce(kafka.name("nope"), b"v", on_delivery=lambda error, _: reports.append(flags(error)))
    assert producer.flush(CALL_S) == 0
    assert reports == [(KafkaError.UNKNOWN_TOPIC_OR_PART, "")]
    assert flags(error_of(producer.commit_transaction, CALL_S)) == (KafkaError._INCONSISTENT, "abort")
    producer.abort_transaction(CALL_S)


def test_offsets_are_committed_with_the_transaction(kafka: KafkaLab) -> None:
    topic, group, producer = kafka.topic(2), kafka.name("g"), kafka.transactional()
    producer.begin_transaction()
    producer.produce(topic, b"a", partition=0)
    offsets = [TopicPartition(topic, 0, 7, "seven"), TopicPartition(topic, 1, 0)]
    producer.send_offsets_to_transaction(offsets, kafka.outside(group), CALL_S)
    producer.commit_transaction(CALL_S)
    assert kafka.committed(group, (topic, 0), (topic, 1)) == [(7, "seven"), (0, "")]


def test_offsets_that_say_nothing_are_ignored(kafka: KafkaLab) -> None:
    topic, group, producer = kafka.topic(), kafka.name("g"), kafka.transactional()
    kafka.commit(group, topic, 3)
    producer.begin_transaction()
    producer.send_offsets_to_transaction([], kafka.outside(group), CALL_S)
    producer.send_offsets_to_transaction([TopicPartition(topic, 0)], kafka.outside(group), CALL_S)
    producer.commit_transaction(CALL_S)
    assert kafka.committed(group, (topic, 0)) == [(3, "")]


def test_the_last_offsets_of_a_transaction_count(kafka: KafkaLab) -> None:
    topic, group, producer = kafka.topic(), kafka.name("g"), kafka.transactional()
    producer.begin_transaction()
    for offset in (5, 2):
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)], kafka.outside(group), CALL_S)
    producer.commit_transaction(CALL_S)
    assert kafka.committed(group, (topic, 0)) == [(2, "")]


def test_a_plain_producer_has_no_transactions(kafka: KafkaLab) -> None:
    producer = kafka.producer()
    for call in (producer.init_transactions, producer.commit_transaction, producer.abort_transaction):
        assert flags(error_of(call, 1)) == (KafkaError._NOT_CONFIGURED, "")
    assert flags(error_of(producer.begin_transaction)) == (KafkaError._NOT_CONFIGURED, "")
