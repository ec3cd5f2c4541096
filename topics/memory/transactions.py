"""The transaction coordinator: who owns a transactional id, and the transactions that are open."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError

from .. import clock
from .failure import Refused
from .offsets import GroupOffsets, Offset, Partition
from .partition_log import PartitionLog, TransactionMark

__all__ = ["OpenTransaction", "ProducerId", "Transactions"]


class ProducerId:
    """A producer's id and epoch; a transactional id's former owners hold older epochs."""

    __slots__ = ("epoch", "number", "transactional_id")

    def __init__(self, transactional_id: str, number: int, epoch: int) -> None:
        self.transactional_id, self.number, self.epoch = transactional_id, number, epoch


class OpenTransaction:
    """The effects of an open transaction when it is committed.

    Attributes:
        logs: partitions with records of it, in the order in which they were added.
        offsets: group -> offsets to commit.
        expires_s: when the coordinator aborts it.
    """

    def __init__(self, expires_s: float) -> None:
        self.mark = TransactionMark()
        self.logs: dict[PartitionLog, None] = {}
        self.offsets: dict[str, dict[Partition, Offset]] = {}
        self.expires_s = expires_s


class _Owner:
    __slots__ = ("committed", "ended_epoch", "epoch", "number", "timeout_s", "transaction")

    def __init__(self, number: int) -> None:
        self.number, self.epoch, self.timeout_s = number, -1, 60.0
        self.transaction: OpenTransaction | None = None
        self.committed: bool | None = None  # how the last transaction ended
        self.ended_epoch = -1


class Transactions:
    """The coordinator of all transactional ids.

    Args:
        offsets_of: the committed offsets of a group.
    """

    def __init__(self, offsets_of: Callable[[str], GroupOffsets]) -> None:
        self._offsets_of = offsets_of
        self._owners: dict[str, _Owner] = {}
        self._open: dict[str, OpenTransaction] = {}
        self._numbers = 0

    def init(self, transactional_id: str, timeout_s: float) -> ProducerId:
        """Give the id to a new owner: the former one is fenced and its open transaction is aborted."""
        owner = self._owners.get(transactional_id)
        if owner is None:
            self._numbers += 1
            owner = self._owners[transactional_id] = _Owner(self._numbers)
        self._end(transactional_id, owner, commit=False)
        owner.epoch += 1
        owner.timeout_s = timeout_s
        owner.committed, owner.ended_epoch = None, -1
        return ProducerId(transactional_id, owner.number, owner.epoch)

    def new_number(self) -> int:
        """Return the id of a producer without transactions."""
        self._numbers += 1
        return self._numbers

    def _owned(self, producer: ProducerId) -> _Owner:
        owner = self._owners[producer.transactional_id]
        if owner.epoch != producer.epoch:
            raise Refused(KafkaError.INVALID_PRODUCER_EPOCH)
        return owner

    def current(self, producer: ProducerId) -> OpenTransaction:
        """Return the producer's transaction; the first request of one opens it.

        Raises:
            Refused: the producer is fenced.
        """
        owner = self._owned(producer)
        if owner.transaction is None:
            owner.transaction = OpenTransaction(clock.now_s() + owner.timeout_s)
            self._open[producer.transactional_id] = owner.transaction
        return owner.transaction

    def end(self, producer: ProducerId, *, commit: bool) -> None:
        """Commit or abort; a repeated request is answered as the first one was.

        Raises:
            Refused: the producer is fenced, or no transaction is open.
        """
        owner = self._owned(producer)
        if owner.transaction is None:
            if owner.committed is not commit:
                raise Refused(KafkaError.INVALID_TXN_STATE)
            return
        self._end(producer.transactional_id, owner, commit=commit)

    def _end(self, transactional_id: str, owner: _Owner, *, commit: bool) -> None:
        transaction = owner.transaction
        if transaction is None:
            return
        now_ms = clock.now_ms()
        mark = transaction.mark
        mark.open, mark.aborted, mark.ended_ms = False, not commit, now_ms
        for log in transaction.logs:
            log.end_transaction(mark, now_ms)
        for group, offsets in transaction.offsets.items():
            self._offsets_of(group).end_transaction(mark, offsets if commit else {})
        owner.transaction, owner.committed = None, commit
        del self._open[transactional_id]

    def expire(self, now_s: float) -> bool:
        """Abort transactions that are open for longer than their timeout, and fence their producers."""
        late = [name for name, transaction in self._open.items() if transaction.expires_s <= now_s]
        for name in late:
            owner = self._owners[name]
            self._end(name, owner, commit=False)
            owner.epoch += 1
        return bool(late)

    def next_s(self) -> float:
        """Return when `expire` will have something to do; infinity for never."""
        return min((transaction.expires_s for transaction in self._open.values()), default=float("inf"))

    def forget(self, logs: Iterable[PartitionLog]) -> None:
        """Take partitions that were deleted out of all open transactions."""
        gone = set(logs)
        for transaction in self._open.values():
            transaction.logs = {log: None for log in transaction.logs if log not in gone}
