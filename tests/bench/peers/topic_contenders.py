"""Contenders that sum the records of a topic by key, exactly once, with state that a changelog can restore.

Measured from the first record until all are committed, as `worker.py` measures our own. The sums that are checked are
those in the changelog: what a restart would find.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from anabranch.topics.admin import Admin
from measure import MEASURES, BenchError, Source
from records import read_totals, truth_of
from run_outcome import Outcome

from .contender_result import Contender, Figure
from .environment import PROGRAMS, Python, Streams, Tell
from .meter import metered

__all__ = ["ON_TOPIC", "KafkaStreams", "OnTopic", "OursTogether", "Quix"]

Decode = Callable[[bytes], object]

_WORKERS = Path(__file__).parents[1] / "workers.py"

_QUIX = Python("quixstreams", ("quixstreams==3.28.1", "confluent-kafka==2.12.2"))
# The collector for throughput: a quarter faster here than the one that Java chooses by itself.
_JAVA_FLAGS = ("-Xmx1g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.showDateTime=true")
# The sums are kept in memory, as ours are in this measure.
_STREAMS = {
    "processing.guarantee": "exactly_once_v2",
    "num.stream.threads": "2",
    "dsl.store.suppliers.class": "org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$InMemoryDslStoreSuppliers",
    "producer.compression.type": "lz4",
}


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
        Streams().get(cache, tell)

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run in a Java of its own."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        settings = {
            "application.id": name,
            "bootstrap.servers": source.cluster.bootstrap_servers,
            "state.dir": str(folder / name),
            **_STREAMS,
            **self.settings,
        }
        java, *classpath = Streams().get(cache, lambda _: None)
        command = [java, *_JAVA_FLAGS, *classpath, "bench.Sums", f"topic={source.topic}"]
        command += [f"records={source.truth.records}", f"out={folder / name}.json", *self.arguments]
        command += [f"{setting}={value}" for setting, value in settings.items()]
        changelog = f"{name}-totals-changelog"
        return _measured(self.who, source, folder, name, command, changelog, self.decode_key, _from_java_long)


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
        raise BenchError(f"{who.name}: the changelog is wrong: {wrong}")
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
    Quix(Contender("quix", "Quix Streams, commit 5 s", "exactly-once, RocksDB, LZ4, fetch.queue.backoff.ms 2")),
)
