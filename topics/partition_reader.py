"""Reading of partitions from a position to an end: changelogs, run records, dead letters, the rest of a group's topics.

A count of records cannot tell whether the end is reached, because transaction markers and aborted records occupy
offsets too; positions can. Behind the last record only librdkafka's end-of-partition event moves the position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from . import client_watchdog, clock
from .cluster import Cluster
from .errors import Stop, from_kafka
from .topic_partition import TopicPartition

__all__ = ["Gone", "Reader", "Run", "read_to_end", "stalled"]


# More messages in a call are not faster, and the GIL is held while they are made: 5,000 take 3 ms.
_BATCH = 5_000
_WAIT_S = 0.02  # librdkafka waits this long in full unless it can fill the batch
# The end of a partition is reported after this wait at the latest.
_FETCH_WAIT_MS = 10
STALLED_S = 30.0
_CLOSE_S = 5.0

_error_of = Message.error
_partition_of: Any = Message.partition

# Other errors may be temporary (a broker is away for a moment); if they are not, the read stalls and raises.
_FINAL = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,  # pyright: ignore[reportPrivateUsage]
        KafkaError._UNKNOWN_PARTITION,  # pyright: ignore[reportPrivateUsage]
    }
)

_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})  # pyright: ignore[reportPrivateUsage]


class Run(NamedTuple):
    """Consecutive records of a partition, possibly none, and the position after them."""

    at: TopicPartition
    messages: list[Any]
    position: int


class Gone(Stop):
    """Kafka has deleted the records at a position before they were read.

    Attributes:
        at: the partition.
    """

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(
            f"records of {topic}[{partition}] were deleted before they were read",
            hint="start again: it begins with the first record that still exists",
        )
        self.at = TopicPartition(topic, partition)


class Reader:
    """Reads committed records of partitions that are added and removed. Used by one thread.

    Args:
        queued_messages: number of messages that librdkafka fetches ahead for each partition.
        gone: if the records at a position have been deleted, `earliest` continues with the first that exist;
            `error` raises `Gone`.
    """

    def __init__(self, cluster: Cluster, *, queued_messages: int = 100_000, gone: str = "earliest") -> None:
        self._cluster = cluster
        self._topics: set[str] = set()
        self._kafka: Any = cluster.consumer(
            group_id="anabranch-reading",  # required by librdkafka; nothing is ever committed under it
            isolation_level="read_committed",
            auto_offset_reset=gone,
            enable_partition_eof=True,
            fetch_wait_max_ms=_FETCH_WAIT_MS,
            fetch_queue_backoff_ms=2,
            queued_min_messages=queued_messages,
        )

    def add(self, starts: Mapping[TopicPartition, int]) -> None:
        """Read these partitions, too: (topic, partition) -> offset to begin at."""
        self._topics.update(topic for topic, _ in starts)
        self._kafka.incremental_assign([KafkaPartition(*at, start) for at, start in starts.items()])

    def remove(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions; none of their records is returned from now on."""
        self._kafka.incremental_unassign([KafkaPartition(*at) for at in partitions])

    def read(self, wait_s: float = _WAIT_S) -> list[Run]:
        """Return the records that have arrived; waits until there is a full batch, `wait_s` at most.

        Raises:
            Stop: a partition cannot be read, and waiting would not help.
        """
        messages: list[Any] = self._kafka.consume(_BATCH, wait_s)
        ends: dict[TopicPartition, int] = {}
        if any(map(_error_of, messages)):
            messages = self._without_events(messages, ends)
        runs: dict[TopicPartition, list[Any]] = {}
        for at, run in self._grouped(messages):
            if at in runs:
                runs[at].extend(run)
            else:
                runs[at] = list(run)
        found = [Run(at, run, max(run[-1].offset() + 1, ends.pop(at, 0))) for at, run in runs.items()]
        return found + [Run(at, [], end) for at, end in ends.items()]

    def _without_events(self, messages: list[Any], ends: dict[TopicPartition, int]) -> list[Any]:
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
                ends[TopicPartition(message.topic(), message.partition())] = message.offset()
            elif error.code() in _GONE:
                raise Gone(message.topic(), message.partition())
            elif error.fatal() or error.code() in _FINAL:
                doing = f"read {message.topic()}[{message.partition()}]"
                raise from_kafka(KafkaException(error), doing, servers=self._cluster.bootstrap_servers)
        return [message for message in messages if message.error() is None]

    def _grouped(self, messages: list[Any]) -> Iterator[tuple[TopicPartition, Iterable[Any]]]:
        if len(self._topics) == 1:  # accessors cost as much as reading a message: call as few as possible
            (topic,) = self._topics
            for partition, run in groupby(messages, _partition_of):
                yield TopicPartition(topic, partition), run
        else:
            for at, run in groupby(messages, _at):
                yield TopicPartition(*at), run

    def close(self, *, hung: bool = False) -> None:
        """Close the client, which has committed nothing. A client that hangs is left to a daemon thread."""
        client_watchdog.leave_behind(self._kafka.close, 0.0 if hung else _CLOSE_S)


def read_to_end(
    cluster: Cluster,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    *,
    stalled_s: float = STALLED_S,
    queued_messages: int = 100_000,
) -> Iterator[Run]:
    """Yield committed records from `starts` until every partition's position has reached its end.

    Args:
        starts: (topic, partition) -> offset to begin at.
        ends: (topic, partition) -> offset to reach; partitions that begin at their end are not read.
        stalled_s: the longest time in which nothing arrives.

    Raises:
        Stop: nothing has arrived for that long: no broker, or an open transaction before the end.
    """
    waiting = {at: end for at, end in ends.items() if starts[at] < end}
    if not waiting:
        return
    reached = {at: starts[at] for at in waiting}
    reader = Reader(cluster, queued_messages=queued_messages)
    try:
        reader.add(reached)
        moved_s = renewed_s = clock.now_s()
        while waiting:
            for run in reader.read():
                moved_s = renewed_s = clock.now_s()
                reached[run.at] = run.position
                if run.position >= waiting.get(run.at, run.position + 1):
                    del waiting[run.at]
                yield run
            now_s = clock.now_s()
            if now_s - renewed_s > client_watchdog.HUNG_S and client_watchdog.answers(cluster):
                reader.close(hung=True)
                reader, renewed_s = Reader(cluster, queued_messages=queued_messages), now_s
                reader.add({at: reached[at] for at in waiting})
            if now_s - moved_s > stalled_s:
                raise stalled(waiting, stalled_s)
    finally:
        reader.close()


def stalled(waiting: Iterable[TopicPartition], seconds: float) -> Stop:
    """Return the error for partitions from which nothing has arrived for a time."""
    listed = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(waiting))
    return Stop(
        f"nothing arrived from {listed} for {seconds:.0f} s",
        hint="is the broker up? An open transaction of another program also blocks readers",
    )


def _at(message: Any) -> tuple[str, int]:
    return message.topic(), message.partition()
