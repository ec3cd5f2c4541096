"""The commit: performs the effects of an epoch, in one order, in one Kafka transaction.

    begin → outputs → changelog (last value of each dirty key) → offsets, with the current group metadata → commit

Laws. The stores are written after it, by the caller, and only if it returned. An outcome that is unknown is asked for
again until it is known; nothing is aborted or applied on doubt. Every transaction of a worker that owns partitions
carries offsets, unchanged ones if nothing was consumed, because only a transaction with offsets fences a zombie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from ...topics import client_watchdog, clock
from ...topics.cluster import Cluster
from ...topics.errors import Hung, Stop, from_kafka, is_lost, is_refusal, is_unreachable, kafka_error, passes
from ...topics.output import RECORD_BYTES, Output
from ...topics.producer import Aborted, TransactionalProducer
from ..tables.store import Changes
from .delivery_reports import LARGE_BYTES, Reports
from .topic_ids import TopicIds

__all__ = ["AtLeastOnce", "CommitRequest", "Committer", "ExactlyOnce"]

_ATTEMPTS = 5
_UNDELIVERED_S = 120.0

# What the broker takes is a matter of the topic, and a dead letter is larger than its record, so librdkafka's own bound
# is out of the way. Brokers hang up on requests of more than 100 MiB.
_RECORD_BYTES = 100_000_000

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Everything one epoch wants of Kafka.

    Attributes:
        outputs: records to produce, in order.
        changes: changelog topic -> partition -> (key, value or None for a tombstone).
        offsets: next offsets to consume, with the marks of streams that are further in their metadata.
        group: the consumer's group metadata, as it is now; None without a group.
        singly: topics whose outputs are to be sent each by itself, to find out which is refused.
    """

    outputs: Sequence[Output]
    changes: Mapping[str, Mapping[int, Changes]]
    offsets: list[TopicPartition]
    group: Any
    singly: frozenset[str] = frozenset()


class _NotSent(Exception):
    """An output is refused; `Reports` know which, and the transaction is to be aborted."""


Positions = dict[Key, int]
"""(changelog topic, partition) -> the position after the epoch's last record in it."""


class ExactlyOnce:
    """Commits epochs as transactions of one transactional id.

    Args:
        options: librdkafka's, of the producer.
        topic_ids: compared before each commit.
    """

    def __init__(
        self,
        cluster: Cluster,
        transactional_id: str,
        options: Mapping[str, Any] | None = None,
        *,
        topic_ids: TopicIds | None = None,
    ) -> None:
        self._topic_ids = topic_ids
        chosen: dict[str, Any] = {"message_max_bytes": _RECORD_BYTES, **(options or {})}
        self._kafka = TransactionalProducer(cluster, transactional_id, **chosen)
        self._reports = Reports(cluster)

    def open(self) -> None:
        """Fence and clean up after whoever had the id before (blocking)."""
        self._kafka.open()

    def commit(self, request: CommitRequest) -> Positions:
        """Perform it (blocking); returns the changelog positions after it.

        Raises:
            Aborted: with `lost`, the partitions are gone; the epoch belongs to nobody.
            Refused: of a record that its topic does not take.
            Rebuild: fenced.
            Stop: a topic was made anew, so that its offsets mean nothing any more.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._try(request, every=attempt > 0 or bool(request.singly))
            except Aborted as exc:
                self._reports.raise_refused(request.outputs, request.changes)
                if exc.lost or attempt == _ATTEMPTS - 1:
                    raise
                clock.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def _try(self, request: CommitRequest, *, every: bool) -> Positions:
        kafka, reports = self._kafka, self._reports
        kafka.begin()
        reports.begin()
        compare = _comparing(self._topic_ids, request)
        try:
            positions = _produce(kafka.produce, kafka.produce_fast, kafka.flush, request, reports, every=every)
        except _NotSent as exc:
            kafka.abort()
            raise Aborted(str(exc)) from exc
        try:
            compare()
        except Stop:
            kafka.abort()
            raise
        if request.offsets and request.group is not None:
            kafka.send_offsets(request.offsets, request.group)
        if reports.asked:
            kafka.flush()
            if reports.unsure:
                kafka.abort()
                raise Aborted(_may_be_lost(reports))
            reports.settle(kafka.partitions)
        kafka.commit()
        return positions

    def close(self) -> None:
        """Nothing is open between commits."""
        self._kafka.close()


class AtLeastOnce:
    """Produces, waits, then commits offsets: after a crash in between, an epoch is done again."""

    def __init__(
        self,
        cluster: Cluster,
        consumer: Any,
        options: Mapping[str, Any] | None = None,
        *,
        topic_ids: TopicIds | None = None,
    ) -> None:
        self._cluster, self._topic_ids = cluster, topic_ids
        chosen: dict[str, Any] = {"message_max_bytes": _RECORD_BYTES, **(options or {})}
        self._kafka = cluster.producer(**chosen)
        self._reports = Reports(cluster, every=True)
        self._consumer = consumer

    def open(self) -> None:
        """Nothing to clean up."""

    def commit(self, request: CommitRequest) -> Positions:
        """As `ExactlyOnce.commit`, without its promise."""
        reports = self._reports
        reports.begin()
        compare = _comparing(self._topic_ids, request)
        try:
            positions = _produce(self._produce, self._kafka.produce, self._flush, request, reports, every=True)
        except _NotSent:
            positions = {}
        self._flush()
        if reports.refused:
            reports.raise_refused(request.outputs, request.changes)
            raise Aborted("a batch was too large for its topic")
        compare()
        if reports.failed is not None:
            raise from_kafka(reports.failed, "produce", servers=self._cluster.bootstrap_servers) from reports.failed
        if reports.unsure:
            raise Aborted(_may_be_lost(reports))
        if request.offsets and request.group is not None:
            self._commit_offsets(request.offsets)
        return positions

    def _commit_offsets(self, offsets: list[TopicPartition]) -> None:
        began_s = clock.now_s()
        while True:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
                return
            except KafkaException as exc:
                error = kafka_error(exc)
                if is_lost(error):
                    raise Aborted(f"commit offsets: {error.str()}", lost=True) from exc
                waited_s = clock.now_s() - began_s
                if not (passes(error) or is_unreachable(error)) or waited_s > _UNDELIVERED_S:
                    raise from_kafka(exc, "commit offsets", servers=self._cluster.bootstrap_servers) from exc
                if waited_s > client_watchdog.HUNG_S and client_watchdog.answers(self._cluster):
                    raise Hung(f"the consumer has not committed offsets for {waited_s:.0f} s") from exc
                clock.sleep(0.05)

    def _flush(self) -> None:
        """Wait until all is delivered, or has failed.

        Raises:
            Stop: nothing was delivered for too long.
            Hung: likewise, where only a new producer can help.
        """
        left, moved_s = len(self._kafka), clock.now_s()
        while now_left := self._kafka.flush(1.0):
            now_s = clock.now_s()
            if now_left < left:
                left, moved_s = now_left, now_s
            elif now_s - moved_s > _UNDELIVERED_S:
                raise Stop(f"records undelivered for {_UNDELIVERED_S:.0f} s", hint="is the broker up?")
            elif now_s - moved_s > client_watchdog.HUNG_S and client_watchdog.answers(self._cluster):
                raise Hung(f"the Kafka client has delivered nothing for {now_s - moved_s:.0f} s")

    def _produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        timestamp_ms: int | None = None,
        headers: Any = None,
        on_delivery: Any = None,
    ) -> None:
        while True:
            try:
                self._kafka.produce(
                    topic,
                    value,
                    key,
                    partition,
                    timestamp=timestamp_ms or 0,
                    headers=list(headers or ()),
                    on_delivery=on_delivery or self._reports.note,
                )
                return
            except BufferError:
                self._kafka.poll(0.05)

    def poll(self, timeout_s: float) -> None:
        """Serve delivery reports."""
        self._kafka.poll(timeout_s)

    def close(self) -> None:
        """Forget what is queued: there is something only where the client hangs."""
        self._kafka.purge()


Committer = ExactlyOnce | AtLeastOnce


class _Small:
    """Batches for a topic that takes less than usual: what is queued is sent before there is too much of it."""

    def __init__(self, most_bytes: int, flush: Callable[[], None]) -> None:
        self._most_bytes, self._flush = most_bytes, flush
        self._queued_bytes = 0

    def add(self, size_bytes: int) -> None:
        """A record is about to be queued."""
        self._queued_bytes += size_bytes
        if self._queued_bytes > self._most_bytes:
            self._flush()
            self._queued_bytes = size_bytes


def _refusal(error: Exception) -> BaseException | None:
    """Why a record could not be queued, where that is its own fault."""
    cause = error.__cause__ if isinstance(error, Stop) else error
    if isinstance(cause, KafkaException) and not is_refusal(kafka_error(cause)):
        return None
    return cause


def _place(request: CommitRequest, output: Output) -> int:
    return next(place for place, other in enumerate(request.outputs) if other is output)


def _comparing(topic_ids: TopicIds | None, request: CommitRequest) -> Callable[[], None]:
    """Asks meanwhile whether the topics of the offsets and changes are those they were; see `TopicIds.comparing`."""
    if topic_ids is None or not request.offsets:
        return lambda: None
    return topic_ids.comparing({*(offset.topic for offset in request.offsets), *request.changes})


def _may_be_lost(reports: Reports) -> str:
    listed = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(reports.unsure))
    return f"what went to {listed} first may be lost"


def _produce(
    produce: Any, produce_fast: Any, flush: Callable[[], None], request: CommitRequest, reports: Reports, *, every: bool
) -> Positions:
    """Queue an epoch's records; the positions are filled in by delivery reports before the commit returns.

    Args:
        reports: told of the fate of those that may be refused, and of those whose position is wanted.
        every: all outputs report.

    Raises:
        _NotSent: one was refused by itself.
    """
    known, unconfirmed, small, singly = "", None, None, False
    for output in request.outputs:
        topic, value, key, partition, timestamp_ms, headers = output
        if topic != known:
            known, unconfirmed, singly = topic, reports.unconfirmed(topic), topic in request.singly
            small = _Small(reports.small[topic], flush) if topic in reports.small else None
        if small is not None:
            small.add(output.size_bytes)
        if unconfirmed is not None and unconfirmed.must_report(key, partition):
            reports.asked, report = True, unconfirmed.note
        else:
            report = reports.note if every or (value is not None and len(value) >= LARGE_BYTES) else None
        try:
            produce(topic, value, key, partition, timestamp_ms, headers, report)
        except (Stop, KafkaException, TypeError, ValueError, OverflowError) as exc:
            why = _refusal(exc)
            if why is None:
                raise
            reports.refuse(_place(request, output), output, why)
            raise _NotSent(f"{topic} refuses a record: {why}") from exc
        if singly:
            flush()
            if reports.failed is not None:
                reports.refuse(_place(request, output), output)
                raise _NotSent(f"{topic} refuses a record: {reports.failed}")
    positions: Positions = {}
    for topic, partitions in request.changes.items():
        unconfirmed = reports.unconfirmed(topic)
        small = _Small(reports.small[topic], flush) if topic in reports.small else None
        for partition, changes in partitions.items():
            first = unconfirmed.note if unconfirmed is not None and unconfirmed.must_report(None, partition) else None
            reports.asked |= first is not None

            def delivered(
                error: Any, message: Any, at: Key = (topic, partition), note: Any = first or reports.note
            ) -> None:
                if error is None:
                    positions[at] = message.offset() + 1
                note(error, message)

            # Only the last record of a partition reports where it went: an idempotent producer keeps the order, and a
            # callback for each would cost as much as producing it.
            keys, values = changes.keys, changes.values
            for key, value in zip(keys[:-1], values[:-1], strict=True):
                if small is not None:
                    small.add(len(key) + len(value or b"") + RECORD_BYTES)
                if first is not None or (value is not None and len(value) >= LARGE_BYTES):
                    produce(topic, value, key, partition, on_delivery=first or reports.note)
                    first = None
                    continue
                try:
                    produce_fast(topic, value, key, partition)
                except (BufferError, KafkaException):  # it waits, and sorts errors
                    produce(topic, value, key, partition)
            if small is not None:
                small.add(len(keys[-1]) + len(values[-1] or b"") + RECORD_BYTES)
            produce(topic, values[-1], keys[-1], partition, on_delivery=delivered)
    return positions
