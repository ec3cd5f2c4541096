"""Contenders that sum the records of a topic by key and minute, exactly once; a changelog can restore their state.

Measured and checked as those of `topic_contenders.py`. Records are in order, so no record is late. Kafka Streams has
`windowedBy(…).aggregate(…)`, Flink `window(…).aggregate(…)`, and Quix Streams `tumbling_window(…).sum()`.
"""

from __future__ import annotations

import struct
from typing import cast

import msgspec
from anabranch.agents.tables.stream_time import STREAM_TIME
from records import WINDOW_MS

from .contender_result import Contender
from .topic_contenders import FLINK, Flink, KafkaStreams, OnTopic, OursTogether, Quix

__all__ = ["ON_WINDOWS"]

_KEY_OF_STREAMS = struct.Struct(">qi")  # behind the record's key: start of the window, and a number of records
# Behind the record's key: a bar, start, a bar, end.
_KEY_OF_QUIX, _BAR = 18, ord("|")


def _our_key(key: bytes) -> str:
    if key == STREAM_TIME:
        return ""
    user, start, _ = msgspec.json.decode(key)
    return f"{user}@{start}"


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
    OursTogether(Contender("windows", "anabranch, one worker", _SETTINGS, ours=True), 1, "window", _our_key),
    OursTogether(
        Contender("windows-2", "anabranch, two workers", "the same in two processes of one group", ours=True),
        2,
        "window",
        _our_key,
    ),
    KafkaStreams(
        Contender(
            "streams-windows",
            "Kafka Streams, commit 100 ms",
            "exactly_once_v2, 2 threads, store in memory, LZ4, ParallelGC",
        ),
        {"commit.interval.ms": "100"},
        (f"windows={WINDOW_MS}",),
        _streams_key,
    ),
    Flink(
        Contender(
            "flink-windows",
            "Flink, checkpoints each second",
            f"{FLINK}; sums are written once, when windows close",
        ),
        {"execution.checkpointing.interval": "1s"},
        (f"windows={WINDOW_MS}",),
    ),
    Quix(
        Contender("quix-windows", "Quix Streams, commit 5 s", "exactly-once, RocksDB, LZ4"),
        ("--windows", str(WINDOW_MS)),
        f"tumbling_window_{WINDOW_MS}_sum",
        _quix_key,
        _quix_sum,
    ),
)
