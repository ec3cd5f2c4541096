"""A producer whose records become visible together with a position, or not at all.

Promise: between `begin()` and `commit()` records, offsets and whatever else was sent are one Kafka transaction. A
`read_committed` reader sees all of it or nothing, whatever dies in between. Not promised: that `commit()` succeeded
when the process dies inside it; the next owner of the same `transactional_id` finds out, by reading, after `open()`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from . import client_watchdog, clock
from .cluster import Cluster
from .errors import Hung, Rebuild, Stop, from_kafka, is_lost, kafka_error

__all__ = ["Aborted", "Headers", "OnDelivery", "TransactionalProducer"]

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes | None]]
OnDelivery = Callable[[KafkaError | None, Message], None]

# A dead worker's open transaction holds back every read_committed reader until it times out, so it is short. Nothing
# is produced before the gate, so no record's duration counts against it.
TRANSACTION_TIMEOUT_MS = 10_000

# One blocking call; outcomes that are still unknown after it are asked for again.
_CALL_S = 10.0
_COMPLAIN_S = 5.0

# Beside a transaction, which does not wait for longer.
_LOOK_S = 1.0

# Sending offsets does not always keep to that: when the group's coordinator was away it may never return
# (confluentinc/librdkafka#5456, seen with 2.16.0 after a broker came back).
_LATE_S = 5.0

# A transaction's end is answered before its markers are written. Whoever begins the next one meanwhile is told to ask
# again, which librdkafka does after its backoff: with its own 100 ms one in a hundred transactions stood still as long.
# Each further attempt waits for twice as long, up to the second number; without that, markers that took a while made a
# transaction stand still for twice the while.
_RETRY_MS, _RETRY_MOST_MS = 5, 50


class Aborted(Exception):
    """The transaction was aborted: nothing of it is visible. `lost` says that the partitions are gone as well."""

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


class TransactionalProducer:
    """librdkafka's transactional producer with its errors sorted.

    Args:
        cluster: where to.
        transactional_id: the stable identity; opening it fences whoever used it before and ends what they left open.
        deadline_s: how long an unknown outcome is asked for again before giving up with `Stop`.
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

    def open(self) -> None:
        """Fence predecessors, end their transactions (blocking).

        Raises:
            Stop: no broker answers in time.
            Rebuild: fenced meanwhile.
        """
        deadline = clock.now_s() + self._deadline_s
        while True:
            # librdkafka looks for the coordinator at once and then every 500 ms: without a connection the first look is
            # in vain.
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

    def begin(self) -> None:
        """Start a transaction; local, no network."""
        self._kafka.begin_transaction()

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
            partition: -1 lets murmur2 of the key choose.
            timestamp_ms: None means now, as 0 does to librdkafka; may be before 1970; -1 is "none" to Kafka, and kept.

        Raises:
            Aborted: the transaction has failed since it began.
            Rebuild: the client is fenced or broken.
            Stop: the broker takes nothing, or not this.
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
                        hint="the broker does not take records; look at its log and its disk",
                    ) from None
                self._kafka.poll(0.05)
            except KafkaException as exc:
                if kafka_error(exc).code() == KafkaError._STATE:  # pyright: ignore[reportPrivateUsage]
                    # The transaction has failed since it began; only who ends it is told how.
                    self.abort()
                    raise Aborted(f"produce to {topic}: the transaction has failed meanwhile") from exc
                raise self._sorted(exc, f"produce to {topic}") from exc

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has (blocking); 0 where nobody says."""
        try:
            found = self._kafka.list_topics(topic, timeout=_LOOK_S).topics.get(topic)
        except KafkaException:
            return 0
        return 0 if found is None else len(found.partitions)

    @property
    def produce_fast(self) -> Callable[..., None]:
        """librdkafka's own `produce`, for loops that know what they send; `BufferError` means poll and try again."""
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
        # A fatal error surfaces in whatever call serves events; inside of a delivery report even as a SystemError.
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

    def send_offsets(self, offsets: list[TopicPartition], group_metadata: Any) -> None:
        """Make consumed offsets part of the transaction (blocking).

        Raises:
            Aborted: the transaction is gone; `lost` when the group has moved on without us.
            Rebuild: the client is fenced.
            Hung: it does not come back.
        """
        in_time = partial(client_watchdog.unless_hung, min(_CALL_S, client_watchdog.HUNG_S) + _LATE_S)
        self._until_known("send offsets", in_time, self._kafka.send_offsets_to_transaction, offsets, group_metadata)

    def commit(self) -> None:
        """Make it visible; asks again until the outcome is known (blocking).

        Raises:
            Aborted: nothing of it is visible.
            Rebuild: fenced or fatal; the outcome is what `open()` of a new producer finds.
            Hung: likewise, where only a new producer can know.
        """
        self._until_known("commit transaction", self._kafka.commit_transaction)

    def abort(self) -> None:
        """Make nothing of it visible (blocking). Without a purge, which would leave a gap in the sequence numbers."""
        self._until_known("abort transaction", self._kafka.abort_transaction)

    def close(self) -> None:
        """Forget what is queued; an open transaction ends by its timeout or by the next owner's `open()`."""
        _drop(self._kafka)

    def _until_known(self, doing: str, call: Callable[..., object], *args: Any) -> None:
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
                        logger.warning("%s: no outcome yet, asked again (%s)", doing, error.str())
                    if now > began + client_watchdog.HUNG_S and client_watchdog.answers(self._cluster):
                        raise Hung(f"{doing}: the Kafka client has no outcome after {now - began:.0f} s") from exc
                    clock.sleep(0.05)
                    continue
                raise self._sorted(exc, doing) from exc

    def _sorted(self, exc: KafkaException, doing: str) -> Exception:
        error = kafka_error(exc)
        # A client that is fatally broken already says so in every call, with an error that does not call itself fatal.
        if error.fatal() or error.code() == KafkaError._FATAL:  # pyright: ignore[reportPrivateUsage]
            return Rebuild(f"{doing}: {error.str()}")
        if error.txn_requires_abort() or is_lost(error):
            self._until_known("abort transaction", self._kafka.abort_transaction)
            return Aborted(f"{doing}: {error.str()}", lost=is_lost(error))
        return from_kafka(exc, doing, servers=self._cluster.bootstrap_servers)


def _drop(kafka: Any) -> None:
    with contextlib.suppress(KafkaException):  # fenced or broken: there is nothing to end
        kafka.purge()
        kafka.flush(0)
