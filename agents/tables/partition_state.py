"""One partition of one table: the committed store, what this epoch changed, and a cache of decoded values.

    overlay (the table itself)  ->  view  ->  epoch  ->  store
    changes since the agent         values     changes    bytes,
    turned to this partition        at hand    of this    committed
                                               epoch

Reads fall through from left to right; at the gate the epoch is encoded once, whatever number of records touched a key.
The view holds immutable values that are current, committed or not, so that a hot key is read and decoded once; it is a
cache, bounded in bytes, and everything in it can be found further right.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from uuid import UUID

from ...topics.errors import Usage
from ...topics.serde import Codec
from .store import Changes, Store

__all__ = ["ABSENT", "EVENT_TIME", "IMMUTABLE", "UNTOUCHED", "Absent", "PartitionState", "View"]


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = object()  # its value is one that no encoder takes

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""A deleted key in an epoch, or a key that was never there."""


class Untouched(Enum):
    """The type of `UNTOUCHED`."""

    UNTOUCHED = object()


UNTOUCHED: Final = Untouched.UNTOUCHED
"""A key that this epoch has neither written nor deleted."""

# Tables with a time-to-live keep their event time here (`stamped.py`). No text and no JSON looks like that.
EVENT_TIME = b"\xff\xfeanabranch event time"

# Values of exactly these types can be shared between the view and agents; all others are private copies.
IMMUTABLE = frozenset(
    {int, float, str, bytes, bool, type(None), datetime, date, time, timedelta, Decimal, UUID},
)

# Of these none is large.
_SMALL = IMMUTABLE - {str, bytes}

# Memory of the view, a partition; beyond it the view starts anew. Hot keys are back with their next use.
VIEW_BYTES = 64 << 20
_ENTRY_BYTES = 256  # a slot of the dict, a key, a number: until they have been measured
_SLOT_BYTES = 104
_MEASURE_FIRST = 16  # entries; then each time they have doubled


class View(dict[object, Any]):
    """Values at hand. What is not here is looked for by `__missing__`, set by the table that shows the partition."""

    __slots__ = ("__missing__",)
    __missing__: Callable[[Any], object]


class PartitionState:
    """See the module's picture.

    Attributes:
        table: whose it is, for errors.
        epoch: key -> value, or ABSENT for a deletion; deletes: whether there may be such.
        borrowed: mutable values that were read and may have been changed in place: (key, identity of the object that
            was handed out) -> (that object, the key's committed bytes or those of the default, whether the key existed
            or this is the default). They count as changed when their bytes differ. The identity is part of the key
            because undoing a record must bring back what an earlier one was handed.
        own: key -> a value of overlay or epoch that no agent has, as it was left at a record's end, and its bytes.
    """

    __slots__ = (
        "_entry_bytes",
        "_keys",
        "_measure_at",
        "_sets",
        "_texts",
        "_values",
        "borrowed",
        "deletes",
        "epoch",
        "own",
        "store",
        "table",
        "view",
    )

    def __init__(self, store: Store, keys: Codec, values: Codec, *, sets: bool = False) -> None:
        self.store, self._keys, self._values, self._sets = store, keys, values, sets
        self.table = ""
        self.epoch: dict[object, Any] = {}
        self.deletes = False
        self.borrowed: dict[tuple[object, int], tuple[object, bytes, bool]] = {}
        self.own: dict[object, tuple[object, bytes]] = {}
        self.view = View()
        self.forget_view()

    def move(self, changes: dict[Any, object], deleted: Iterable[object]) -> bool:
        """Take over what a table has changed, a dict that is nobody else's, and the keys deleted with it.

        Returns:
            Whether all values are immutable.
        """
        for key in deleted:
            self.epoch[key] = ABSENT
            self.view.pop(key, None)
            self.deletes = True
        if self.epoch:
            self.epoch.update(changes)
        else:
            self.epoch = changes
        kinds = set(map(type, changes.values()))
        if kinds <= IMMUTABLE:
            self.view.update(changes)
            if not kinds <= _SMALL:
                self._texts += sum(map(sys.getsizeof, changes.values()))
        else:
            for key, value in changes.items():
                if type(value) in IMMUTABLE:
                    self.view[key] = value
                    self._texts += sys.getsizeof(value)
                else:
                    self.view.pop(key, None)
        self._bound_view()
        return kinds <= IMMUTABLE

    def _bound_view(self) -> None:
        """An upper bound of what the view takes is nearly free; only when it is reached, the view is measured."""
        entries = len(self.view)
        if entries * self._entry_bytes + self._texts <= VIEW_BYTES and entries < self._measure_at:
            return
        size = entries * _SLOT_BYTES + _bytes_of(self.view.keys()) + _bytes_of(self.view.values())
        if size > VIEW_BYTES * 3 // 4:  # the rest is room until the next time: measuring costs as much as filling
            self.forget_view()
        else:
            self._entry_bytes, self._texts, self._measure_at = size // max(entries, 1) + 1, 0, 2 * entries

    def committed(self, key: object) -> Any:
        """The committed value, a private copy if it is mutable; ABSENT where there is none."""
        data = self.store.get(self._keys.keep(key))
        return ABSENT if data is None else self._decoded(key, data)

    def _decoded(self, key: object, data: bytes) -> Any:
        try:
            return self._values.decode(data)
        except Exception as exc:
            raise self._undecodable(key, exc) from exc

    def _undecodable(self, key: object, error: Exception) -> Exception:
        from .undecodable_changelog import Undecodable

        return Undecodable(self.table, key, self._values.name, error)

    def below_view(self, keys: Sequence[object]) -> list[Any]:
        """What epoch and store have at keys that are not in the view, ABSENT where nothing; for looking only."""
        if self.epoch:
            found = [self.epoch.get(key, UNTOUCHED) for key in keys]
            places = [place for place, value in enumerate(found) if value is UNTOUCHED]
            keys = [keys[place] for place in places]
        else:
            found, places = [ABSENT] * len(keys), range(len(keys))
        decode, get = self._decoded, self.store.get
        for place, key, kept in zip(places, keys, self._keys.keep_all(keys), strict=True):
            data = get(kept)
            value = found[place] = ABSENT if data is None else decode(key, data)
            if value is not ABSENT and type(value) in IMMUTABLE:
                self.remember(key, value)
        return found

    def remember(self, key: object, value: object) -> None:
        """Keep an immutable committed value at hand."""
        self.view[key] = value
        if type(value) not in _SMALL:
            self._texts += sys.getsizeof(value)
        self._bound_view()

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """All committed pairs, decoded."""
        decode_key, decode = self._keys.decode, self._values.decode
        for key, value in self.store.items():
            try:
                pair = decode_key(key), decode(value)
            except Exception as exc:
                raise self._undecodable(key, exc) from exc
            yield pair

    def about(self) -> int:
        """How many committed pairs, at no cost; see `Store`."""
        return self.store.about()

    def check_content(self) -> None:
        """After a restore: whether what is there is of such a table.

        Raises:
            Usage: it is of one with a time-to-live.
        """
        if self.store.get(EVENT_TIME) is not None:
            raise Usage(
                "a table has no time-to-live any more, and its changelog is from before: values come with times there",
                hint="give the table another name, or delete its changelog to compute it anew",
            )

    @property
    def touched(self) -> bool:
        """Whether a commit may find something to write."""
        return bool(self.epoch)

    def live(self, key: object, value: object) -> bool:
        """Whether a value found in overlay or epoch is really there: an untouched default that was only read is not."""
        if value is ABSENT or self._is_empty_set(value):
            return False
        borrowed = self.borrowed.get((key, id(value))) if self.borrowed else None
        return borrowed is None or borrowed[2] or self._values.draft(value) != borrowed[1]

    def _is_empty_set(self, value: object) -> bool:
        return self._sets and type(value) is set and not value

    def encode(self) -> Changes:
        """The epoch as bytes: the last value of each key that changed, None for deletions.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would come back as it is.
        """
        if self.borrowed or self._sets:
            return self._encode_changed()
        epoch, gone = self.epoch, list[object]()
        if self.deletes:
            gone = [key for key, value in epoch.items() if value is ABSENT]
            epoch = {key: value for key, value in epoch.items() if value is not ABSENT}
        return self._changes(epoch.keys(), self._kept(epoch), gone)

    def _kept(self, epoch: dict[object, Any]) -> list[bytes]:
        """The bytes of values; of those that were left at a record's end they are known."""
        own = self.own
        if not own:
            return self._values.keep_all(epoch.values())
        known = {key: own[key][1] for key, value in epoch.items() if key in own and own[key][0] is value}
        others = [key for key in epoch if key not in known]
        known |= zip(others, self._values.keep_all([epoch[key] for key in others]), strict=True)
        return [known[key] for key in epoch]

    def _encode_changed(self) -> Changes:
        """As `encode`, without what was only read."""
        draft = self._values.draft
        keys: list[object] = []
        values: list[object] = []
        drafts: list[bytes] = []
        gone: list[object] = []
        for key, value in self.epoch.items():
            if value is ABSENT:
                gone.append(key)
                continue
            if self._is_empty_set(value):
                if self.store.get(self._keys.keep(key)) is not None:
                    gone.append(key)
                continue
            data = draft(value)
            borrowed = self.borrowed.get((key, id(value)))
            if borrowed is None or data != borrowed[1]:
                keys.append(key)
                values.append(value)
                drafts.append(data)
            elif not borrowed[2] and self.store.get(self._keys.keep(key)) is not None:
                gone.append(key)  # deleted, then its default was read and left alone
        return self._changes(keys, self._values.keep_all(values, drafts), gone)

    def _changes(self, keys: Collection[object], values: list[bytes], gone: list[object]) -> Changes:
        keys_kept = self._keys.keep_all(keys)
        if not gone:
            return Changes(keys_kept, cast("list[bytes | None]", values), deletes=False)
        return Changes(keys_kept + self._keys.keep_all(gone), [*values, *([None] * len(gone))], deletes=True)

    def apply(self, changes: Changes, position: int) -> None:
        """Kafka has committed: write to the store, start a new epoch. The view stays, what is in it is committed."""
        self.store.apply(changes, position)
        self.epoch.clear()
        self.deletes = False
        self.borrowed.clear()
        self.own.clear()

    def forget_view(self) -> None:
        """After the store was written past us (a restore), or the view has grown too large."""
        self.view.clear()
        self._entry_bytes, self._texts, self._measure_at = _ENTRY_BYTES, 0, _MEASURE_FIRST

    def drop(self) -> None:
        """Forget the epoch."""
        if self.epoch:
            for key in self.epoch:
                self.view.pop(key, None)
            self.epoch.clear()
        self.deletes = False
        self.borrowed.clear()
        self.own.clear()

    def private_copy(self, key: object, value: object) -> Any:
        """An equal value that shares nothing with `value` and counts as changed when that would."""
        copy = self._values.decode(self._values.encode(value))
        borrowed = self.borrowed.get((key, id(value)))
        if borrowed is not None:
            self.borrowed[key, id(copy)] = (copy, borrowed[1], borrowed[2])
        return copy

    def owned(self, key: object, value: object) -> Any:
        """At the end of the record that an agent had a value for: an equal one that shares nothing with it.

        ABSENT where the agent has only looked at it, so that what lies deeper, or the default, stands for it.

        Raises:
            BadRecord: it cannot be kept.
        """
        known = self.borrowed.get((key, id(value)))
        if self._sets and type(value) is set:  # elements cannot be changed, so this is all of it
            if known is not None and not (known[2] or value):
                return ABSENT
            copy = value.copy()
            if known is not None and known[2]:
                self.borrowed[key, id(copy)] = (copy, known[1], True)
            return copy
        data = self._values.draft(value)
        if known is not None and data == known[1]:
            return ABSENT
        before = self.own.get(key)
        if before is not None and before[0] is value and before[1] == data:
            copy = self._values.decode(data)
        else:
            data, copy = self._values.kept(value, data)
        self.own[key] = (copy, data)
        return copy

    def replace(self, key: object, value: object, copy: object) -> None:
        """Put what `owned` has made of a value of the epoch in its place."""
        if copy is not ABSENT:
            self.epoch[key] = copy
        elif self.borrowed[key, id(value)][2] or self.store.get(self._keys.keep(key)) is None:
            del self.epoch[key]
        else:  # deleted, then its default was read and left alone
            self.epoch[key], self.deletes = ABSENT, True

    def borrow(self, key: object, value: object, *, existed: bool) -> None:
        """Remember a mutable value as it is now, before it is handed out."""
        self.borrowed[key, id(value)] = (value, self._values.encode(value), existed)


def _bytes_of(objects: Iterable[Any]) -> int:
    return sum(map(sys.getsizeof, objects))
