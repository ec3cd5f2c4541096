"""The stores that a worker keeps on disk: where they lie, which of them can be continued, when they are closed.

    <data folder>/<slot>/tables/<table>-<partition>             a store
    <data folder>/<slot>/tables/<table>-<partition>.set-aside   one that could not be continued

The slot is that of the worker's identity, so two processes on one data folder never meet in a store. A store that
cannot be continued is renamed, never deleted, so that somebody can look at it; the next one that is set aside in its
place takes it away. A new store is then restored from the changelog, as after the loss of the disk.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Stop, Usage
from .store import Store

if TYPE_CHECKING:
    from .rocksdb_store import RocksStore
    from .uncommitted_writes import UncommittedWrites

__all__ = ["MEMORY", "StoreDirectory", "scheme_of"]

logger = logging.getLogger(__name__)

MEMORY = "memory"
ROCKSDB = "rocksdb"

# Of the time for which a changelog keeps tombstones, a store may be out of date this share; the rest is for restoring.
_SHARE = 0.9
_TOMBSTONES_MS = 86_400_000
_SET_ASIDE = ".set-aside"


def scheme_of(url: Any, table: str) -> str:
    """What kind of store Faust's setting asks for: `memory://` or `rocksdb://`.

    Raises:
        Usage: there is no such store, or it needs an extra.
    """
    scheme, _, rest = str(url).partition(":")
    if scheme not in (MEMORY, ROCKSDB) or rest.strip("/"):
        raise Usage(
            f"table {table}: no store {str(url)!r}",
            hint="memory:// or rocksdb://; tables on disk lie in the worker's data folder (--datadir)",
        )
    if scheme == ROCKSDB and importlib.util.find_spec("rocksdict") is None:
        raise Usage(f"table {table}: rocksdb:// needs an extra", hint="pip install 'anabranch[rocksdb]'")
    return scheme


class StoreDirectory:
    """The stores of one worker that lie on disk.

    Args:
        app_id: of the app they belong to.
        folder: the worker's own.
    """

    def __init__(self, cluster: Cluster, app_id: str, folder: Path) -> None:
        self.cluster = cluster
        self._app_id, self._folder = app_id, folder
        self._open: dict[tuple[str, int], RocksStore] = {}

    def open(self, admin: Admin, wanted: Iterable[tuple[UncommittedWrites, int]]) -> dict[tuple[str, int], Store]:
        """Table name and partition -> its store, for tables on disk (blocking); one that is open stays as it is.

        Raises:
            Stop: a folder is in use, the disk does not let us, or no broker answers.
        """
        on_disk = [(table, partition) for table, partition in wanted if table.store != MEMORY]
        missing = [(table, partition) for table, partition in on_disk if not self._is_open(table.name, partition)]
        if missing:
            self._open_missing(admin, missing)
        return {(table.name, partition): self._open[table.name, partition] for table, partition in on_disk}

    def _is_open(self, table: str, partition: int) -> bool:
        store = self._open.get((table, partition))
        return store is not None and not store.closed

    def _open_missing(self, admin: Admin, missing: list[tuple[UncommittedWrites, int]]) -> None:
        from .rocksdb_store import Owner

        changelogs = {table.changelog_name for table, _ in missing}
        cluster_id, ids = admin.cluster_id(), admin.topic_ids(changelogs)
        begins, ends = admin.spans((table.changelog_name, partition) for table, partition in missing)
        kept_ms = {name: _tombstones_ms(admin, name) for name in changelogs}
        for table, partition in missing:
            name = table.changelog_name
            owner = Owner(self._app_id, table.name, partition, cluster_id, ids[name])
            at = (name, partition)
            self._open[table.name, partition] = self._open_one(owner, begins[at], ends[at], kept_ms[name])

    def _open_one(self, owner: Any, begin: int, end: int, tombstones_ms: int) -> RocksStore:
        from .rocksdb_store import RocksStore, Unfit

        folder = self._folder / f"{owner.table}-{owner.partition}"
        try:
            store = RocksStore(folder, owner)
            reason = self._unfit(store, begin, end, tombstones_ms)
            if not reason:
                return store
            store.close()
        except Unfit as exc:
            reason = str(exc)
        aside = folder.with_name(folder.name + _SET_ASIDE)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        logger.warning(
            "table %s partition %s: the store on disk cannot be continued (%s). It is set aside as %s, which can be "
            "deleted, and rebuilt from its changelog",
            *(owner.table, owner.partition, reason, aside),
        )
        return RocksStore(folder, owner)

    def _unfit(self, store: RocksStore, begin: int, end: int, tombstones_ms: int) -> str:
        """Why a store that can be read must not be continued; empty if it can."""
        if store.position > end:
            return f"it stands at {store.position}, beyond the changelog's end {end}"
        if not store.position or store.position >= end - 1:  # behind its last epoch is that epoch's marker
            return ""
        if store.position < begin:
            return f"it stands at {store.position}, and the changelog begins at {begin}: deletions may be missing"
        age_ms = clock.now_ms() - store.current_ms
        if age_ms > tombstones_ms * _SHARE:
            return f"it is {age_ms / 3_600_000:.1f} hours behind: the changelog may have forgotten deletions"
        return ""

    def close(self) -> None:
        """Close what is open (blocking: it writes out what is in memory)."""
        for store in self._open.values():
            if not store.closed:
                store.close()
        self._open.clear()


def _tombstones_ms(admin: Admin, changelog: str) -> int:
    """How long compaction keeps deletions."""
    try:
        return int(admin.config(changelog).get("delete.retention.ms", _TOMBSTONES_MS))
    except Stop as exc:
        logger.warning("deletions in %s are taken to be kept for a day, as by default: %s", changelog, exc)
        return _TOMBSTONES_MS
