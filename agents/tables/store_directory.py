"""The stores of a worker: those in memory, and those on disk: where they are, and which of them can be used.

    <data folder>/<slot>/tables/<table>-<partition>            a store
    <data folder>/<slot>/tables/<table>-<partition>.unusable   a store that could not be used

The slot belongs to the worker's identity, so two processes on one data folder never share a store. A store that cannot
be used is renamed, not deleted, so that it can be examined; the next unusable store of the same partition replaces it.
A new store is then restored from the changelog, as after the loss of the disk.

A test can stand between the engine and all stores of a worker: see `wrapped`.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Stop, Usage
from ...topics.topic_partition import TopicPartition
from .store import MemoryStore, Store

if TYPE_CHECKING:
    from .rocksdb_store import RocksStore, StoreOwner
    from .table import Table

__all__ = ["MEMORY", "UNUSABLE", "StoreDirectory", "StorePlace", "store_scheme", "wrapped"]

logger = logging.getLogger(__name__)

MEMORY = "memory"
ROCKSDB = "rocksdb"

# A store may be behind by this share of the time for which a changelog keeps tombstones; the rest is for restoring.
_MAX_AGE_SHARE = 0.9
_TOMBSTONES_MS = 86_400_000  # Kafka's default
UNUSABLE = ".unusable"


def store_scheme(url: object, table: str) -> str:
    """Return the kind of store that a Faust store URL names: `memory` or `rocksdb`.

    Raises:
        Usage: there is no such kind, or it needs an extra that is not installed.
    """
    scheme, _, rest = str(url).partition(":")
    if scheme not in (MEMORY, ROCKSDB) or rest.strip("/"):
        raise Usage(
            f"table {table}: no store {str(url)!r}",
            hint="memory:// or rocksdb://; tables on disk are stored in the worker's data folder (--datadir)",
        )
    if scheme == ROCKSDB and importlib.util.find_spec("rocksdict") is None:
        raise Usage(f"table {table}: rocksdb:// needs an extra", hint="pip install rocksdict")
    return scheme


@dataclass(frozen=True, slots=True)
class StorePlace:
    """The owner of a store.

    Attributes:
        cluster: the cluster of the worker.
        table: name of the table.
        partition: number of the partition.
        folder: folder of the store; None in memory.
    """

    cluster: Cluster
    table: str
    partition: int
    folder: Path | None


Wrap = Callable[[Store, StorePlace], Store]

_wrap: Wrap | None = None


@contextmanager
def wrapped(wrap: Wrap) -> Generator[None]:
    """Let `wrap(store, place)` replace each store that a worker of this process opens inside of the block.

    What it returns has to keep the contract of `Store`, except for the faults that the test wants.
    """
    global _wrap
    before, _wrap = _wrap, wrap
    try:
        yield
    finally:
        _wrap = before


class StoreDirectory:
    """The stores of one worker.

    Args:
        folder: the worker's own folder for tables.
    """

    def __init__(self, cluster: Cluster, app_id: str, folder: Path) -> None:
        self.cluster = cluster
        self._app_id, self._folder = app_id, folder
        self._open: dict[tuple[str, int], RocksStore] = {}

    def open(self, admin: Admin, wanted: Iterable[tuple[Table, int]]) -> dict[tuple[str, int], Store]:
        """Open the stores of table partitions (blocking); stores on disk that are open already stay open.

        Args:
            wanted: tables and partitions; a store in memory is a new one.

        Returns:
            (table name, partition) -> store.

        Raises:
            Stop: a folder is in use, the disk refuses access, or no broker answers.
        """
        wanted = list(wanted)
        missing = [
            (table, partition)
            for table, partition in wanted
            if table.store_scheme != MEMORY and not self._is_open(table.name, partition)
        ]
        if missing:
            self._open_missing(admin, missing)
        return {(table.name, partition): self._opened(table, partition) for table, partition in wanted}

    def _opened(self, table: Table, partition: int) -> Store:
        in_memory = table.store_scheme == MEMORY
        store: Store = MemoryStore() if in_memory else self._open[table.name, partition]
        if _wrap is None:
            return store
        folder = None if in_memory else self._folder / f"{table.name}-{partition}"
        return _wrap(store, StorePlace(self.cluster, table.name, partition, folder))

    def _is_open(self, table: str, partition: int) -> bool:
        store = self._open.get((table, partition))
        return store is not None and not store.closed

    def _open_missing(self, admin: Admin, missing: list[tuple[Table, int]]) -> None:
        from .rocksdb_store import StoreOwner

        changelogs = {table.changelog_name for table, _ in missing}
        cluster_id, ids = admin.cluster_id(), admin.topic_ids(changelogs)
        begins, ends = admin.spans((table.changelog_name, partition) for table, partition in missing)
        kept_ms = {name: _tombstones_ms(admin, name) for name in changelogs}
        for table, partition in missing:
            name = table.changelog_name
            owner = StoreOwner(self._app_id, table.name, partition, cluster_id, ids[name])
            at = TopicPartition(name, partition)
            self._open[table.name, partition] = self._open_one(owner, begins[at], ends[at], kept_ms[name])

    def _open_one(self, owner: StoreOwner, begin: int, end: int, tombstones_ms: int) -> RocksStore:
        from .rocksdb_store import RocksStore, StoreUnusable

        folder = self._folder / f"{owner.table}-{owner.partition}"
        try:
            store = RocksStore(folder, owner)
            reason = self._why_unusable(store, begin, end, tombstones_ms)
            if not reason:
                return store
            store.close()
        except StoreUnusable as exc:
            reason = str(exc)
        renamed = folder.with_name(folder.name + UNUSABLE)
        shutil.rmtree(renamed, ignore_errors=True)
        folder.rename(renamed)
        logger.warning(
            "table %s partition %s: the store on disk cannot be used (%s). It was renamed to %s, which can be deleted, "
            "and is rebuilt from its changelog",
            *(owner.table, owner.partition, reason, renamed),
        )
        return RocksStore(folder, owner)

    def _why_unusable(self, store: RocksStore, begin: int, end: int, tombstones_ms: int) -> str:
        """Return why a readable store must not be used; empty if it can be used."""
        if store.position > end:
            return f"its position {store.position} is beyond the changelog's end {end}"
        if not store.position or store.position >= end - 1:  # the marker of the last epoch occupies the last offset
            return ""
        if store.position < begin:
            return f"its position is {store.position}, but the changelog begins at {begin}: deletions may be missing"
        age_ms = clock.now_ms() - store.current_ms
        if age_ms > tombstones_ms * _MAX_AGE_SHARE:
            return f"it is {age_ms / 3_600_000:.1f} hours behind: the changelog may have lost deletions"
        return ""

    def close(self) -> None:
        """Close all open stores (blocking: it flushes memory to disk)."""
        for store in self._open.values():
            if not store.closed:
                store.close()
        self._open.clear()


def _tombstones_ms(admin: Admin, changelog: str) -> int:
    """Return how long compaction keeps tombstones, in ms."""
    try:
        return int(admin.config(changelog).get("delete.retention.ms", _TOMBSTONES_MS))
    except Stop as exc:
        logger.warning(
            "cannot read delete.retention.ms of %s, so Kafka's default of a day is assumed: %s", changelog, exc
        )
        return _TOMBSTONES_MS
