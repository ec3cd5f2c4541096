"""A producer on a Kafka in memory, with confluent_kafka's methods and librdkafka's errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from .. import clock
from ..identifiers import random_below
from ..partitioners import place
from .client import Client
from .failure import Refused, failure
from .group_metadata import GroupMetadata
from .offsets import Offset
from .partition_log import Headers
from .transactions import ProducerId

if TYPE_CHECKING:
    from .memory_kafka import MemoryKafka

__all__ = ["MemoryProducer"]

OnDelivery = Callable[[KafkaError | None, Message], object]

_NO_TIMESTAMP = (0, 0)
_MAX_BYTES = 1_000_000
_QUEUED_MESSAGES = 100_000
_TRANSACTION_MS = 60_000

# Names of librdkafka's states of a transactional producer.
_INIT, _READY, _IN_TRANSACTION, _ABORTABLE, _FATAL = "Init", "Ready", "InTransaction", "AbortableError", "FatalError"


class MemoryProducer(Client):
    """A producer, idempotent or transactional. A record is in its log as soon as `produce` returns.

    Delivery reports are served by `poll`, `flush` and the end of a transaction.
    """

    def __init__(self, kafka: MemoryKafka, config: Mapping[str, object], owner: object = None) -> None:
        super().__init__(kafka, config, owner)
        self._max_bytes = self._number("message.max.bytes", _MAX_BYTES)
        self._most_queued = self._number("queue.buffering.max.messages", _QUEUED_MESSAGES)
        self._timeout_s = self._number("transaction.timeout.ms", _TRANSACTION_MS) / 1000
        self._reports: deque[Callable[[], object]] = deque()
        self._state = _INIT
        self._id: ProducerId | None = None
        self._error: KafkaError | None = None
        self._failed = 0  # records of this transaction that were not delivered
        self._sent = False  # whether the broker knows of this transaction

    # Records --------------------------------------------------------------------------------------------------------

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
        report = callback or on_delivery
        key_bytes, value_bytes = _bytes(key), _bytes(value)
        given = _headers(headers) if headers else None
        self._call("produce", lambda: self._produce(topic, value_bytes, key_bytes, partition, report, timestamp, given))

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

    def _produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        report: OnDelivery | None,
        timestamp: int,
        headers: Headers | None,
    ) -> None:
        if len(self._reports) >= self._most_queued:
            raise BufferError(KafkaError(KafkaError._QUEUE_FULL).str())  # pyright: ignore[reportPrivateUsage]
        if self._state == _FATAL:
            raise _unable(KafkaError._FATAL)  # pyright: ignore[reportPrivateUsage]
        if self.transactional_id is not None and self._state != _IN_TRANSACTION:
            raise _unable(KafkaError._STATE)  # pyright: ignore[reportPrivateUsage]
        if len(value or b"") + len(key or b"") > self._max_bytes:
            raise _unable(KafkaError.MSG_SIZE_TOO_LARGE)
        kafka = self._kafka
        timestamp_ms = timestamp or clock.now_ms()
        kafka.advance()
        with kafka.lock:
            found = kafka.topics.get(topic)
            if found is not None and partition >= len(found.logs):
                raise _unable(KafkaError._UNKNOWN_PARTITION)  # pyright: ignore[reportPrivateUsage]
            if partition < 0 and found is not None:
                count = len(found.logs)
                partition = place(key, count) if key is not None else random_below(count)
            try:
                transaction = None
                if self.transactional_id is not None:
                    assert self._id is not None
                    transaction = kafka.transactions.current(self._id)
                    self._sent = True
                offset, kind, timestamp_ms = kafka.append(
                    topic, partition, key, value, headers, timestamp_ms, transaction
                )
            except Refused as exc:
                self._not_delivered(exc, (topic, partition, key, value, headers, timestamp_ms), report)
                return
        if report is not None:
            made = (topic, partition, offset, key, value, headers, (kind, timestamp_ms))
            self._reports.append(lambda: report(None, _message(*made)))

    def _not_delivered(
        self,
        refused: Refused,
        record: tuple[str, int, bytes | None, bytes | None, Headers | None, int],
        report: OnDelivery | None,
    ) -> None:
        error = refused.error
        topic, partition, key, value, headers, timestamp_ms = record
        if self.transactional_id is not None:
            self._failed += 1
            text = f"ProduceRequest for {topic} [{partition}] with 1 message(s) failed: {error.str()}"
            if refused.code == KafkaError.INVALID_PRODUCER_EPOCH:
                self._fence(f"{text}: transactional producer fenced by newer producer instance")
            else:
                self._fail(KafkaError(refused.code, f"{text}: current transaction must be aborted", False, False, True))
        if report is not None:
            made = (topic, partition, -1001, key, value, headers, (1, timestamp_ms), error)
            self._reports.append(lambda: report(error, _message(*made)))

    def poll(self, timeout: float = -1) -> int:
        """Serve delivery reports and errors; return how many."""
        return self._call("poll", self._serve)

    def flush(self, timeout: float = -1) -> int:
        """Serve all delivery reports; return how many records are not delivered: none."""

        def act() -> int:
            self._serve()
            return len(self)

        return self._call("flush", act)

    def _serve(self) -> int:
        served = self._serve_errors()
        while self._reports:
            self._reports.popleft()()
            served += 1
        return served

    def report(self, error: KafkaError) -> None:
        """Let the next poll call the client's `error_cb`; without one, a fatal error is raised by it."""
        if self._error_cb is None and error.fatal():
            self._reports.append(lambda: _raise(error))
        else:
            super().report(error)

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Drop queued records: none is queued, since each is delivered at once."""
        self._call("purge", lambda: None)

    def close(self) -> bool:
        """Serve what is left; return whether everything was delivered."""
        self.flush()
        return True

    def __len__(self) -> int:
        return len(self._reports)

    def __bool__(self) -> bool:
        return True

    # Transactions ---------------------------------------------------------------------------------------------------

    def init_transactions(self, timeout: float = -1) -> None:
        """Take the transactional id over: fence its former owner and abort the transaction that it left open."""

        def act() -> None:
            self._want(_INIT)
            assert self.transactional_id is not None
            kafka = self._kafka
            with kafka.lock:
                self._id = kafka.transactions.init(self.transactional_id, self._timeout_s)
                kafka.changed()
            self._state = _READY

        self._call("init_transactions", act)

    def begin_transaction(self) -> None:
        """Begin a transaction; the broker learns of it with the first record."""

        def act() -> None:
            self._want(_READY)
            self._state, self._failed, self._sent = _IN_TRANSACTION, 0, False

        self._call("begin_transaction", act)

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: object, timeout: float = -1
    ) -> None:
        """Make offsets of a group part of the transaction.

        Raises:
            KafkaException: the group has another generation or does not know the member, so that the transaction has
                to be aborted; or this producer is fenced.
        """

        def act() -> None:
            self._want(_IN_TRANSACTION)
            self._send_offsets(positions, GroupMetadata.parsed(group_metadata))

        self._call("send_offsets_to_transaction", act)

    def _send_offsets(self, positions: list[TopicPartition], member: GroupMetadata) -> None:
        kafka = self._kafka
        offsets = {(p.topic, p.partition): Offset(p.offset, p.metadata or "") for p in positions if p.offset >= 0}
        if not offsets:
            return
        kafka.advance()
        try:
            with kafka.lock:
                assert self._id is not None
                transaction = kafka.transactions.current(self._id)
                self._sent = True
                kafka.check_member(member)
                transaction.offsets.setdefault(member.group, {}).update(offsets)
                kafka.offsets(member.group).begin_transaction(transaction.mark, offsets)
        except Refused as exc:
            if exc.code == KafkaError.INVALID_PRODUCER_EPOCH:
                raise self._fence(f"Failed to add offsets to transaction on broker: {exc.error.str()}") from None
            text = f"Failed to commit offsets to transaction on broker: {exc.error.str()}"
            raise self._fail(KafkaError(exc.code, text, False, False, True)) from None

    def commit_transaction(self, timeout: float = -1) -> None:
        """Commit the transaction.

        Raises:
            KafkaException: a record was not delivered, so that it has to be aborted; or this producer is fenced.
        """

        def act() -> None:
            self._want(_IN_TRANSACTION)
            self._serve()
            self._want(_IN_TRANSACTION)
            if self._failed:
                text = f"{self._failed} message(s) failed delivery (see individual delivery reports)"
                raise self._fail(KafkaError(KafkaError._INCONSISTENT, text, False, False, True))  # pyright: ignore[reportPrivateUsage]
            self._end(commit=True)

        self._call("commit_transaction", act)

    def abort_transaction(self, timeout: float = -1) -> None:
        """Abort the transaction."""

        def act() -> None:
            self._want(_IN_TRANSACTION, _ABORTABLE)
            self._serve()
            self._end(commit=False)

        self._call("abort_transaction", act)

    def _end(self, *, commit: bool) -> None:
        kafka = self._kafka
        kafka.advance()
        if self._sent:
            try:
                with kafka.lock:
                    assert self._id is not None
                    kafka.transactions.end(self._id, commit=commit)
                    kafka.changed()
            except Refused as exc:
                raise self._fence(f"Failed to end transaction: {exc.error.str()}", exc.code) from None
        self._state, self._error, self._sent = _READY, None, False

    def _want(self, *states: str) -> None:
        if self.transactional_id is None:
            text = "The Transactional API requires transactional.id to be configured"
            raise failure(KafkaError._NOT_CONFIGURED, text)  # pyright: ignore[reportPrivateUsage]
        if self._state in states:
            return
        if self._error is not None:
            raise KafkaException(self._error)
        raise failure(KafkaError._STATE, f"Operation not valid in state {self._state}")  # pyright: ignore[reportPrivateUsage]

    def _fail(self, error: KafkaError) -> KafkaException:
        """Let the transaction have failed: it has to be aborted."""
        if self._error is None:
            self._state, self._error = _ABORTABLE, error
        return KafkaException(error)

    def _fence(self, text: str, code: int = KafkaError.INVALID_PRODUCER_EPOCH) -> KafkaException:
        """Let the client be finished."""
        if code in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
            code = KafkaError._FENCED  # pyright: ignore[reportPrivateUsage]
        error = KafkaError(code, text, True, False, False)
        if self._state != _FATAL:
            self._state, self._error = _FATAL, error
            self.report(error)
        return KafkaException(error)


def _raise(error: KafkaError) -> None:
    raise KafkaException(error)


def _unable(code: int) -> KafkaException:
    return failure(code, f"Unable to produce message: {KafkaError(code).str()}")


def _bytes(given: object) -> bytes | None:
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    raise TypeError(f"a bytes-like object is required, not '{type(given).__name__}'")


def _headers(given: Mapping[str, str | bytes | None] | Sequence[tuple[str, str | bytes | None]]) -> Headers:
    items = given.items() if isinstance(given, Mapping) else given
    return [(str(name), _bytes(value)) for name, value in items]


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
