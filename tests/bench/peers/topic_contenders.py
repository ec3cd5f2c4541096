"""Contenders that sum the records of a topic by key, exactly once, with state that a changelog can restore.

Measured from the first record until all are committed, as `worker.py` measures our own. The sums that are checked are
those in the changelog: what a restart would find; those of Flink, whose state is in files, are what it writes to a
topic.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from anabranch.topics.admin import Admin, TopicSpec
from measure import MEASURES, BenchError, Source
from records import PARTITIONS, read_totals, truth_of
from run_outcome import Outcome

from .contender_result import Contender, Figure
from .environment import PROGRAMS, Maven, Python, Tell
from .meter import metered

__all__ = ["FLINK", "ON_TOPIC", "Flink", "KafkaStreams", "OnTopic", "OursTogether", "Quix"]

Decode = Callable[[bytes], object]

_WORKERS = Path(__file__).parents[1] / "workers.py"

_QUIX = Python("quixstreams", ("quixstreams==3.28.1", "confluent-kafka==2.12.2"))
_STREAMS = Maven("streams", "Kafka Streams")
_FLINK = Maven("flink", "Flink")
# The collector for throughput: a quarter faster here than the one that Java chooses by itself.
_JAVA_FLAGS = ("-Xmx1g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.showDateTime=true")
# The sums are kept in memory, as ours are in this measure.
_STREAMS_SETTINGS = {
    "processing.guarantee": "exactly_once_v2",
    "num.stream.threads": "2",
    "dsl.store.suppliers.class": "org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$InMemoryDslStoreSuppliers",
    "producer.compression.type": "lz4",
}
# Two slots, as Kafka Streams has two threads. Without object reuse, records are copied between operators.
_FLINK_SETTINGS = {
    "parallelism.default": "2",
    "taskmanager.numberOfTaskSlots": "2",
    "state.backend.type": "hashmap",
    "execution.checkpointing.mode": "EXACTLY_ONCE",
    "execution.checkpointing.storage": "filesystem",
    "pipeline.object-reuse": "true",
    "restart-strategy.type": "none",
    "sink.compression.type": "lz4",
    "sink.linger.ms": "20",
    "sink.batch.size": str(256 * 1024),
    # Flink's own is an hour, and brokers allow 15 minutes.
    "sink.transaction.timeout.ms": "600000",
}
# What Flink's own scripts open for Java 17. Its log says at the level `info` what each client is set to, each second.
_FLINK_FLAGS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in ("java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util")
    ),
)
FLINK = "exactly-once, 2 slots, state on the heap, LZ4, ParallelGC"
"""The settings that all contenders of Flink have in common, as the table of results names them."""


class OnTopic(Protocol):
    """Anybody who can be measured on a topic.

    Attributes:
        head_only: too slow for all records; it gets the first of them.
    """

    @property
    def who(self) -> Contender: ...

    @property
    def head_only(self) -> bool: ...

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Make what it needs; raises `Missing` where it cannot be had."""

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """Run it once and check its sums; raises `BenchError` where it fails or they are wrong."""


@dataclass(frozen=True, slots=True)
class Ours:
    """The agent by record of `make bench`."""

    who: Contender
    head_only: bool = False

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Nothing is missing."""

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """See `Measure.run`."""
        run = next(measure for measure in MEASURES if measure.key == self.who.key).run(source, folder)
        return Figure(run.rate, run.seconds, run.cpu_s, run.peak_bytes)


@dataclass(frozen=True, slots=True)
class OursTogether:
    """Workers of one group, each in a process of its own.

    Attributes:
        style: of `worker.py`.
        decode_key: of the changelog; see `read_totals`.
    """

    who: Contender
    workers: int = 2
    style: str = "record"
    decode_key: Decode = msgspec.json.decode
    head_only: bool = False

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Nothing is missing."""

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run of so many processes."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        command = [sys.executable, str(_WORKERS), "--bootstrap-server", source.cluster.bootstrap_servers]
        command += ["--topic", source.topic, "--records", str(source.truth.records), "--name", name]
        command += ["--out", f"{folder / name}.json", "--data", str(folder / name), "--workers", str(self.workers)]
        command += ["--style", self.style]
        changelog = f"{name}-totals-changelog"
        return _measured(self.who, source, folder, name, command, changelog, self.decode_key, msgspec.json.decode)


@dataclass(frozen=True, slots=True)
class KafkaStreams:
    """Kafka's own library, in Java.

    Attributes:
        settings: beyond those that all have; of Kafka Streams, under its names.
        arguments: of `Sums.java` beyond the common ones.
        decode_key: of the changelog; see `read_totals`.
    """

    who: Contender
    settings: dict[str, str]
    arguments: tuple[str, ...] = ()
    decode_key: Decode = bytes.decode
    head_only: bool = False

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Compile it, where that has not been done."""
        _STREAMS.get(cache, tell)

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run in a Java of its own."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        settings = {
            "application.id": name,
            "bootstrap.servers": source.cluster.bootstrap_servers,
            "state.dir": str(folder / name),
            **_STREAMS_SETTINGS,
            **self.settings,
        }
        java, *classpath = _STREAMS.get(cache, lambda _: None)
        command = [java, *_JAVA_FLAGS, *classpath, "bench.Sums", f"topic={source.topic}"]
        command += [f"records={source.truth.records}", f"out={folder / name}.json", *self.arguments]
        command += [f"{setting}={value}" for setting, value in settings.items()]
        changelog = f"{name}-totals-changelog"
        return _measured(self.who, source, folder, name, command, changelog, self.decode_key, _from_java_long)


@dataclass(frozen=True, slots=True)
class Flink:
    """Flink, in Java. Its sums are in a topic, written once in the transactions of its checkpoints.

    Attributes:
        settings: beyond those that all have; of Flink, under its names.
        arguments: of `FlinkSums.java` beyond the common ones.
    """

    who: Contender
    settings: dict[str, str]
    arguments: tuple[str, ...] = ()
    head_only: bool = False

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Compile it, where that has not been done."""
        _FLINK.get(cache, tell)

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run in a Java of its own."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        settings = {
            **_FLINK_SETTINGS,
            "execution.checkpointing.dir": (folder / name).as_uri(),
            "io.tmp.dirs": str(folder),
            **self.settings,
        }
        sums = f"{name}-totals"
        Admin(source.cluster).create([TopicSpec(sums, PARTITIONS)])
        java, *classpath = _FLINK.get(cache, lambda _: None)
        command = [java, *_JAVA_FLAGS, *_FLINK_FLAGS, *classpath, "bench.FlinkSums", f"topic={source.topic}"]
        command += [f"records={source.truth.records}", f"out={folder / name}.json", f"to={sums}", *self.arguments]
        command += [f"brokers={source.cluster.bootstrap_servers}"]
        command += [f"{setting}={value}" for setting, value in settings.items()]
        return _measured(self.who, source, folder, name, command, sums, bytes.decode, bytes.decode)


def _before_bar(key: bytes) -> str:
    """Quix Streams writes the record's key, a bar, and the name of the value in the key's state."""
    return key.partition(b"|")[0].decode()


@dataclass(frozen=True, slots=True)
class Quix:
    """Quix Streams, in Python.

    Attributes:
        options: of `quix.py` beyond the common ones.
        store: under the name that Quix Streams gives it.
        decode_key, decode_value: of the changelog; see `read_totals`.
    """

    who: Contender
    options: tuple[str, ...] = ()
    store: str = "default"
    decode_key: Decode = _before_bar
    decode_value: Decode = bytes.decode
    head_only: bool = True

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Make its environment."""
        _QUIX.get(cache, tell)

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run in a process of its own."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        command = [str(_QUIX.get(cache, lambda _: None)), str(PROGRAMS / "quix.py")]
        command += ["--bootstrap-server", source.cluster.bootstrap_servers, "--topic", source.topic]
        command += ["--records", str(source.truth.records), "--name", name]
        command += ["--out", f"{folder / name}.json", "--data", str(folder / name), *self.options]
        changelog = f"changelog__{name}--{source.topic}--{self.store}"
        return _measured(self.who, source, folder, name, command, changelog, self.decode_key, self.decode_value)


def _measured(
    who: Contender,
    source: Source,
    folder: Path,
    name: str,
    command: list[str],
    changelog: str,
    decode_key: Decode,
    decode_value: Decode,
) -> Figure:
    usage = metered(command, folder=folder, log=folder / f"{name}.log")
    outcome = Outcome.read(folder / f"{name}.json")
    totals = read_totals(source.cluster, changelog, decode_key, decode_value)
    wrong = source.truth.differs(truth_of(totals, outcome.records))
    if wrong:
        raise BenchError(f"{who.name}: {changelog} is wrong: {wrong}")
    Admin(source.cluster).delete([changelog])
    peak_bytes = max(usage.peak_bytes, outcome.peak_bytes)
    return Figure(outcome.records / outcome.seconds, outcome.seconds, usage.cpu_s, peak_bytes)


def _from_java_long(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


ON_TOPIC: tuple[OnTopic, ...] = (
    Ours(
        Contender(
            "record",
            "anabranch, one worker",
            "agent by record, table in memory; commits every 100 ms at the latest",
            ours=True,
        )
    ),
    OursTogether(Contender("record-2", "anabranch, two workers", "the same in two processes of one group", ours=True)),
    Ours(Contender("record-disk", "anabranch, one worker, RocksDB", "the same, its table in RocksDB", ours=True)),
    KafkaStreams(
        Contender(
            "streams", "Kafka Streams, commit 100 ms", "exactly_once_v2, 2 threads, store in memory, LZ4, ParallelGC"
        ),
        {"commit.interval.ms": "100"},
    ),
    KafkaStreams(
        Contender("streams-tuned", "Kafka Streams, commit 1 s, tuned", "the same, cache of 64 MiB, batches of 256 KiB"),
        {
            "commit.interval.ms": "1000",
            "statestore.cache.max.bytes": str(64 * 1024 * 1024),
            "producer.batch.size": str(256 * 1024),
        },
    ),
    Flink(
        Contender("flink", "Flink, checkpoints each second", f"{FLINK}; sums are written once, at the end"),
        {"execution.checkpointing.interval": "1s"},
    ),
    Quix(Contender("quix", "Quix Streams, commit 5 s", "exactly-once, RocksDB, LZ4, fetch.queue.backoff.ms 2")),
)
