"""One broker for the whole session, and names in it that no other test uses.

`ANABRANCH_TEST_BROKER` chooses: `container` (fails where there is no engine or image), `embedded`, the address of a
broker that runs already (`127.0.0.1:9092`, say of `anabranch broker`; a short run starts sooner), `memory` (Kafka in
memory, without processes; tests that start processes of their own cannot use it), or `auto` (default: a
container where a Docker engine answers and has the image already, else embedded). `ANABRANCH_TEST_IMAGE` names the
image. The processes of pytest-xdist share one broker.

`ANABRANCH_TEST_AFTER_MEMORY=1` says that the tests of agents have passed in memory: it leaves out those of them that
use no broker, all but the first of the siblings that `parametrize` makes of one function, and those of files marked
`memory_suffices`, but for the tests that the mark names.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from anabranch.replay.testing.broker_container import broker_container
from anabranch.topics import clock, private_texts
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker.broker import EmbeddedBroker
from anabranch.topics.devbroker.distribution import KAFKA_VERSION
from anabranch.topics.memory.memory_cluster import MemoryCluster
from anabranch.topics.memory.memory_kafka import MemoryKafka
from anabranch.topics.printable import forget_secrets
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import KafkaError, Message, TopicPartition
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # what tests share stands beside them

from fork_server import ForkServer

# How long an example takes depends on who else uses the machine.
settings.register_profile("anabranch", deadline=None)
settings.load_profile("anabranch")

# What a terminal or a CI sets changes what commands and pytest print, here and in the processes that the tests start.
for name in (
    *("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PY_COLORS", "COLUMNS", "LINES", "PAGER"),
    *("FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
):
    os.environ.pop(name, None)

# aiohttp reads the certificates of the system when it is imported, which is a tenth of what each process that the tests
# start costs. No test needs them.
os.environ.setdefault("SSL_CERT_FILE", os.devnull)

# Brokers of tests live for seconds or minutes: without Java's second compiler they take half the processor time, and so
# do those that commands start. Options that are there already stand behind it, so they win.
ONE_COMPILER = "-XX:TieredStopAtLevel=1"
java_options = os.environ.get("ANABRANCH_JAVA_OPTIONS", "").split()
if ONE_COMPILER not in java_options:
    os.environ["ANABRANCH_JAVA_OPTIONS"] = " ".join([ONE_COMPILER, *java_options])

ENGINE_S = 2
DRAIN_S = 90.0

# `pytest.mark.needs_real_kafka("reason")`
NEEDS_REAL = "needs_real_kafka"

# `pytestmark = pytest.mark.memory_suffices("test_a", …)` of a file of agents: it is about what the engine does with
# records, and calls Kafka as the contract suite does, which holds Kafka in memory to the real one. The named tests
# follow on the real Kafka all the same; that they are in the file is checked in `test_tidy.py`.
SUFFICES = "memory_suffices"

SERVERS = "anabranch_servers"  # attribute of pytest's configuration, and of what a process of pytest-xdist is given

# Folders whose files take longest come first, for pytest-xdist would put them last. Files whose tests keep processors
# busy are put among those whose tests wait for Kafka, so that some of both run at any time.
BUSY = ("integration", "faults", "docs", "testing", "topics", "replay")
WAITING = ("agents", "contract")

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
    config.addinivalue_line(
        "markers", f"{SUFFICES}(*others): after a run in memory, only these follow on the real Kafka"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start one broker for all processes of pytest-xdist; called for each of them."""
    config, chosen = node.config, choice()
    if not chosen.memory and not chosen.servers:
        if not hasattr(config, SERVERS):
            cluster = ExitStack()
            config.add_cleanup(cluster.close)
            setattr(config, SERVERS, cluster.enter_context(started(chosen)).bootstrap_servers)
        node.workerinput[SERVERS] = getattr(config, SERVERS)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare each process of pytest-xdist a third of collecting: what is collected stays, so nobody looks for garbage in
    it, neither now nor during the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files so that several processes of pytest-xdist end at about the same time; leave out what
    `ANABRANCH_TEST_AFTER_MEMORY` says."""
    files = list(dict.fromkeys(item.path for item in items))
    place: dict[Path, float] = {}
    for folders in (BUSY, WAITING):
        own = [file for file in files if (file.parent.name in WAITING) == (folders is WAITING)]
        own.sort(key=lambda file: folders.index(file.parent.name) if file.parent.name in folders else -1)
        place |= {file: number / len(own) for number, file in enumerate(own)}
    items.sort(key=lambda item: place[item.path])
    if os.environ.get("ANABRANCH_TEST_AFTER_MEMORY"):
        covered = covered_in_memory(items)
        config.hook.pytest_deselected(items=covered)
        left_out = set(covered)
        items[:] = [item for item in items if item not in left_out]
    skip_what_needs_the_real_kafka(items)


def covered_in_memory(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests of agents whose run on Kafka in memory tells as much as one on the real Kafka."""
    functions: set[str] = set()
    covered: list[pytest.Item] = []
    for item in items:
        if item.path.parent.name == "agents" and item.get_closest_marker(NEEDS_REAL) is None:
            function = item.nodeid.partition("[")[0]
            used = "broker" in getattr(item, "fixturenames", ())
            if function in functions or not used or suffices_in_memory(item, function.rpartition("::")[2]):
                covered.append(item)
            functions.add(function)
    return covered


def suffices_in_memory(item: pytest.Item, function: str) -> bool:
    """Return whether the file of a test says that its run on Kafka in memory suffices."""
    mark = item.get_closest_marker(SUFFICES)
    return mark is not None and function not in mark.args


def skip_what_needs_the_real_kafka(items: list[pytest.Item]) -> None:
    """With Kafka in memory, skip the tests that need the real one; they are listed at the end with their reasons."""
    for item in items if choice().memory else ():
        if (mark := item.get_closest_marker(NEEDS_REAL)) is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs the real Kafka: {mark.args[0]}"))


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A cluster of one broker that all tests of the session share."""
    chosen = choice()
    servers = getattr(pytestconfig, "workerinput", {}).get(SERVERS, chosen.servers)
    if chosen.memory:
        yield MemoryKafka().cluster()
    elif servers:
        yield Cluster(servers)
    else:
        with started(chosen) as cluster:
            yield cluster


@contextmanager
def started(chosen: Choice) -> Iterator[Cluster]:
    """A broker in a container, or an embedded one."""
    if chosen.image:
        with broker_container(chosen.image) as cluster:
            yield cluster
    else:
        with EmbeddedBroker(on_progress=print) as embedded:
            yield Cluster(embedded.bootstrap_servers)


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Runs `anabranch` commands in forks of a process that has imported what they need."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has handled private fields hides the texts of errors; the next test shall see them."""
    monkeypatch.delenv("ANABRANCH_SHOW_PRIVATE", raising=False)
    yield
    private_texts.forget()
    forget_secrets()


@pytest.fixture
def fresh() -> Fresh:
    """Makes names that no other test uses: `fresh("orders")` is `orders-1f0c9a7e`."""

    def name(stem: str = "t") -> str:
        return f"{stem}-{uuid.uuid4().hex[:8]}"

    return name


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Makes numbers of ports that nobody listens at."""

    def make() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return make


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition, with a deadline."""

    def wait(condition: Callable[[], bool], what: str, *, within_s: float = 90) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
            time.sleep(0.05)

    return wait


@pytest.fixture
def dying() -> Callable[[int], AbstractContextManager[None]]:
    """Makes a context in which the commit of that number, counted from 0, ends what commits: `with dying(2):`."""

    @contextmanager
    def dying_at(number: int) -> Generator[None]:
        left, commits = [number], TransactionalProducer.commit

        def commit(self: TransactionalProducer) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            commits(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TransactionalProducer, "commit", commit)
            yield

    return dying_at


@pytest.fixture
def send_with_unreadable_header(broker: Cluster) -> Callable[..., None]:
    """Sends a record with a header whose name is not UTF-8, which Python's producer refuses and C or Go write."""
    name, content = b"\xff\xfe\xfd", b"v"

    def send(topic: str, value: bytes, key: bytes = b"k", partition: int = 0, *, cluster: Cluster = broker) -> None:
        if isinstance(cluster, MemoryCluster):
            with cluster.kafka.lock:
                headers = [("trace", b"1"), (name.decode(errors="surrogateescape"), content)]
                cluster.kafka.append(topic, partition, key, value, headers, clock.now_ms())
            return
        folder = Path(confluent_kafka.__file__).parent
        found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*")]
        kafka, pointer, error = ctypes.CDLL(str(found[0])), ctypes.c_void_p, ctypes.create_string_buffer(512)
        kafka.rd_kafka_conf_new.restype = kafka.rd_kafka_new.restype = pointer
        conf = pointer(kafka.rd_kafka_conf_new())
        servers = cluster.bootstrap_servers.encode()
        assert kafka.rd_kafka_conf_set(conf, b"bootstrap.servers", servers, error, 512) == 0
        client = pointer(kafka.rd_kafka_new(0, conf, error, 512))
        # rd_kafka_vtype_t: 1 is a topic, 3 a partition, 4 a value, 5 a key, 7 flags (2: copy), 9 a header, 0 the end.
        number, text, size, end = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int(0)
        where = number(1), text(topic.encode()), number(3), ctypes.c_int32(partition)
        data = number(4), text(value), size(len(value)), number(5), text(key), size(len(key)), number(7), number(2)
        headers = number(9), text(b"trace"), text(b"1"), ctypes.c_ssize_t(1)
        unreadable = number(9), text(name), text(content), ctypes.c_ssize_t(len(content))
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
