"""What the contract of Kafka needs: clients that are closed at the end, topics, records, members of groups.

`kafka[real]` is the session's broker, `kafka[memory]` a `MemoryKafka` of the test's own under a clock that only the
test moves. Nothing in a test asks which of them it is, except where it says why.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from anabranch.topics import clock
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import NewPartitions, OffsetSpec

CALL_S = 15.0
DEADLINE_S = 10.0
STEP_S = 0.02

METADATA = b"CGMDv2:"  # librdkafka's group metadata: this, then the generation in four bytes


class KafkaLab:
    """Clients, topics and records of one test."""

    def __init__(self, cluster: Cluster, *, memory: bool) -> None:
        self.cluster, self.memory = cluster, memory
        self.admin = cluster.admin()
        self._clients: list[Any] = []
        self._plain = cluster.producer(linger_ms=0)

    def close(self) -> None:
        for client in reversed(self._clients):
            if hasattr(client, "subscribe"):
                client.close()
            else:
                _quietly(client.purge)
                _quietly(client.flush, 0)

    # Time -----------------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str = "", *, meanwhile: Iterable[Any] = ()) -> Any:
        """Wait for a condition, and let members consume meanwhile; its value."""
        members, deadline = list(meanwhile), clock.now_s() + DEADLINE_S
        while not (value := condition()):
            assert clock.now_s() < deadline, f"not within {DEADLINE_S:.0f} s: {what or condition}"
            for member in members:
                member.consume()
            self.step()
        return value

    def needs_queue(self) -> None:
        """Skip a test of what happens to records that wait in a producer's queue, alone or as a batch."""
        if self.memory:
            pytest.skip("a producer on Kafka in memory delivers each record at once and by itself")

    def step(self) -> None:
        """Let some time pass."""
        clock.sleep(STEP_S)

    @property
    def now_ms(self) -> int:
        return clock.now_ms() if self.memory else time.time_ns() // 1_000_000

    # Names, topics, clients -----------------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        return f"{stem}-{uuid.uuid4().hex[:8]}"

    def topic(self, partitions: int = 1, **config: str) -> str:
        """A new topic; `max_message_bytes` is `max.message.bytes`."""
        name = self.name("t")
        spec = TopicSpec(name, partitions, config={k.replace("_", "."): v for k, v in config.items()})
        Admin(self.cluster).create([spec])
        return name

    def consumer(self, group: str | None = None, **config: object) -> Any:
        """A consumer that reads from the beginning and reports the ends of partitions."""
        chosen = {"enable_partition_eof": True, "auto_offset_reset": "earliest", "fetch_wait_max_ms": 10, **config}
        return self._kept(self.cluster.consumer(group_id=group or self.name("g"), **chosen))

    def producer(self, **config: object) -> Any:
        return self._kept(self.cluster.producer(**{"linger_ms": 0, **config}))

    def transactional(self, transactional_id: str | None = None, **config: object) -> Any:
        """A transactional producer that has initialised its transactions."""
        # On a busy machine a transaction is open for long.
        chosen = {"transaction_timeout_ms": 60_000, "message_timeout_ms": 60_000, **config}
        producer = self.producer(transactional_id=transactional_id or self.name("x"), **chosen)
        producer.init_transactions(CALL_S)
        return producer

    def interrupted(self, topic: str, transactional_id: str) -> Any:
        """A transactional producer that has delivered b"lost" to partition 0 in a transaction that it leaves open."""
        producer = self.transactional(transactional_id)
        producer.begin_transaction()
        producer.produce(topic, b"lost", partition=0)
        assert producer.flush(CALL_S) == 0
        return producer

    def member(
        self, group: str, topics: list[str], name: str = "m", log: list[str] | None = None, **config: Any
    ) -> Any:
        return Member(self, group, topics, name, [] if log is None else log, config)

    def static(self, group: str, topics: list[str], name: str, log: list[str] | None = None, **config: Any) -> Any:
        """A static member of a classic group, as the engine's are."""
        chosen = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 300, **config}
        return self.member(
            group, topics, name, log, group_instance_id=name, partition_assignment_strategy="range", **chosen
        )

    def _kept(self, client: Any) -> Any:
        self._clients.append(client)
        return client

    # Records and offsets --------------------------------------------------------------------------------------------

    def send(self, topic: str, *values: Any, key: Any = None, partition: int = 0, **more: Any) -> list[int]:
        """Produce values outside of transactions; their offsets."""
        sent = [self.sent(topic, value, key, partition=partition, **more) for value in values]
        assert all(error is None for error, _ in sent), sent
        return [message.offset() for _, message in sent]

    def sent(self, topic: str, value: Any, key: Any = None, *, producer: Any = None, **more: Any) -> Any:
        """Produce one record and wait for its report: the error, and the message."""
        producer = producer or self._plain
        reports: list[Any] = []
        producer.produce(topic, value, key, on_delivery=lambda *report: reports.append(report), **more)
        assert producer.flush(CALL_S) == 0
        assert len(reports) == 1, reports
        return reports[0]

    def read(self, topic: str, partition: int = 0, *, start: int = 0, committed: bool = True) -> list[Message]:
        """The records of a partition up to its end."""
        return self.read_to_end(topic, partition, start=start, committed=committed)[0]

    def read_to_end(
        self, topic: str, partition: int = 0, *, start: int = 0, committed: bool = True
    ) -> tuple[list[Message], int]:
        """The records of a partition, and the offset of its end-of-partition event."""
        consumer = self.consumer(isolation_level="read_committed" if committed else "read_uncommitted")
        consumer.assign([TopicPartition(topic, partition, start)])
        messages = self.events(consumer)
        consumer.unassign()
        return messages[:-1], messages[-1].offset()

    def events(self, consumer: Any, ends: int = 1) -> list[Message]:
        """What a consumer returns up to the ends of so many partitions; these events included."""
        found: list[Message] = []

        def done() -> bool:
            found.extend(consumer.consume(100, self.wait_s))
            return sum(is_end(message) for message in found) >= ends

        self.until(done, f"{ends} ends of partitions")
        return found

    @property
    def wait_s(self) -> float:
        """The time that a call to `consume` may wait. The clock of Kafka in memory stands still meanwhile."""
        return 0.0 if self.memory else STEP_S

    def values(self, topic: str, partition: int = 0, *, start: int = 0, committed: bool = True) -> list[Any]:
        return [m.value() for m in self.read(topic, partition, start=start, committed=committed)]

    def offset(self, topic: str, spec: Any, partition: int = 0, *, committed: bool = False) -> Any:
        """A listed offset and its timestamp."""
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        futures = self.admin.list_offsets({TopicPartition(topic, partition): spec}, isolation_level=isolation)
        (future,) = futures.values()
        found = future.result()
        return found.offset, found.timestamp

    def end(self, topic: str, partition: int = 0, *, committed: bool = False) -> int:
        """The end of a partition: the high watermark, or the last stable offset."""
        return self.offset(topic, OffsetSpec.latest(), partition, committed=committed)[0]

    def committed(self, group: str, *at: tuple[str, int]) -> list[tuple[int, str]]:
        """The committed offsets of a group and their metadata, which may be None where it is empty."""
        consumer = self.cluster.consumer(group_id=group)
        try:
            found = consumer.committed([TopicPartition(*one) for one in at], CALL_S)
            assert not any(one.error for one in found), found
            return [(one.offset, one.metadata or "") for one in found]
        finally:
            consumer.close()

    def commit(self, group: str, topic: str, offset: int, partition: int = 0, metadata: str = "") -> None:
        """Commit an offset as a consumer that is no member."""
        consumer = self.cluster.consumer(group_id=group)
        consumer.commit(offsets=[TopicPartition(topic, partition, offset, metadata)], asynchronous=False)
        consumer.close()

    def delete_records(self, topic: str, before: int, partition: int = 0) -> int:
        """Delete the records before an offset; the first offset that is left."""
        futures = self.admin.delete_records([TopicPartition(topic, partition, before)])
        (found,) = [future.result() for future in futures.values()]
        return found.low_watermark

    def add_partitions(self, topic: str, partitions: int) -> None:
        futures = self.admin.create_partitions([NewPartitions(topic, partitions)])
        futures[topic].result()

    def recreate(self, topic: str) -> None:
        """Create a topic that was deleted. A broker knows for a moment that it was there."""

        def created() -> bool:
            try:
                return topic in Admin(self.cluster).create([TopicSpec(topic, 1)])
            except Stop:
                return False

        self.until(created, f"{topic} is created again")

    def clean(self) -> None:
        """Compact and apply retention at once in memory; the real broker does so when it likes."""
        if self.memory:
            self.cluster.kafka.compact()  # type: ignore[attr-defined]

    def outside(self, group: str) -> Any:
        """The group metadata of a consumer that is no member."""
        return self.consumer(group).consumer_group_metadata()

    def described(self, group: str) -> Any:
        return self.admin.describe_consumer_groups([group])[group].result()


class Member:
    """A consumer that has subscribed, and notes its callbacks as `name verb partitions in call`.

    Attributes:
        owned: its partitions, as the callbacks say.
        errors: the errors that `consume` has returned or raised.
    """

    def __init__(
        self, lab: KafkaLab, group: str, topics: list[str], name: str, log: list[str], config: dict[str, Any]
    ) -> None:
        self.lab, self.name, self.log = lab, name, log
        self.owned: set[tuple[str, int]] = set()
        self.errors: list[KafkaError] = []
        self.values: list[Any] = []
        self._incremental = config.get("group_protocol") == "consumer"
        self._during = ""
        self.kafka = lab.consumer(group, **{"enable_partition_eof": False, **config})
        self.subscribe(topics)

    def subscribe(self, topics: list[str]) -> None:
        self._topics = topics
        with_calls = {"on_assign": self._assigned, "on_revoke": self._revoked, "on_lost": self._lost}
        self.kafka.subscribe(topics, **with_calls)

    def consume(self) -> list[Message]:
        """Consume what is there; errors are kept apart."""
        self._during = "consume"
        try:
            found = self.kafka.consume(100, self.lab.wait_s)
        finally:
            self._during = ""
        self.errors += [message.error() for message in found if message.error() is not None]
        found = [message for message in found if message.error() is None]
        self.values += [message.value() for message in found]
        return found

    def call(self, name: str) -> None:
        """Call `unsubscribe` or `close`, and note the callbacks that are called by it."""
        self._during = name
        getattr(self.kafka, name)()
        self._during = ""

    def leave(self) -> None:
        """Leave the group at once, as the engine does: `close` of a static member alone would not."""
        self.kafka.unsubscribe()
        self.lab.until(lambda: not self.owned, f"{self.name} leaves", meanwhile=[self])
        self.kafka.close()

    @property
    def metadata(self) -> Any:
        return self.kafka.consumer_group_metadata()

    @property
    def generation(self) -> int:
        found = bytes(self.metadata)
        assert found.startswith(METADATA), found
        return int.from_bytes(found[len(METADATA) :][:4], sys.byteorder, signed=True)

    @property
    def numbers(self) -> list[int]:
        return sorted(number for _, number in self.owned)

    def _note(self, verb: str, partitions: list[TopicPartition]) -> None:
        listed = " ".join(sorted(f"{self._topics.index(p.topic)}:{p.partition}" for p in partitions))
        self.log.append(f"{self.name} {verb} [{listed}] in {self._during}")

    def _assigned(self, kafka: Any, partitions: list[TopicPartition]) -> None:
        self._note("assigned", partitions)
        self.owned |= {(p.topic, p.partition) for p in partitions}

    def _revoked(self, kafka: Any, partitions: list[TopicPartition]) -> None:
        self._note("revoked", partitions)
        self.owned -= {(p.topic, p.partition) for p in partitions}

    def _lost(self, kafka: Any, partitions: list[TopicPartition]) -> None:
        self._note("lost", partitions)
        self.owned -= {(p.topic, p.partition) for p in partitions}


class SteppedClock(clock.Clock):
    """A clock that moves only when something sleeps."""

    def __init__(self) -> None:
        self._now_s = 1_000.0
        self._began_ms = time.time_ns() // 1_000_000

    def now_s(self) -> float:
        return self._now_s

    def now_ms(self) -> int:
        return self._began_ms + int((self._now_s - 1_000.0) * 1_000)

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds

    def wait(self, stop: Any, seconds: float) -> None:
        if not stop.is_set():
            self._now_s += seconds


def is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def error_of(call: Callable[..., Any], *args: Any, **options: Any) -> KafkaError:
    """The error that a call raises."""
    with pytest.raises(KafkaException) as raised:
        call(*args, **options)
    error = raised.value.args[0]
    assert isinstance(error, KafkaError)
    return error


def flags(error: KafkaError) -> tuple[int, str]:
    """The code of an error, and what to do about it: `retriable`, `fatal`, `abort` or nothing."""
    said = [("retriable", error.retriable()), ("fatal", error.fatal()), ("abort", error.txn_requires_abort())]
    return error.code(), " ".join(name for name, value in said if value)


def fatal_error_of(call: Callable[..., Any], *args: Any) -> KafkaError:
    """The fatal error that a call raises. Inside of delivery reports it comes wrapped into a SystemError."""
    with pytest.raises((KafkaException, SystemError)) as raised:
        call(*args)
    cause = raised.value if isinstance(raised.value, KafkaException) else raised.value.__cause__
    assert isinstance(cause, KafkaException), cause
    return cause.args[0]


def _quietly(call: Callable[..., Any], *args: Any) -> None:
    try:
        call(*args)
    except (KafkaException, SystemError, RuntimeError):  # fenced: nothing is left to drop
        return
