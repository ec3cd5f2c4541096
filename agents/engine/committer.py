"""The commit of an epoch: outputs, changelogs and offsets in a fixed order, in one Kafka transaction.

    begin → outputs → changelogs (last value of each changed key) → offsets, with the current group metadata → commit

Invariants:

- The caller writes the stores after the commit, and only if the commit returned.
- `ExactlyOnce` commits in two parts. `queue` begins the transaction and queues the records, which is work for the
  interpreter; agents wait for it. `complete` does the rest, which waits for Kafka; agents may process the next epoch
  meanwhile. Nothing of the next epoch is queued before `complete` has returned.
- If the outcome is unknown, it is queried again until it is known. Nothing is aborted or applied in doubt.
- Every transaction of a worker that owns partitions contains offsets, unchanged ones if nothing was consumed, because
  only a transaction with offsets fences a zombie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from ...topics import client_watchdog, clock
from ...topics.cluster import Cluster
from ...topics.errors import Hung, Stop, from_kafka, is_fatal, is_lost, is_refusal, kafka_error
from ...topics.output import RECORD_BYTES, Output
from ...topics.producer import Aborted, TransactionalProducer
from ...topics.topic_partition import TopicPartition
from ..tables.store import Changes
from .committed_offsets import commit_through_group
from .delivery_reports import LARGE_BYTES, Reports
from .topic_ids import TopicIds

__all__ = ["AtLeastOnce", "CommitRequest", "Committer", "ExactlyOnce", "Positions", "QueuedCommit"]

_ATTEMPTS = 5
_UNDELIVERED_S = 120.0

# Queuing so many records takes about as long as handing them to a thread, and always has room in librdkafka's queue.
_PROMPT_RECORDS = 500

# Each topic limits the size of its records, and a dead letter is larger than its record, so librdkafka's own limit must
# not apply first. Brokers close the connection after a request of more than 100 MiB.
_RECORD_BYTES = 100_000_000


T = TypeVar("T")

Positions = dict[TopicPartition, int]
"""(changelog topic, partition) -> the position after the epoch's last record in it."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Everything that the commit of one epoch writes to Kafka.

    Attributes:
        outputs: records to produce, in order.
        changes: changelog topic -> partition -> (key, value or None for a tombstone).
        offsets: next offsets to consume; their metadata hold the agent offsets that are ahead of them.
        group: the current group metadata of the consumer; None if there are no offsets to commit.
        singly: topics whose outputs are sent one by one, each in a batch of its own, to find the one that is refused.
    """

    outputs: Sequence[Output]
    changes: Mapping[str, Mapping[int, Changes]]
    offsets: list[KafkaPartition]
    group: Any
    singly: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class QueuedCommit:
    """A commit whose transaction is open and whose records are queued.

    Attributes:
        request: the request.
        attempt: the number of attempts that failed before.
        positions: filled in by delivery reports until the commit is complete.
        compare: waits for the comparison of topic ids; see `TopicIds.comparing`.
        dropped: set when the epoch is dropped, because its partitions are lost. It may then be processed again already,
            by this worker or another one.
    """

    request: CommitRequest
    attempt: int
    positions: Positions
    compare: Callable[[], None]
    dropped: Event


class _NotSent(Exception):
    """An output was refused. `Reports` holds which one; the transaction has to be aborted."""


class ExactlyOnce:
    """Commits each epoch as a transaction of one transactional id.

    Args:
        options: librdkafka options of the producer.
        topic_ids: the topic ids to compare before each commit; None compares none.
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
        self._renewal_due = False  # a transaction was aborted: see `TransactionalProducer.renew`

    @property
    def is_overdue(self) -> bool:
        """True if the cluster ends the open transaction because of its age, which fences this worker."""
        return self._kafka.is_overdue

    def open(self) -> None:
        """Fence the previous producer with this id and end its open transaction (blocking)."""
        self._kafka.open()

    def commit(self, request: CommitRequest) -> Positions:
        """Commit an epoch (blocking) and return the changelog positions after it; see `queue` and `complete`."""
        return self.complete(self.queue(request))

    def queue(self, request: CommitRequest) -> QueuedCommit:
        """Begin a transaction and queue the records of an epoch (blocking while librdkafka's queue is full).

        Raises:
            Aborted: the transaction was aborted.
            RecordsRefused: a topic refuses a record.
            Rebuild: the producer was fenced.
        """
        dropped = Event()
        return self._repeated(request, 0, dropped, lambda attempt: self._queue(request, attempt, dropped))

    def queue_promptly(self, request: CommitRequest) -> QueuedCommit | None:
        """Queue an epoch as `queue` does if that waits for nothing; return None if it may, then call `queue`."""
        changed = sum(len(changes) for partitions in request.changes.values() for changes in partitions.values())
        if (
            self._renewal_due
            or self._reports.small
            or request.singly
            or len(request.outputs) + changed > _PROMPT_RECORDS
        ):
            return None
        try:
            return self._queue(request, 0, Event())
        except Aborted:
            self._renewal_due = True
            return None

    def complete(self, queued: QueuedCommit) -> Positions:
        """Commit the queued records with the offsets (blocking) and return the changelog positions after them.

        An aborted transaction is repeated a few times, but not after the epoch was dropped. A call with an unknown
        outcome is repeated until it is known.

        Raises:
            Aborted: the transaction was aborted. With `lost`, the partitions are lost as well, and no worker can commit
                this epoch.
            RecordsRefused: a topic refuses a record.
            Rebuild: the producer was fenced.
            Stop: a topic was recreated, so that its offsets are no longer valid.
        """
        request, first, dropped = queued.request, queued.attempt, queued.dropped

        def complete(attempt: int) -> Positions:
            return self._complete(queued if attempt == first else self._queue(request, attempt, dropped))

        return self._repeated(request, first, dropped, complete)

    def _repeated(self, request: CommitRequest, first: int, dropped: Event, attempt_at: Callable[[int], T]) -> T:
        for attempt in range(first, _ATTEMPTS):
            try:
                return attempt_at(attempt)
            except Aborted as exc:
                self._renewal_due = True
                if dropped.is_set():
                    raise
                self._reports.raise_refused(request.outputs, request.changes)
                if exc.lost or attempt == _ATTEMPTS - 1:
                    raise
                clock.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def _queue(self, request: CommitRequest, attempt: int, dropped: Event) -> QueuedCommit:
        kafka, reports, every = self._kafka, self._reports, attempt > 0 or bool(request.singly)
        if self._renewal_due:
            kafka.renew()
            reports.forget()
            self._renewal_due = False
        kafka.begin()
        reports.begin()
        compare = _comparing(self._topic_ids, request)
        try:
            positions = _produce(kafka.produce, kafka.produce_fast, kafka.flush, request, reports, every=every)
        except _NotSent as exc:
            kafka.abort()
            raise Aborted(str(exc)) from exc
        return QueuedCommit(request, attempt, positions, compare, dropped)

    def _complete(self, queued: QueuedCommit) -> Positions:
        kafka, reports, request = self._kafka, self._reports, queued.request
        if request.offsets and request.group is not None:
            try:
                kafka.send_offsets(request.offsets, request.group)
            except Aborted as exc:
                if not exc.lost:
                    queued.compare()  # says why, if a topic was recreated with fewer partitions
                raise
        try:
            queued.compare()  # the answer has come while the offsets were sent
        except Stop:
            kafka.abort()
            raise
        if reports.reporting:
            kafka.flush()
            if reports.unsure:
                kafka.abort()
                raise Aborted(_may_be_lost(reports))
            reports.settle(kafka.partitions)
        if queued.dropped.is_set():
            kafka.abort()
            raise Aborted("the partitions of the epoch were lost before its commit")
        kafka.commit()
        return queued.positions

    def close(self) -> None:
        """Close the producer; no transaction is open between commits."""
        self._kafka.close()


class AtLeastOnce:
    """Produces records, waits for their delivery, then commits offsets.

    After a crash in between, the epoch is reprocessed.
    """

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

    @property
    def is_overdue(self) -> bool:
        """False: there are no transactions."""
        return False

    def open(self) -> None:
        """Do nothing: a producer without transactions leaves none open."""

    def commit(self, request: CommitRequest) -> Positions:
        """Commit an epoch as `ExactlyOnce.commit` does, but at least once instead of exactly once.

        Raises:
            Hung: the consumer is fenced or broken, or a client gets no answer although the cluster answers.
        """
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

    def _commit_offsets(self, offsets: list[KafkaPartition]) -> None:
        def commit() -> None:
            try:
                commit_through_group(self._consumer, offsets)
            except KafkaException as exc:
                error = kafka_error(exc)
                if is_lost(error):
                    raise Aborted(f"commit offsets: {error.str()}", lost=True) from exc
                raise

        client_watchdog.until_answered("commit offsets", commit, self._cluster, patience_s=_UNDELIVERED_S)

    def _flush(self) -> None:
        """Wait until all queued records are delivered or have failed.

        Raises:
            Stop: nothing was delivered for `_UNDELIVERED_S`.
            Hung: nothing was delivered for `HUNG_S` although the cluster answers; only a new producer can help.
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
            except KafkaException as exc:
                if is_fatal(kafka_error(exc)):
                    raise from_kafka(exc, f"produce to {topic}", servers=self._cluster.bootstrap_servers) from exc
                raise

    def poll(self, timeout_s: float) -> None:
        """Serve delivery reports; wait for one for at most `timeout_s` seconds."""
        self._kafka.poll(timeout_s)

    def close(self) -> None:
        """Discard queued records. The queue is empty unless the client hangs."""
        self._kafka.purge()


Committer = ExactlyOnce | AtLeastOnce


class _Small:
    """Limits the queued bytes of a topic that accepts only small batches, by flushing the queue in time."""

    def __init__(self, most_bytes: int, flush: Callable[[], None]) -> None:
        self._most_bytes, self._flush = most_bytes, flush
        self._queued_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count a record that is about to be queued; flush first if the queue would exceed the limit."""
        self._queued_bytes += size_bytes
        if self._queued_bytes > self._most_bytes:
            self._flush()
            self._queued_bytes = size_bytes


def _refusal(error: Exception) -> BaseException | None:
    """Return why a record could not be queued if the record itself is the cause, else None."""
    cause = error.__cause__ if isinstance(error, Stop) else error
    if isinstance(cause, KafkaException) and not is_refusal(kafka_error(cause)):
        return None
    return cause


def _index_of(request: CommitRequest, output: Output) -> int:
    return next(index for index, other in enumerate(request.outputs) if other is output)


def _comparing(topic_ids: TopicIds | None, request: CommitRequest) -> Callable[[], None]:
    """Begin to check that no topic of the offsets and changelogs was recreated.

    Returns:
        A function that waits for the answer and raises Stop if a topic was recreated; see `TopicIds.comparing`.
    """
    if topic_ids is None or not request.offsets:
        return lambda: None
    return topic_ids.comparing({*(offset.topic for offset in request.offsets), *request.changes})


def _may_be_lost(reports: Reports) -> str:
    listed = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(reports.unsure))
    return f"what went to {listed} first may be lost"


def _produce(
    produce: Any, produce_fast: Any, flush: Callable[[], None], request: CommitRequest, reports: Reports, *, every: bool
) -> Positions:
    """Queue the records of an epoch. Delivery reports fill in the returned positions before the commit returns.

    Args:
        reports: receives the delivery reports of records that may be refused and of records whose position is needed.
        every: whether all outputs report.

    Raises:
        _NotSent: a single record was refused, when it was queued or when it was sent alone.
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
            reports.reporting, report = True, unconfirmed.note
        else:
            report = reports.note if every or (value is not None and len(value) >= LARGE_BYTES) else None
        try:
            produce(topic, value, key, partition, timestamp_ms, headers, report)
        except (Stop, KafkaException, TypeError, ValueError, OverflowError) as exc:
            why = _refusal(exc)
            if why is None:
                raise
            reports.refuse(_index_of(request, output), output, why)
            raise _NotSent(f"{topic} refuses a record: {why}") from exc
        if singly:
            flush()
            if reports.failed is not None:
                reports.refuse(_index_of(request, output), output)
                raise _NotSent(f"{topic} refuses a record: {reports.failed}")
    positions: Positions = {}
    for topic, partitions in request.changes.items():
        unconfirmed = reports.unconfirmed(topic)
        small = _Small(reports.small[topic], flush) if topic in reports.small else None
        for partition, changes in partitions.items():
            changelog = TopicPartition(topic, partition)
            first = unconfirmed.note if unconfirmed is not None and unconfirmed.must_report(None, partition) else None
            reports.reporting |= first is not None

            def delivered(
                error: Any,
                message: Any,
                at: TopicPartition = changelog,
                note: Any = first or reports.note,
            ) -> None:
                if error is None:
                    positions[at] = message.offset() + 1
                note(error, message)

            # Only the last record of a partition reports its position: an idempotent producer keeps the order, and a
            # callback for each record would cost as much as producing it.
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
                except (BufferError, KafkaException):  # `produce` waits and classifies errors
                    produce(topic, value, key, partition)
            if small is not None:
                small.add(len(keys[-1]) + len(values[-1] or b"") + RECORD_BYTES)
            produce(topic, values[-1], keys[-1], partition, on_delivery=delivered)
    return positions
