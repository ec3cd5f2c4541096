"""The content of one partition of a table with a time-to-live; `ttl_table.py` documents format and invariants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...topics.errors import BadRecord, Usage
from ...topics.serde import Codec
from ..event_time.event_time import LATEST_MS
from .absent import ABSENT
from .expiry_sweep import ExpirySweep
from .held_values import HeldValues
from .store import Changes, Store
from .stored_content import StoredContent
from .stream_time import NEVER_MS, STREAM_TIME, TIME, StreamTime
from .value_cache import IMMUTABLE, ValueCache
from .write_times import WriteTimes, value_of, written_ms_of

__all__ = ["NoCache", "TtlContent", "unexpired"]


class TtlContent:
    """The content of a partition whose keys expire: a `Content` that keeps the time of each write beside the value.

    Args:
        table: name of the table, for error messages.
        ttl_ms: how long a key exists after its last write, in ms of stream time.

    Attributes:
        time: the stream time of the partition.
        times: the times of the writes that are not committed.
    """

    __slots__ = ("_last_read", "_stored", "_sweep", "_table", "_ttl_ms", "store", "time", "times")

    def __init__(self, store: Store, keys: Codec, values: Codec, *, table: str, ttl_ms: int) -> None:
        self._stored = StoredContent(store, keys, values, table=table)
        self.store, self._table, self._ttl_ms = store, table, ttl_ms
        self.time, self.times = StreamTime(), WriteTimes(values)
        self._sweep = ExpirySweep(store, ttl_ms, _written_by)
        self._last_read: tuple[object, bytes | None] = (ABSENT, None)

    # Time -----------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Read the committed stream time, if the store was written by someone else (a restore).

        Raises:
            Usage: the store's content belongs to a table without a time-to-live.
        """
        if self.time.loaded_at == self.store.position:
            return
        self._last_read = (ABSENT, None)
        if self.store.get(STREAM_TIME) is None and next(iter(self.store.items()), None) is not None:
            raise Usage(
                f"table {self._table}: has a time-to-live now, but its changelog was written without one: it does not "
                "say when keys were written",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        row = self.store.get(STREAM_TIME)
        if row is not None and len(row) != TIME.size:
            raise Usage(
                f"table {self._table}: has a time-to-live now, but its changelog was written when it had windows",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        self.time.load(self.store)

    def advance(self, timestamp_ms: int) -> None:
        """Advance stream time to the timestamp of a record during which an agent touches the table.

        Raises:
            BadRecord: the timestamp lies after the year 2199.
        """
        time = self.time
        if time.loaded_at != self.store.position:
            self.check()
        if timestamp_ms > time.now_ms:
            if timestamp_ms >= LATEST_MS:  # in microseconds, say: all keys would expire, and never one again
                raise BadRecord(
                    f"table {self._table}: the record's timestamp, {timestamp_ms} ms, lies after the year 2199: "
                    "is it in milliseconds?",
                    hint="such a record would let all keys of the table expire",
                )
            time.now_ms = timestamp_ms

    def advance_epoch(self) -> bool:
        """Take the stream time that agents see into the epoch; return whether it is later than the epoch's."""
        time = self.time
        advanced = time.now_ms > time.stream_ms
        if advanced:
            time.stream_ms = time.now_ms
        return advanced

    def is_expired_now(self, key: object, epoch: dict[object, Any]) -> bool:
        """Return whether a key has been written, and is expired at the stream time that agents see."""
        written_ms = self._written_ms(key, epoch)
        return written_ms is not None and self._is_expired(written_ms, self.time.now_ms)

    def _written_ms(self, key: object, epoch: dict[object, Any]) -> int | None:
        """Return when a key was last written; None if it does not exist."""
        times = self.times
        if key in times.uncommitted:
            return times.uncommitted[key]
        if key in times.epoch:
            return times.epoch[key]
        if epoch.get(key) is ABSENT:
            return None
        data = self._read(key)
        return None if data is None else written_ms_of(data)

    def _is_expired(self, written_ms: int, now_ms: int) -> bool:
        return written_ms + self._ttl_ms <= now_ms

    def _read(self, key: object) -> bytes | None:
        found, data = self._last_read
        if found is not key:
            data = self._stored.get(self._stored.keys.keep(key))
            self._last_read = (key, data)
        return data

    # Values ---------------------------------------------------------------------------------------------------------

    def committed(self, key: object) -> Any:
        """Return the committed value; ABSENT if there is none or if it is expired at the committed stream time."""
        self.check()
        data = self.store.get(self._stored.keys.keep(key))
        committed_ms = self.time.committed_ms
        if data is None or (committed_ms is not None and self._is_expired(written_ms_of(data), committed_ms)):
            return ABSENT
        return self._stored.decoded(key, value_of(data))

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the committed pairs that are not expired at the committed stream time."""
        self.check()
        return self._unexpired(self.store.items(), self.time.committed_or_never_ms)

    def approximate_count(self) -> int:
        """Return the number of committed keys; expired keys count until they are removed."""
        return max(0, self.store.approximate_count() - 1)

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with; ABSENT if there is none or if it is expired."""
        self.check()
        data = self._read(key)
        if data is None or self._is_expired(written_ms_of(data), self.time.stream_ms):
            return ABSENT
        return self._stored.decoded(key, value_of(data))

    def many_below_epoch(self, keys: Sequence[object]) -> list[Any]:
        """Return the values that the epoch began with, ABSENT where there is none or where it is expired."""
        return list(map(self.below_epoch, keys))

    def items_below_epoch(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the pairs that the epoch began with and that are not expired for agents."""
        return self._unexpired(self._stored.items(), self.time.now_ms)

    def _unexpired(self, items: Iterable[tuple[bytes, bytes]], now_ms: int) -> Iterator[tuple[Any, Any]]:
        return self._stored.decoded_items(
            (key, value_of(data))
            for key, data in items
            if key != STREAM_TIME and not self._is_expired(written_ms_of(data), now_ms)
        )

    def has(self, key: object) -> bool:
        """Return whether a record of the key, expired or not, is below the epoch."""
        return self._stored.has(key)

    # Commits --------------------------------------------------------------------------------------------------------

    def discard_times(self) -> None:
        """Forget the times of the uncommitted writes, which were discarded or moved to the epoch."""
        self.times.uncommitted.clear()
        self.time.now_ms = self.time.stream_ms

    @property
    def is_due(self) -> bool:
        """True if a commit has the stream time to write, or keys to sweep."""
        time = self.time
        if time.loaded_at < 0:
            return False
        return self._sweep.is_due(time.stream_ms) or time.stream_ms != time.committed_ms

    def encode(self, epoch: dict[object, Any], held: HeldValues, *, deletes: bool) -> Changes:
        """Encode an epoch with its times, the stream time if it has advanced, and deletions of expired keys.

        Raises:
            BadRecord: a key or value cannot be encoded so that it would be read back unchanged.
        """
        keys: list[object] = []
        values: list[object] = []
        times: list[bytes] = []
        deleted: list[object] = []
        for key, value in epoch.items():
            if value is ABSENT:
                deleted.append(key)
                continue
            if type(value) not in IMMUTABLE:
                self.times.note_change(key, value, uncommitted=False)
            written_ms = self.times.epoch.get(key)
            if written_ms is not None and not held.is_empty_set(value):
                keys.append(key)
                values.append(value)
                times.append(TIME.pack(written_ms))
            elif not held.existed(key, value) and self._read(key) is not None:
                deleted.append(key)  # a set has become empty, or the key was deleted and its default read afterwards
        kept = [time + data for time, data in zip(times, self._stored.values.keep_all(values), strict=True)]
        changes = self._stored.changes(keys, kept, deleted)
        if STREAM_TIME in changes.keys:
            raise BadRecord(f"table {self._table}: {STREAM_TIME!r} cannot be a key of a table with a time-to-live")
        stream_ms = self.time.stream_ms
        if stream_ms != self.time.committed_ms:
            changes.keys.append(STREAM_TIME)
            changes.values.append(TIME.pack(stream_ms))
        swept = sorted(self._sweep.keys(stream_ms).difference(changes.keys))
        return Changes(
            [*changes.keys, *swept], [*changes.values, *([None] * len(swept))], deletes=changes.deletes or bool(swept)
        )

    def freeze(self, changes: Changes) -> None:
        """Make changes the layer above the store, while they and the stream time are being committed."""
        self._stored.freeze(changes)
        self.time.freeze()
        self._end_epoch()

    def apply(self, position: int) -> None:
        """Write committed changes to the store."""
        self._stored.apply(position)
        self.time.apply(position)
        self._sweep.end(committed=True)

    def drop(self) -> bool:
        """Forget what is not committed, and return to the committed stream time; for the result see `Content`."""
        dropped = self._stored.drop()
        self.time.drop()
        self._sweep.end(committed=False)
        self._end_epoch()
        return dropped

    def _end_epoch(self) -> None:
        self.times.clear()
        self._last_read = (ABSENT, None)

    def forget_reads(self) -> None:
        """Forget what was read from the store, because someone else has written it."""
        self.time.loaded_at, self._last_read = -1, (ABSENT, None)


class NoCache(ValueCache):
    """The cache of a partition whose keys expire. It stays empty, because its values would have to expire too."""

    __slots__ = ()

    def add(self, key: object, value: object) -> None:
        """Do nothing."""

    def add_written(self, changes: dict[Any, object]) -> bool:
        """Do nothing.

        Returns:
            True: a table with a time-to-live always tracks mutable values.
        """
        return True


def unexpired(content: dict[bytes, bytes], ttl_ms: int) -> dict[bytes, bytes]:
    """Return the pairs of a partition that are not expired at its stream time, without times.

    Args:
        content: the partition as in the changelog.
    """
    stream_time = content.get(STREAM_TIME)
    now_ms = NEVER_MS if stream_time is None else TIME.unpack(stream_time)[0]
    return {
        key: value_of(data)
        for key, data in content.items()
        if key != STREAM_TIME and written_ms_of(data) + ttl_ms > now_ms
    }


def _written_by(pairs: Iterable[tuple[bytes, bytes]], latest_ms: int) -> set[bytes]:
    """Return the keys of those pairs of a partition that were written until a time."""
    return {key for key, data in pairs if key != STREAM_TIME and written_ms_of(data) <= latest_ms}
