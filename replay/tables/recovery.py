"""Bringing tables back from a backup: decided first, for all tables, then done.

- `write`: the table's changelog is not there or empty; it is filled from the backup.
- `seed`: the changelog is that of the backup, and the table is on disk. The workers' stores are made from the backup,
  so that they read only the changelog's tail.
- `keep`: the changelog is that of the backup, and the table is in memory. Nothing is to be done.
- Another changelog that has content is refused. With `overwrite`, it is written as well: the table becomes what it was,
  and what it was not is deleted.

Writing is one transaction for all tables and the group's offsets: all of it happens, or nothing. It wants the app's
workers to be stopped. Where input goes on is the operator's decision: a worker refuses to begin where tables have
content and the group has no offsets, because that would count history twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import TopicPartition

from ...agents.app import App
from ...agents.tables.shelf import MEMORY
from ...agents.tables.table import Table
from ...topics.admin import Admin, TopicSpec
from ...topics.errors import Rebuild, Stop, Usage
from ...topics.groups import Groups
from ...topics.producer import Aborted, TransactionalProducer
from .backup import Backup, BackupTable, check, pairs_of
from .depot import Depot
from .tables import TableReader

__all__ = ["STARTS", "Step", "decide", "recover"]

Key = tuple[str, int]
What = Literal["write", "seed", "keep"]
Start = Literal["earliest", "latest", "backup"]
STARTS: tuple[Start, ...] = ("earliest", "latest", "backup")

# The broker's own limit (transaction.max.timeout.ms) is this by default. What a killed restore left open, the next one
# ends.
_TRANSACTION_MS = 900_000
_MESSAGE_MS = 120_000
_BATCH = 20_000
_DAY_MS = 86_400_000
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one table, and why."""

    table: Table
    kept: BackupTable
    what: What
    why: str


def decide(app: App, backup: Backup, names: Iterable[str], *, overwrite: bool, other_app: bool) -> list[Step]:
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
    tables = {table.name: table for table in app.live_tables}
    missing = [name for name in wanted if name not in tables]
    if missing:
        raise Usage(
            f"{app.conf.id} has no table {', '.join(missing)}",
            hint="name those that you want, or use the app's old code",
        )
    admin = Admin(app.cluster)
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
    if any(step.what == "write" for step in steps) and (members := Groups(app.cluster).members(app.conf.id)):
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
) -> Step:
    name = table.changelog_name
    if kept.expires != (table.ttl_ms is not None):
        had = "had a time-to-live" if kept.expires else "had no time-to-live"
        raise Usage(f"table {table.name} {had} when the backup was taken", hint="use the app's old code")
    if name not in counts:
        return Step(table, kept, "write", f"{name} is not there")
    if counts[name] != len(kept.partitions):
        raise Usage(
            f"{name} has {counts[name]} partitions, the backup of table {table.name} has {len(kept.partitions)}",
            hint="keys would not be found again; the app's topics need as many partitions as they had",
        )
    if same_cluster and ids[name] == kept.topic_id and not overwrite:
        if table.store == MEMORY:
            return Step(table, kept, "keep", f"{name} is there and has it all; a worker restores it from there")
        return Step(table, kept, "seed", f"{name} is there; a worker will read what has come since")
    if overwrite:
        return Step(table, kept, "write", "overwritten, as asked")
    content = len(TableReader(app.cluster, table).read().data)
    if content:
        raise Usage(
            f"table {table.name}: {name} is another changelog than that of the backup, and has {content:,} keys",
            hint="--overwrite makes the table what it was and deletes what it was not; else delete the changelog first",
        )
    return Step(table, kept, "write", f"{name} is empty")


def _refuse_too_old(admin: Admin, backup: Backup, step: Step) -> None:
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
    if behind and time.time() * 1000 - backup.taken_ms > kept_ms * _SHARE:
        raise Usage(
            f"the backup of table {step.table.name} is older than the time for which {name} remembers deletions",
            hint="start the worker without the backup: it restores the table from its changelog",
        )


def recover(
    app: App,
    depot: Depot,
    backup: Backup,
    steps: list[Step],
    *,
    start: Start | None,
    processes: int | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> None:
    """Do what was decided.

    Args:
        start: where the group goes on: at its topics' beginning, end, or where it stood when the backup was taken.
        processes: of how many workers on the data folder stores are made; None means of those it has had.
        on_progress: gets the table and how many of its keys are done.

    Raises:
        Usage: `start` cannot be what it says.
        Stop: the backup is damaged, no broker answers, a worker uses the data folder.
    """
    check(depot, [step.kept for step in steps if step.what != "keep"])
    said = on_progress or (lambda _table, _count: None)
    writing = [step for step in steps if step.what == "write"]
    if start is not None and not writing:
        raise Usage(f"--start {start}: no changelog is written", hint="the group goes on where it is")
    if writing:
        _write(app, depot, writing, _offsets(app, backup, start), said)
    seeding = [step for step in steps if step.what == "seed"]
    if seeding:
        from .seeding import seed  # needs the extra of tables on disk

        seed(app, depot, backup, seeding, said, processes)


def _offsets(app: App, backup: Backup, start: Start | None) -> list[TopicPartition]:
    """Where the group is to go on.

    Raises:
        Usage: `backup`, where its offsets say nothing about the content or the topics.
    """
    if start is None:
        return []
    if start == "backup" and not backup.settled:
        raise Usage(
            "the app was at work while the backup was taken: its offsets are not those of the tables' content",
            hint="take a backup while the workers are stopped, or say --start earliest or latest",
        )
    admin = Admin(app.cluster)
    at = [(noted.topic, noted.partition) for noted in backup.offsets]
    counts = admin.partitions({topic for topic, _ in at})
    gone = sorted({topic for topic, partition in at if partition >= counts.get(topic, 0)})
    if gone:
        raise Usage(f"not there, or with fewer partitions: {', '.join(gone)}", hint="create the app's topics first")
    begins, ends = admin.spans(at)
    if start != "backup":
        return [TopicPartition(*key, offset) for key, offset in (begins if start == "earliest" else ends).items()]
    for noted in backup.offsets:
        key = (noted.topic, noted.partition)
        if not begins[key] <= noted.offset <= ends[key]:
            raise Usage(
                f"{noted.topic}[{noted.partition}] holds {begins[key]} to {ends[key]}, the backup's offset is "
                f"{noted.offset}",
                hint="--start backup is for topics that were copied offset by offset; say earliest or latest",
            )
    return [TopicPartition(n.topic, n.partition, n.offset, n.metadata) for n in backup.offsets]


def _write(
    app: App, depot: Depot, steps: list[Step], offsets: list[TopicPartition], said: Callable[[str, int], None]
) -> None:
    specs = [
        TopicSpec(
            step.table.changelog_name,
            len(step.kept.partitions),
            app.conf.topic_replication_factor or 1,
            {"cleanup.policy": "compact", **step.table.config},
        )
        for step in steps
    ]
    Admin(app.cluster).create(specs)
    kafka = TransactionalProducer(
        app.cluster,
        f"{app.conf.id}-tables-restore",
        transaction_timeout_ms=_TRANSACTION_MS,
        message_timeout_ms=_MESSAGE_MS,
    )
    try:
        kafka.open()
        gone = {step.table.name: _keys_by_partition(app, step.table) for step in steps}
        kafka.begin()
        for step in steps:
            done = 0
            for part in step.kept.partitions:
                extra = gone[step.table.name].get(part.partition, set())
                for key, value in pairs_of(depot, part):
                    extra.discard(key)
                    kafka.produce(step.table.changelog_name, value, key, part.partition)
                    done += 1
                    if done % _BATCH == 0:
                        said(step.table.name, done)
                for key in sorted(extra):
                    kafka.produce(step.table.changelog_name, None, key, part.partition)
            said(step.table.name, done)
        if offsets:
            kafka.send_offsets(offsets, Groups(app.cluster).metadata(app.conf.id))
        kafka.commit()
    except (Aborted, Rebuild) as exc:
        raise Stop(f"the restore was interrupted, and nothing has been written: {exc}", hint="do it again") from exc
    finally:
        kafka.close()


def _keys_by_partition(app: App, table: Table) -> dict[int, set[bytes]]:
    """What the changelog holds now; usually nothing."""
    return {p: set(data) for p, data in enumerate(TableReader(app.cluster, table).read_raw())}
