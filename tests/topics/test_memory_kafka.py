"""Kafka in memory as a test uses it: the cluster, the interceptor, time, seeds. Kafka's behaviour is in `contract/`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from anabranch.topics import clock, identifiers
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.memory.memory_kafka import MemoryKafka
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

T = 10.0


def values(cluster: Cluster, topic: str) -> list[bytes | None]:
    """The committed values of partition 0, without waiting."""
    consumer = cluster.consumer(group_id="values", isolation_level="read_committed")
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = [message.value() for message in consumer.consume(1_000, 0)]
    consumer.close()
    return found


def group_of(cluster: Cluster, *names: str, topic: str = "t", **config: object) -> list[Any]:
    """Members of one group that have settled."""
    members: list[Any] = []
    for name in names:
        member: Any = cluster.consumer(group_id="g", client_id=name, auto_offset_reset="earliest", **config)
        member.subscribe([topic])
        members.append(member)
        for _ in range(3):
            for one in members:
                one.consume(1, 0)
    return members


def numbers(consumer: Any) -> list[int]:
    return [at.partition for at in consumer.assignment()]


def test_the_cluster_keeps_its_kafka_whatever_is_made_of_it() -> None:
    kafka = MemoryKafka()
    cluster = kafka.cluster(owner="ann")
    Admin(cluster).create([TopicSpec("t", 1)])
    for other in (cluster, cluster.with_options({"linger.ms": "1"}), replace(cluster, bootstrap_servers="elsewhere:1")):
        assert Admin(other).partitions() == {"t": 1}
    assert cluster.with_options({"client.id": "x"}).config()["client.id"] == "x"
    assert Admin(MemoryKafka().cluster()).partitions() == {}, "each has topics of its own"


def test_it_starts_no_threads() -> None:
    before = set(threading.enumerate())
    cluster = MemoryKafka().cluster()
    Admin(cluster).create([TopicSpec("t", 2)])
    producer = TransactionalProducer(cluster, "x")
    producer.open()
    producer.begin()
    producer.produce("t", b"v", partition=0)
    producer.commit()
    member = group_of(cluster, "a")[0]
    assert set(threading.enumerate()) <= before
    assert values(cluster, "t") == [b"v"]
    member.close()


class Recorder:
    """Notes all operations, and does to one of them what a test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, str]] = []
        self.instead: dict[str, Callable[[Callable[[], Any]], Any]] = {}

    def call(self, client: Any, operation: str, act: Callable[[], Any]) -> Any:
        self.calls.append((client.owner, operation))
        return self.instead.pop(operation)(act) if operation in self.instead else act()


def lost() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TRANSPORT, "lost"))


def after(act: Callable[[], Any]) -> Any:
    act()
    raise lost()


def before(act: Callable[[], Any]) -> Any:
    raise lost()


@pytest.mark.parametrize(("when", "kept"), [(before, []), (after, [b"v"])])
def test_the_interceptor_loses_requests_or_their_answers(when: Any, kept: list[bytes]) -> None:
    kafka = MemoryKafka()
    kafka.interceptor = recorder = Recorder()
    cluster = kafka.cluster(owner="worker 1")
    Admin(cluster).create([TopicSpec("t", 1)])
    producer = cluster.producer(transactional_id="x")
    producer.init_transactions(T)
    producer.begin_transaction()
    producer.produce("t", b"v")
    recorder.instead["commit_transaction"] = when
    with pytest.raises(KafkaException, match="lost"):
        producer.commit_transaction(T)
    cluster.producer(transactional_id="x").init_transactions(T)  # aborts what is still open
    assert values(cluster, "t") == kept
    assert ("worker 1", "produce") in recorder.calls
    assert {owner for owner, _ in recorder.calls} == {"worker 1"}


def test_the_interceptor_may_answer_for_the_broker() -> None:
    kafka = MemoryKafka()
    kafka.interceptor = recorder = Recorder()
    cluster = kafka.cluster()
    Admin(cluster).create([TopicSpec("t", 1)])

    def without_topics(act: Callable[[], Any]) -> Any:
        metadata = act()
        metadata.topics = {}
        return metadata

    recorder.instead["list_topics"] = without_topics
    assert (Admin(cluster).partitions(), Admin(cluster).partitions()) == ({}, {"t": 1})


class Moved(clock.Clock):
    """A clock that only moves when something sleeps."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now_s(self) -> float:
        return 100.0 + self.passed_s

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.passed_s * 1000)

    def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


def test_waiting_moves_a_clock_of_its_own() -> None:
    with clock.use(moved := Moved()):
        cluster = MemoryKafka().cluster()
        Admin(cluster).create([TopicSpec("t", 1)])
        consumer = cluster.consumer(group_id="g")
        consumer.assign([TopicPartition("t", 0, 0)])
        assert consumer.consume(1, 3_600) == []
        assert moved.passed_s == pytest.approx(3_600)


def test_a_client_that_falls_silent_loses_its_partitions_when_its_session_ends() -> None:
    with clock.use(moved := Moved()):
        cluster = MemoryKafka().cluster()
        Admin(cluster).create([TopicSpec("t", 2)])
        dead, alive = group_of(cluster, "a", "b", session_timeout_ms=6_000)
        dead.fall_silent()
        moved.sleep(5.9)
        alive.consume(1, 0)
        assert len(numbers(alive)) == 1
        moved.sleep(0.2)
        for _ in range(3):
            alive.consume(1, 0)
        assert numbers(alive) == [0, 1]
        assert len(numbers(dead)) == 1, "it knows nothing yet"
        dead.consume(1, 0)  # its process goes on: it has lost its partitions, and joins again
        for _ in range(3):
            alive.consume(1, 0)
            dead.consume(1, 0)
        assert (len(numbers(alive)), len(numbers(dead))) == (1, 1)


def test_a_transaction_that_is_left_open_ends_by_the_clock_and_its_producer_is_fenced() -> None:
    with clock.use(moved := Moved()):
        cluster = MemoryKafka().cluster()
        Admin(cluster).create([TopicSpec("t", 1)])
        producer = cluster.producer(transactional_id="x", transaction_timeout_ms=10_000)
        producer.init_transactions(T)
        producer.begin_transaction()
        producer.produce("t", b"never")
        cluster.producer().produce("t", b"later")
        assert values(cluster, "t") == []
        moved.sleep(10.1)
        assert values(cluster, "t") == [b"later"]
        with pytest.raises(KafkaException) as caught:
            producer.commit_transaction(T)
        assert (caught.value.args[0].code(), caught.value.args[0].fatal()) == (KafkaError._FENCED, True)


def test_compaction_and_retention_happen_when_they_are_asked_for() -> None:
    with clock.use(moved := Moved()):
        kafka = MemoryKafka()
        cluster = kafka.cluster()
        kafka.create_topic("last", 1, {"cleanup.policy": "compact", "delete.retention.ms": "1000"})
        kafka.create_topic("short", 1, {"retention.ms": "60000"})
        producer = cluster.producer()
        for key, value in [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None)]:
            producer.produce("last", value, key)
            producer.produce("short", value, key)
        kafka.compact()
        assert (values(cluster, "last"), values(cluster, "short")) == ([b"2", None], [b"1", b"1", b"2", None])
        moved.sleep(61)
        producer.produce("short", b"new")
        kafka.compact()
        assert (values(cluster, "last"), values(cluster, "short")) == ([b"2"], [])
        assert kafka.log("short", 0).start == 4, "offsets stay"


def test_offsets_of_groups_are_listed_and_set_by_an_admin_client() -> None:
    kafka = MemoryKafka()
    kafka.create_topic("t", 2)
    admin = kafka.cluster().admin()
    wanted = ConsumerGroupTopicPartitions("g", [TopicPartition("t", 1, 7)])
    admin.alter_consumer_group_offsets([wanted])["g"].result()
    listed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("g")])["g"].result()
    assert [(at.topic, at.partition, at.offset) for at in listed.topic_partitions] == [("t", 1, 7)]


NOT_DONE: list[tuple[str, Callable[[Any], object]]] = [
    ("produce_batch", lambda c: c.producer().produce_batch("t", [])),
    ("store_offsets", lambda c: c.consumer(group_id="g").store_offsets()),
    ("enable.auto.commit", lambda c: c.consumer(group_id="g", enable_auto_commit=True)),
    ("pattern", lambda c: c.consumer(group_id="g").subscribe(["^t"])),
    ("cooperative-sticky", lambda c: c.consumer(group_id="g", partition_assignment_strategy="cooperative-sticky")),
    ("describe_cluster", lambda c: c.admin().describe_cluster()),
]


@pytest.mark.parametrize(("name", "call"), NOT_DONE, ids=[name for name, _ in NOT_DONE])
def test_what_it_does_not_do_says_so(name: str, call: Callable[[Any], object]) -> None:
    with pytest.raises(NotImplementedError, match=name):
        call(MemoryKafka().cluster())


def told(seed: int) -> list[object]:
    """All that depends on random names: ids, who has which partition, where records without a key go."""
    with identifiers.seeded(seed), clock.use(Moved()):
        kafka = MemoryKafka()
        cluster = kafka.cluster()
        Admin(cluster).create([TopicSpec("t", 8)])
        members = group_of(cluster, "a", "b", "c")
        producer = cluster.producer()
        for number in range(16):
            producer.produce("t", b"%d" % number)
        ends = [log.end for log in kafka.topic("t").logs]
        order = [(m.partition(), m.offset()) for member in members for m in member.consume(100, 0)]
        ids = [kafka.cluster_id, str(kafka.topic("t").id), *(member.memberid() for member in members)]
        return [ids, [numbers(member) for member in members], ends, order]


def test_the_same_seed_gives_the_same_whatever_the_hash_seed() -> None:
    assert told(7) == told(7) != told(8)
    outputs = {
        subprocess.run(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{told(7)}\n"}


if __name__ == "__main__":
    sys.stdout.write(f"{told(7)}\n")
