"""Stores: the committed local state of one table partition, with the changelog position it stands at.

Laws. A store holds bytes. `apply` takes the changes of one committed epoch and the changelog position after them as
one write: it is called after Kafka's commit, never before, so a store can be behind its changelog and never ahead.
Behind is normal; restoring repairs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Changes", "MemoryStore", "Store"]


@dataclass(frozen=True, slots=True)
class Changes:
    """The last value of each changed key of one table partition; two lists, because that is what is fast to go through.

    Attributes:
        keys, values: side by side; None deletes.
        deletes: whether there is a None among the values.
    """

    keys: list[bytes]
    values: list[bytes | None]
    deletes: bool

    def __len__(self) -> int:
        return len(self.keys)


class Store(Protocol):
    """The contract; `tests/contract` holds every store to it."""

    position: int
    """Offset of the next changelog record to read; 0 for a new store."""

    def get(self, key: bytes) -> bytes | None:
        """The committed value, or None."""
        ...

    def apply(self, changes: Changes, position: int) -> None:
        """Write changes and the position after them, as one."""
        ...

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All committed pairs, in no particular order."""
        ...

    def page(self, cursor: Any, most: int) -> tuple[list[tuple[bytes, bytes]], Any]:
        """Some pairs, and the cursor for those that follow; None begins, and says that there are no more.

        What is applied meanwhile may be in it or not.
        """
        ...

    def __len__(self) -> int: ...

    def about(self) -> int:
        """How many pairs, at no cost; an estimate where counting costs something."""
        ...

    def mark(self, *, at_end: bool) -> None:
        """A restore begins, or has reached the changelog's end: from then on nobody but its owner writes there."""
        ...

    def close(self) -> None:
        """It is not used again."""
        ...


class MemoryStore:
    """A dict; it forgets everything with the process and is restored from the changelog."""

    __slots__ = ("_data", "position")

    def __init__(self) -> None:
        self._data: dict[bytes, bytes] = {}
        self.position = 0

    def get(self, key: bytes) -> bytes | None:
        return self._data.get(key)

    def apply(self, changes: Changes, position: int) -> None:
        # Written all at once, then what was deleted is taken out: a loop here costs more than Kafka's part of a commit.
        self._data.update(zip(changes.keys, changes.values, strict=True))  # pyright: ignore[reportArgumentType, reportCallIssue]
        if changes.deletes:
            for key, value in zip(changes.keys, changes.values, strict=True):
                if value is None:
                    self._data.pop(key, None)
        self.position = position

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._data.items())

    def page(self, cursor: Any, most: int) -> tuple[list[tuple[bytes, bytes]], Any]:
        keys, start = cursor or (list(self._data), 0)
        pairs = [(key, self._data[key]) for key in keys[start : start + most] if key in self._data]
        return pairs, (keys, start + most) if start + most < len(keys) else None

    def __len__(self) -> int:
        return len(self._data)

    def about(self) -> int:
        return len(self._data)

    def mark(self, *, at_end: bool) -> None:
        """It does not matter: nothing of it outlives the process."""

    def close(self) -> None:
        """Nothing to be freed."""
