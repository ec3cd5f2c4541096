"""A steady flow of records, and a reader that notes when each result arrives."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from itertools import pairwise
from typing import Any

from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from confluent_kafka import Consumer, TopicPartition
from records import PARTITIONS

__all__ = ["Traffic"]

_STEP_S = 0.005
_PATIENCE_S = 90.0


class Traffic:
    """Orders of a topic, numbered from 1, and the numbers that come out of `<topic>-out`, in the order's partition.

    Attributes:
        totals: user -> sum of what was sent.
        seen: partition -> (monotonic time, number) of each result, in the order of arrival.
    """

    def __init__(self, cluster: Cluster, topic: str, keys: int) -> None:
        self._cluster, self.topic, self._keys = cluster, topic, keys
        Admin(cluster).create([TopicSpec(topic, PARTITIONS), TopicSpec(f"{topic}-out", PARTITIONS)])
        self.totals: Counter[str] = Counter()
        self.seen: dict[int, list[tuple[float, int]]] = {p: [] for p in range(PARTITIONS)}
        self.sent = 0
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._producer: Any = cluster.producer(linger_ms=2)

    def fill(self) -> None:
        """One order a key, of which no result is wanted."""
        for i in range(self._keys):
            self._send(f"user-{i}", i % 97, 0)
        assert not self._producer.flush(60)

    def begin(self, rate: int) -> None:
        """From now on, so many orders a second."""
        self._threads = [threading.Thread(target=self._feed, args=(rate,)), threading.Thread(target=self._watch)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop sending, and wait for all results.

        Raises:
            RuntimeError: some do not come, or not once.
        """
        self._ending.set()
        for thread in self._threads:
            thread.join()
        numbers = sorted(number for seen in self.seen.values() for _, number in seen)
        if numbers != list(range(1, self.sent + 1)):
            raise RuntimeError(f"{self.sent:,} orders, {len(numbers):,} results, {len(set(numbers)):,} different ones")

    def first_after(self, sent: int, partitions: set[int] | None = None) -> float:
        """Wait for a result of an order that was sent after so many; when it was there, the last of the partitions."""
        found: dict[int, float] = {}
        wanted = set(self.seen) if partitions is None else partitions
        deadline = time.monotonic() + _PATIENCE_S
        while wanted - found.keys():
            for p in wanted - found.keys():
                for at_s, number in reversed(self.seen[p][-2_000:]):
                    if number > sent:
                        found[p] = at_s
            if time.monotonic() > deadline:
                raise RuntimeError(f"no results of partitions {sorted(wanted - found.keys())}")
            time.sleep(0.001)  # between two looks
        return max(found.values()) if partitions is not None else min(found.values())

    def pauses_s(self, since_s: float, until_s: float) -> tuple[float, float]:
        """Longest time without any result, and without one of some partition."""
        each = {
            p: [since_s, *(at for at, _ in seen if since_s < at < until_s), until_s] for p, seen in self.seen.items()
        }
        whole = sorted(at for times in each.values() for at in times)
        return _longest(whole), max(map(_longest, each.values()))

    def _send(self, user: str, amount: int, number: int) -> None:
        while True:
            try:
                value = b'{"user":"%b","amount":%d,"at":%d}' % (user.encode(), amount, number)
                self._producer.produce(self.topic, value, user)
                break
            except BufferError:
                self._producer.poll(0.05)
        self.totals[user] += amount

    def _feed(self, rate: int) -> None:
        began_s, rng = time.monotonic(), random.Random(1)
        while not self._ending.is_set():
            for _ in range(int(rate * (time.monotonic() - began_s)) - self.sent):
                self.sent += 1
                self._send(f"user-{rng.randrange(self._keys)}", 1, self.sent)
            self._producer.poll(0)
            time.sleep(_STEP_S)  # until some are due; without it, this loop takes a processor from the workers
        self._producer.flush(30)

    def _watch(self) -> None:
        reader: Any = Consumer(
            self._cluster.config(
                group_id=f"{self.topic}-reader",
                enable_auto_commit=False,
                fetch_queue_backoff_ms=2,
                fetch_wait_max_ms=50,
            )
        )
        reader.assign([TopicPartition(f"{self.topic}-out", p, 0) for p in range(PARTITIONS)])
        read, deadline = 0, float("inf")
        while not self._ending.is_set() or read < self.sent:
            if self._ending.is_set():
                deadline = min(deadline, time.monotonic() + _PATIENCE_S)
            if time.monotonic() > deadline:
                break
            messages: list[Any] = reader.consume(2_000, 0.002)
            now_s = time.monotonic()
            for message in messages:
                if message.error() is None:
                    read += 1
                    self.seen[message.partition()].append((now_s, int(message.value())))
        reader.close()


def _longest(times: list[float]) -> float:
    return max(b - a for a, b in pairwise(times))
