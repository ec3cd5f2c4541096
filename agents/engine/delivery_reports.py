"""Evaluates the delivery reports of an epoch: refused records, and partitions that may have lost records.

A delivery report for every record would cost as much as producing the record. Reports are therefore requested only
where they may matter:

- for large records, which a topic may refuse because of their size, and for all records once a topic has refused one;
- for records to a partition that has not accepted a record of this producer yet. A new partition, or one that has
  moved, may refuse the first batch and accept a later batch that the producer has sent meanwhile. librdkafka then
  reports the first batch as delivered, without an offset (confluentinc/confluent-kafka-go#921), and a transaction would
  be committed without its records. Once a partition has accepted a record, the broker enforces the order.
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
from .rejected_records import RecordsRefused, Rules

__all__ = ["LARGE_BYTES", "Reports", "UnconfirmedTopic"]

# Topics do not refuse smaller records because of their size.
LARGE_BYTES = 16 * 1024

# Uncompressed size of a librdkafka batch, unless a single record is larger. Topics with a smaller limit get smaller
# batches.
_BATCH_BYTES = 1_000_000

# Confirmations expire: brokers forget producers that were idle for a day (`producer.id.expiration.ms`), and topics are
# deleted and recreated.
_TRUST_S = 600.0
_KEYS = 10_000

_PATIENCE_S = 120.0


class UnconfirmedTopic:
    """A topic with partitions that have not accepted a record of this producer yet.

    When librdkafka chooses the partition by key, the partition is not known in advance; the first record of each key is
    then reported. A few keys are all confirmed soon; many keys reach all partitions soon.

    Attributes:
        partitions: partitions that have accepted a record.
        keys: keys of records that were accepted, at most `_KEYS`.
        count: number of partitions of the topic; 0 until it is known.
    """

    __slots__ = ("_reports", "count", "keys", "partitions")

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.partitions: set[int] = set()
        self.keys: set[bytes] = set()
        self.count = 0

    def must_report(self, key: bytes | None, partition: int) -> bool:
        """Return whether a record needs a delivery report. Partition -1 means that the key decides."""
        return partition not in self.partitions if partition >= 0 else key not in self.keys

    def note(self, error: Any, message: Any) -> None:
        """Process a delivery report."""
        if error is None and self._reports.has_offset(message):
            self.partitions.add(message.partition())
            key: bytes | None = message.key()
            if key and len(self.keys) < _KEYS:  # a record without a key may go to any partition
                self.keys.add(key)
        self._reports.note(error, message)


class Reports:
    """The delivery reports of one producer.

    Args:
        every: all records have a delivery report anyway.

    Attributes:
        failed: the error of the first record of the epoch that was not delivered; None without an error.
        reporting: whether reports were requested for records that librdkafka may wrongly report as delivered.
        unsure: partitions, as (topic, number), that may have lost records of the epoch.
        small: topic -> the largest batch that it accepts, in bytes; only topics that have refused a batch and accept
            less than the usual size.
    """

    def __init__(self, cluster: Cluster, *, every: bool = False) -> None:
        self._admin = Admin(cluster, patience_s=_PATIENCE_S)
        self._every = every
        self._refused: dict[str, tuple[bool, str]] = {}
        self._index: int | None = None
        self.small: dict[str, int] = {}
        self._unconfirmed: dict[str, UnconfirmedTopic | None] = {}
        self._trusted_s = clock.now_s()
        self.failed: KafkaException | None = None
        self.reporting = False
        self.unsure: set[tuple[str, int]] = set()

    def begin(self) -> None:
        """Reset the results before an epoch is sent, and drop confirmations older than `_TRUST_S`."""
        self.failed, self.reporting = None, False
        self.unsure.clear()
        now_s = clock.now_s()
        if now_s - self._trusted_s > _TRUST_S:
            self._unconfirmed.clear()
            self._trusted_s = now_s

    def forget(self) -> None:
        """Drop all confirmations: the producer is a new one."""
        self._unconfirmed.clear()

    def unconfirmed(self, topic: str) -> UnconfirmedTopic | None:
        """Return the confirmation state of a topic; None if its records need no report for that purpose."""
        if self._every:
            return None
        if topic not in self._unconfirmed:
            self._unconfirmed[topic] = UnconfirmedTopic(self)
        return self._unconfirmed[topic]

    def note(self, error: Any, message: Any) -> None:
        """Process a delivery report."""
        if error is not None:
            self.failed = self.failed or KafkaException(error)
            if is_refusal(error):
                self._refused.setdefault(message.topic(), (is_too_large(error), error.str()))
        elif self._every:
            self.has_offset(message)

    def has_offset(self, message: Any) -> bool:
        """Return whether a delivered record has an offset; without one, note that its partition may have lost it."""
        offset = message.offset()
        if offset is None or offset < 0:
            self.unsure.add((message.topic(), message.partition()))
            return False
        return True

    def settle(self, partitions_of: Callable[[str], int]) -> None:
        """Stop requesting reports for topics in which every partition has accepted a record (blocking).

        Call it after all delivery reports of the epoch have arrived.

        Args:
            partitions_of: returns the number of partitions of a topic.
        """
        for topic, unconfirmed in self._unconfirmed.items():
            if unconfirmed is not None and unconfirmed.partitions:
                unconfirmed.count = unconfirmed.count or partitions_of(topic)
                if 0 < unconfirmed.count <= len(unconfirmed.partitions):
                    self._unconfirmed[topic] = None

    def refuse(self, index: int, output: Output, error: BaseException | None = None) -> None:
        """Note which output was refused: it was sent alone, or librdkafka did not accept it into its queue.

        Args:
            place: the place of the output in the epoch.
            error: why it was not queued; None if it was sent and refused.
        """
        if error is not None:
            too_large = isinstance(error, KafkaException) and is_too_large(kafka_error(error))
            self._refused[output.topic] = too_large, described(error)
        if output.topic in self._refused:
            self._index = index

    @property
    def refused(self) -> bool:
        """True if topics have refused records since the last call of `raise_refused`."""
        return bool(self._refused)

    def raise_refused(self, outputs: Iterable[Output], changelogs: Iterable[str]) -> None:
        """Raise Refused if topics have refused records since the last call (blocking).

        Return if only batches were too large, and no record: the next attempt sends smaller batches.
        """
        refused, self._refused = self._refused, {}
        index, self._index = self._index, None
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
            raise RecordsRefused(rules, list(refused), "; ".join(sorted({why for _, why in refused.values()})), index)
