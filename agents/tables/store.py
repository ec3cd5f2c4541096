"""Stores: the committed local state of one table partition, with its position in the changelog.

Invariants. A store holds bytes. `apply` writes the changes of one committed epoch and the changelog position after them
atomically. It is called after Kafka's commit, never before, so a store can be behind its changelog and never ahead.
Being behind is normal; a restore repairs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

__all__ = ["Changes", "MemoryStore", "Store"]


@dataclass(frozen=True, slots=True)
class Changes:
    """The last value of each changed key of one table partition; two lists, because they are fast to iterate over.

    Attributes:
        keys: encoded keys.
        values: the encoded value of each key; None deletes the key.
        deletes: whether one of the values is None.
    """

    keys: list[bytes]
    values: list[bytes | None]
    deletes: bool

    def __len__(self) -> int:
        return len(self.keys)


class Store(Protocol):
    """The contract of a store; `tests/contract` tests every store against it."""

    position: int
    """Offset of the next changelog record to read; 0 for a new store."""

    def get(self, key: bytes) -> bytes | None:
        """Return the committed value of a key; None if there is none."""
        ...

    def apply(self, changes: Changes, position: int) -> None:
        """Write changes and the changelog position after them atomically."""
        ...

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over all committed pairs, in no particular order."""
        ...

    def page(self, cursor: object, limit: int) -> tuple[list[tuple[bytes, bytes]], object]:
        """Return at most `limit` pairs and the cursor of the next page.

        Changes that are applied between two pages may or may not be seen.

        Args:
            cursor: None for the first page, then the cursor of the page before. A returned cursor of None means that
                there are no more pairs.
        """
        ...

    def __len__(self) -> int: ...

    def approximate_count(self) -> int:
        """Return the number of pairs at no cost; an estimate where counting would cost something."""
        ...

    def begin_restore(self) -> None:
        """Note that a restore begins: from now on, records of the changelog are applied."""
        ...

    def end_restore(self) -> None:
        """Note that the restore has reached the changelog's end: from now on, only this store's owner writes there."""
        ...

    def close(self) -> None:
        """Free the store; it is not used again."""
        ...


class MemoryStore:
    """A store in memory. It ends with the process and is restored from the changelog."""

    __slots__ = ("_data", "position")

    def __init__(self) -> None:
        self._data: dict[bytes, bytes] = {}
        self.position = 0

    def get(self, key: bytes) -> bytes | None:
        return self._data.get(key)

    def apply(self, changes: Changes, position: int) -> None:
        # Write all values at once, then remove deleted keys: a loop costs more than Kafka's part of a commit.
        self._data.update(zip(changes.keys, changes.values, strict=True))  # pyright: ignore[reportArgumentType, reportCallIssue]
        if changes.deletes:
            for key, value in zip(changes.keys, changes.values, strict=True):
                if value is None:
                    self._data.pop(key, None)
        self.position = position

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._data.items())

    def page(self, cursor: object, limit: int) -> tuple[list[tuple[bytes, bytes]], object]:
        keys, start = cast("tuple[list[bytes], int]", cursor or (list(self._data), 0))
        pairs = [(key, self._data[key]) for key in keys[start : start + limit] if key in self._data]
        return pairs, (keys, start + limit) if start + limit < len(keys) else None

    def __len__(self) -> int:
        return len(self._data)

    def approximate_count(self) -> int:
        return len(self._data)

    def begin_restore(self) -> None:
        """Do nothing: the store ends with the process."""

    def end_restore(self) -> None:
        """Do nothing: the store ends with the process."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
