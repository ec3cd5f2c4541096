"""The records of the bench, and their expected sums.

The same for everybody: seeded, so that a run here and a run there read the same bytes, and the first M of N records
are the M records. Keys follow Zipf's law (the k-th most frequent user comes 1/k as often as the first).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import pyarrow
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.packed import MAX_ROWS, pack
from anabranch.topics.partitioners import HashPartitioner
from confluent_kafka import Consumer, KafkaError, TopicPartition

__all__ = [
    "KEYS",
    "PARTITIONS",
    "WINDOW_MS",
    "Truth",
    "digest",
    "fill",
    "fill_packed",
    "orders",
    "read_totals",
    "truth_of",
    "windowed_truth",
]

KEYS = 100_000
PARTITIONS = 4
SEED = 20_130_101
START_MS = 1_700_000_000_000
WINDOW_MS = 60_000

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a right result looks like.

    Attributes:
        total: sum of all amounts; keys: distinct users; digest: of every user's sum, see `digest`.
    """

    records: int
    total: int
    keys: int
    digest: str

    def differs(self, found: Truth) -> str:
        """In which figures `found` is wrong; empty when it is right."""
        pairs = zip(asdict(self).items(), asdict(found).items(), strict=True)
        return ", ".join(f"{name} {there} instead of {here}" for (name, here), (_, there) in pairs if here != there)


def truth_of(totals: Mapping[str, int], records: int) -> Truth:
    """The figures of a table of sums."""
    return Truth(records, sum(totals.values()), len(totals), digest(totals))


def digest(totals: Mapping[str, int]) -> str:
    """SHA-256 of the sorted lines `user=sum`: one figure that no two different tables share."""
    lines = "\n".join(f"{user}={total}" for user, total in sorted(totals.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def orders(count: int) -> Iterator[tuple[str, int, int]]:
    """(user, amount, milliseconds) of the first `count` records."""
    uniform = random.Random(SEED).random
    for i in range(count):
        yield f"user-{int((KEYS + 1) ** uniform())}", 1 + int(100 * uniform()), START_MS + i


def windowed_truth(count: int) -> Truth:
    """The truth of the sums by user and minute, of the first `count` records."""
    sums: dict[str, int] = {}
    for user, amount, at in orders(count):
        window = f"{user}@{at - at % WINDOW_MS}"
        sums[window] = sums.get(window, 0) + amount
    return truth_of(sums, count)


def fill(cluster: Cluster, topic: str, count: int, tell: Tell | None = None) -> Truth:
    """Create `topic`, produce the first `count` records into it (LZ4, keyed by user); returns their truth."""
    Admin(cluster).create([TopicSpec(topic, PARTITIONS)])
    producer = cluster.producer(linger_ms=50)
    failed: list[KafkaError] = []
    totals: dict[str, int] = {}

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failed.append(error)

    for done, (user, amount, at) in enumerate(orders(count)):
        totals[user] = totals.get(user, 0) + amount
        value = b'{"user":"%b","amount":%d,"at":%d}' % (user.encode(), amount, at)
        while True:
            try:
                producer.produce(topic, value, user, timestamp=at, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        if done % 10_000 == 0:
            producer.poll(0)
            if tell is not None:
                tell(done)
    if producer.flush(60) or failed:
        raise RuntimeError(f"{topic}: could not be filled: {failed[:1] or 'records are undelivered after 60 s'}")
    return truth_of(totals, count)


def fill_packed(cluster: Cluster, topic: str, count: int, tell: Tell | None = None) -> Truth:
    """Create `topic`, produce the first `count` records into it as packed batches; returns their truth."""
    Admin(cluster).create([TopicSpec(topic, PARTITIONS)])
    producer, partitioner = cluster.producer(), HashPartitioner(PARTITIONS)
    waiting: list[list[tuple[str, int, int]]] = [[] for _ in range(PARTITIONS)]
    totals: dict[str, int] = {}

    def send(partition: int) -> None:
        users, amounts, times = zip(*waiting[partition], strict=True)
        columns = {"user": pyarrow.array(users), "amount": pyarrow.array(amounts), "at": pyarrow.array(times)}
        record = pack(pyarrow.record_batch(columns), key="user", time="at")
        headers = list(record.headers or ())
        producer.produce(topic, record.value, None, partition, timestamp=record.timestamp_ms, headers=headers)
        producer.flush(60)
        waiting[partition] = []

    for done, order in enumerate(orders(count)):
        user, amount, _ = order
        totals[user] = totals.get(user, 0) + amount
        partition = partitioner.partition(user.encode())
        waiting[partition].append(order)
        if len(waiting[partition]) == MAX_ROWS:
            send(partition)
            if tell is not None:
                tell(done)
    for partition in range(PARTITIONS):
        if waiting[partition]:
            send(partition)
    return truth_of(totals, count)


def read_totals(
    cluster: Cluster,
    topic: str,
    decode: Callable[[bytes], object],
    decode_value: Callable[[bytes], object] | None = None,
) -> dict[str, int]:
    """What a restart would find: the last committed value of each key of a changelog; `decode_value`: if different.

    A key that `decode` makes an empty text is that of no sum, and is left out.
    """
    decode_value = decode_value or decode
    consumer = Consumer(
        cluster.config(
            group_id="anabranch-bench-audit",
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_queue_backoff_ms=2,
        )
    )
    last: dict[bytes, bytes] = {}
    waiting = set(range(Admin(cluster).partitions([topic])[topic]))
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in waiting])
        while waiting:
            messages = consumer.consume(20_000, 0.2)
            last.update((m.key(), m.value()) for m in messages if m.error() is None)
            waiting -= set(_ended(messages))
    finally:
        consumer.close()
    return {
        name: int(str(decode_value(value)))
        for key, value in last.items()
        if value is not None and (name := str(decode(key)))
    }


def _ended(messages: Iterable[object]) -> Iterator[int]:
    for message in messages:
        error = message.error()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise RuntimeError(error.str())
            yield message.partition()
