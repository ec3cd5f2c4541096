"""Topics: creation, deletion, metadata, ids, configuration, added partitions, and what groups keep of them."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch.topics.admin import Admin
from confluent_kafka import KafkaError, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from kafka_lab import CALL_S, KafkaLab, error_of, flags


def create(kafka: KafkaLab, name: str, partitions: int = 1, replicas: int = 1, **config: str) -> None:
    new = NewTopic(name, partitions, replicas, config={k.replace("_", "."): v for k, v in config.items()})
    kafka.admin.create_topics([new], operation_timeout=CALL_S)[name].result()


def delete(kafka: KafkaLab, name: str) -> None:
    kafka.admin.delete_topics([name], operation_timeout=CALL_S)[name].result()


def described(kafka: KafkaLab, name: str) -> Any:
    return kafka.admin.describe_topics(TopicCollection([name]))[name].result()


def config(kafka: KafkaLab, name: str) -> dict[str, Any]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    return kafka.admin.describe_configs([resource])[resource].result()


def test_topics_are_listed_with_their_partitions(kafka: KafkaLab) -> None:
    name = kafka.topic(3)
    found = kafka.admin.list_topics(timeout=CALL_S)
    topic = found.topics[name]
    assert (topic.topic, topic.error, sorted(topic.partitions)) == (name, None, [0, 1, 2])
    leaders = {number: (p.id, p.leader, p.replicas, p.isrs, p.error) for number, p in topic.partitions.items()}
    broker = found.controller_id
    assert leaders == {number: (number, broker, [broker], [broker], None) for number in range(3)}
    assert broker in found.brokers
    assert found.cluster_id == kafka.admin.list_topics(name, timeout=CALL_S).cluster_id
    assert len(found.cluster_id) == 22
    for client in (kafka.consumer(), kafka.producer()):
        assert list(client.list_topics(name, timeout=CALL_S).topics) == [name]


def test_a_topic_that_does_not_exist_is_listed_with_an_error(kafka: KafkaLab) -> None:
    name = kafka.name("nope")
    (topic,) = kafka.admin.list_topics(name, timeout=CALL_S).topics.values()
    assert (topic.topic, topic.partitions) == (name, {})
    assert topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert name not in kafka.admin.list_topics(timeout=CALL_S).topics  # it was not created by the question
    for ask in (described, config):
        assert flags(error_of(ask, kafka, name)) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "")


def test_topics_are_described(kafka: KafkaLab) -> None:
    name = kafka.topic(2)
    found = described(kafka, name)
    assert (found.name, found.is_internal, [p.id for p in found.partitions]) == (name, False, [0, 1])
    assert len(str(found.topic_id)) == 22
    assert str(found.topic_id) == str(described(kafka, name).topic_id)


@pytest.mark.parametrize(
    ("name", "partitions", "replicas", "options", "code"),
    [
        ("a b", 1, 1, {}, KafkaError.TOPIC_EXCEPTION),
        (".", 1, 1, {}, KafkaError.TOPIC_EXCEPTION),
        ("x" * 250, 1, 1, {}, KafkaError.TOPIC_EXCEPTION),
        ("contract-refused", 0, 1, {}, KafkaError.INVALID_PARTITIONS),
        ("contract-refused", 1, 3, {}, KafkaError.INVALID_REPLICATION_FACTOR),
        ("contract-refused", 1, 1, {"nonsense": "1"}, KafkaError.INVALID_CONFIG),
        ("contract-refused", 1, 1, {"retention_ms": "x"}, KafkaError.INVALID_CONFIG),
        ("contract-refused", 1, 1, {"cleanup_policy": "keep"}, KafkaError.INVALID_CONFIG),
    ],
)
def test_topics_that_cannot_be(
    kafka: KafkaLab, name: str, partitions: int, replicas: int, options: dict[str, str], code: int
) -> None:
    assert flags(error_of(create, kafka, name, partitions, replicas, **options)) == (code, "")
    assert name not in kafka.admin.list_topics(timeout=CALL_S).topics


def test_a_topic_is_created_once(kafka: KafkaLab) -> None:
    name = kafka.topic(2)
    assert flags(error_of(create, kafka, name, 5)) == (KafkaError.TOPIC_ALREADY_EXISTS, "")
    assert len(described(kafka, name).partitions) == 2


def test_several_topics_are_created_each_with_its_own_outcome(kafka: KafkaLab) -> None:
    there, new = kafka.topic(), kafka.name("t")
    futures = kafka.admin.create_topics([NewTopic(there, 1, 1), NewTopic(new, 1, 1)], operation_timeout=CALL_S)
    assert error_of(futures[there].result).code() == KafkaError.TOPIC_ALREADY_EXISTS
    futures[new].result()
    kafka.until(lambda: new in kafka.admin.list_topics(timeout=CALL_S).topics)


def test_a_deleted_topic_is_gone(kafka: KafkaLab) -> None:
    name = kafka.topic()
    kafka.send(name, b"v")
    delete(kafka, name)
    kafka.until(lambda: name not in kafka.admin.list_topics(timeout=CALL_S).topics)
    assert flags(error_of(delete, kafka, name)) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "")
    assert flags(error_of(described, kafka, name)) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "")


def test_a_recreated_topic_has_another_id_no_records_and_no_offsets(kafka: KafkaLab) -> None:
    name, group = kafka.topic(), kafka.name("g")
    kafka.send(name, b"a", b"b")
    kafka.commit(group, name, 2)
    before = str(described(kafka, name).topic_id)
    delete(kafka, name)
    kafka.until(lambda: kafka.committed(group, (name, 0)) == [(-1001, "")], "the group's offsets are deleted")
    kafka.recreate(name)
    assert str(described(kafka, name).topic_id) != before
    assert kafka.end(name) == 0
    error, message = kafka.sent(name, b"new", producer=kafka.producer(), partition=0)
    assert (error, message.offset()) == (None, 0)
    assert kafka.values(name) == [b"new"]


def test_offsets_of_a_deleted_topic_that_a_transaction_commits_fail_it(kafka: KafkaLab) -> None:
    name, group, producer = kafka.name("nope"), kafka.name("g"), kafka.transactional()
    producer.begin_transaction()
    error = error_of(producer.send_offsets_to_transaction, [TopicPartition(name, 0, 1)], kafka.outside(group), 1.0)
    assert error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._TIMED_OUT)  # librdkafka asks again for 10 s


def test_partitions_are_added_and_never_removed(kafka: KafkaLab) -> None:
    name, consumer = kafka.topic(1), kafka.consumer()
    kafka.send(name, b"a")
    kafka.add_partitions(name, 3)
    kafka.until(lambda: len(described(kafka, name).partitions) == 3)
    Admin(kafka.cluster).begins([TopicPartition(name, 2)])  # a new leader may not know that it is one
    error, message = kafka.sent(name, b"b", producer=kafka.producer(), partition=2)
    assert (error, message.offset()) == (None, 0)
    consumer.assign([TopicPartition(name, p, 0) for p in range(3)])
    assert sorted(m.value() for m in kafka.events(consumer, 3) if not m.error()) == [b"a", b"b"]
    for count in (3, 2):
        error = error_of(kafka.add_partitions, name, count)
        assert flags(error) == (KafkaError.INVALID_PARTITIONS, "")
    missing = kafka.name("nope")
    error = error_of(kafka.admin.create_partitions([NewPartitions(missing, 2)])[missing].result)
    assert flags(error) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "")


def test_the_configuration_includes_defaults(kafka: KafkaLab) -> None:
    name = kafka.topic(cleanup_policy="compact", max_message_bytes="2000")
    found = config(kafka, name)
    values = {key: entry.value for key, entry in found.items()}
    assert values["cleanup.policy"] == "compact"
    assert values["max.message.bytes"] == "2000"
    assert values["retention.ms"] == "-1"
    assert values["message.timestamp.type"] == "CreateTime"
    assert {
        key: values[key]
        for key in (
            "compression.type",
            "delete.retention.ms",
            "message.timestamp.after.max.ms",
            "message.timestamp.before.max.ms",
            "min.compaction.lag.ms",
            "min.insync.replicas",
            "retention.bytes",
            "segment.bytes",
            "segment.ms",
        )
    } == {
        "compression.type": "producer",
        "delete.retention.ms": "86400000",
        "message.timestamp.after.max.ms": "3600000",
        "message.timestamp.before.max.ms": "9223372036854775807",
        "min.compaction.lag.ms": "0",
        "min.insync.replicas": "1",
        "retention.bytes": "-1",
        "segment.bytes": "1073741824",
        "segment.ms": "604800000",
    }
    assert config(kafka, kafka.topic())["max.message.bytes"].value == "1048588"
    assert found["cleanup.policy"].name == "cleanup.policy"
    assert not found["cleanup.policy"].is_default
    assert found["segment.bytes"].is_default


def test_the_configuration_changes(kafka: KafkaLab) -> None:
    name = kafka.topic()
    change = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[change])
    kafka.admin.incremental_alter_configs([resource])[resource].result()
    kafka.until(lambda: config(kafka, name)["max.message.bytes"].value == "1000")
