"""What delivery reports say that a commit has to know.

A report for each record would cost as much as producing it. So it is asked for where it may matter:

- of large records, which a topic may refuse for their size, and of all others once a topic has refused something;
- of what goes to a partition that has not got anything of this producer yet. Whoever is refused once, for the partition
  is new or has moved, and has sent more meanwhile, may find that accepted first; librdkafka then takes the first for
  delivered, without an offset (confluentinc/confluent-kafka-go#921), and a transaction would be committed without it.
  Once a partition has got something, the broker minds the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaException

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import described, is_refusal, is_too_large, kafka_error
from ...topics.output import Output
from .rejected_records import Refused, Rules

__all__ = ["LARGE_BYTES", "Reports", "UnconfirmedTopic"]

# Smaller ones are not refused for their size.
LARGE_BYTES = 16 * 1024

# librdkafka's batches, uncompressed, unless a single record is larger: topics that take less are given less at a time.
_BATCH_BYTES = 1_000_000

# Brokers forget producers that were silent for a day (`producer.id.expiration.ms`), and topics are made anew.
_TRUST_S = 600.0
_KEYS = 10_000

_PATIENCE_S = 120.0


class UnconfirmedTopic:
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

    def must_report(self, key: bytes | None, partition: int) -> bool:
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
        small: topic -> bytes that it takes in one batch, of topics that have refused more and take less than the usual.
    """

    def __init__(self, cluster: Cluster, *, every: bool = False) -> None:
        self._admin = Admin(cluster, patience_s=_PATIENCE_S)
        self._every = every
        self._refused: dict[str, tuple[bool, str]] = {}
        self._place: int | None = None
        self.small: dict[str, int] = {}
        self._unconfirmed: dict[str, UnconfirmedTopic | None] = {}
        self._trusted_s = clock.now_s()
        self.failed: KafkaException | None = None
        self.asked = False
        self.unsure: set[tuple[str, int]] = set()

    def begin(self) -> None:
        """An epoch is about to be sent."""
        self.failed, self.asked = None, False
        self.unsure.clear()
        now_s = clock.now_s()
        if now_s - self._trusted_s > _TRUST_S:
            self._unconfirmed.clear()
            self._trusted_s = now_s

    def unconfirmed(self, topic: str) -> UnconfirmedTopic | None:
        """What is not known of a topic yet; None where records need not report for it."""
        if self._every:
            return None
        if topic not in self._unconfirmed:
            self._unconfirmed[topic] = UnconfirmedTopic(self)
        return self._unconfirmed[topic]

    def note(self, error: Any, message: Any) -> None:
        """A delivery report."""
        if error is not None:
            self.failed = self.failed or KafkaException(error)
            if is_refusal(error):
                self._refused.setdefault(message.topic(), (is_too_large(error), error.str()))
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
        for topic, unconfirmed in self._unconfirmed.items():
            if unconfirmed is not None and unconfirmed.partitions:
                unconfirmed.count = unconfirmed.count or partitions_of(topic)
                if 0 < unconfirmed.count <= len(unconfirmed.partitions):
                    self._unconfirmed[topic] = None

    def refuse(self, place: int, output: Output, error: BaseException | None = None) -> None:
        """An output is refused, known by its place: it was sent alone, or could not even be queued."""
        if error is not None:
            too_large = isinstance(error, KafkaException) and is_too_large(kafka_error(error))
            self._refused[output.topic] = too_large, described(error)
        if output.topic in self._refused:
            self._place = place

    @property
    def refused(self) -> bool:
        """Whether topics have refused records since `raise_refused`."""
        return bool(self._refused)

    def raise_refused(self, outputs: Iterable[Output], changelogs: Iterable[str]) -> None:
        """Raise Refused if topics have refused records since the last time (blocking).

        It returns where nothing was too large but a batch: the next attempt sends smaller ones.
        """
        refused, self._refused = self._refused, {}
        place, self._place = self._place, None
        if not refused:
            return
        partitions = self._admin.partitions(list(refused))
        rules = {
            topic: Rules.of(self._admin.config(topic), partitions[topic]) for topic in refused if topic in partitions
        }
        batches = True
        for topic, (too_large, _) in refused.items():
            takes = rules[topic].max_bytes if topic in rules and too_large else _BATCH_BYTES
            if takes < _BATCH_BYTES and topic not in self.small:
                self.small[topic] = takes
            else:
                batches = False
            batches &= topic not in changelogs and not any(o.topic == topic and o.size_bytes > takes for o in outputs)
        if not batches:
            raise Refused(rules, list(refused), "; ".join(sorted({why for _, why in refused.values()})), place)
