"""What restoring a backup would do to each table, decided for all of them before anything is done. See `recovery`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.store_directory import MEMORY
from ...agents.tables.table import Table
from ...topics import clock
from ...topics.admin import Admin
from ...topics.consumer_groups import Groups
from ...topics.errors import Stop, Usage
from ..table_reader import TableReader
from .backup import Backup, BackupTable

__all__ = ["PlanStep", "What", "decide"]

What = Literal["write", "seed", "keep"]

_DAY_MS = 86_400_000
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class PlanStep:
    """What becomes of one table, and why."""

    table: Table
    kept: BackupTable
    what: What
    why: str


def decide(app: App, backup: Backup, names: Iterable[str], *, overwrite: bool, other_app: bool) -> list[PlanStep]:
    """What restoring would do; changes nothing.

    Args:
        names: of tables; none means all of the backup.
        overwrite: make a table what it was, whatever it holds now.
        other_app: the backup may be of another app.

    Raises:
        Usage: it would be wrong.
    """
    if backup.app != app.conf.id and not other_app:
        raise Usage(
            f"the backup is of {backup.app}, this app is {app.conf.id}", hint="--other-app, if that is what you want"
        )
    kept = {table.table: table for table in backup.tables}
    wanted = list(names) or list(kept)
    unknown = [name for name in wanted if name not in kept]
    if unknown:
        raise Usage(f"the backup has no table {', '.join(unknown)}", hint=f"it has: {', '.join(kept) or 'none'}")
    tables = {table.name: table for table in runtime_of(app).tables}
    missing = [name for name in wanted if name not in tables]
    if missing:
        raise Usage(
            f"{app.conf.id} has no table {', '.join(missing)}",
            hint="name those that you want, or use the app's old code",
        )
    admin = Admin(runtime_of(app).cluster)
    changelogs = [tables[name].changelog_name for name in wanted]
    counts = admin.partitions(changelogs)
    ids = admin.topic_ids(counts) if counts else {}
    cluster = admin.cluster_id()
    steps = [
        _decide(app, tables[name], kept[name], counts, ids, cluster == backup.cluster, overwrite) for name in wanted
    ]
    for step in steps:
        if step.what == "seed":
            _refuse_too_old(admin, backup, step)
    if any(step.what == "write" for step in steps) and (members := Groups(runtime_of(app).cluster).size(app.conf.id)):
        raise Stop(f"{members} of {app.conf.id}'s workers run", hint="stop them first")
    return steps


def _decide(
    app: App,
    table: Table,
    kept: BackupTable,
    counts: Mapping[str, int],
    ids: Mapping[str, str],
    same_cluster: bool,
    overwrite: bool,
) -> PlanStep:
    name = table.changelog_name
    if kept.expires != (table.ttl_ms is not None):
        had = "had a time-to-live" if kept.expires else "had no time-to-live"
        raise Usage(f"table {table.name} {had} when the backup was taken", hint="use the app's old code")
    if name not in counts:
        return PlanStep(table, kept, "write", f"{name} is not there")
    if counts[name] != len(kept.partitions):
        raise Usage(
            f"{name} has {counts[name]} partitions, the backup of table {table.name} has {len(kept.partitions)}",
            hint="keys would not be found again; the app's topics need as many partitions as they had",
        )
    if same_cluster and ids[name] == kept.topic_id and not overwrite:
        if table.store_scheme == MEMORY:
            return PlanStep(table, kept, "keep", f"{name} is there and has it all; a worker restores it from there")
        return PlanStep(table, kept, "seed", f"{name} is there; a worker will read what has come since")
    if overwrite:
        return PlanStep(table, kept, "write", "overwritten, as asked")
    content = sum(len(table.content(data)) for data in TableReader(runtime_of(app).cluster, table).read_raw())
    if content:
        raise Usage(
            f"table {table.name}: {name} is another changelog than that of the backup, and has {content:,} keys",
            hint="--overwrite makes the table what it was and deletes what it was not; else delete the changelog first",
        )
    return PlanStep(table, kept, "write", f"{name} is empty")


def _refuse_too_old(admin: Admin, backup: Backup, step: PlanStep) -> None:
    """The changelog's tail must still have all that has happened since, deletions included."""
    name = step.table.changelog_name
    begins, ends = admin.spans((name, part.partition) for part in step.kept.partitions)
    for part in step.kept.partitions:
        begin, end = begins[name, part.partition], ends[name, part.partition]
        if part.position > end:
            raise Usage(
                f"the backup of {name}[{part.partition}] stands at {part.position}, beyond the changelog's end {end}",
                hint="the changelog has lost records; --overwrite brings the table back to the backup",
            )
        if part.position < begin:
            raise Usage(
                f"the backup of {name}[{part.partition}] stands at {part.position}, the changelog begins at {begin}",
                hint="what was deleted in between is not known any more; start the worker without the backup",
            )
    kept_ms = int(admin.config(name).get("delete.retention.ms", _DAY_MS))
    behind = any(part.position < ends[name, part.partition] - 1 for part in step.kept.partitions)
    if behind and clock.now_ms() - backup.taken_ms > kept_ms * _SHARE:
        raise Usage(
            f"the backup of table {step.table.name} is older than the time for which {name} remembers deletions",
            hint="start the worker without the backup: it restores the table from its changelog",
        )
