"""The state of one partition of a table with a time-to-live; `ttl_table.py` documents format and invariants."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from ...topics.errors import BadRecord, Usage
from ...topics.serde import Codec
from .expiry_sweep import ExpirySweep
from .partition_state import ABSENT, STREAM_TIME, PartitionState
from .store import Changes, Store
from .value_cache import IMMUTABLE

__all__ = ["TtlState", "unexpired", "value_of"]

_TIME = struct.Struct(">q")
_TIME_BYTES = _TIME.size
_NEVER_MS = -1
_NEVER_EXPIRES_MS = 2**62


class TtlState(PartitionState):
    """The state of one partition of a table with a time-to-live.

    Attributes:
        now_ms: stream time as agents see it, including records that can still be rolled back.
        stream_ms: stream time without those.
        write_times: key -> time of its last write among the uncommitted writes; None for a deletion.
        epoch_times: key -> time of its last write in the epoch.
        last_reads: mutable values as agents got them last: (key, id) -> (value, its bytes, stream time of the read).
    """

    __slots__ = (
        *("_committed_ms", "_committing_ms", "_last_read", "_loaded_at", "_sweep", "_table"),
        *("epoch_times", "stream_ms", "last_reads", "now_ms", "ttl_ms", "write_times"),
    )

    def __init__(self, store: Store, keys: Codec, values: Codec, *, sets: bool, table: str, ttl_ms: int) -> None:
        super().__init__(store, keys, values, sets=sets)
        self._table, self.ttl_ms = table, ttl_ms
        self.write_times: dict[object, int | None] = {}
        self.epoch_times: dict[object, int] = {}
        self.last_reads: dict[tuple[object, int], tuple[object, bytes, int]] = {}
        self.now_ms = self.stream_ms = _NEVER_MS
        self._committed_ms: int | None = None
        self._committing_ms: int | None = None
        self._loaded_at = -1  # position of the store when the committed stream time was read
        self._last_read: tuple[object, bytes | None] = (ABSENT, None)
        self._sweep = ExpirySweep(store, ttl_ms, _written_ms)

    # Time -----------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the committed stream time, if the store was written by someone else (a restore).

        Raises:
            Usage: the store's content belongs to a table without a time-to-live.
        """
        if self._loaded_at == self.store.position:
            return
        self._last_read = (ABSENT, None)
        data = self.store.get(STREAM_TIME)
        if data is None and next(iter(self.store.items()), None) is not None:
            raise Usage(
                f"table {self._table}: has a time-to-live now, but its changelog was written without one: it does not "
                "say when keys were written",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        self._committed_ms = None if data is None else _TIME.unpack(data)[0]
        self._loaded_at = self.store.position
        self.now_ms = self.stream_ms = _NEVER_MS if self._committed_ms is None else self._committed_ms

    check_content = load

    def advance(self, timestamp_ms: int) -> None:
        """Advance stream time to the timestamp of a record during which an agent touches the table."""
        self.load()
        if timestamp_ms > self.now_ms:
            self.now_ms = timestamp_ms

    def is_expired(self, written_ms: int, now_ms: int) -> bool:
        """True if a key that was last written at `written_ms` is expired at `now_ms`."""
        return written_ms + self.ttl_ms <= now_ms

    def time_of(self, key: object) -> int | None:
        """Return when a key was last written, in ms; None if it does not exist."""
        if key in self.write_times:
            return self.write_times[key]
        if key in self.epoch_times:
            return self.epoch_times[key]
        if self.epoch.get(key) is ABSENT:
            return None
        data = self._read(key)
        return None if data is None else _written_ms(data)

    def _read(self, key: object) -> bytes | None:
        found, data = self._last_read
        if found is not key:
            data = self._get(self._keys.keep(key))
            self._last_read = (key, data)
        return data

    # Mutable values -------------------------------------------------------------------------------------------------

    def note_change(self, key: object, value: object, *, uncommitted: bool) -> None:
        """If a value has changed since an agent read it, record the time of that read as its write time.

        Args:
            uncommitted: the value is among the uncommitted writes, not in the epoch.
        """
        last_read = self.last_reads.get((key, id(value)))
        if last_read is None:
            return
        data = self._values.draft(value)
        if data != last_read[1]:
            times: dict[object, Any] = self.write_times if uncommitted else self.epoch_times
            times[key] = last_read[2]
            self.last_reads[key, id(value)] = (value, data, last_read[2])

    def note_read(self, key: object, value: object) -> None:
        """Record that an agent reads a mutable value now; `note_change` has been called before."""
        last_read = self.last_reads.get((key, id(value)))
        data = self._values.draft(value) if last_read is None else last_read[1]
        self.last_reads[key, id(value)] = (value, data, self.now_ms)

    # Uncommitted writes and the epoch -------------------------------------------------------------------------------

    def add_to_epoch(self, changes: dict[Any, object], deleted: Iterable[object]) -> bool:
        """Add a table's uncommitted writes and their times. There is no cache, because its values would have to expire.

        Returns:
            True: mutable values are always tracked.
        """
        for key in deleted:
            self.epoch[key] = ABSENT
            self.epoch_times.pop(key, None)
        self.epoch.update(changes)
        self.epoch_times.update((key, ms) for key, ms in self.write_times.items() if ms is not None)
        return True

    def discard_times(self) -> None:
        """Forget the times of the uncommitted writes, which were discarded or moved to the epoch."""
        self.write_times.clear()
        self.now_ms = self.stream_ms

    def add_to_cache(self, key: object, value: object) -> None:
        """Do nothing; see `add_to_epoch`."""

    @property
    def touched(self) -> bool:
        """True if a commit has something to write or to sweep."""
        if self._loaded_at < 0:
            return False
        return self._sweep.is_due(self.stream_ms) or bool(self.epoch) or self.stream_ms != self._committed_ms

    def encode(self) -> Changes:
        """Encode the epoch with its times, the stream time if it has advanced, and deletions of expired keys.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would be read back unchanged.
        """
        keys: list[object] = []
        values: list[object] = []
        times: list[bytes] = []
        deleted: list[object] = []
        for key, value in self.epoch.items():
            if value is ABSENT:
                deleted.append(key)
                continue
            if type(value) not in IMMUTABLE:
                self.note_change(key, value, uncommitted=False)
            written_ms = self.epoch_times.get(key)
            if written_ms is not None and not self._is_empty_set(value):
                keys.append(key)
                values.append(value)
                times.append(_TIME.pack(written_ms))
            elif not self._is_unchanged(key, value) and self._read(key) is not None:
                deleted.append(key)  # a set has become empty, or the key was deleted and its default read afterwards
        kept = [time + data for time, data in zip(times, self._values.keep_all(values), strict=True)]
        changes = self._changes(keys, kept, deleted)
        if STREAM_TIME in changes.keys:
            raise BadRecord(f"table {self._table}: {STREAM_TIME!r} cannot be a key of a table with a time-to-live")
        if self.stream_ms != self._committed_ms:
            changes.keys.append(STREAM_TIME)
            changes.values.append(_TIME.pack(self.stream_ms))
        swept = sorted(self._sweep.keys(self.stream_ms).difference(changes.keys))
        return Changes(
            [*changes.keys, *swept], [*changes.values, *([None] * len(swept))], deletes=changes.deletes or bool(swept)
        )

    def _is_unchanged(self, key: object, value: object) -> bool:
        original = self.originals.get((key, id(value)))
        return original is not None and original[2] and not self._is_empty_set(value)

    def freeze(self, changes: Changes) -> None:
        """Start a new epoch while the changes of the epoch before are being committed."""
        super().freeze(changes)
        self._committing_ms = self.stream_ms

    def apply(self, position: int) -> None:
        """Write committed changes to the store."""
        super().apply(position)
        self._loaded_at = position
        self._committed_ms = self._committing_ms
        self._sweep.end(committed=True)

    def drop(self) -> None:
        """Forget the uncommitted epochs, and return to the committed stream time."""
        super().drop()
        self.now_ms = self.stream_ms = _NEVER_MS if self._committed_ms is None else self._committed_ms
        self._sweep.end(committed=False)

    def _end_epoch(self) -> None:
        super()._end_epoch()
        self.write_times.clear()
        self.epoch_times.clear()
        self.last_reads.clear()
        self._last_read = (ABSENT, None)

    def clear_cache(self) -> None:
        """Forget what was read from the store, because someone else has written it."""
        super().clear_cache()
        self._loaded_at, self._last_read = -1, (ABSENT, None)

    # Committed content ----------------------------------------------------------------------------------------------

    def committed(self, key: object) -> Any:
        """Return the committed value; ABSENT if there is none or if it is expired at the committed stream time."""
        self.load()
        data = self.store.get(self._keys.keep(key))
        if data is None or self._is_expired_now(data):
            return ABSENT
        return self._decoded(key, value_of(data))

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with; ABSENT if there is none or if it is expired."""
        self.load()
        data = self._read(key)
        if data is None or self.is_expired(_written_ms(data), self.stream_ms):
            return ABSENT
        return self._decoded(key, value_of(data))

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the committed pairs that are not expired at the committed stream time."""
        self.load()
        return self._unexpired(self.store.items(), _NEVER_MS if self._committed_ms is None else self._committed_ms)

    def items_at(self, now_ms: int) -> Iterator[tuple[Any, Any]]:
        """Iterate over the pairs below the epoch that are not expired at `now_ms`, decoded."""
        return self._unexpired(self._items(), now_ms)

    def _unexpired(self, items: Iterable[tuple[bytes, bytes]], now_ms: int) -> Iterator[tuple[Any, Any]]:
        return self._decoded_items(
            (key, value_of(data))
            for key, data in items
            if key != STREAM_TIME and not self.is_expired(_written_ms(data), now_ms)
        )

    def approximate_count(self) -> int:
        """Return the number of committed keys; expired keys count until they are removed."""
        return max(0, self.store.approximate_count() - 1)

    def _is_expired_now(self, data: bytes) -> bool:
        return self._committed_ms is not None and self.is_expired(_written_ms(data), self._committed_ms)


def _written_ms(data: bytes) -> int:
    """Return when a stored value was written. One that is too short never expires, and cannot be decoded."""
    return _TIME.unpack_from(data)[0] if len(data) >= _TIME_BYTES else _NEVER_EXPIRES_MS


def value_of(data: bytes) -> bytes:
    """Return a stored value without its time."""
    return data[_TIME_BYTES:]


def unexpired(content: dict[bytes, bytes], ttl_ms: int) -> dict[bytes, bytes]:
    """Return the pairs of a partition that are not expired at its stream time, without times.

    Args:
        content: the partition as in the changelog.
    """
    event_time = content.get(STREAM_TIME)
    now_ms = _NEVER_MS if event_time is None else _TIME.unpack(event_time)[0]
    return {
        key: data[_TIME_BYTES:]
        for key, data in content.items()
        if key != STREAM_TIME and _written_ms(data) + ttl_ms > now_ms
    }
