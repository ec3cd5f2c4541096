"""One partition of a table whose keys have a time-to-live: when each was last written, and the partition's event time.

Format, in the store as in the changelog, so that restoring needs to know nothing of it:

| key | value |
| --- | --- |
| a table key | the event time of its last write, then the value |
| `EVENT_TIME` | the partition's event time |

Times are milliseconds since 1970, eight bytes, signed, big-endian.

Laws.
- Event time is the largest timestamp of the records for which an agent has touched the table in this partition, read
  or written. It never goes back. A record that comes late works at the partition's event time.
- A key is there as long as event time is less than its last write + time-to-live. What has expired stays so.
- All of it is committed with the epoch, and nothing of it is decided at a commit: the same records in the same order
  give the same content wherever commits, failures and restarts fall. Outside of agents a table shows its content at the
  committed event time.
- A value that was changed in place was written at the time of the record it was handed out for.
- That expired keys are removed shows nowhere: a key when it is touched, all others in bounded steps at commits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from ...topics.errors import BadRecord, Usage
from ...topics.serde import Codec
from .partition_state import ABSENT, EVENT_TIME, IMMUTABLE, PartitionState
from .store import Changes, Store

__all__ = ["TtlState", "unexpired", "value_of"]

_STAMP = struct.Struct(">q")
_SIZE = _STAMP.size
_NEVER_MS = -1
_NEVER_EXPIRES_MS = 2**62

# Of a partition this many pairs are looked at in one commit, and its whole table so many times in a time-to-live.
SWEEP_PAIRS = 5_000
SWEEPS = 8


class TtlState(PartitionState):
    """See the module.

    Attributes:
        now_ms: event time for the agents, what can still be undone included; event_ms: without that.
        fresh: key -> time of its last write, None for a deletion, since the overlay is what it is.
        written: key -> time of its last write in this epoch.
        handed: mutable values as they were when agents got them last: (key, identity) -> (value, its bytes, when).
    """

    __slots__ = (
        *("_committed_ms", "_due_ms", "_found", "_loaded_at", "_sweep", "_swept", "_table"),
        *("event_ms", "fresh", "handed", "now_ms", "ttl_ms", "written"),
    )

    def __init__(self, store: Store, keys: Codec, values: Codec, *, sets: bool, table: str, ttl_ms: int) -> None:
        super().__init__(store, keys, values, sets=sets)
        self._table, self.ttl_ms = table, ttl_ms
        self.fresh: dict[Any, int | None] = {}
        self.written: dict[Any, int] = {}
        self.handed: dict[tuple[Any, int], tuple[Any, bytes, int]] = {}
        self.now_ms = self.event_ms = _NEVER_MS
        self._committed_ms: int | None = None
        self._loaded_at = -1  # position of the store when the committed event time was looked up
        self._found: tuple[Any, bytes | None] = (ABSENT, None)
        self._sweep: Any = None
        self._due_ms = _NEVER_MS
        self._swept: tuple[set[bytes], Any] | None = None

    # Time -----------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Look up the committed event time, if the store was written past us (a restore).

        Raises:
            Usage: the store's content is of a table without a time-to-live.
        """
        if self._loaded_at == self.store.position:
            return
        self._found = (ABSENT, None)
        data = self.store.get(EVENT_TIME)
        if data is None and next(iter(self.store.items()), None) is not None:
            raise Usage(
                f"table {self._table}: has a time-to-live now, and its changelog is from before: it does not say when "
                "keys were written",
                hint="give the table another name, or delete its changelog to compute it anew",
            )
        self._committed_ms = None if data is None else _STAMP.unpack(data)[0]
        self._loaded_at = self.store.position
        self.now_ms = self.event_ms = _NEVER_MS if self._committed_ms is None else self._committed_ms

    check_content = load

    def advance(self, timestamp_ms: int) -> None:
        """An agent touches the table for a record of this time."""
        self.load()
        if timestamp_ms > self.now_ms:
            self.now_ms = timestamp_ms

    def is_expired(self, written_ms: int, now_ms: int) -> bool:
        """Whether a key that was last written then is gone now."""
        return written_ms + self.ttl_ms <= now_ms

    def time_of(self, key: Any) -> int | None:
        """When a key was last written; None where it is not there."""
        if key in self.fresh:
            return self.fresh[key]
        if key in self.written:
            return self.written[key]
        if self.epoch.get(key) is ABSENT:
            return None
        data = self._read(key)
        return None if data is None else _written_ms(data)

    def _read(self, key: Any) -> bytes | None:
        found, data = self._found
        if found is not key:
            data = self.store.get(self._keys.keep(key))
            self._found = (key, data)
        return data

    # Values that can be changed in place ----------------------------------------------------------------------------

    def note(self, key: Any, value: Any, *, fresh: bool) -> None:
        """If a value has changed since it was handed out, it was written then.

        Args:
            fresh: it is in the overlay.
        """
        handed = self.handed.get((key, id(value)))
        if handed is None:
            return
        data = self._values.draft(value)
        if data != handed[1]:
            times: dict[Any, Any] = self.fresh if fresh else self.written
            times[key] = handed[2]
            self.handed[key, id(value)] = (value, data, handed[2])

    def hand(self, key: Any, value: Any) -> None:
        """An agent gets a mutable value; `note` has been called before."""
        handed = self.handed.get((key, id(value)))
        data = self._values.draft(value) if handed is None else handed[1]
        self.handed[key, id(value)] = (value, data, self.now_ms)

    def live(self, key: Any, value: Any) -> bool:
        """As in any table; and here also what was changed and then changed back was written."""
        if value is ABSENT or self._is_empty_set(value):
            return False
        borrowed = self.borrowed.get((key, id(value))) if self.borrowed else None
        if borrowed is None or borrowed[2]:
            return True
        handed = self.handed.get((key, id(value)))
        changed = handed is not None and self._values.draft(value) != handed[1]
        return changed or self.fresh.get(key, self.written.get(key)) is not None

    # The overlay and the epoch --------------------------------------------------------------------------------------

    def move(self, changes: dict[Any, Any], deleted: set[Any]) -> bool:
        """As in any table, with the times; there is no view, since what is at hand would have to expire as well."""
        for key in deleted:
            self.epoch[key] = ABSENT
            self.written.pop(key, None)
        self.epoch.update(changes)
        self.written.update((key, ms) for key, ms in self.fresh.items() if ms is not None)
        return True

    def undo(self) -> None:
        """The overlay is forgotten, or has moved."""
        self.fresh.clear()
        self.now_ms = self.event_ms

    def remember(self, key: Any, value: Any) -> None:
        """See `move`."""

    @property
    def touched(self) -> bool:
        """Whether a commit finds something to write or to look through."""
        if self._loaded_at < 0:
            return False
        sweeping = self._swept is not None or self._sweep is not None or self.event_ms >= self._due_ms
        return sweeping or bool(self.epoch) or self.event_ms != self._committed_ms

    def encode(self) -> Changes:
        """As in any table, with times, the event time if it has moved, and the removal of what has expired."""
        keys: list[Any] = []
        values: list[Any] = []
        stamps: list[bytes] = []
        gone: list[Any] = []
        for key, value in self.epoch.items():
            if value is ABSENT:
                gone.append(key)
                continue
            if type(value) not in IMMUTABLE:
                self.note(key, value, fresh=False)
            written_ms = self.written.get(key)
            if written_ms is not None and not self._is_empty_set(value):
                keys.append(key)
                values.append(value)
                stamps.append(_STAMP.pack(written_ms))
            elif not self._is_unchanged(key, value) and self._read(key) is not None:
                gone.append(key)  # it has become empty, or it was deleted and then its default was looked at
        kept = [stamp + data for stamp, data in zip(stamps, self._values.keep_all(values), strict=True)]
        changes = self._changes(keys, kept, gone)
        if EVENT_TIME in changes.keys:
            raise BadRecord(f"table {self._table}: {EVENT_TIME!r} cannot be a key of a table with a time-to-live")
        if self.event_ms != self._committed_ms:
            changes.keys.append(EVENT_TIME)
            changes.values.append(_STAMP.pack(self.event_ms))
        swept = sorted(self._swept_keys().difference(changes.keys))
        return Changes(
            [*changes.keys, *swept], [*changes.values, *([None] * len(swept))], deletes=changes.deletes or bool(swept)
        )

    def _is_unchanged(self, key: Any, value: Any) -> bool:
        borrowed = self.borrowed.get((key, id(value)))
        return borrowed is not None and borrowed[2] and not self._is_empty_set(value)

    def _swept_keys(self) -> set[bytes]:
        """Some expired keys of the store; the same ones until the epoch has ended."""
        if self._swept is None:
            if self._sweep is None:
                if self.event_ms < self._due_ms:
                    return set()
                self._due_ms = self.event_ms + max(1, self.ttl_ms // SWEEPS)
            pairs, rest = self.store.page(self._sweep, SWEEP_PAIRS)
            times = ((key, _written_ms(data)) for key, data in pairs if key != EVENT_TIME)
            self._swept = ({key for key, written_ms in times if self.is_expired(written_ms, self.event_ms)}, rest)
        return self._swept[0]

    def apply(self, changes: Changes, position: int) -> None:
        """As in any table."""
        super().apply(changes, position)
        self._loaded_at = position
        self._committed_ms = self.event_ms
        self._end_epoch(committed=True)

    def drop(self) -> None:
        """As in any table."""
        super().drop()
        self.now_ms = self.event_ms = _NEVER_MS if self._committed_ms is None else self._committed_ms
        self._end_epoch(committed=False)

    def _end_epoch(self, *, committed: bool) -> None:
        if self._swept is not None and (committed or not self._swept[0]):
            self._sweep = self._swept[1]
        self.fresh.clear()
        self.written.clear()
        self.handed.clear()
        self._found, self._swept = (ABSENT, None), None

    def forget_view(self) -> None:
        """As in any table."""
        super().forget_view()
        self._loaded_at, self._found = -1, (ABSENT, None)

    # What is committed ----------------------------------------------------------------------------------------------

    def committed(self, key: Any) -> Any:
        """As in any table; what has expired at the committed event time is not there."""
        self.load()
        data = self._read(key)
        if data is None or self._is_gone(data):
            return ABSENT
        return self._decoded(key, value_of(data))

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """As in any table; without what has expired at the committed event time."""
        self.load()
        return self.items_at(_NEVER_MS if self._committed_ms is None else self._committed_ms)

    def items_at(self, now_ms: int) -> Iterator[tuple[Any, Any]]:
        """All pairs of the store that are there at a time, decoded."""
        for key, data in self.store.items():
            if key != EVENT_TIME and not self.is_expired(_written_ms(data), now_ms):
                try:
                    pair = self._keys.decode(key), self._values.decode(value_of(data))
                except Exception as exc:
                    raise self._undecodable(key, exc) from exc
                yield pair

    def about(self) -> int:
        """As in any table; what has expired counts until it is removed."""
        return max(0, self.store.about() - 1)

    def _is_gone(self, data: bytes) -> bool:
        return self._committed_ms is not None and self.is_expired(_written_ms(data), self._committed_ms)


def _written_ms(data: bytes) -> int:
    """When a stored value was written. One that is too short to say so never expires, and cannot be decoded."""
    return _STAMP.unpack_from(data)[0] if len(data) >= _SIZE else _NEVER_EXPIRES_MS


def value_of(data: bytes) -> bytes:
    """A stored value without its time."""
    return data[_SIZE:]


def unexpired(content: dict[bytes, bytes], ttl_ms: int) -> dict[bytes, bytes]:
    """What a partition holds at its event time, without the times: its content as in the changelog, made plain."""
    noted = content.get(EVENT_TIME)
    now_ms = _NEVER_MS if noted is None else _STAMP.unpack(noted)[0]
    return {
        key: data[_SIZE:] for key, data in content.items() if key != EVENT_TIME and _written_ms(data) + ttl_ms > now_ms
    }
