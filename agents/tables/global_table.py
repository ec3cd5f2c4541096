"""Tables that every worker holds whole.

Agents write to a `GlobalTable` as to any table: the key goes to the partition of the record at hand, and into the
changelog with the epoch. What other workers have written is read from there, all the time, beside the event loop.

What is seen, from where:
- An agent sees its own partition as in any table, with what it has just written; all else as it was committed.
- Timers, web views and tasks see what is committed.
- What another worker has committed is seen a moment later: within some ten milliseconds as long as this worker and
  Kafka keep up, and later when they do not. There is no order between partitions: of two commits of two workers,
  readers elsewhere may see the second one first. Each partition by itself is always a state that it once had, at an end
  of an epoch or, while it is being read, between two of its records.
- Before agents see their first record, and before the worker is ready, all partitions are as the changelog had them
  when the worker started.

A key belongs to the partition it is written from, and to one only: write a key from a stream that is keyed by it. An
agent may read a value that another partition holds and gets a copy; assigning it writes to the agent's own partition
and is a mistake, so change such values by a record to the right one. Every worker needs room for all of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .partition_state import ABSENT, PartitionState
from .store import MemoryStore, Store
from .table import ClosedTable, PrivateTable, Table
from .uncommitted_writes import K, V

__all__ = ["GlobalTable"]


class GlobalTable(Table[K, V]):
    """A table that every worker holds whole, while it is open; see the module.

    Attributes:
        copies: partition -> what other workers have committed there.
    """

    everywhere = True

    def __init__(self, name: str, **options: Any) -> None:
        self.copies: dict[int, PartitionState] = {}
        super().__init__(name, **options)

    def state_of(self, store: Store | None = None) -> PartitionState:
        """As in any table; the follower writes to it while others read."""
        return super().state_of(_SharedStore() if store is None else store)

    def _others(self) -> list[PartitionState]:
        return [state for state in self.held() if state is not self._state]

    def _elsewhere(self, key: Any) -> Any:
        for state in self._others():
            value = state.committed(key)
            if value is not ABSENT:
                return value
        return ABSENT

    def __missing__(self, key: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._here(key) is ABSENT and (value := self._elsewhere(key)) is not ABSENT:
            return value
        return self._deeper(key)

    def _here(self, key: Any) -> Any:
        return ABSENT if self._state is None else Table._find(self, key)

    def _find(self, key: Any) -> Any:
        value = self._here(key)
        return self._elsewhere(key) if value is ABSENT else value

    def __delitem__(self, key: Any) -> None:
        if self._here(key) is ABSENT:
            raise KeyError(key)
        super().__delitem__(key)

    def _merged(self) -> dict[Any, Any]:
        merged = {key: value for state in self._others() for key, value in state.committed_items()}
        return merged if self._state is None else merged | Table._merged(self)

    def held(self) -> list[PartitionState]:
        """All partitions."""
        return [*self.states.values(), *self._set_aside.values(), *self.copies.values()]


class _ClosedGlobalTable(ClosedTable, GlobalTable):
    """A table that every worker holds whole, seen from outside an agent."""

    def _find(self, key: Any) -> Any:
        found = (state.committed(key) for state in self.held())
        return next((value for value in found if value is not ABSENT), ABSENT)

    def _merged(self) -> dict[Any, Any]:
        return {key: value for state in self.held() for key, value in state.committed_items()}


class _PrivateGlobalTable(PrivateTable, GlobalTable):
    """A table that every worker holds whole, while it is open and holds values that can be changed in place."""

    __hash__ = Table.__hash__


GlobalTable.opened, GlobalTable.closed, GlobalTable.private = GlobalTable, _ClosedGlobalTable, _PrivateGlobalTable


class _SharedStore(MemoryStore):
    """In memory, written by one thread while another reads."""

    __slots__ = ()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs as they are now: the list is made in one step, and what is being deleted is not there any more."""
        return (pair for pair in list(self._data.items()) if pair[1] is not None)  # pyright: ignore[reportUnnecessaryComparison]
