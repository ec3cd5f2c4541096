"""Reading partitions from a position to an end: changelogs, runs, dead letters, whatever a group has left.

Counting records cannot tell whether the end is reached, because transaction markers and aborted records occupy offsets
too; positions can. Behind the last record only librdkafka's end-of-partition event moves the position.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from . import pulse
from .client import Cluster
from .errors import Stop, from_kafka

__all__ = ["Run", "read_to_end"]

Key = tuple[str, int]

_BATCH = 10_000
_WAIT_S = 0.02  # librdkafka waits this long in full unless it can fill the batch
# An end of partition is reported after this wait at the latest.
_FETCH_WAIT_MS = 10
STALLED_S = 30.0
_CLOSE_S = 5.0

# All others pass or do not (a broker that is away for a moment): then nothing arrives for too long.
_FINAL = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,  # pyright: ignore[reportPrivateUsage]
        KafkaError._UNKNOWN_PARTITION,  # pyright: ignore[reportPrivateUsage]
    }
)


class Run(NamedTuple):
    """Consecutive records of a partition, possibly none, and the position after them."""

    at: Key
    messages: list[Any]
    position: int


def read_to_end(
    cluster: Cluster,
    starts: Mapping[Key, int],
    ends: Mapping[Key, int],
    *,
    stalled_s: float = STALLED_S,
    queued_messages: int = 100_000,
) -> Iterator[Run]:
    """Committed records from `starts` until every partition's position has reached its end.

    Args:
        starts: (topic, partition) -> offset to begin at.
        ends: (topic, partition) -> offset to reach; partitions that are there already are not read.
        stalled_s: how long nothing may arrive.

    Raises:
        Stop: nothing arrived for so long: no broker, or an open transaction stands before the end.
    """
    waiting = {at: end for at, end in ends.items() if starts[at] < end}
    if not waiting:
        return
    reached = {at: starts[at] for at in waiting}
    consumer = _assigned(cluster, reached, queued_messages)
    try:
        moved_s = renewed_s = time.monotonic()
        while waiting:
            for run in _runs(consumer.consume(_BATCH, _WAIT_S), cluster):
                moved_s = renewed_s = time.monotonic()
                reached[run.at] = run.position
                if run.position >= waiting.get(run.at, run.position + 1):
                    del waiting[run.at]
                yield run
            now_s = time.monotonic()
            if now_s - renewed_s > pulse.HUNG_S and pulse.answers(cluster):
                pulse.leave_behind(consumer.close)
                consumer, renewed_s = _assigned(cluster, {at: reached[at] for at in waiting}, queued_messages), now_s
            if now_s - moved_s > stalled_s:
                listed = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(waiting))
                raise Stop(
                    f"nothing arrived from {listed} for {stalled_s:.0f} s",
                    hint="is the broker up? An open transaction of another program also holds readers back",
                )
    finally:
        pulse.leave_behind(consumer.close, _CLOSE_S)


def _assigned(cluster: Cluster, positions: Mapping[Key, int], queued_messages: int) -> Consumer:
    consumer = Consumer(
        cluster.config(
            group_id="anabranch-reading",  # required by librdkafka; nothing is ever committed under it
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_partition_eof=True,
            fetch_wait_max_ms=_FETCH_WAIT_MS,
            fetch_queue_backoff_ms=2,
            queued_min_messages=queued_messages,
        )
    )
    consumer.assign([TopicPartition(*at, position) for at, position in positions.items()])
    return consumer


def _runs(messages: list[Any], cluster: Cluster) -> Iterator[Run]:
    records: dict[Key, list[Any]] = {}
    reached: dict[Key, int] = {}
    for message in messages:
        error, at = message.error(), (message.topic(), message.partition())
        if error is None:
            records.setdefault(at, []).append(message)
            reached[at] = message.offset() + 1
        elif error.code() == KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
            reached[at] = message.offset()
        elif error.fatal() or error.code() in _FINAL:
            raise from_kafka(KafkaException(error), "read", servers=cluster.bootstrap_servers)
    for at, position in reached.items():
        yield Run(at, records.get(at, []), position)
