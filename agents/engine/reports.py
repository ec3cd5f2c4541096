"""What delivery reports say that a commit has to know.

A report for each record would cost as much as producing it. So it is asked for where it may matter:

- of large records, which a topic may refuse for their size;
- of what goes to a partition that has not got anything of this producer yet. Whoever is refused once, for the partition
  is new or has moved, and has sent more meanwhile, may find that accepted first; librdkafka then takes the first for
  delivered, without an offset (confluentinc/confluent-kafka-go#921), and a transaction would be committed without it.
  Once a partition has got something, the broker minds the order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ...topics.admin import Admin
from ...topics.client import Cluster
from ...topics.errors import BadRecord

__all__ = ["LARGE_BYTES", "Doubt", "Reports", "TooLarge"]

# Smaller ones are not refused for their size.
LARGE_BYTES = 16 * 1024
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

# Brokers forget producers that were silent for a day (`producer.id.expiration.ms`), and topics are made anew.
_TRUST_S = 600.0
_KEYS = 10_000

_PATIENCE_S = 120.0


class TooLarge(BadRecord):
    """A topic has refused a record for its size; nothing of the epoch is visible.

    Attributes:
        limits: topic -> what it takes, in bytes.
    """

    def __init__(self, limits: dict[str, int]) -> None:
        listed = ", ".join(f"{topic} takes {limit:,} bytes" for topic, limit in sorted(limits.items()))
        super().__init__(f"a record is too large: {listed}", hint="raise max.message.bytes of the topic")
        self.limits = limits


class Doubt:
    """A topic that has not got something of this producer in every partition yet.

    Where librdkafka chooses the partition, by key, nobody knows which it will be: then the records of keys report that
    have not been there before. Of few keys all are known soon; many find all partitions soon.

    Attributes:
        partitions, keys: those that have got something.
    """

    __slots__ = ("_reports", "count", "keys", "partitions")

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.partitions: set[int] = set()
        self.keys: set[bytes] = set()
        self.count = 0

    def about(self, key: bytes | None, partition: int) -> bool:
        """Whether a record has to report. A partition of -1 is chosen by the key."""
        return partition not in self.partitions if partition >= 0 else key not in self.keys

    def note(self, error: Any, message: Any) -> None:
        """A delivery report."""
        if error is None and self._reports.has_offset(message):
            self.partitions.add(message.partition())
            key: bytes | None = message.key()
            if key and len(self.keys) < _KEYS:  # without one, any partition may be chosen
                self.keys.add(key)
        self._reports.note(error, message)


class Reports:
    """Those of one producer.

    Args:
        every: all records report anyway.

    Attributes:
        failed: why a record of the epoch was not delivered.
        asked: whether records report that may be taken for delivered.
        unsure: partitions, as (topic, number), that may lack what went there.
    """

    def __init__(self, cluster: Cluster, *, every: bool = False) -> None:
        self._admin = Admin(cluster, patience_s=_PATIENCE_S)
        self._every = every
        self._refused: set[str] = set()
        self._doubts: dict[str, Doubt | None] = {}
        self._trusted_s = time.monotonic()
        self.failed: KafkaException | None = None
        self.asked = False
        self.unsure: set[tuple[str, int]] = set()

    def begin(self) -> None:
        """An epoch is about to be sent."""
        self.failed, self.asked = None, False
        self.unsure.clear()
        now_s = time.monotonic()
        if now_s - self._trusted_s > _TRUST_S:
            self._doubts.clear()
            self._trusted_s = now_s

    def doubt(self, topic: str) -> Doubt | None:
        """What is not known of a topic yet; None where records need not report for it."""
        if self._every:
            return None
        if topic not in self._doubts:
            self._doubts[topic] = Doubt(self)
        return self._doubts[topic]

    def note(self, error: Any, message: Any) -> None:
        """A delivery report."""
        if error is not None:
            self.failed = self.failed or KafkaException(error)
            if error.code() in _TOO_LARGE:
                self._refused.add(message.topic())
        elif self._every:
            self.has_offset(message)

    def has_offset(self, message: Any) -> bool:
        """Whether what was delivered says where; else it may be lost."""
        offset = message.offset()
        if offset is None or offset < 0:
            self.unsure.add((message.topic(), message.partition()))
            return False
        return True

    def settle(self, partitions_of: Callable[[str], int]) -> None:
        """All records have reported: topics that have got something in each partition need no more of it (blocking).

        Args:
            partitions_of: topic -> number of its partitions.
        """
        for topic, doubt in self._doubts.items():
            if doubt is not None and doubt.partitions:
                doubt.count = doubt.count or partitions_of(topic)
                if 0 < doubt.count <= len(doubt.partitions):
                    self._doubts[topic] = None

    def check_sizes(self) -> None:
        """Raise TooLarge if topics have refused records since the last time (blocking)."""
        topics, self._refused = self._refused, set()
        if topics:
            raise TooLarge({topic: int(self._admin.config(topic)["max.message.bytes"]) for topic in topics})
