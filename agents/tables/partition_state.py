"""One partition of one table: the changes of the epoch, a cache of decoded values, and the content below them.

    uncommitted writes (the table)  ->  cache    ->  epoch    ->  committing    ->  store
    since the agent turned to           decoded      changes      bytes of the      committed
    this partition                      values       of this      epoch that is     bytes
                                                     epoch        being committed
                                                                  `-- stored_content.py --'

A read of an agent falls through from left to right. Reads outside of agents see the store only. At the barrier the
epoch is encoded once, however many records touched a key. The cache holds current immutable values, committed or not,
so that a hot key is read and decoded once. It is bounded in bytes, and everything in it can be found further right.

`freeze` makes the encoded epoch the layer above the store, and starts the next epoch. To agents, freezing looks like a
commit: they find bytes, which they decode to private values, and all that was kept for comparing values with their
originals is forgotten. `drop` forgets both epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...topics.serde import Codec
from .absent import ABSENT, UNTOUCHED
from .held_values import HeldValues
from .store import Changes, Store
from .stored_content import Content
from .value_cache import IMMUTABLE, ValueCache

__all__ = ["PartitionState"]


class PartitionState:
    """The state of one partition of one table; the module's docstring shows its layers.

    Args:
        values: codec of the table's values.
        sets: whether the values are sets; a key whose set is empty does not exist.

    Attributes:
        content: the layers below the epoch.
        cache: current immutable values.
        epoch: key -> value, or ABSENT for a deletion.
        held: the mutable values of the epoch that agents hold or have held.
    """

    __slots__ = ("_deletes", "cache", "content", "epoch", "held")

    def __init__(self, content: Content, values: Codec, *, sets: bool = False, cache: ValueCache | None = None) -> None:
        self.content = content
        self.cache = ValueCache() if cache is None else cache
        self.held = HeldValues(values, sets=sets)
        self.epoch: dict[object, Any] = {}
        self._deletes = False  # whether `epoch` may hold deletions

    @property
    def store(self) -> Store:
        """The committed bytes."""
        return self.content.store

    def add_to_epoch(self, changes: dict[Any, object], deleted: Iterable[object]) -> bool:
        """Add a table's uncommitted writes to the epoch.

        Args:
            changes: the written values. The epoch may keep this dict, so the caller must not use it afterwards.
            deleted: the deleted keys.

        Returns:
            Whether all values are immutable.
        """
        for key in deleted:
            self.epoch[key] = ABSENT
            self.cache.pop(key, None)
            self._deletes = True
        if self.epoch:
            self.epoch.update(changes)
        else:
            self.epoch = changes
        return self.cache.add_written(changes)

    def get_uncached(self, keys: Sequence[object]) -> list[Any]:
        """Return the values below the cache of keys that are not cached, ABSENT where there is none.

        The caller must not change the values.
        """
        if self.epoch:
            found = [self.epoch.get(key, UNTOUCHED) for key in keys]
            untouched = [index for index, value in enumerate(found) if value is UNTOUCHED]
            keys = [keys[index] for index in untouched]
        else:
            found, untouched = [ABSENT] * len(keys), range(len(keys))
        for index, key, value in zip(untouched, keys, self.content.many_below_epoch(keys), strict=True):
            found[index] = value
            if value is not ABSENT and type(value) in IMMUTABLE:
                self.cache.add(key, value)
        return found

    @property
    def touched(self) -> bool:
        """True if a commit may have something to write."""
        return bool(self.epoch) or self.content.is_due

    def encode(self) -> Changes:
        """Encode the epoch: the last value of each key that changed, None for deletions.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would be read back unchanged.
        """
        return self.content.encode(self.epoch, self.held, deletes=self._deletes)

    def freeze(self, changes: Changes) -> None:
        """Start a new epoch while the changes of the epoch before are being committed.

        Args:
            changes: the result of `encode`.
        """
        self.content.freeze(changes)
        self._end_epoch()

    def apply(self, position: int) -> None:
        """Write the changes that were frozen, and that Kafka has committed, to the store.

        The cache stays: its content is current.

        Args:
            position: the changelog position after the changes.
        """
        self.content.apply(position)

    def _end_epoch(self) -> None:
        self.epoch.clear()
        self._deletes = False
        self.held.clear()

    def clear_cache(self) -> None:
        """Empty the cache, because someone else has written the store (a restore)."""
        self.cache.empty()
        self.content.forget_reads()

    def drop(self) -> None:
        """Forget the epoch, and the one that is being committed if there is one."""
        if self.content.drop():
            self.cache.empty()
        for key in self.epoch:
            self.cache.pop(key, None)
        self._end_epoch()

    def replace(self, key: object, value: object, copy: object) -> None:
        """Replace a value of the epoch by the result of `HeldValues.detach`."""
        if copy is not ABSENT:
            self.epoch[key] = copy
        elif self.held.originals[key, id(value)][2] or not self.content.has(key):
            del self.epoch[key]
        else:  # the key was deleted, then its default was read and not changed
            self.epoch[key], self._deletes = ABSENT, True
