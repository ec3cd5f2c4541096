"""The transactions of a producer as librdkafka keeps them: their states, and what each call does in which of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from .failure import Refused, failure
from .group_metadata import GroupMetadata
from .offsets import Offset

if TYPE_CHECKING:
    from .memory_kafka import MemoryKafka
    from .transactions import OpenTransaction, ProducerId

__all__ = ["ProducerTransactions"]

# librdkafka's names of the states.
_INIT, _READY, _IN_TRANSACTION, _ABORTABLE, _FATAL = "Init", "Ready", "InTransaction", "AbortableError", "FatalError"


class ProducerTransactions:
    """The transactions of one producer.

    Args:
        transactional_id: None for a producer without transactions, to which all of this is refused.
        on_fatal: is told the error after which the producer is finished.
    """

    def __init__(
        self,
        kafka: MemoryKafka,
        transactional_id: str | None,
        timeout_s: float,
        on_fatal: Callable[[KafkaError], object],
    ) -> None:
        self._kafka, self._id, self._timeout_s, self._on_fatal = kafka, transactional_id, timeout_s, on_fatal
        self._state = _INIT
        self._producer: ProducerId | None = None
        self._error: KafkaError | None = None
        self._sent = False  # whether the broker knows of the transaction
        self.failed = 0  # records of it that were not delivered

    def check_produce(self) -> None:
        """Check whether a record may be produced now.

        Raises:
            KafkaException: no transaction is open, or it has failed.
        """
        if self._state == _FATAL:
            raise _unable(KafkaError._FATAL)  # pyright: ignore[reportPrivateUsage]
        if self._id is not None and self._state != _IN_TRANSACTION:
            raise _unable(KafkaError._STATE)  # pyright: ignore[reportPrivateUsage]

    @property
    def open(self) -> OpenTransaction | None:
        """The transaction of the next record (the lock is held); None for a producer without transactions.

        Raises:
            Refused: the producer is fenced.
        """
        if self._producer is None:
            return None
        transaction = self._kafka.transactions.current(self._producer)
        self._sent = True
        return transaction

    def note_undelivered(self, refused: Refused, topic: str, partition: int, *, sent: bool) -> None:
        """Let the transaction fail, because a record of it was not delivered.

        Args:
            sent: whether the broker has refused it; else it was never sent, which the commit finds.
        """
        if self._id is None:
            return
        self.failed += 1
        text = f"ProduceRequest for {topic} [{partition}] with 1 message(s) failed: {refused.error.str()}"
        if refused.code == KafkaError.INVALID_PRODUCER_EPOCH:
            self._finish(refused.code, f"{text}: transactional producer fenced by newer producer instance")
        elif sent:
            self._fail(refused.code, f"{text}: current transaction must be aborted")

    def init(self) -> None:
        """Take the transactional id over: fence its former owner and abort the transaction that it left open."""
        self._want(_INIT)
        with self._kafka.lock:
            self._producer = self._kafka.transactions.init(self._id or "", self._timeout_s)
            self._kafka.changed()
        self._state = _READY

    def begin(self) -> None:
        """Begin a transaction; the broker learns of it with the first record."""
        self._want(_READY)
        self._state, self.failed, self._sent = _IN_TRANSACTION, 0, False

    def send_offsets(self, positions: list[TopicPartition], group_metadata: object) -> None:
        """Make offsets of a group part of the transaction."""
        self._want(_IN_TRANSACTION)
        member = GroupMetadata.parsed(group_metadata)
        offsets = {(p.topic, p.partition): Offset(p.offset, p.metadata or "") for p in positions if p.offset >= 0}
        if not offsets:
            return
        kafka = self._kafka
        kafka.advance()
        try:
            with kafka.lock:
                transaction = self.open
                assert transaction is not None
                kafka.check_commit(member, offsets, transactional=True)
                for topic, partition in offsets:
                    kafka.log(topic, partition)
                transaction.offsets.setdefault(member.group, {}).update(offsets)
                kafka.offsets(member.group).begin_transaction(transaction.mark, offsets)
        except Refused as exc:
            if exc.code == KafkaError.INVALID_PRODUCER_EPOCH:
                raise self._finish(exc.code, f"Failed to add offsets to transaction: {exc.error.str()}") from None
            raise self._fail(
                exc.code, f"Failed to commit offsets to transaction on broker: {exc.error.str()}"
            ) from None

    def want_open(self) -> None:
        """Check that a transaction is open and has not failed.

        Raises:
            KafkaException: it is not, or has failed.
        """
        self._want(_IN_TRANSACTION)
        if self.failed:
            text = f"{self.failed} message(s) failed delivery (see individual delivery reports)"
            raise self._fail(KafkaError._INCONSISTENT, text)  # pyright: ignore[reportPrivateUsage]

    def want_open_or_failed(self) -> None:
        """Check that there is a transaction to abort.

        Raises:
            KafkaException: there is none.
        """
        self._want(_IN_TRANSACTION, _ABORTABLE)

    def end(self, *, commit: bool) -> None:
        """Commit or abort the transaction."""
        kafka = self._kafka
        kafka.advance()
        if self._sent:
            try:
                with kafka.lock:
                    assert self._producer is not None
                    kafka.transactions.end(self._producer, commit=commit)
                    kafka.changed()
            except Refused as exc:
                raise self._finish(exc.code, f"Failed to end transaction: {exc.error.str()}") from None
        self._state, self._error, self._sent, self.failed = _READY, None, False, 0

    def _want(self, *states: str) -> None:
        if self._id is None:
            text = "The Transactional API requires transactional.id to be configured"
            raise failure(KafkaError._NOT_CONFIGURED, text)  # pyright: ignore[reportPrivateUsage]
        if self._state in states:
            return
        if self._error is not None:
            raise KafkaException(self._error)
        raise failure(KafkaError._STATE, f"Operation not valid in state {self._state}")  # pyright: ignore[reportPrivateUsage]

    def _fail(self, code: int, text: str) -> KafkaException:
        """Let the transaction have failed, so that it has to be aborted."""
        error = KafkaError(code, text, False, False, True)
        if self._error is None:
            self._state, self._error = _ABORTABLE, error
        return KafkaException(error)

    def _finish(self, code: int, text: str) -> KafkaException:
        """Let the producer be finished."""
        if code in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
            code = KafkaError._FENCED  # pyright: ignore[reportPrivateUsage]
        error = KafkaError(code, text, True, False, False)
        if self._state != _FATAL:
            self._state, self._error = _FATAL, error
            self._on_fatal(error)
        return KafkaException(error)


def _unable(code: int) -> KafkaException:
    return failure(code, f"Unable to produce message: {KafkaError(code).str()}")
