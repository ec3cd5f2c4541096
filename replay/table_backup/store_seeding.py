"""Stores on disk made from a backup, so that a worker that lost its disk reads only the changelog's tail.

A worker checks what it finds there as ever: the app, the cluster, the changelog's id, that the tail is still there. A
store of its own that is not behind the backup stays; another one is set aside. Which of the workers of a data folder
gets which partitions is not known, so each has them all; those that another worker owns lie there unused.
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
from .backup import Backup, BackupPartition, pairs_of
from .backup_storage import BackupStorage
from .restore_plan import PlanStep

__all__ = ["seed"]

_BATCH = 20_000


def seed(
    app: App,
    depot: BackupStorage,
    backup: Backup,
    steps: list[PlanStep],
    said: Callable[[str, int], None],
    processes: int | None = None,
) -> None:
    """Make the stores of workers on the app's data folder.

    Args:
        processes: of how many; None means as many as there have been on this folder, and at least one.

    Raises:
        Stop: one of them runs, or the disk does not let us.
    """
    cluster, data = Admin(runtime_of(app).cluster).cluster_id(), Path(app.conf.appdir)
    wanted = list(range(processes or max(1, slots(data))))
    with ExitStack() as held:
        if [held.enter_context(Identity(data)).slot for _ in wanted] != wanted:
            raise Stop(f"a worker uses {data}", hint="stop it first, or name another --datadir")
        for step in steps:
            done = 0
            for slot in wanted:
                for part in step.kept.partitions:
                    folder = data / str(slot) / "tables" / f"{step.table.name}-{part.partition}"
                    _seed_one(app, depot, backup, step, part, folder, cluster)
                    done += part.count
                    said(step.table.name, done)


def _is_further(folder: Path, owner: StoreOwner, position: int) -> bool:
    """Whether the worker's own store can be continued, and is not behind the backup."""
    if not folder.exists():
        return False
    try:
        store = RocksStore(folder, owner)
    except StoreUnusable:
        return False
    store.close()
    return store.position >= position


def _seed_one(
    app: App, depot: BackupStorage, backup: Backup, step: PlanStep, part: BackupPartition, folder: Path, cluster: str
) -> None:
    owner = StoreOwner(app.conf.id, step.table.name, part.partition, cluster, step.kept.topic_id)
    if _is_further(folder, owner, part.position):
        return
    # Beside its place and then renamed, so that a store is whole or not there.
    new = folder.with_name(f"{folder.name}.restored")
    shutil.rmtree(new, ignore_errors=True)
    store = RocksStore(new, owner, now_ms=lambda: backup.taken_ms)
    keys: list[bytes] = []
    values: list[bytes | None] = []
    for key, value in pairs_of(depot, part):
        keys.append(key)
        values.append(value)
        if len(keys) == _BATCH:
            store.apply(Changes(keys, values, deletes=False), 0)
            keys, values = [], []
    store.apply(Changes(keys, values, deletes=False), part.position)
    store.close()
    if folder.exists():
        unusable = folder.with_name(folder.name + UNUSABLE)
        shutil.rmtree(unusable, ignore_errors=True)
        folder.rename(unusable)
    new.rename(folder)
