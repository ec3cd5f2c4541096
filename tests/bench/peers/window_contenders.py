"""Contenders that sum the records of a topic by key and minute, exactly once; a changelog can restore their state.

Measured and checked as those of `topic_contenders.py`. Records are in order, so no record is late.
"""

from __future__ import annotations

import struct
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
from anabranch.agents.tables.stream_time import STREAM_TIME
from measure import Source
from records import WINDOW_MS

from .contender_result import Contender, Figure
from .environment import PROGRAMS, Python, Streams, Tell
from .topic_contenders import JAVA_FLAGS, QUIX, STREAMS, WORKERS, OnTopic, from_java_long, measured

__all__ = ["ON_WINDOWS"]

_KEY_OF_STREAMS = struct.Struct(">qi")  # behind the record's key: start of the window, and a number of records
# Behind the record's key: a bar, start, a bar, end.
_KEY_OF_QUIX, _BAR = 18, ord("|")


@dataclass(frozen=True, slots=True)
class Ours:
    """A flow with a window table, in as many processes of one group."""

    who: Contender
    workers: int
    head_only: bool = False

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Nothing is missing."""

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run of so many processes."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        command = [sys.executable, str(WORKERS), "--bootstrap-server", source.cluster.bootstrap_servers]
        command += ["--topic", source.topic, "--records", str(source.truth.records), "--name", name]
        command += ["--out", f"{folder / name}.json", "--data", str(folder / name), "--workers", str(self.workers)]
        command += ["--style", "window"]
        return measured(
            self.who, source, folder, name, command, f"{name}-totals-changelog", _our_key, _our_sum, skip=STREAM_TIME
        )


@dataclass(frozen=True, slots=True)
class KafkaStreams:
    """`windowedBy(…).aggregate(…)` of Kafka Streams.

    Attributes:
        settings: beyond those that all have.
    """

    who: Contender
    settings: dict[str, str]
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
            **STREAMS,
            **self.settings,
        }
        java, *classpath = Streams().get(cache, lambda _: None)
        command = [java, *JAVA_FLAGS, *classpath, "bench.Sums", f"topic={source.topic}", f"windows={WINDOW_MS}"]
        command += [f"records={source.truth.records}", f"out={folder / name}.json"]
        command += [f"{setting}={value}" for setting, value in settings.items()]
        changelog = f"{name}-totals-changelog"
        return measured(self.who, source, folder, name, command, changelog, _streams_key, from_java_long)


@dataclass(frozen=True, slots=True)
class Quix:
    """`tumbling_window(…).sum()` of Quix Streams."""

    who: Contender
    head_only: bool = True

    def prepare(self, cache: Path, tell: Tell) -> None:
        """Make its environment."""
        QUIX.get(cache, tell)

    def run(self, source: Source, folder: Path, cache: Path) -> Figure:
        """One run in a process of its own."""
        name = f"bench-{self.who.key}-{uuid.uuid4().hex[:8]}"
        python: Python = QUIX
        command = [str(python.get(cache, lambda _: None)), str(PROGRAMS / "quix.py")]
        command += ["--bootstrap-server", source.cluster.bootstrap_servers, "--topic", source.topic]
        command += ["--records", str(source.truth.records), "--name", name, "--windows", str(WINDOW_MS)]
        command += ["--out", f"{folder / name}.json", "--data", str(folder / name)]
        changelog = f"changelog__{name}--{source.topic}--tumbling_window_{WINDOW_MS}_sum"
        return measured(self.who, source, folder, name, command, changelog, _quix_key, _quix_sum)


def _our_key(key: bytes) -> str:
    user, start, _ = msgspec.json.decode(key)
    return f"{user}@{start}"


def _our_sum(value: bytes) -> int:
    return msgspec.json.decode(value)


def _streams_key(key: bytes) -> str:
    start, _ = cast("tuple[int, int]", _KEY_OF_STREAMS.unpack(key[-_KEY_OF_STREAMS.size :]))
    return f"{key[: -_KEY_OF_STREAMS.size].decode()}@{start}"


def _quix_key(key: bytes) -> str:
    """Return what a window's key says: the record's key, start and end, with bars between. Other entries have none."""
    user, start = key[:-_KEY_OF_QUIX], key[1 - _KEY_OF_QUIX : 9 - _KEY_OF_QUIX]
    if len(key) <= _KEY_OF_QUIX or {key[-_KEY_OF_QUIX], key[-9]} != {_BAR}:
        return ""
    return f"{user.decode()}@{int.from_bytes(start, 'big')}"


def _quix_sum(value: bytes) -> int:
    return msgspec.json.decode(value) if value.isdigit() else 0


_SETTINGS = "flow with window(Tumbling), table in memory; commits every 100 ms at the latest"

ON_WINDOWS: tuple[OnTopic, ...] = (
    Ours(Contender("windows", "anabranch, one worker", _SETTINGS, ours=True), 1),
    Ours(Contender("windows-2", "anabranch, two workers", "the same in two processes of one group", ours=True), 2),
    KafkaStreams(
        Contender(
            "streams-windows",
            "Kafka Streams, commit 100 ms",
            "exactly_once_v2, 2 threads, store in memory, LZ4, ParallelGC",
        ),
        {"commit.interval.ms": "100"},
    ),
    Quix(Contender("quix-windows", "Quix Streams, commit 5 s", "exactly-once, RocksDB, LZ4")),
)
