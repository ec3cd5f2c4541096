"""A transactional producer: records become visible together with offsets, or not at all.

Promise: the records and offsets that are sent between `begin()` and `commit()` are one Kafka transaction. A
`read_committed` reader sees all of them or none, whichever process dies in between. Not promised: that `commit()` has
succeeded when the process dies inside it; the next owner of the same `transactional_id` finds out by reading, after
`open()`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from . import client_watchdog, clock
from .cluster import Cluster
from .errors import Hung, Rebuild, Stop, from_kafka, is_fatal, is_lost, kafka_error

__all__ = ["Aborted", "Headers", "OnDelivery", "TransactionalProducer"]

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes | None]]
OnDelivery = Callable[[KafkaError | None, Message], None]

# A dead worker's open transaction holds back every read_committed reader until it times out, so it is short.
# Nothing is produced before the barrier, so the time that records take does not count.
TRANSACTION_TIMEOUT_MS = 10_000

# The timeout of one blocking call; while its outcome is unknown the call is repeated.
_CALL_S = 10.0
_COMPLAIN_S = 5.0

# The timeout of a metadata request during a transaction, which must not be held up.
_LOOK_S = 1.0

# Sending offsets may ignore its timeout: after the group's coordinator was away it may never return
# (confluentinc/librdkafka#5456, seen with 2.16.0 after a broker came back).
_LATE_S = 5.0

# A broker answers the end of a transaction before its markers are written. A producer that begins the next one
# meanwhile has to retry, which librdkafka does after its backoff: with the default of 100 ms, one in a hundred
# transactions stood still for that long. Each further attempt waits twice as long, up to the second number; without
# that limit a transaction stood still for twice the time that its markers took.
_RETRY_MS, _RETRY_MOST_MS = 5, 50


class Aborted(Exception):
    """The transaction was aborted: nothing of it is visible. `lost` means that the partitions are lost as well."""

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


class TransactionalProducer:
    """librdkafka's transactional producer, with its errors classified.

    Args:
        cluster: the cluster to produce to.
        transactional_id: the stable identity; `open` fences its former owner and aborts the transaction left open.
        deadline_s: how long a call with an unknown outcome is repeated before it raises `Stop`.
    """

    def __init__(self, cluster: Cluster, transactional_id: str, *, deadline_s: float = 120.0, **config: object) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._deadline_s = deadline_s
        self._config: dict[str, object] = {
            "transactional_id": transactional_id,
            "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
            # librdkafka refuses a message timeout beyond the transaction's.
            "message_timeout_ms": TRANSACTION_TIMEOUT_MS,
            "retry_backoff_ms": _RETRY_MS,
            "retry_backoff_max_ms": _RETRY_MOST_MS,
            **config,
        }
        self._kafka = cluster.producer(**self._config)
        self._began_s: float | None = None  # when the open transaction began

    @property
    def is_overdue(self) -> bool:
        """True if a transaction has been open for longer than the cluster lets it: its end fences the producer."""
        return self._began_s is not None and clock.now_s() - self._began_s >= TRANSACTION_TIMEOUT_MS / 1000

    def open(self) -> None:
        """Fence former owners of the transactional id and abort their transactions (blocking).

        Raises:
            Stop: no broker answers in time.
            Rebuild: fenced meanwhile.
        """
        deadline = clock.now_s() + self._deadline_s
        while True:
            # librdkafka searches the coordinator at once and then every 500 ms; without a connection the first search
            # fails.
            with contextlib.suppress(KafkaException):
                self._kafka.list_topics(timeout=_CALL_S)
            try:
                self._until_known("open transactional id " + self._id, self._kafka.init_transactions)
                return
            except Hung:
                if clock.now_s() > deadline:
                    raise
                client_watchdog.leave_behind(partial(_drop, self._kafka))
                self._kafka = self._cluster.producer(**self._config)

    def renew(self) -> None:
        """Replace the client, after a transaction was aborted (blocking); raises as `open` does.

        If a request with records timed out before the abort, and the broker has written them nevertheless, librdkafka
        may use their sequence numbers again in the next transaction. The broker then takes the new records for the old
        ones, and drops them as if they were delivered (seen with 2.16.1). A new client has a new epoch.
        """
        _drop(self._kafka)
        self._kafka = self._cluster.producer(**self._config)
        self.open()

    def begin(self) -> None:
        """Begin a transaction; makes no request."""
        self._kafka.begin_transaction()
        self._began_s = clock.now_s()

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int = -1,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue one record; waits while librdkafka's queue is full.

        Args:
            partition: -1 means that murmur2 of the key decides.
            timestamp_ms: None means now, as 0 does for librdkafka; may be before 1970; Kafka stores -1 as "no time".

        Raises:
            Aborted: the transaction has failed since it began.
            Rebuild: the client is fenced or broken.
            Stop: the broker accepts no records, or not this one.
        """
        more: dict[str, Any] = {}
        if headers:
            more["headers"] = list(headers)
        if on_delivery is not None:
            more["on_delivery"] = on_delivery
        if timestamp_ms:
            more["timestamp"] = timestamp_ms
        deadline = 0.0
        while True:
            try:
                self._kafka.produce(topic, value, key, partition, **more)
                return
            except BufferError:
                now = clock.now_s()
                deadline = deadline or now + self._deadline_s
                if now > deadline:
                    raise Stop(
                        f"produce to {topic}: the queue stayed full for {self._deadline_s:.0f} s",
                        hint="the broker does not accept records; see its log and check its disk",
                    ) from None
                self._kafka.poll(0.05)
            except KafkaException as exc:
                if kafka_error(exc).code() == KafkaError._STATE:  # pyright: ignore[reportPrivateUsage]
                    # The transaction has failed since it began; only ending it tells the reason.
                    self.abort()
                    raise Aborted(f"produce to {topic}: the transaction failed in the meantime") from exc
                raise self._sorted(exc, f"produce to {topic}") from exc

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of a topic (blocking); 0 if it is unknown."""
        try:
            found = self._kafka.list_topics(topic, timeout=_LOOK_S).topics.get(topic)
        except KafkaException:
            return 0
        return 0 if found is None else len(found.partitions)

    @property
    def produce_fast(self) -> Callable[..., None]:
        """librdkafka's own `produce`, for hot loops; after a `BufferError`, poll and try again."""
        return self._kafka.produce

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports.

        Raises:
            Rebuild: the client is fenced or broken.
        """
        with self._served():
            self._kafka.poll(timeout_s)

    @contextlib.contextmanager
    def _served(self) -> Generator[None]:
        # A fatal error is raised by whichever call serves events; inside of a delivery report as a SystemError.
        try:
            yield
        except KafkaException as exc:
            raise self._sorted(exc, "serve events") from exc
        except SystemError as exc:
            cause = exc.__cause__
            if isinstance(cause, KafkaException):
                raise self._sorted(cause, "serve events") from exc
            raise

    def flush(self) -> None:
        """Wait until everything queued is delivered or has failed (blocking)."""
        deadline = clock.now_s() + self._deadline_s
        while self._flush_a_while():
            if clock.now_s() > deadline:
                raise Stop(f"flush: records undelivered for {self._deadline_s:.0f} s", hint="is the broker up?")

    def _flush_a_while(self) -> int:
        with self._served():
            return self._kafka.flush(1.0)
        raise AssertionError("unreachable")

    def send_offsets(self, offsets: list[TopicPartition], group_metadata: object) -> None:
        """Make consumed offsets part of the transaction (blocking).

        Raises:
            Aborted: the transaction is gone; `lost` when the group has moved on without us.
            Rebuild: the client is fenced.
            Hung: the call does not return.
        """
        within_s = min(_CALL_S, client_watchdog.HUNG_S) + _LATE_S

        def in_time(timeout_s: float) -> None:
            call = partial(self._kafka.send_offsets_to_transaction, offsets, group_metadata, timeout_s)
            client_watchdog.unless_ignored(self._cluster, within_s, "send offsets", call)

        self._until_known("send offsets", in_time)

    def commit(self) -> None:
        """Commit the transaction; repeats the call until the outcome is known (blocking).

        Raises:
            Aborted: nothing of it is visible.
            Rebuild: fenced or fatal; the reader finds the outcome after `open()` of a new producer.
            Hung: the outcome is unknown, and only a new producer can find it.
        """
        self._until_known("commit transaction", self._kafka.commit_transaction)
        self._began_s = None

    def abort(self) -> None:
        """Abort the transaction (blocking). Does not purge, which would leave a gap in the sequence numbers."""
        self._until_known("abort transaction", self._kafka.abort_transaction)
        self._began_s = None

    def close(self) -> None:
        """Drop the queue; an open transaction ends by its timeout or by the next owner's `open()`."""
        _drop(self._kafka)

    def _until_known(self, doing: str, call: Callable[..., object], *args: object) -> None:
        began = clock.now_s()
        deadline, complain_at = began + self._deadline_s, began + _COMPLAIN_S
        while True:
            try:
                call(*args, min(_CALL_S, client_watchdog.HUNG_S))
                return
            except KafkaException as exc:
                error = kafka_error(exc)
                retry = error.retriable() or error.code() == KafkaError._TIMED_OUT  # pyright: ignore[reportPrivateUsage]
                if retry and not error.txn_requires_abort():
                    if clock.now_s() > deadline:
                        raise Stop(
                            f"{doing}: no outcome after {self._deadline_s:.0f} s ({error.str()})",
                            hint=f"is the broker at {self._cluster.bootstrap_servers} up?",
                        ) from exc
                    now = clock.now_s()
                    if now > complain_at:
                        complain_at = now + _COMPLAIN_S
                        logger.warning("%s: no outcome yet, retrying (%s)", doing, error.str())
                    if now > began + client_watchdog.HUNG_S and client_watchdog.answers(self._cluster):
                        raise Hung(f"{doing}: the Kafka client has no outcome after {now - began:.0f} s") from exc
                    clock.sleep(0.05)
                    continue
                raise self._sorted(exc, doing) from exc

    def _sorted(self, exc: KafkaException, doing: str) -> Exception:
        error = kafka_error(exc)
        if is_fatal(error):
            return Rebuild(f"{doing}: {error.str()}")
        if error.txn_requires_abort() or is_lost(error):
            self.abort()
            return Aborted(f"{doing}: {error.str()}", lost=is_lost(error))
        return from_kafka(exc, doing, servers=self._cluster.bootstrap_servers)


def _drop(kafka: Producer) -> None:
    with contextlib.suppress(KafkaException):  # fenced or broken: nothing is left to purge
        kafka.purge()
        kafka.flush(0)
