"""A store on disk: one table partition in one RocksDB database.

Format, version 1. A folder that RocksDB owns, with two column families of raw bytes:

| family | key | value |
| --- | --- | --- |
| `default` | a table key, as in the changelog | its value, as in the changelog |
| `meta` | `owner` | JSON: format, app, table, partition, cluster id, id of the changelog topic |
| `meta` | `state` | two signed 64-bit big-endian numbers: changelog position; when it was last at the end, in ms |

Beside them may lie `DAMAGED`, an empty file: a read found a block whose checksum is wrong.

Crashes. An epoch's values and its position are one write batch, and RocksDB flushes both families as one, so whatever
ends the process, the store reopens to one of the states that `apply` made. A batch is handed to the operating system
and not forced to disk: kill -9 loses nothing, a power failure loses the last batches whole, and restoring reads them
from the changelog again.

Limits. Values of one epoch have to fit in memory. Opening a database twice is refused by RocksDB's own lock. A
tombstone leaves a compacted changelog after `delete.retention.ms` (a day), so a store that has missed that much of it
could keep a deleted key: it is too old to be continued (`Shelf`). Partitions that another worker has taken over leave
their folders behind.
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
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, Snapshot, WriteBatch

from ...topics import clock
from ...topics.cleanup import on_failure
from ...topics.errors import Stop
from ...topics.private_folder import private_folder
from .store import Changes

__all__ = ["Owner", "RocksStore", "Unfit"]

logger = logging.getLogger(__name__)

FORMAT = 1

_META = "meta"
_STATE = struct.Struct(">qq")
_DAMAGED = "DAMAGED"

# A partition holds at most two of these in memory before it writes them out; reopening after a crash reads them again.
_WRITE_BUFFER_BYTES = 16 << 20
# Blocks read from disk, of all stores of this process together.
_CACHE_BYTES = 128 << 20
_MAX_OPEN_FILES = 256
_LOG_FILE_BYTES = 1 << 20

# What RocksDB says when the machine is at fault and the content is not.
_MACHINE = (
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


class Unfit(Exception):
    """What is on disk cannot be continued; its reason is the message. Rebuild it from the changelog."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose content a store holds; one of another owner is not opened.

    Attributes:
        cluster, changelog: ids that Kafka gave. A topic that is deleted and made anew has another one.
    """

    app: str
    table: str
    partition: int
    cluster: str
    changelog: str


class RocksStore:
    """See the module for the format and `Store` for the contract.

    Args:
        folder: of the database; made where it is missing.
        now_ms: returns milliseconds since 1970; they decide only whether the store is too old. None for the clock.

    Attributes:
        position: offset of the next changelog record to read.
        current_ms: when the store was last known to be at its changelog's end.
        closed: whether `close` was called.

    Raises:
        Unfit: damaged, cut off, or somebody else's.
        Stop: another process has it open, or the disk does not let us.
    """

    def __init__(self, folder: Path, owner: Owner, *, now_ms: Callable[[], int] | None = None) -> None:
        self._folder, self._now_ms = folder, now_ms or clock.now_ms
        self.closed = False
        self._counted = -1
        if (folder / _DAMAGED).exists():
            raise Unfit("a read found it damaged")
        private_folder(folder.parent)
        try:
            self._data = Rdict(str(folder), _options(), {_META: _options()})
            self._meta = self._data.get_column_family(_META)
            self._family = self._data.get_column_family_handle(_META)
        except Exception as exc:  # noqa: BLE001 (RocksDB's bindings raise nothing narrower)
            self._cannot_open(exc)
        with on_failure(self.close):
            self.position, self.current_ms = self._read_state(owner)
        self._at_end = False
        self._restoring_ms = self.current_ms

    def _read_state(self, owner: Owner) -> tuple[int, int]:
        try:
            noted, state = self._meta.get(b"owner"), self._meta.get(b"state")
            if noted is None and state is None and next(self._data.keys(), None) is None:
                return self._begin(owner)
            found = msgspec.json.decode(noted or b"{}")
        except Exception as exc:
            raise Unfit(f"it cannot be read: {exc}") from exc
        wanted = {"format": FORMAT, **asdict(owner)}
        other = [f"{k} is {found.get(k)!r}, not {v!r}" for k, v in wanted.items() if found.get(k) != v]
        if other:
            raise Unfit("its " + ", its ".join(other))
        if not isinstance(state, bytes) or len(state) != _STATE.size:
            raise Unfit("it has no position")
        position, current_ms = _STATE.unpack(state)
        return position, current_ms

    def _begin(self, owner: Owner) -> tuple[int, int]:
        """A new store: whose it is, before anything is in it."""
        now_ms = self._now_ms()
        batch = WriteBatch(raw_mode=True)
        batch.put(b"owner", msgspec.json.encode({"format": FORMAT, **asdict(owner)}), self._family)
        batch.put(b"state", _STATE.pack(0, now_ms), self._family)
        self._data.write(batch)
        return 0, now_ms

    def get(self, key: bytes) -> bytes | None:
        """The committed value, or None.

        Raises:
            Stop: the disk gave something else than what was written; the next start rebuilds the store.
        """
        try:
            return self._data.get(key)
        except Exception as exc:  # noqa: BLE001 (as above)
            self._fail("read", exc)

    def apply(self, changes: Changes, position: int) -> None:
        """Write changes and the position after them, as one.

        Raises:
            Stop: the disk is full or broken. The store is behind then, which the next start repairs.
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
        except Exception as exc:  # noqa: BLE001 (as above)
            self._fail("write", exc)
        self.position, self.current_ms, self._counted = position, current_ms, -1

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs as they are now, by key, whatever is written meanwhile.

        Raises:
            Stop: as `get`.
        """
        # The bindings' iterator ends at a damaged block as if that were the end: look whether it came to the last key.
        key = None
        try:
            now = self._data.snapshot()
            pairs = now.items()
        except Exception as exc:  # noqa: BLE001 (as above)
            self._fail("read", exc)
        for pair in cast("Iterator[tuple[bytes, bytes]]", pairs):
            key = pair[0]
            yield pair
        self._check_last(now, key)

    def _check_last(self, now: Snapshot, key: bytes | None) -> None:
        try:
            last = now.iter()
            last.seek_to_last()
            last.status()
            if key != (last.key() if last.valid() else None):
                raise ValueError("Corruption: iteration ended before the last key")
        except Exception as exc:  # noqa: BLE001 (as above)
            self._fail("read", exc)

    def page(self, cursor: Any, most: int) -> tuple[list[tuple[bytes, bytes]], Any]:
        """Some pairs, by key, and the cursor for those that follow.

        Raises:
            Stop: as `get`.
        """
        try:
            found = list(islice(self._data.items(from_key=cursor), most + 1))
        except Exception as exc:  # noqa: BLE001 (as above)
            self._fail("read", exc)
        pairs = cast("list[tuple[bytes, bytes]]", found)
        return pairs[:most], pairs[most][0] if len(pairs) > most else None

    def __len__(self) -> int:
        """Counted, 4 million keys a second, and remembered until the next change."""
        if self._counted < 0:
            self._counted = sum(1 for _ in self.items())
        return self._counted

    def about(self) -> int:
        """RocksDB's own estimate: a key that was written twice a moment ago may count twice."""
        if self._counted >= 0:
            return self._counted
        return self._data.property_int_value("rocksdb.estimate-num-keys") or 0

    def mark(self, *, at_end: bool) -> None:
        """A restore begins, or has reached the changelog's end: from then on nobody but us writes there."""
        self._at_end = False
        if at_end:
            self.current_ms = self._restoring_ms  # the end is that of the moment the restore began
            self.apply(Changes([], [], deletes=False), self.position)
            self._at_end = True
        else:
            self._restoring_ms = self._now_ms()

    def close(self) -> None:
        """Write out what is in memory and free the folder; what cannot be written out is still in RocksDB's log."""
        self.closed = True
        # Every handle keeps the database open, and locked.
        del self._family
        for handle in (self._meta, self._data):
            try:
                handle.close()
            except Exception as exc:  # noqa: BLE001 (as above)
                logger.warning("closing %s: %s", self._folder, exc)

    def _cannot_open(self, exc: Exception) -> NoReturn:
        said = str(exc)
        if any(sign in said for sign in _IN_USE):
            raise Stop(
                f"{self._folder} is open in another process",
                hint="two workers run on one data folder that is shared; give each its own --datadir",
            ) from exc
        if any(sign in said for sign in _MACHINE):
            raise Stop(f"{self._folder} cannot be opened: {said}", hint="look at the disk") from exc
        raise Unfit(f"it cannot be opened: {said}") from exc

    def _fail(self, what: str, exc: Exception) -> NoReturn:
        said = str(exc)
        if self.closed:
            raise Stop(f"{self._folder} is closed: the worker has stopped, or the partition has gone") from exc
        if "orruption" in said:
            with suppress(OSError):
                (self._folder / _DAMAGED).touch()
            raise Stop(f"cannot {what} {self._folder}: {said}", hint="start again: it is rebuilt then") from exc
        raise Stop(f"cannot {what} {self._folder}: {said}", hint="look at the disk, then start again") from exc


def _options() -> Options:
    if not _cache:
        _cache.append(Cache(_CACHE_BYTES))
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_cache[0])
    blocks.set_bloom_filter(10, block_based=False)  # a key's first read often finds nothing; this asks no disk for it
    options: Any = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_atomic_flush(True)  # also lets the log of a family that is hardly written be deleted
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
