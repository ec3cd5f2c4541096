"""One broker for the whole session, and names that nobody else uses in it.

`ANABRANCH_TEST_BROKER` chooses: `container` (fails where there is no engine or image), `embedded`, the address of a
broker that runs already (`127.0.0.1:9092`, say of `anabranch broker`; a short run starts sooner), `memory` (Kafka in
memory, without processes; tests that start processes of their own cannot use it), or `auto` (default: a
container where a Docker engine answers and has the image already, else embedded). `ANABRANCH_TEST_IMAGE` names the
image.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import confluent_kafka
import pytest
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker.broker import EmbeddedBroker
from anabranch.topics.devbroker.distribution import KAFKA_VERSION
from anabranch.topics.errors import Stop
from anabranch.topics.memory.memory_kafka import MemoryKafka
from confluent_kafka import KafkaError, Message, TopicPartition
from hypothesis import settings

# How long an example takes depends on who else uses the machine.
settings.register_profile("anabranch", deadline=None)
settings.load_profile("anabranch")

ENGINE_S = 2
READY_S = 60.0
DRAIN_S = 30.0
CLIENT_PORT = 9092

# What a single node needs, in the form that the official image (and deploy/kafka-image.py) takes. The broker also calls
# itself, for coordinators and for transactions: at INTERNAL, because the address for the host leads nowhere in there.
CONTAINER = {
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_NODE_ID": "1",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9094",
    "KAFKA_LISTENERS": f"CLIENT://:{CLIENT_PORT},INTERNAL://localhost:9093,CONTROLLER://localhost:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS": "1000",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "100",
    "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "10000",
    "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "500",
    "KAFKA_LOG_RETENTION_MS": "-1",
}

# `pytest.mark.needs_real_kafka("reason")`
NEEDS_REAL = "needs_real_kafka"

Fresh = Callable[..., str]
Drain = Callable[..., list[Message]]


@dataclass(frozen=True)
class Choice:
    """Which broker the session uses, and why."""

    image: str  # empty: no container
    why: str
    servers: str = ""  # of a broker that runs already; empty: start one
    memory: bool = False

    def __str__(self) -> str:
        if self.memory:
            return f"in memory ({self.why})"
        kind = f"at {self.servers}" if self.servers else f"container {self.image}" if self.image else "embedded"
        return f"{kind} ({self.why})"


@cache
def choice() -> Choice:
    """Decide in at most `ENGINE_S` seconds; in particular, nothing is pulled to find out."""
    mode = os.environ.get("ANABRANCH_TEST_BROKER", "auto")
    image = os.environ.get("ANABRANCH_TEST_IMAGE", f"apache/kafka:{KAFKA_VERSION}")
    if mode not in ("auto", "container", "embedded", "memory") and ":" not in mode:
        expected = "auto, container, embedded, memory or HOST:PORT"
        pytest.exit(f"ANABRANCH_TEST_BROKER={mode}: expected {expected}", returncode=4)
    if mode != "auto":
        why = "ANABRANCH_TEST_BROKER says so"
        if mode == "memory":
            return Choice("", why, memory=True)
        return Choice(image if mode == "container" else "", why, servers=mode if ":" in mode else "")
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        engine = docker.from_env(timeout=ENGINE_S)
        try:
            engine.images.get(image)
        finally:
            engine.close()
    except ImageNotFound:
        return Choice("", f"the Docker engine does not have {image}; `docker pull` it to test against a container")
    except DockerException:
        return Choice("", "no Docker engine answers")
    return Choice(image, "a Docker engine answers and has the image")


def pytest_report_header() -> str:
    return f"broker: {choice()}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{NEEDS_REAL}(reason): skipped with Kafka in memory")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With Kafka in memory, skip the tests that need the real one; they are listed at the end with their reasons."""
    for item in items if choice().memory else ():
        if (mark := item.get_closest_marker(NEEDS_REAL)) is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs the real Kafka: {mark.args[0]}"))


@pytest.fixture(scope="session")
def broker() -> Iterator[Cluster]:
    """A cluster of one broker that all tests of the session share."""
    chosen = choice()
    if chosen.memory:
        yield MemoryKafka().cluster()
    elif chosen.servers:
        yield Cluster(chosen.servers)
    elif chosen.image:
        with container(chosen.image) as cluster:
            yield cluster
    else:
        with EmbeddedBroker(on_progress=print) as embedded:
            yield Cluster(embedded.bootstrap_servers)


@contextmanager
def container(image: str) -> Iterator[Cluster]:
    """Kafka in a container, reachable on loopback."""
    import docker
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    engine = docker.from_env(timeout=ENGINE_S)
    # Ryuk removes containers of a killed session. Where its image is not there, we go without rather than fail.
    present = {tag for found in engine.images.list() for tag in found.tags}
    testcontainers_config.ryuk_disabled = testcontainers_config.ryuk_image not in present
    engine.close()
    # The broker tells clients where to find it, so the port has to be known before it starts.
    with socket.socket() as look:
        look.bind(("127.0.0.1", 0))
        port = look.getsockname()[1]
    # KafkaContainer of testcontainers writes a start script for another vendor's image.
    kafka = DockerContainer(image)
    kafka.ports[CLIENT_PORT] = ("127.0.0.1", port)  # type: ignore[assignment]  # Docker's form of "on loopback only"
    for name, value in CONTAINER.items():
        kafka.with_env(name, value)
    kafka.with_env("KAFKA_ADVERTISED_LISTENERS", f"CLIENT://127.0.0.1:{port},INTERNAL://localhost:9093")
    with kafka:
        cluster = Cluster(f"127.0.0.1:{port}", {"log_level": "0"})
        _await_container(kafka, cluster)
        yield Cluster(cluster.bootstrap_servers)


def _await_container(kafka: object, cluster: Cluster) -> None:
    admin, deadline = Admin(cluster), time.monotonic() + READY_S
    while True:
        try:
            admin.partitions(timeout_s=1.0)
            return
        except Stop as exc:
            wrapped = kafka.get_wrapped_container()  # type: ignore[attr-defined]
            wrapped.reload()
            if wrapped.status not in ("created", "running") or time.monotonic() > deadline:
                log = wrapped.logs(tail=30).decode(errors="replace")
                raise RuntimeError(f"the container is {wrapped.status} and no broker answers:\n{log}") from exc


@pytest.fixture
def fresh() -> Fresh:
    """Makes names that no other test uses: `fresh("orders")` is `orders-1f0c9a7e`."""

    def name(stem: str = "t") -> str:
        return f"{stem}-{uuid.uuid4().hex[:8]}"

    return name


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition, with a deadline."""

    def wait(condition: Callable[[], bool], what: str, *, within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
            time.sleep(0.05)

    return wait


@pytest.fixture
def send_with_unreadable_header(broker: Cluster) -> Callable[..., None]:
    """Sends a record with a header whose name is not UTF-8, which Python's producer refuses and C or Go write."""

    def send(topic: str, value: bytes, key: bytes = b"k", partition: int = 0) -> None:
        folder = Path(confluent_kafka.__file__).parent
        found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*")]
        kafka, pointer, error = ctypes.CDLL(str(found[0])), ctypes.c_void_p, ctypes.create_string_buffer(512)
        kafka.rd_kafka_conf_new.restype = kafka.rd_kafka_new.restype = pointer
        conf = pointer(kafka.rd_kafka_conf_new())
        assert kafka.rd_kafka_conf_set(conf, b"bootstrap.servers", broker.bootstrap_servers.encode(), error, 512) == 0
        client = pointer(kafka.rd_kafka_new(0, conf, error, 512))
        # rd_kafka_vtype_t: 1 is a topic, 3 a partition, 4 a value, 5 a key, 7 flags (2: copy), 9 a header, 0 the end.
        number, text, size, end = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int(0)
        where = number(1), text(topic.encode()), number(3), ctypes.c_int32(partition)
        data = number(4), text(value), size(len(value)), number(5), text(key), size(len(key)), number(7), number(2)
        headers = number(9), text(b"trace"), text(b"1"), ctypes.c_ssize_t(1)
        unreadable = number(9), text(b"\xff\xfe\xfd"), text(b"v"), ctypes.c_ssize_t(1)
        assert kafka.rd_kafka_producev(client, *where, *data, *headers, *unreadable, end) == 0
        assert kafka.rd_kafka_flush(client, 30_000) == 0
        kafka.rd_kafka_destroy(client)

    return send


@pytest.fixture
def drain(broker: Cluster) -> Drain:
    """Reads a topic to its end: `drain(topic)`, or `drain(topic, committed=False)` to see aborted records as well."""

    def read(topic: str, *, committed: bool = True, cluster: Cluster = broker) -> list[Message]:
        return list(read_to_end(cluster, topic, committed=committed))

    return read


def read_to_end(cluster: Cluster, topic: str, *, committed: bool) -> Iterator[Message]:
    waiting = set(range(Admin(cluster).partitions([topic])[topic]))
    consumer = cluster.consumer(
        group_id=f"drain-{uuid.uuid4().hex}",
        enable_partition_eof=True,
        fetch_wait_max_ms=5,  # the end of a partition shows itself as a fetch that waits in vain
        auto_offset_reset="earliest",
        isolation_level="read_committed" if committed else "read_uncommitted",
    )
    deadline = time.monotonic() + DRAIN_S
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in waiting])
        while waiting:
            assert time.monotonic() < deadline, f"no end of {topic} partitions {waiting} in {DRAIN_S:.0f} s"
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                waiting.discard(message.partition())
    finally:
        consumer.close()
