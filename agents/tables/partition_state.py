"""One partition of one table: the committed store, the changes of two epochs, and a cache of decoded values.

    uncommitted writes (the table)  ->  cache    ->  epoch    ->  committing    ->  store
    since the agent turned to           decoded      changes      bytes of the      committed
    this partition                      values       of this      epoch that is     bytes
                                                     epoch        being committed

A read of an agent falls through from left to right. Reads outside of agents see the store only. At the barrier the
epoch is encoded once, however many records touched a key. The cache holds current immutable values, committed or not,
so that a hot key is read and decoded once. It is bounded in bytes, and everything in it can be found further right.

While an epoch is being committed, the next one may fill. `freeze` makes the encoded changes of the first the layer
above the store, and starts the second. To agents, freezing looks like a commit: they find bytes, which they decode to
private values, and all that was kept for comparing values with their originals is forgotten. `apply` moves the layer
into the store when Kafka has committed, and agents see no difference. `drop` forgets both epochs. An epoch is encoded
only while no other is being committed, because encoding compares it with the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Final, cast

from ...topics.errors import Usage
from ...topics.serde import Codec
from .store import Changes, Store
from .value_cache import IMMUTABLE, ValueCache

__all__ = ["ABSENT", "STREAM_TIME", "UNTOUCHED", "Absent", "PartitionState"]


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = object()  # an encoder that is given it by mistake raises TypeError, because it cannot encode this value

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""No value: written, it deletes the key; a read returns it if the key does not exist."""


class Untouched(Enum):
    """The type of `UNTOUCHED`."""

    UNTOUCHED = object()


UNTOUCHED: Final = Untouched.UNTOUCHED
"""The epoch has neither written nor deleted the key."""

# Tables with a time-to-live keep their stream time under this key (`ttl_table.py`). No text and no JSON is like it.
STREAM_TIME = b"\xff\xfeanabranch stream time"


class PartitionState:
    """The state of one partition of one table; the module's docstring shows its layers.

    Attributes:
        table: name of the table, for error messages.
        epoch: key -> value, or ABSENT for a deletion.
        deletes: whether `epoch` may hold deletions.
        originals: the mutable values that agents have read and may have changed in place. (key, id of the object that
            the agent was given) -> (that object, its bytes when it was given out, True if the key existed or False if
            the value is the table's default). A value counts as changed when its bytes differ. The id is part of the
            key, because rolling back one record must restore what an earlier record was given.
        detached: key -> (value, its bytes) of values in the uncommitted writes or in the epoch that no agent holds any
            more, as they were at the end of a record.
    """

    __slots__ = (
        "_committing",
        "_keys",
        "_overlay",
        "_sets",
        "_values",
        "cache",
        "deletes",
        "detached",
        "epoch",
        "originals",
        "store",
        "table",
    )

    def __init__(self, store: Store, keys: Codec, values: Codec, *, sets: bool = False) -> None:
        self.store, self._keys, self._values, self._sets = store, keys, values, sets
        self.table = ""
        self.epoch: dict[object, Any] = {}
        self.deletes = False
        self.originals: dict[tuple[object, int], tuple[object, bytes, bool]] = {}
        self.detached: dict[object, tuple[object, bytes]] = {}
        self.cache = ValueCache()
        self._committing: Changes | None = None
        self._overlay: dict[bytes, bytes | None] | None = None  # `_committing` by key, made when it is first read

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
            self.deletes = True
        if self.epoch:
            self.epoch.update(changes)
        else:
            self.epoch = changes
        return self.cache.add_written(changes)

    def committed(self, key: object) -> Any:
        """Return the committed value, a private copy if it is mutable; ABSENT if the key does not exist.

        Raises:
            Undecodable: the stored bytes do not fit the table's types.
        """
        data = self.store.get(self._keys.keep(key))
        return ABSENT if data is None else self._decoded(key, data)

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with, as `committed` does; it may be in the process of being committed.

        Raises:
            Undecodable: see `committed`.
        """
        data = self._get(self._keys.keep(key))
        return ABSENT if data is None else self._decoded(key, data)

    def _get(self, key: bytes) -> bytes | None:
        """Return the bytes that the epoch began with; None if there are none."""
        if self._committing is not None and key in (overlay := self._overlaid(self._committing)):
            return overlay[key]
        return self.store.get(key)

    def _items(self) -> Iterable[tuple[bytes, bytes]]:
        """Iterate over the pairs that the epoch began with."""
        if self._committing is None:
            return self.store.items()
        content: dict[bytes, bytes | None] = dict(self.store.items())
        content |= self._overlaid(self._committing)
        return ((key, value) for key, value in content.items() if value is not None)

    def _overlaid(self, committing: Changes) -> dict[bytes, bytes | None]:
        overlay = self._overlay
        if overlay is None:
            overlay = self._overlay = dict(zip(committing.keys, committing.values, strict=True))
        return overlay

    def _decoded(self, key: object, data: bytes) -> Any:
        try:
            return self._values.decode(data)
        except Exception as exc:
            raise self._undecodable(key, exc) from exc

    def _undecodable(self, key: object, error: Exception) -> Exception:
        from .undecodable_changelog import Undecodable

        return Undecodable(self.table, key, self._values.name, error)

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
        decode, get = self._decoded, self.store.get if self._committing is None else self._get
        for index, key, kept in zip(untouched, keys, self._keys.keep_all(keys), strict=True):
            data = get(kept)
            value = found[index] = ABSENT if data is None else decode(key, data)
            if value is not ABSENT and type(value) in IMMUTABLE:
                self.add_to_cache(key, value)
        return found

    def add_to_cache(self, key: object, value: object) -> None:
        """Cache an immutable value that was read below the epoch."""
        self.cache.add(key, value)

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over all committed pairs, decoded.

        Raises:
            Undecodable: a stored key or value does not fit the table's types.
        """
        return self._decoded_items(self.store.items())

    def items_below_epoch(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over all pairs that the epoch began with, decoded.

        Raises:
            Undecodable: see `committed_items`.
        """
        return self._decoded_items(self._items())

    def _decoded_items(self, items: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[Any, Any]]:
        decode_key, decode = self._keys.decode, self._values.decode
        for key, value in items:
            try:
                pair = decode_key(key), decode(value)
            except Exception as exc:
                raise self._undecodable(key, exc) from exc
            yield pair

    def approximate_count(self) -> int:
        """Return the number of committed keys without counting them; see `Store.approximate_count`."""
        return self.store.approximate_count()

    def check_content(self) -> None:
        """Check, after a restore, that the store's content belongs to a table of this kind.

        Raises:
            Usage: it belongs to a table with a time-to-live.
        """
        if self.store.get(STREAM_TIME) is not None:
            raise Usage(
                "a table no longer has a time-to-live, but its changelog was written when it had one: its values "
                "contain timestamps",
                hint="give the table another name, or delete its changelog to recompute it",
            )

    @property
    def touched(self) -> bool:
        """True if a commit may have something to write."""
        return bool(self.epoch)

    def exists(self, key: object, value: object) -> bool:
        """True if a value found in the uncommitted writes or the epoch counts as a key.

        A default that was only read does not, nor does an empty set.
        """
        if value is ABSENT or self._is_empty_set(value):
            return False
        original = self.originals.get((key, id(value))) if self.originals else None
        return original is None or original[2] or self._values.draft(value) != original[1]

    def _is_empty_set(self, value: object) -> bool:
        return self._sets and type(value) is set and not value

    def encode(self) -> Changes:
        """Encode the epoch: the last value of each key that changed, None for deletions.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would be read back unchanged.
        """
        if self.originals or self._sets:
            return self._encode_changed()
        epoch, deleted = self.epoch, list[object]()
        if self.deletes:
            deleted = [key for key, value in epoch.items() if value is ABSENT]
            epoch = {key: value for key, value in epoch.items() if value is not ABSENT}
        return self._changes(epoch.keys(), self._encoded_values(epoch), deleted)

    def _encoded_values(self, epoch: dict[object, Any]) -> list[bytes]:
        """Return the bytes of the values; those of detached values are known already."""
        detached = self.detached
        if not detached:
            return self._values.keep_all(epoch.values())
        known = {key: detached[key][1] for key, value in epoch.items() if key in detached and detached[key][0] is value}
        others = [key for key in epoch if key not in known]
        known |= zip(others, self._values.keep_all([epoch[key] for key in others]), strict=True)
        return [known[key] for key in epoch]

    def _encode_changed(self) -> Changes:
        """Encode the epoch without the values that were only read."""
        draft = self._values.draft
        keys: list[object] = []
        values: list[object] = []
        drafts: list[bytes] = []
        deleted: list[object] = []
        for key, value in self.epoch.items():
            if value is ABSENT:
                deleted.append(key)
                continue
            if self._is_empty_set(value):
                if self.store.get(self._keys.keep(key)) is not None:
                    deleted.append(key)
                continue
            data = draft(value)
            original = self.originals.get((key, id(value)))
            if original is None or data != original[1]:
                keys.append(key)
                values.append(value)
                drafts.append(data)
            elif not original[2] and self.store.get(self._keys.keep(key)) is not None:
                deleted.append(key)  # the key was deleted, then its default was read and not changed
        return self._changes(keys, self._values.keep_all(values, drafts), deleted)

    def _changes(self, keys: Collection[object], values: list[bytes], deleted: list[object]) -> Changes:
        encoded = self._keys.keep_all(keys)
        if not deleted:
            return Changes(encoded, cast("list[bytes | None]", values), deletes=False)
        return Changes(encoded + self._keys.keep_all(deleted), [*values, *([None] * len(deleted))], deletes=True)

    def freeze(self, changes: Changes) -> None:
        """Start a new epoch while the changes of the epoch before are being committed.

        Args:
            changes: the result of `encode`.
        """
        self._committing = changes
        self._end_epoch()

    def apply(self, position: int) -> None:
        """Write the changes that were frozen, and that Kafka has committed, to the store.

        The cache stays: its content is current.

        Args:
            position: the changelog position after the changes.
        """
        assert self._committing is not None, "nothing is being committed"
        self.store.apply(self._committing, position)
        self._committing = self._overlay = None

    def _end_epoch(self) -> None:
        self.epoch.clear()
        self.deletes = False
        self.originals.clear()
        self.detached.clear()

    def clear_cache(self) -> None:
        """Empty the cache, because someone else has written the store (a restore)."""
        self.cache.empty()

    def drop(self) -> None:
        """Forget the epoch, and the one that is being committed if there is one."""
        if self._committing is not None:
            self._committing = self._overlay = None
            self.cache.empty()
        for key in self.epoch:
            self.cache.pop(key, None)
        self._end_epoch()

    def private_copy(self, key: object, value: object) -> Any:
        """Return an equal value that shares nothing with `value` and is compared with the same original."""
        copy = self._values.decode(self._values.encode(value))
        original = self.originals.get((key, id(value)))
        if original is not None:
            self.originals[key, id(copy)] = (copy, original[1], original[2])
        return copy

    def detach(self, key: object, value: object) -> Any:
        """Return an equal value that shares nothing with the one that an agent held during a record.

        Returns:
            The copy; ABSENT if the agent has only read the value, so that the layer below, or the default, applies.

        Raises:
            BadRecord: the value cannot be kept.
        """
        original = self.originals.get((key, id(value)))
        if self._sets and type(value) is set:  # elements are immutable, so copying the set is enough
            if original is not None and not (original[2] or value):
                return ABSENT
            copy = value.copy()
            if original is not None and original[2]:
                self.originals[key, id(copy)] = (copy, original[1], True)
            return copy
        data = self._values.draft(value)
        if original is not None and data == original[1]:
            return ABSENT
        before = self.detached.get(key)
        if before is not None and before[0] is value and before[1] == data:
            copy = self._values.decode(data)
        else:
            data, copy = self._values.kept(value, data)
        self.detached[key] = (copy, data)
        return copy

    def replace(self, key: object, value: object, copy: object) -> None:
        """Replace a value of the epoch by the result of `detach`."""
        if copy is not ABSENT:
            self.epoch[key] = copy
        elif self.originals[key, id(value)][2] or self._get(self._keys.keep(key)) is None:
            del self.epoch[key]
        else:  # the key was deleted, then its default was read and not changed
            self.epoch[key], self.deletes = ABSENT, True

    def keep_original(self, key: object, value: object, *, existed: bool) -> None:
        """Keep the bytes of a mutable value before an agent is given it.

        Args:
            existed: False if the value is the table's default.
        """
        self.originals[key, id(value)] = (value, self._values.encode(value), existed)
