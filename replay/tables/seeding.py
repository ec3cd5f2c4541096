"""Stores on disk made from a backup, so that a worker that lost its disk reads only the changelog's tail.

A worker checks what it finds there as ever: the app, the cluster, the changelog's id, that the tail is still there. A
store of its own that is not behind the backup stays; another one is set aside. Partitions that another worker owns lie
there unused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...agents.app import App
from ...agents.group.identity import Identity
from ...agents.tables.rocks import Owner, RocksStore, Unfit
from ...agents.tables.store import Changes
from ...topics.admin import Admin
from ...topics.errors import Stop
from .backup import Backup, BackupPartition, pairs_of
from .depot import Depot

if TYPE_CHECKING:
    from .recovery import Step

__all__ = ["seed"]

_BATCH = 20_000


def seed(app: App, depot: Depot, backup: Backup, steps: list[Step], said: Callable[[str, int], None]) -> None:
    """Make the stores of the first worker on the app's data folder.

    Raises:
        Stop: it runs, or the disk does not let us.
    """
    cluster = Admin(app.cluster).cluster_id()
    with Identity(app.conf.appdir) as identity:
        if identity.slot:
            raise Stop(f"a worker uses {app.conf.appdir}", hint="stop it first, or name another --datadir")
        for step in steps:
            done = 0
            for part in step.kept.partitions:
                folder = Path(app.conf.appdir) / "0" / "tables" / f"{step.table.name}-{part.partition}"
                _seed_one(app, depot, backup, step, part, folder, cluster)
                done += part.count
                said(step.table.name, done)


def _is_further(folder: Path, owner: Owner, position: int) -> bool:
    """Whether the worker's own store can be continued, and is not behind the backup."""
    if not folder.exists():
        return False
    try:
        store = RocksStore(folder, owner)
    except Unfit:
        return False
    store.close()
    return store.position >= position


def _seed_one(
    app: App, depot: Depot, backup: Backup, step: Step, part: BackupPartition, folder: Path, cluster: str
) -> None:
    owner = Owner(app.conf.id, step.table.name, part.partition, cluster, step.kept.topic_id)
    if _is_further(folder, owner, part.position):
        return
    # Beside its place and then renamed, so that a store is whole or not there.
    new = folder.with_name(f"{folder.name}.restored")
    shutil.rmtree(new, ignore_errors=True)
    store = RocksStore(new, owner, clock=lambda: backup.taken_ms / 1000)
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
        aside = folder.with_name(f"{folder.name}.set-aside")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    new.rename(folder)
