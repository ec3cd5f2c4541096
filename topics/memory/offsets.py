"""The committed offsets of a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .partition_log import TransactionMark

__all__ = ["GroupOffsets", "Offset", "Partition"]

Partition = tuple[str, int]


class Offset(NamedTuple):
    """A committed offset and its metadata."""

    offset: int
    metadata: str


class GroupOffsets:
    """Committed offsets, and those that open transactions will commit.

    Attributes:
        committed: (topic, partition) -> offset.
    """

    def __init__(self) -> None:
        self.committed: dict[Partition, Offset] = {}
        self._pending: dict[TransactionMark, set[Partition]] = {}

    def commit(self, offsets: Mapping[Partition, Offset]) -> None:
        """Commit offsets."""
        self.committed.update(offsets)

    def begin_transaction(self, mark: TransactionMark, partitions: Iterable[Partition]) -> None:
        """Note that an open transaction has offsets of these partitions."""
        self._pending.setdefault(mark, set()).update(partitions)

    def end_transaction(self, mark: TransactionMark, offsets: Mapping[Partition, Offset]) -> None:
        """Commit the offsets of a transaction, none if it was aborted."""
        self._pending.pop(mark, None)
        self.committed.update(offsets)

    def is_pending(self, partition: Partition) -> bool:
        """Return whether an open transaction has an offset of this partition."""
        return any(partition in partitions for partitions in self._pending.values())

    def forget(self, topic: str) -> None:
        """Delete the offsets of a topic that was deleted."""
        self.committed = {at: offset for at, offset in self.committed.items() if at[0] != topic}
