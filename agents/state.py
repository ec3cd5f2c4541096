"""One partition of one table: the committed store, what this epoch changed, and a cache of decoded values.

    overlay (the table itself)  ->  epoch  ->  cache  ->  store
    changes since the agent         changes     decoded    bytes,
    was last resumed                of this     values     committed
                                    epoch

Reads fall through from left to right; at the gate the epoch is encoded once, whatever number of records touched a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..topics.serde import Codec
from .store import Store

__all__ = ["ABSENT", "IMMUTABLE", "PartitionState"]


class _Absent:
    """A deleted key in an epoch, or a key that was never there."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()

# Values of exactly these types can be shared between the cache and agents; all others are private copies.
IMMUTABLE = frozenset({int, float, str, bytes, bool, type(None)})

# Entries, a partition; beyond it the cache starts anew. It saves encoding the key, a look-up and decoding for hot keys.
CACHE_ENTRIES = 250_000

Changes = list[tuple[bytes, bytes | None]]


class PartitionState:
    """See the module's picture.

    Attributes:
        epoch: key -> value, or ABSENT for a deletion.
        borrowed: mutable values that were read and may have been changed in place: key -> (the object that was handed
            out, its bytes when it was, whether the key existed or this was the default). They count as changed when
            their bytes differ.
    """

    __slots__ = ("_cache", "_keys", "_values", "borrowed", "epoch", "store")

    def __init__(self, store: Store, keys: Codec, values: Codec) -> None:
        self.store, self._keys, self._values = store, keys, values
        self.epoch: dict[Any, Any] = {}
        self.borrowed: dict[Any, tuple[Any, bytes, bool]] = {}
        self._cache: dict[Any, Any] = {}

    def committed(self, key: Any) -> Any:
        """The committed value, shared if immutable and a private copy if not; ABSENT where there is none."""
        try:
            return self._cache[key]
        except KeyError:
            pass
        data = self.store.get(self._keys.encode(key))
        if data is None:
            return ABSENT
        value = self._values.decode(data)
        if type(value) in IMMUTABLE:
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            self._cache[key] = value
        return value

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """All committed pairs, decoded."""
        decode_key, decode = self._keys.decode, self._values.decode
        for key, value in self.store.items():
            yield decode_key(key), decode(value)

    def live(self, key: Any, value: Any) -> bool:
        """Whether a value found in overlay or epoch is really there: an untouched default that was only read is not."""
        if value is ABSENT:
            return False
        borrowed = self.borrowed.get(key)
        if borrowed is None or borrowed[0] is not value:
            return True
        return borrowed[2] or self._values.encode(value) != borrowed[1]

    def encode(self) -> Changes:
        """The epoch as bytes: the last value of each key that changed, None for deletions.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would come back as it is.
        """
        encode_key, encode = self._keys.encode, self._values.encode
        changes: Changes = []
        add = changes.append
        if self.borrowed:
            for key, value in self.epoch.items():
                data = None if value is ABSENT else encode(value)
                borrowed = self.borrowed.get(key)
                if borrowed is None or borrowed[0] is not value or data != borrowed[1]:
                    add((encode_key(key), data))
                elif not borrowed[2] and self.committed(key) is not ABSENT:
                    add((encode_key(key), None))  # deleted, then its default was read and left alone
        else:
            for key, value in self.epoch.items():
                add((encode_key(key), None if value is ABSENT else encode(value)))
        return changes

    def apply(self, changes: Changes, position: int) -> None:
        """Kafka has committed: write to the store, keep what is cheap to keep, start a new epoch."""
        self.store.apply(changes, position)
        cache = self._cache
        if len(cache) + len(self.epoch) > CACHE_ENTRIES:
            cache.clear()
        if self.borrowed or not IMMUTABLE.issuperset(map(type, self.epoch.values())):
            for key, value in self.epoch.items():
                if type(value) in IMMUTABLE:
                    cache[key] = value
                else:
                    cache.pop(key, None)
        else:
            cache.update(self.epoch)
        self.drop()

    def forget_cache(self) -> None:
        """After the store was written past us (a restore)."""
        self._cache.clear()

    def drop(self) -> None:
        """Forget the epoch."""
        self.epoch.clear()
        self.borrowed.clear()

    def private_copy(self, value: Any) -> Any:
        """An equal value that shares nothing with `value`."""
        return self._values.decode(self._values.encode(value))

    def borrow(self, key: Any, value: Any, *, existed: bool) -> None:
        """Remember a mutable value as it is now, before it is handed out."""
        self.borrowed[key] = (value, self._values.encode(value), existed)
