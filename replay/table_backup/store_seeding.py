"""Creates stores on disk from a backup, so that a worker that lost its disk reads only the rest of the changelog.

When the worker starts, it checks the store as always: the app, the cluster, the changelog's topic id, and that the
changelog still has everything since the store's position. A store that is already there and not behind the backup is
kept; another one is renamed, as a worker renames an unusable store. Which worker of a data folder will own which
partitions is not known, so each gets all of them; the stores of partitions that another worker owns stay unused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ...agents.app import App
from ...agents.engine.worker_identity import Identity, slots
from ...agents.runtime import runtime_of
from ...agents.tables.rocksdb_store import RocksStore, StoreOwner, StoreUnusable
from ...agents.tables.store import Changes
from ...agents.tables.store_directory import UNUSABLE
from ...topics.admin import Admin
from ...topics.errors import Stop
from .backup import Backup, BackupPartition, read_pairs
from .backup_storage import BackupStorage
from .restore import RestoreStep

__all__ = ["seed_stores"]

_BATCH = 20_000


def seed_stores(
    app: App,
    storage: BackupStorage,
    backup: Backup,
    steps: list[RestoreStep],
    progress: Callable[[str, int], None],
    processes: int | None = None,
) -> None:
    """Create the stores of the workers on the app's data folder (blocking).

    Args:
        progress: called with a table's name and how many of its keys are done.
        processes: for how many workers; None means as many as have used the folder, and at least one.

    Raises:
        Stop: one of the workers is running, or the disk cannot be written.
    """
    cluster, data = Admin(runtime_of(app).cluster).cluster_id(), Path(app.conf.appdir)
    workers = list(range(processes or max(1, slots(data))))
    with ExitStack() as held:
        if [held.enter_context(Identity(data)).slot for _ in workers] != workers:
            raise Stop(f"a worker uses {data}", hint="stop it first, or name another --datadir")
        for step in steps:
            done = 0
            for worker in workers:
                for part in step.backup.partitions:
                    folder = data / str(worker) / "tables" / f"{step.table.name}-{part.partition}"
                    _seed_store(app, storage, backup, step, part, folder, cluster)
                    done += part.count
                    progress(step.table.name, done)


def _is_ahead(folder: Path, owner: StoreOwner, position: int) -> bool:
    """Return whether the worker's own store is usable and not behind the backup."""
    if not folder.exists():
        return False
    try:
        store = RocksStore(folder, owner)
    except StoreUnusable:
        return False
    store.close()
    return store.position >= position


def _seed_store(
    app: App,
    storage: BackupStorage,
    backup: Backup,
    step: RestoreStep,
    part: BackupPartition,
    folder: Path,
    cluster: str,
) -> None:
    owner = StoreOwner(app.conf.id, step.table.name, part.partition, cluster, step.backup.topic_id)
    if _is_ahead(folder, owner, part.position):
        return
    # Written under another name and then renamed, so that a store is complete or absent.
    new = folder.with_name(f"{folder.name}.restored")
    shutil.rmtree(new, ignore_errors=True)
    store = RocksStore(new, owner, now_ms=lambda: backup.taken_ms)
    keys: list[bytes] = []
    values: list[bytes | None] = []
    for key, value in read_pairs(storage, part):
        keys.append(key)
        values.append(value)
        if len(keys) == _BATCH:
            store.apply(Changes(keys, values, deletes=False), 0)
            keys, values = [], []
    store.apply(Changes(keys, values, deletes=False), part.position)
    store.close()
    if folder.exists():
        old = folder.with_name(folder.name + UNUSABLE)
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
