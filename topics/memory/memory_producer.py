"""A producer on a Kafka in memory, with confluent_kafka's methods and librdkafka's errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition

from .. import clock
from ..identifiers import random_below
from ..partitioners import murmur2_partition
from .client import Client
from .failure import Refused, failure
from .partition_log import CREATE_TIME, Headers
from .producer_transactions import ProducerTransactions

if TYPE_CHECKING:
    from .memory_kafka import MemoryKafka

__all__ = ["MemoryProducer"]

OnDelivery = Callable[[KafkaError | None, Message], object]

_FOREVER_S = 1e9
_MAX_BYTES = 1_000_000
_QUEUED_MESSAGES = 100_000
_TRANSACTION_MS = 60_000
_PROPAGATION_MS = 30_000
_INT32, _INT64 = 1 << 31, 1 << 63


class _Queued(NamedTuple):
    """A record to send, and until when its topic may appear."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp_ms: int
    report: OnDelivery | None
    until_s: float


class MemoryProducer(Client):
    """A producer, idempotent or transactional. A record is in its log as soon as `produce` returns.

    Only records of a topic that does not exist wait, for `topic.metadata.propagation.max.ms`. Delivery reports are
    served by `poll`, `flush` and the end of a transaction.
    """

    def __init__(self, kafka: MemoryKafka, config: Mapping[str, object], owner: object = None) -> None:
        super().__init__(kafka, config, owner)
        self._max_bytes = self._config.number("message.max.bytes", _MAX_BYTES)
        self._most_queued = self._config.number("queue.buffering.max.messages", _QUEUED_MESSAGES)
        self._propagation_s = self._config.number("topic.metadata.propagation.max.ms", _PROPAGATION_MS) / 1000
        chosen = self._config.text("compression.type") or self._config.text("compression.codec") or "none"
        self._compresses = chosen != "none"
        timeout_s = self._config.number("transaction.timeout.ms", _TRANSACTION_MS) / 1000
        self._transactions = ProducerTransactions(kafka, self.transactional_id, timeout_s, self.report)
        self._reports: deque[Callable[[], object]] = deque()
        self._unsent: deque[_Queued] = deque()
        self._known: set[str] = set()  # topics that exist, as far as this client knows
        self._missing: set[str] = set()  # topics that were waited for in vain
        self._accepted: set[tuple[str, int]] = set()  # partitions that have taken a record of this producer
        self._loses = False

    # Records --------------------------------------------------------------------------------------------------------

    def lose_record(self) -> None:
        """Lose the next record that is the first one to its partition, and report it as delivered, without an offset.

        librdkafka does this where a new partition refuses the first batch, and accepts the next one before the first is
        sent again (confluentinc/confluent-kafka-go#921). Behind an accepted record, the broker enforces the order.
        """
        self._loses = True

    def produce(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        partition: int = -1,
        callback: OnDelivery | None = None,
        on_delivery: OnDelivery | None = None,
        timestamp: int = 0,
        headers: Mapping[str, str | bytes | None] | Sequence[tuple[str, str | bytes | None]] | None = None,
    ) -> None:
        """Send a record.

        Args:
            partition: -1 means that murmur2 of the key decides.
            timestamp: milliseconds since 1970; 0 means now.

        Raises:
            BufferError: too many delivery reports wait for `poll`.
            KafkaException: librdkafka would not queue it.
        """
        if not -_INT32 <= partition < _INT32 or not -_INT64 <= timestamp < _INT64:
            raise OverflowError(f"partition {partition} or timestamp {timestamp} is too large")
        topic.encode()  # raises as the binding does
        record = _Queued(
            topic,
            partition,
            _bytes(key, 3),
            _bytes(value, 2),
            None if headers is None else _headers(headers) or None,
            timestamp,
            callback or on_delivery,
            0.0,
        )
        self._call("produce", lambda: self._produce(record))

    def produce_batch(
        self,
        topic: str,
        messages: Sequence[Mapping[str, object]],
        partition: int = -1,
        callback: OnDelivery | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> int:
        """Not done."""
        raise NotImplementedError("produce_batch of Kafka in memory")

    def _produce(self, record: _Queued) -> None:
        if len(self) >= self._most_queued:
            raise BufferError(KafkaError(KafkaError._QUEUE_FULL).str())  # pyright: ignore[reportPrivateUsage]
        self._transactions.check_produce()
        if len(record.value or b"") + len(record.key or b"") > self._max_bytes:
            raise _unable(KafkaError.MSG_SIZE_TOO_LARGE)
        self._kafka.advance()
        if self._unsent:
            self._retry()
        found = self._kafka.topics.get(record.topic)
        if found is None:
            if record.topic in self._missing:
                raise _unable(KafkaError._UNKNOWN_TOPIC)  # pyright: ignore[reportPrivateUsage]
            record = record._replace(
                until_s=clock.now_s() + self._propagation_s, timestamp_ms=record.timestamp_ms or clock.now_ms()
            )
            self._unsent.append(record)
            return
        if not -1 <= record.partition < len(found.logs) and record.topic in self._known:
            raise _unable(KafkaError._UNKNOWN_PARTITION)  # pyright: ignore[reportPrivateUsage]
        self._send(record)

    def _send(self, record: _Queued) -> None:
        """Append a record to its log."""
        topic, partition, key, value, headers, timestamp_ms, report, _ = record
        kafka = self._kafka
        with kafka.lock:
            self._known.add(topic)
            self._missing.discard(topic)
            try:
                count = len(kafka.topic(topic).logs)
                if partition == -1:
                    partition = murmur2_partition(key, count) if key is not None else random_below(count)
                elif not 0 <= partition < count:
                    raise Refused(KafkaError._UNKNOWN_PARTITION)  # pyright: ignore[reportPrivateUsage]
                if self._loses and (topic, partition) not in self._accepted:
                    self._loses, offset, kind = False, OFFSET_INVALID, CREATE_TIME
                else:
                    offset, kind, timestamp_ms = kafka.append(
                        topic,
                        partition,
                        key,
                        value,
                        headers,
                        timestamp_ms or clock.now_ms(),
                        self._transactions.open,
                        compressed=self._compresses,
                    )
                self._accepted.add((topic, partition))
            except Refused as exc:
                self._not_delivered(record._replace(partition=partition), exc, sent=exc.code > 0)
                return
        if report is not None:
            made = (topic, partition, offset, key, value, headers, (kind, timestamp_ms))
            self._reports.append(lambda: report(None, _message(*made)))

    def _not_delivered(self, record: _Queued, refused: Refused, *, sent: bool = False) -> None:
        topic, partition, key, value, headers, timestamp_ms, report, _ = record
        error = refused.error
        self._transactions.note_undelivered(refused, topic, partition, sent=sent)
        if report is not None:
            made = (topic, partition, -1001, key, value, headers, (CREATE_TIME, timestamp_ms), error)
            self._reports.append(lambda: report(error, _message(*made)))

    def _retry(self) -> None:
        """Send records whose topic has appeared, and fail those that have waited for too long."""
        waiting, self._unsent = self._unsent, deque()
        for record in waiting:
            if record.topic in self._kafka.topics:
                self._send(record)
            elif clock.now_s() >= record.until_s:
                self._missing.add(record.topic)
                self._not_delivered(record, Refused(KafkaError.UNKNOWN_TOPIC_OR_PART))
            else:
                self._unsent.append(record)

    def poll(self, timeout: float = -1) -> int:
        """Serve delivery reports and errors, and wait for some while records are not delivered; return how many."""

        def act() -> int:
            served = self._serve()
            if served or not self._unsent or timeout == 0:
                return served
            self._settle(timeout)
            return self._serve()

        return self._call("poll", act)

    def flush(self, timeout: float = -1) -> int:
        """Wait for records that are not delivered, and serve all delivery reports; return how many are left."""

        def act() -> int:
            self._settle(timeout)
            self._serve()
            return len(self)

        return self._call("flush", act)

    def _settle(self, timeout: float) -> None:
        """Wait until every record is delivered or has failed, `timeout` seconds at most."""
        deadline_s = clock.now_s() + (timeout if timeout >= 0 else _FOREVER_S)
        while self._unsent:
            seen = self._kafka.version
            self._retry()
            now_s = clock.now_s()
            if not self._unsent or now_s >= deadline_s:
                return
            until_s = min(deadline_s, *(record.until_s for record in self._unsent))
            self._kafka.wait(seen, max(0.0, until_s - now_s))

    def _serve(self) -> int:
        if self._unsent:
            self._retry()
        served = self._serve_errors()
        while True:
            try:
                report = self._reports.popleft()
            except IndexError:  # another thread may serve them, too
                return served
            report()
            served += 1

    def report(self, error: KafkaError) -> None:
        """Let the next poll call the client's `error_cb`; without one, a fatal error is raised by it."""
        if self._error_cb is None and error.fatal():
            self._reports.append(lambda: _raise(error))
        else:
            super().report(error)

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Fail records that are not sent yet: those of topics that do not exist."""

        def act() -> None:
            if in_queue:
                self._drop_unsent()

        self._call("purge", act)

    def _drop_unsent(self) -> None:
        waiting, self._unsent = self._unsent, deque()
        for record in waiting:
            self._not_delivered(record, Refused(KafkaError._PURGE_QUEUE))  # pyright: ignore[reportPrivateUsage]

    def close(self) -> bool:
        """Serve what is left; return whether everything was delivered."""
        return self.flush() == 0

    def __len__(self) -> int:
        return len(self._reports) + len(self._unsent)

    def __bool__(self) -> bool:
        return True

    # Transactions ---------------------------------------------------------------------------------------------------

    def init_transactions(self, timeout: float = -1) -> None:
        """Take the transactional id over: fence its former owner and abort the transaction that it left open."""
        self._call("init_transactions", self._transactions.init)

    def begin_transaction(self) -> None:
        """Begin a transaction."""
        self._call("begin_transaction", self._transactions.begin)

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: object, timeout: float = -1
    ) -> None:
        """Make offsets of a group part of the transaction.

        Raises:
            KafkaException: the group has another generation or does not know the member, so that the transaction has
                to be aborted; or this producer is fenced.
        """
        send = self._transactions.send_offsets
        self._call("send_offsets_to_transaction", lambda: send(positions, group_metadata))

    def commit_transaction(self, timeout: float = -1) -> None:
        """Commit the transaction.

        Raises:
            KafkaException: a record was not delivered, so that it has to be aborted; or this producer is fenced.
        """

        def act() -> None:
            self._transactions.want_open()
            self._settle(timeout)
            self._serve()
            if self._unsent:
                raise failure(
                    KafkaError._TIMED_OUT,  # pyright: ignore[reportPrivateUsage]
                    "Failed to flush all outstanding messages within the API timeout: "
                    f"{len(self._unsent)} message(s) remaining",
                    retriable=True,
                )
            self._transactions.want_open()
            self._transactions.end(commit=True)

        self._call("commit_transaction", act)

    def abort_transaction(self, timeout: float = -1) -> None:
        """Abort the transaction."""

        def act() -> None:
            self._transactions.want_open_or_failed()
            self._drop_unsent()
            self._serve()
            self._transactions.end(commit=False)

        self._call("abort_transaction", act)


def _raise(error: KafkaError) -> None:
    raise KafkaException(error)


def _unable(code: int) -> KafkaException:
    return failure(code, f"Unable to produce message: {KafkaError(code).str()}")


def _bytes(given: object, argument: int) -> bytes | None:
    """Return a key or value as bytes; like the binding, which does not take what may change later."""
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str):
        return given.encode()
    kind = type(given).__name__
    if isinstance(given, bytearray | memoryview):
        raise TypeError(f"argument {argument} must be read-only bytes-like object, not {kind}")
    raise TypeError(f"a bytes-like object is required, not '{kind}'")


def _headers(given: object) -> Headers:
    if not isinstance(given, dict | list):
        raise TypeError(f"expected headers to be dict or list of (key, value) tuples, not {type(given).__name__}")
    found: Headers = []
    for pair in cast("Iterable[object]", given.items() if isinstance(given, dict) else given):
        if not isinstance(pair, tuple) or len(pair) != 2:  # pyright: ignore[reportUnknownArgumentType]
            raise TypeError("Headers are expected to be a list of (key, value) tuples")
        name, value = cast("tuple[str, object]", pair)
        name.encode()  # raises as the binding does
        if value is not None and not isinstance(value, bytes | str):
            raise TypeError(f"expected header value to be None, binary, or unicode string, not {type(value).__name__}")
        found.append((name, value.encode() if isinstance(value, str) else value))
    return found


def _message(
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Headers | None,
    timestamp: tuple[int, int],
    error: KafkaError | None = None,
) -> Message:
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=list(headers) if headers else None,
        timestamp=timestamp,
        error=error,
        latency=0.0,
    )
