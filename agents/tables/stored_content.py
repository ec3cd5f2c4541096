"""The content of one partition of a table below its epoch: the committed store, and changes that are being committed.

While an epoch is being committed, the next one may fill. `freeze` makes the encoded changes of the first the layer
above the store. `apply` moves this layer into the store when Kafka has committed, and agents see no difference. `drop`
forgets it. An epoch is encoded only while no other is being committed, because encoding compares it with the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

from ...topics.errors import Usage
from ...topics.serde import Codec
from .absent import ABSENT
from .held_values import HeldValues
from .store import Changes, Store
from .stream_time import STREAM_TIME
from .undecodable_changelog import Undecodable

__all__ = ["Content", "StoredContent"]


class Content(Protocol):
    """The content of a partition in the format of its table.

    It is a `StoredContent`; of tables with a time-to-live a `TtlContent`, of tables of windows a `WindowContent`.
    """

    store: Store

    def committed(self, key: object) -> Any:
        """Return the committed value, a private copy if it is mutable; ABSENT if the key does not exist.

        Raises:
            Undecodable: the stored bytes do not fit the table's types.
        """
        ...

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over all committed pairs, decoded.

        Raises:
            Undecodable: a stored key or value does not fit the table's types.
        """
        ...

    def approximate_count(self) -> int:
        """Return the number of committed keys without counting them; see `Store.approximate_count`."""
        ...

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with, as `committed` does; it may be in the process of being committed.

        Raises:
            Undecodable: see `committed`.
        """
        ...

    def many_below_epoch(self, keys: Sequence[object]) -> list[Any]:
        """Return the values that the epoch began with, ABSENT where there is none.

        Raises:
            Undecodable: see `committed`.
        """
        ...

    def items_below_epoch(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over all pairs that the epoch began with, decoded.

        Raises:
            Undecodable: see `committed_items`.
        """
        ...

    def has(self, key: object) -> bool:
        """Return whether a record of the key is below the epoch."""
        ...

    def check(self) -> None:
        """Check, after a restore, that the store's content has this format.

        Raises:
            Usage: it has another one.
        """
        ...

    @property
    def is_due(self) -> bool:
        """True if a commit has something to write although the epoch is empty."""
        ...

    def encode(self, epoch: dict[object, Any], held: HeldValues, *, deletes: bool) -> Changes:
        """Encode an epoch: the last value of each key that changed, None for deletions.

        Args:
            epoch: key -> value, or ABSENT for a deletion.
            held: what is known of its mutable values.
            deletes: whether `epoch` may hold deletions.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would be read back unchanged.
        """
        ...

    def freeze(self, changes: Changes) -> None:
        """Make the result of `encode` the layer above the store, while it is being committed."""
        ...

    def apply(self, position: int) -> None:
        """Write the changes that were frozen, and that Kafka has committed, to the store.

        Args:
            position: the changelog position after the changes.
        """
        ...

    def drop(self) -> bool:
        """Forget what is not committed; return whether changes were being committed."""
        ...

    def forget_reads(self) -> None:
        """Forget what was read from the store, because someone else has written it (a restore)."""
        ...


class StoredContent:
    """The content of a partition as bytes, and decoded by the types of its table.

    Args:
        table: name of the table, for error messages.
    """

    __slots__ = ("_committing", "_frozen_values", "_table", "keys", "store", "values")

    def __init__(self, store: Store, keys: Codec, values: Codec, *, table: str) -> None:
        self.store, self.keys, self.values, self._table = store, keys, values, table
        self._committing: Changes | None = None
        self._frozen_values: dict[bytes, bytes | None] | None = None  # `_committing` by key, made when it is first read

    # Bytes ----------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return the bytes that the epoch began with; None if there are none."""
        if self._committing is not None and key in (values := self._frozen(self._committing)):
            return values[key]
        return self.store.get(key)

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Iterate over the pairs that the epoch began with."""
        if self._committing is None:
            return self.store.items()
        content: dict[bytes, bytes | None] = dict(self.store.items())
        content |= self._frozen(self._committing)
        return ((key, value) for key, value in content.items() if value is not None)

    def _frozen(self, committing: Changes) -> dict[bytes, bytes | None]:
        values = self._frozen_values
        if values is None:
            values = self._frozen_values = dict(zip(committing.keys, committing.values, strict=True))
        return values

    def has(self, key: object) -> bool:
        """Return whether a record of the key is below the epoch."""
        return self.get(self.keys.keep(key)) is not None

    # Values ---------------------------------------------------------------------------------------------------------

    def decoded(self, key: object, data: bytes) -> Any:
        """Decode the value of a key.

        Raises:
            Undecodable: it does not fit the table's types.
        """
        try:
            return self.values.decode(data)
        except Exception as exc:
            raise Undecodable(self._table, key, self.values.name, exc) from exc

    def decoded_items(self, items: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[Any, Any]]:
        """Decode pairs.

        Raises:
            Undecodable: a key or value does not fit the table's types.
        """
        decode_key, decode = self.keys.decode, self.values.decode
        for key, value in items:
            try:
                pair = decode_key(key), decode(value)
            except Exception as exc:
                raise Undecodable(self._table, key, self.values.name, exc) from exc
            yield pair

    def committed(self, key: object) -> Any:
        """Return the committed value; see `Content`."""
        data = self.store.get(self.keys.keep(key))
        return ABSENT if data is None else self.decoded(key, data)

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over all committed pairs; see `Content`."""
        return self.decoded_items(self.store.items())

    def approximate_count(self) -> int:
        """Return the number of committed keys without counting them; see `Store.approximate_count`."""
        return self.store.approximate_count()

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with; see `Content`."""
        data = self.get(self.keys.keep(key))
        return ABSENT if data is None else self.decoded(key, data)

    def many_below_epoch(self, keys: Sequence[object]) -> list[Any]:
        """Return the values that the epoch began with; see `Content`."""
        decode, get = self.decoded, self.store.get if self._committing is None else self.get
        found = map(get, self.keys.keep_all(keys))
        return [ABSENT if data is None else decode(key, data) for key, data in zip(keys, found, strict=True)]

    def items_below_epoch(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over all pairs that the epoch began with; see `Content`."""
        return self.decoded_items(self.items())

    def check(self) -> None:
        """Check, after a restore, that the content was written without a time-to-live and without windows.

        Raises:
            Usage: it belongs to a table with a time-to-live, or with windows.
        """
        row = self.store.get(STREAM_TIME)
        if row is not None and row.startswith(b"{"):
            raise Usage(
                f"table {self._table} no longer has windows, but its changelog was written when it had",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        if row is not None:
            raise Usage(
                "a table no longer has a time-to-live, but its changelog was written when it had one: its values "
                "contain timestamps",
                hint="give the table another name, or delete its changelog to recompute it",
            )

    # Commits --------------------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """False: there is nothing but the epoch to write."""
        return False

    def encode(self, epoch: dict[object, Any], held: HeldValues, *, deletes: bool) -> Changes:
        """Encode an epoch; see `Content`."""
        if held.may_be_unchanged:
            return self._encode_changed(epoch, held)
        deleted = list[object]()
        if deletes:
            deleted = [key for key, value in epoch.items() if value is ABSENT]
            epoch = {key: value for key, value in epoch.items() if value is not ABSENT}
        return self.changes(epoch.keys(), held.encoded(epoch), deleted)

    def _encode_changed(self, epoch: dict[object, Any], held: HeldValues) -> Changes:
        """Encode an epoch without the values that were only read."""
        draft = self.values.draft
        keys: list[object] = []
        values: list[object] = []
        drafts: list[bytes] = []
        deleted: list[object] = []
        for key, value in epoch.items():
            if value is ABSENT:
                deleted.append(key)
                continue
            if held.is_empty_set(value):
                if self.store.get(self.keys.keep(key)) is not None:
                    deleted.append(key)
                continue
            data = draft(value)
            original = held.originals.get((key, id(value)))
            if original is None or data != original[1]:
                keys.append(key)
                values.append(value)
                drafts.append(data)
            elif not original[2] and self.store.get(self.keys.keep(key)) is not None:
                deleted.append(key)  # the key was deleted, then its default was read and not changed
        return self.changes(keys, self.values.keep_all(values, drafts), deleted)

    def changes(self, keys: Collection[object], values: list[bytes], deleted: list[object]) -> Changes:
        """Return changes of keys that are encoded here, and of values that are encoded already.

        Raises:
            BadRecord: a key cannot be encoded so that it would be read back unchanged.
        """
        encoded = self.keys.keep_all(keys)
        if not deleted:
            return Changes(encoded, cast("list[bytes | None]", values), deletes=False)
        return Changes(encoded + self.keys.keep_all(deleted), [*values, *([None] * len(deleted))], deletes=True)

    def freeze(self, changes: Changes) -> None:
        """Make changes the layer above the store, while they are being committed."""
        self._committing = changes

    def apply(self, position: int) -> None:
        """Write the changes that were frozen, and that Kafka has committed, to the store.

        Args:
            position: the changelog position after the changes.
        """
        assert self._committing is not None, "nothing is being committed"
        self.store.apply(self._committing, position)
        self._committing = self._frozen_values = None

    def drop(self) -> bool:
        """Forget the changes that are being committed; return whether there were any."""
        dropped = self._committing is not None
        self._committing = self._frozen_values = None
        return dropped

    def forget_reads(self) -> None:
        """Do nothing: reads keep nothing here."""
