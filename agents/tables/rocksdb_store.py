"""Stores on disk: one table partition is one RocksDB database.

Format, version 1. A folder that RocksDB owns, with two column families of raw bytes:

| family | key | value |
| --- | --- | --- |
| `default` | a table key, as in the changelog | its value, as in the changelog |
| `meta` | `owner` | JSON: format, app, table, partition, cluster id, id of the changelog topic |
| `meta` | `state` | two signed 64-bit big-endian numbers: changelog position; when it was last at the end, in ms |

An empty file `DAMAGED` in the folder says that a read found a block whose checksum is wrong.

Crashes. The values of an epoch and its position are one write batch, and RocksDB flushes both families together, so
however the process ends, the store reopens to one of the states that `apply` made. A batch is written to the operating
system and not forced to disk: kill -9 loses nothing, a power failure loses whole batches at the end, and the next
restore reads them from the changelog.

Limits. The values of one epoch must fit in memory. RocksDB's own lock refuses to open a database twice. Compaction
removes a tombstone from the changelog after `delete.retention.ms` (a day), so a store that is further behind could keep
a deleted key: it is too old to be used (`StoreDirectory`). When another worker takes a partition over, its folder stays
behind here.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, RdictIter, WriteBatch

from ...topics import clock
from ...topics.cleanup import on_failure
from ...topics.errors import Stop
from ...topics.private_folder import private_folder
from .store import Changes

__all__ = ["RocksStore", "StoreOwner", "StoreUnusable"]

logger = logging.getLogger(__name__)

FORMAT = 1

_META = "meta"
_STATE = struct.Struct(">qq")
_DAMAGED = "DAMAGED"

# A partition has at most two write buffers in memory before it writes them to disk; reopening after a crash reads the
# log of both.
_WRITE_BUFFER_BYTES = 16 << 20
# Cache of blocks read from disk, shared by all stores of this process.
_CACHE_BYTES = 128 << 20
_MAX_OPEN_FILES = 256
_LOG_FILE_BYTES = 1 << 20

# Parts of RocksDB's messages about faults of the machine, as opposed to faults of the content.
_MACHINE_FAULTS = (
    "No space left",
    "File too large",
    "quota exceeded",
    "Permission denied",
    "Too many open files",
    "Read-only file system",
    "Cannot allocate",
)
_IN_USE = ("lock hold by", "While lock file")

_cache: list[Cache] = []


class StoreUnusable(Exception):
    """The store on disk cannot be used and must be rebuilt from the changelog; the message is the reason."""


@dataclass(frozen=True, slots=True)
class StoreOwner:
    """Identifies the content of a store; a store of another owner is not opened.

    Attributes:
        app: id of the app.
        cluster: Kafka's id of the cluster.
        changelog: Kafka's id of the changelog topic; a topic that is deleted and recreated gets another one.
    """

    app: str
    table: str
    partition: int
    cluster: str
    changelog: str


class RocksStore:
    """A store on disk. The module documents its format, `Store` its contract.

    Args:
        folder: folder of the database; created if missing.
        now_ms: returns milliseconds since 1970; they decide only whether the store is too old. None for the clock.

    Attributes:
        position: offset of the next changelog record to read.
        current_ms: when the store was last known to be at the end of its changelog, in ms since 1970.
        closed: whether `close` was called.

    Raises:
        StoreUnusable: it is damaged, incomplete, or belongs to another owner.
        Stop: another process has it open, or the disk refuses access.
    """

    def __init__(self, folder: Path, owner: StoreOwner, *, now_ms: Callable[[], int] | None = None) -> None:
        self._folder, self._now_ms = folder, now_ms or clock.now_ms
        self.closed = False
        self._counted = -1
        if (folder / _DAMAGED).exists():
            raise StoreUnusable("a read found damaged data")
        private_folder(folder.parent)
        try:
            self._data = Rdict(str(folder), _options(), {_META: _options()})
            self._meta = self._data.get_column_family(_META)
            self._family = self._data.get_column_family_handle(_META)
        except Exception as exc:  # noqa: BLE001 (RocksDB's bindings raise no narrower class)
            self._cannot_open(exc)
        with on_failure(self.close):
            self.position, self.current_ms = self._read_state(owner)
        self._at_end = False
        self._restoring_ms = self.current_ms

    def _read_state(self, owner: StoreOwner) -> tuple[int, int]:
        try:
            owner_json, state = self._meta.get(b"owner"), self._meta.get(b"state")
            if owner_json is None and state is None and next(self._data.keys(), None) is None:
                return self._begin(owner)
            found = msgspec.json.decode(owner_json or b"{}")
        except Exception as exc:
            raise StoreUnusable(f"it cannot be read: {exc}") from exc
        wanted = {"format": FORMAT, **asdict(owner)}
        other = [f"{k} is {found.get(k)!r}, not {v!r}" for k, v in wanted.items() if found.get(k) != v]
        if other:
            raise StoreUnusable("its " + ", its ".join(other))
        if not isinstance(state, bytes) or len(state) != _STATE.size:
            raise StoreUnusable("it has no changelog position")
        position, current_ms = _STATE.unpack(state)
        return position, current_ms

    def _begin(self, owner: StoreOwner) -> tuple[int, int]:
        """Write the owner into a new store, before anything else; returns the initial position and time."""
        now_ms = self._now_ms()
        batch = WriteBatch(raw_mode=True)
        batch.put(b"owner", msgspec.json.encode({"format": FORMAT, **asdict(owner)}), self._family)
        batch.put(b"state", _STATE.pack(0, now_ms), self._family)
        self._data.write(batch)
        return 0, now_ms

    def get(self, key: bytes) -> bytes | None:
        """Return the committed value of a key; None if there is none.

        Raises:
            Stop: the data on disk is damaged. The next start rebuilds the store.
        """
        try:
            return self._data.get(key)
        except Exception as exc:  # noqa: BLE001 (see above)
            self._fail("read", exc)

    def apply(self, changes: Changes, position: int) -> None:
        """Write changes and the changelog position after them atomically.

        Raises:
            Stop: the disk is full or broken. The store stays behind, and the next start restores the rest.
        """
        current_ms = self._now_ms() if self._at_end else self.current_ms
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        if changes.deletes:
            for key, value in zip(changes.keys, changes.values, strict=True):
                if value is None:
                    batch.delete(key)
                else:
                    put(key, value)
        else:
            for key, value in zip(changes.keys, changes.values, strict=True):
                put(key, value)
        try:
            put(b"state", _STATE.pack(position, current_ms), self._family)
            self._data.write(batch)
        except Exception as exc:  # noqa: BLE001 (see above)
            self._fail("write", exc)
        self.position, self.current_ms, self._counted = position, current_ms, -1

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over a snapshot of all pairs, in the order of their keys.

        Raises:
            Stop: see `get`.
        """
        # The bindings' iterator ends at a damaged block without an error, so check that it has reached the last key.
        key = None
        try:
            pairs, end = self._pinned_iterators()
        except Exception as exc:  # noqa: BLE001 (see above)
            self._fail("read", exc)
        for pair in pairs:
            key = pair[0]
            yield pair
        self._check_last(end, key)

    def _pinned_iterators(self) -> tuple[Iterator[tuple[bytes, bytes]], RdictIter]:
        """Return an iterator over all pairs and another at the same state of the store, for its last key.

        An iterator sees the store as it is when the iterator is made. The snapshots of the bindings cannot be used:
        their iterators see later writes. A global table is read in one thread while another writes.
        """
        while True:
            begin = self._data.latest_sequence_number()
            pairs, end = self._data.items(), self._data.iter()
            if self._data.latest_sequence_number() == begin:
                return cast("Iterator[tuple[bytes, bytes]]", pairs), end

    def _check_last(self, end: RdictIter, key: bytes | None) -> None:
        try:
            end.seek_to_last()
            end.status()
            if key != (end.key() if end.valid() else None):
                raise ValueError("Corruption: iteration ended before the last key")
        except Exception as exc:  # noqa: BLE001 (see above)
            self._fail("read", exc)

    def page(self, cursor: object, limit: int) -> tuple[list[tuple[bytes, bytes]], object]:
        """Return at most `limit` pairs, in the order of their keys, and the cursor of the next page.

        Raises:
            Stop: see `get`.
        """
        try:
            found = list(islice(self._data.items(from_key=cast("bytes | None", cursor)), limit + 1))
        except Exception as exc:  # noqa: BLE001 (see above)
            self._fail("read", exc)
        pairs = cast("list[tuple[bytes, bytes]]", found)
        return pairs[:limit], pairs[limit][0] if len(pairs) > limit else None

    def __len__(self) -> int:
        """Count the keys, at 4 million a second; the result is kept until the next change."""
        if self._counted < 0:
            self._counted = sum(1 for _ in self.items())
        return self._counted

    def approximate_count(self) -> int:
        """Return RocksDB's estimate of the number of keys; a key that was just written twice may count twice."""
        if self._counted >= 0:
            return self._counted
        return self._data.property_int_value("rocksdb.estimate-num-keys") or 0

    def begin_restore(self) -> None:
        """Note that a restore begins: from now on, records of the changelog are applied."""
        self._at_end = False
        self._restoring_ms = self._now_ms()

    def end_restore(self) -> None:
        """Note that the restore has reached the changelog's end: from now on, only this store's owner writes there."""
        self._at_end = False
        self.current_ms = self._restoring_ms  # the end was determined when the restore began
        self.apply(Changes([], [], deletes=False), self.position)
        self._at_end = True

    def close(self) -> None:
        """Flush memory to disk and free the folder; data that cannot be flushed is still in RocksDB's log."""
        self.closed = True
        # Every handle keeps the database open and locked. Each is flushed by its own: the data first, so that a damaged
        # list of RocksDB's files, whose end is missing, never shows a position without the data before it.
        del self._family
        for handle in (self._data, self._meta):
            try:
                handle.close()
            except Exception as exc:  # noqa: BLE001 (see above)
                logger.warning("closing %s: %s", self._folder, exc)

    def _cannot_open(self, exc: Exception) -> NoReturn:
        message = str(exc)
        if any(sign in message for sign in _IN_USE):
            raise Stop(
                f"{self._folder} is open in another process",
                hint="two workers share one data folder; give each its own --datadir",
            ) from exc
        if any(sign in message for sign in _MACHINE_FAULTS):
            raise Stop(f"{self._folder} cannot be opened: {message}", hint="check the disk") from exc
        raise StoreUnusable(f"it cannot be opened: {message}") from exc

    def _fail(self, what: str, exc: Exception) -> NoReturn:
        message = str(exc)
        if self.closed:
            raise Stop(f"{self._folder} is closed: the worker has stopped, or the partition was revoked") from exc
        if "orruption" in message:
            with suppress(OSError):
                (self._folder / _DAMAGED).touch()
            raise Stop(
                f"cannot {what} {self._folder}: {message}", hint="start the worker again: it rebuilds the store"
            ) from exc
        raise Stop(
            f"cannot {what} {self._folder}: {message}", hint="check the disk, then start the worker again"
        ) from exc


def _options() -> Options:
    if not _cache:
        _cache.append(Cache(_CACHE_BYTES))
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_cache[0])
    blocks.set_bloom_filter(
        10, block_based=False
    )  # the first read of a key often finds nothing; the filter spares the disk access
    options: Any = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_atomic_flush(True)  # also allows the log of a rarely written family to be deleted
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(_MAX_OPEN_FILES)
    options.set_max_log_file_size(_LOG_FILE_BYTES)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options
