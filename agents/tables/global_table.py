"""Global tables: every worker holds the whole table.

Agents write to a `GlobalTable` as to any table: the key goes to the partition of the current record, and into the
changelog with the epoch. Every worker reads the changelog partitions of other workers continuously, beside the event
loop.

What each reader sees:
- An agent sees its own partition as in any table, including its uncommitted writes; all other partitions as committed.
- Timers, web views and tasks see committed content.
- Content that another worker has committed is seen a moment later: within some ten milliseconds while this worker and
  Kafka keep up, later otherwise. There is no order between partitions: of two commits of two workers, readers elsewhere
  may see the second one first. Each partition by itself always shows a state that it once had, at the end of an epoch
  or, while it is being read, between two of its records.
- Before agents get their first record, and before the worker is ready, all partitions are as the changelog had them
  when the worker started.

A key belongs to the partition from which it is written, and to no other: write a key from a stream that is keyed by it.
An agent may read a value of another partition and gets a copy. Assigning it would write to the agent's own partition,
and readers would see the one value or the other, so that record goes to its agent's failure policy: send a record to
the right partition instead. Workers that write one key at the same moment do not see each other: its later writes are
refused then. Every worker needs memory for the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .absent import ABSENT, Absent
from .open_partition import K, OpenPartition, V
from .partition_state import PartitionState
from .store import MemoryStore, Store
from .table import Table

__all__ = ["GlobalTable"]


class GlobalTable(Table[K, V]):
    """A global table; see the module's docstring.

    Attributes:
        remote_states: partition -> its committed content, for partitions of other workers.
    """

    is_global = True

    def __init__(self, name: str, **options: Any) -> None:
        self.remote_states: dict[int, PartitionState] = {}
        super().__init__(name, **options)

    def new_state(self, store: Store | None = None) -> PartitionState:
        """Return the state of a partition; the changelog reader may write to its store while others read it."""
        return super().new_state(_SharedStore() if store is None else store)

    def new_partition(self, state: PartitionState) -> OpenPartition[K, V]:
        """Return a partition as agents see it."""
        return _OpenGlobalPartition(self, state)

    def visible_states(self) -> list[PartitionState]:
        """Return all partitions of the table."""
        return [*super().visible_states(), *self._suspended.values(), *self.remote_states.values()]


class _OpenGlobalPartition(OpenPartition[K, V]):
    """A partition of a global table, and the committed content of all others."""

    __slots__ = ()

    def __init__(self, table: Table[K, V], state: PartitionState) -> None:
        super().__init__(table, state)
        self.writes.__missing__ = self._read_below_writes

    def _elsewhere(self) -> list[PartitionState]:
        return [state for state in self.table.visible_states() if state is not self.state]

    def _find_elsewhere(self, key: object) -> V | Absent:
        for state in self._elsewhere():
            value = state.content.committed(key)
            if value is not ABSENT:
                return value
        return ABSENT

    def _read_below_writes(self, key: K) -> V:
        if not self.has(key) and (value := self._find_elsewhere(key)) is not ABSENT:
            return value
        return self.read_below_cache(key)

    def find(self, key: object) -> V | Absent:
        """Return a value of this partition, else of another one; ABSENT if there is none."""
        value = super().find(key)
        return self._find_elsewhere(key) if value is ABSENT else value

    def has(self, key: object) -> bool:
        """Return whether this partition has the key."""
        return super().find(key) is not ABSENT

    def get_many(self, keys: Sequence[K]) -> list[V | Absent]:
        """Return the value of each key, ABSENT where there is none."""
        return list(map(self.find, keys))

    def pairs(self) -> dict[K, V]:
        """Return the pairs of all partitions."""
        elsewhere = {key: value for state in self._elsewhere() for key, value in state.content.committed_items()}
        return elsewhere | super().pairs()


class _SharedStore(MemoryStore):
    """A store in memory that one thread writes while another reads."""

    __slots__ = ()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the pairs as they are now: the list is made in one step, without keys that are being deleted."""
        return (pair for pair in list(self._data.items()) if pair[1] is not None)  # pyright: ignore[reportUnnecessaryComparison]
