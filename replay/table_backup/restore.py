"""Restores tables from a backup. What is done to each table is planned first, for all of them, then carried out.

- `write`: the table's changelog does not exist or is empty; it is filled from the backup.
- `seed`: the changelog is that of the backup, and the table is stored on disk. The workers' stores are created from the
  backup (`store_seeding.py`), so that workers read only the rest of the changelog.
- `keep`: the changelog is that of the backup, and the table is kept in memory. Nothing has to be done.
- Another changelog that has content is refused. With `overwrite` it is written nevertheless: the table gets the content
  of the backup, and keys that the backup does not have are deleted.

Writing is one transaction for all tables and the group's offsets: all of it is done, or nothing. The app's workers must
be stopped. Where the group resumes its input is the operator's decision: a worker refuses to start if tables have
content and the group has no offsets, because it would count history twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import TopicPartition as KafkaPartition

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.store_directory import MEMORY
from ...agents.tables.table import Table
from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.consumer_groups import ConsumerGroups
from ...topics.dead_letter import RETRY_SUFFIX
from ...topics.errors import Rebuild, Stop, Usage
from ...topics.producer import Aborted, TransactionalProducer
from ...topics.spelling import did_you_mean
from ...topics.topic_partition import TopicPartition
from ..app_reset import own_topics, topics_of_agents
from ..table_reader import TableReader
from .backup import Backup, BackupTable, check_files, read_pairs
from .backup_storage import BackupStorage

__all__ = ["STARTS", "Action", "RestoreStep", "plan_restore", "restore_tables"]

Action = Literal["write", "seed", "keep"]
StartOffsets = Literal["earliest", "latest", "backup"]
STARTS: tuple[StartOffsets, ...] = ("earliest", "latest", "backup")

# The broker's default of transaction.max.timeout.ms. A transaction that a killed restore left open is aborted by the
# next restore.
_TRANSACTION_MS = 900_000
_MESSAGE_MS = 120_000
_PROGRESS_KEYS = 20_000

_DAY_MS = 86_400_000
# Of the time for which a changelog keeps tombstones; the rest is a margin.
_MAX_AGE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class RestoreStep:
    """The action of a restore for one table, and the reason for it."""

    table: Table
    backup: BackupTable
    action: Action
    why: str


def plan_restore(
    app: App, backup: Backup, names: Iterable[str], *, overwrite: bool, other_app: bool
) -> list[RestoreStep]:
    """Plan the action of a restore for each table; change nothing (blocking).

    Args:
        names: of tables; none selects all tables of the backup.
        overwrite: replace the content of tables, whatever it is.
        other_app: allow a backup of another app.

    Raises:
        Usage: a table cannot be restored, or restoring it would lose data.
        Stop: workers of the app are running.
    """
    if backup.app != app.conf.id and not other_app:
        raise Usage(f"the backup is of {backup.app}, this app is {app.conf.id}", hint="--other-app allows it")
    backups = {table.table: table for table in backup.tables}
    chosen = list(names) or list(backups)
    unknown = [name for name in chosen if name not in backups]
    if unknown:
        raise Usage(
            f"the backup has no table {', '.join(unknown)}",
            hint=did_you_mean(unknown[0], backups, f"it has: {', '.join(backups) or 'none'}"),
        )
    tables = {table.name: table for table in runtime_of(app).tables}
    missing = [name for name in chosen if name not in tables]
    if missing:
        raise Usage(
            f"{app.conf.id} has no table {', '.join(missing)}",
            hint=did_you_mean(missing[0], tables, "name the tables to restore, or use the app's old code"),
        )
    admin = Admin(runtime_of(app).cluster)
    changelogs = [tables[name].changelog_name for name in chosen]
    counts = admin.partitions(changelogs)
    ids = admin.topic_ids(counts) if counts else {}
    same_cluster = admin.cluster_id() == backup.cluster
    steps = [_plan_table(app, tables[name], backups[name], counts, ids, same_cluster, overwrite) for name in chosen]
    for step in steps:
        if step.action == "seed":
            _refuse_too_old(admin, backup, step)
    if any(step.action == "write" for step in steps) and (
        members := ConsumerGroups(runtime_of(app).cluster).size(app.conf.id)
    ):
        raise Stop(f"workers of {app.conf.id} are running ({members})", hint="stop them first")
    return steps


def _plan_table(
    app: App,
    table: Table,
    backup: BackupTable,
    counts: Mapping[str, int],
    ids: Mapping[str, str],
    same_cluster: bool,
    overwrite: bool,
) -> RestoreStep:
    name = table.changelog_name
    if backup.expires != (table.ttl_ms is not None):
        had = "had a time-to-live" if backup.expires else "had no time-to-live"
        raise Usage(f"table {table.name} {had} when the backup was taken", hint="use the app's old code")
    if name not in counts:
        return RestoreStep(table, backup, "write", f"{name} does not exist")
    if counts[name] != len(backup.partitions):
        raise Usage(
            f"{name} has {counts[name]} partitions, the backup of table {table.name} has {len(backup.partitions)}",
            hint="keys would be in other partitions; create the topics of the app with the number of partitions that "
            "they had",
        )
    if same_cluster and ids[name] == backup.topic_id and not overwrite:
        if table.store_scheme == MEMORY:
            return RestoreStep(table, backup, "keep", f"{name} exists and is complete; a worker restores it from there")
        return RestoreStep(table, backup, "seed", f"{name} exists; a worker reads what was written since the backup")
    if overwrite:
        return RestoreStep(table, backup, "write", "--overwrite")
    content = sum(len(table.content(data)) for data in TableReader(runtime_of(app).cluster, table).read_raw())
    if content:
        raise Usage(
            f"table {table.name}: {name} is another changelog than that of the backup, and has {content:,} keys",
            hint="--overwrite replaces the content by that of the backup; otherwise delete the changelog first",
        )
    return RestoreStep(table, backup, "write", f"{name} is empty")


def _refuse_too_old(admin: Admin, backup: Backup, step: RestoreStep) -> None:
    """Refuse to seed stores if the changelog no longer has everything since the backup, deletions included."""
    name = step.table.changelog_name
    begins, ends = admin.spans((name, part.partition) for part in step.backup.partitions)
    for part in step.backup.partitions:
        at = TopicPartition(name, part.partition)
        begin, end = begins[at], ends[at]
        if part.position > end:
            raise Usage(
                f"the backup of {name}[{part.partition}] is at offset {part.position}, beyond the end {end}",
                hint="the changelog has lost records; --overwrite restores the table to the backup",
            )
        if part.position < begin:
            raise Usage(
                f"the backup of {name}[{part.partition}] is at offset {part.position}, the changelog begins at {begin}",
                hint="deletions in between are lost; start the worker without the backup",
            )
    tombstones_ms = int(admin.config(name).get("delete.retention.ms", _DAY_MS))
    behind = any(part.position < ends[TopicPartition(name, part.partition)] - 1 for part in step.backup.partitions)
    if behind and clock.now_ms() - backup.taken_ms > tombstones_ms * _MAX_AGE_SHARE:
        raise Usage(
            f"the backup of table {step.table.name} is older than the time for which {name} keeps tombstones",
            hint="start the worker without the backup: it restores the table from its changelog",
        )


def restore_tables(
    app: App,
    storage: BackupStorage,
    backup: Backup,
    steps: list[RestoreStep],
    *,
    start: StartOffsets | None,
    processes: int | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> None:
    """Carry out a plan (blocking).

    Args:
        start: where the group resumes: at the beginning or the end of its topics, or at the offsets of the backup;
            None leaves its offsets as they are.
        processes: for how many workers of the data folder stores are created; None means as many as it has had.
        on_progress: called with a table's name and how many of its keys are done.

    Raises:
        Usage: `start` is not possible.
        Stop: the backup is damaged, no broker answers, or a worker uses the data folder.
    """
    check_files(storage, [step.backup for step in steps if step.action != "keep"])
    progress = on_progress or (lambda _table, _count: None)
    writing = [step for step in steps if step.action == "write"]
    if start is not None and not writing:
        raise Usage(f"--start {start}: no changelog is written", hint="without --start the group resumes where it was")
    if writing:
        _write(app, storage, writing, _start_offsets(app, backup, start), progress)
    seeding = [step for step in steps if step.action == "seed"]
    if seeding:
        from .store_seeding import seed_stores  # needs the extra for tables on disk

        seed_stores(app, storage, backup, seeding, progress, processes)


def _start_offsets(app: App, backup: Backup, start: StartOffsets | None) -> list[KafkaPartition]:
    """Return the offsets that the group is to commit; none if `start` is None.

    Raises:
        Usage: with `backup`, if its offsets do not belong to the content or to the topics.
    """
    if start is None:
        return []
    if start == "backup" and not backup.consistent:
        raise Usage(
            "the app committed while the backup was taken: its offsets do not match the content of the tables",
            hint="create a backup while the workers are stopped, or use --start earliest or latest",
        )
    runtime = runtime_of(app)
    admin = Admin(runtime.cluster)
    at = [(offset.topic, offset.partition) for offset in backup.offsets]
    counts = admin.partitions()
    read = {topic for topics in topics_of_agents(runtime).values() for topic in topics}
    known = {topic for topic, _ in at}
    # Also those that the app has made since, but not what it does not read as its inputs: changelogs and the like.
    made = {topic for topic in counts if topic.endswith(("-repartition", RETRY_SUFFIX))}
    own = set(own_topics(runtime, read | known | made))
    read -= own
    missing = {topic for topic, partition in at if partition >= counts.get(topic, 0)}
    if start != "backup":  # workers make the app's own topics anew, and what it does not read is of no matter
        missing &= read
    if missing:
        listed = ", ".join(sorted(missing))
        raise Usage(f"missing, or with fewer partitions than before: {listed}", hint="create the app's topics first")
    if start != "backup":
        begins, ends = admin.spans((topic, n) for topic in (read | own) & counts.keys() for n in range(counts[topic]))
        # What the app itself has sent is in the tables, or is sent again when its inputs are read.
        starts = {at: begin if start == "earliest" and at.topic in read else ends[at] for at, begin in begins.items()}
        return [KafkaPartition(*at, offset) for at, offset in starts.items()]
    begins, ends = admin.spans(at)
    for offset in backup.offsets:
        key = TopicPartition(offset.topic, offset.partition)
        if not begins[key] <= offset.offset <= ends[key]:
            raise Usage(
                f"{offset.topic}[{offset.partition}] holds offsets {begins[key]} to {ends[key]}, the backup's offset "
                f"is {offset.offset}",
                hint="--start backup needs topics that were copied with their offsets; use earliest or latest",
            )
    return [KafkaPartition(n.topic, n.partition, n.offset, n.metadata) for n in backup.offsets]


def _write(
    app: App,
    storage: BackupStorage,
    steps: list[RestoreStep],
    offsets: list[KafkaPartition],
    progress: Callable[[str, int], None],
) -> None:
    """Write changelogs and the group's offsets in one transaction."""
    specs = [
        TopicSpec(
            step.table.changelog_name,
            len(step.backup.partitions),
            app.conf.topic_replication_factor or 1,
            {"cleanup.policy": "compact", **step.table.config},
        )
        for step in steps
    ]
    Admin(runtime_of(app).cluster).create(specs)
    kafka = TransactionalProducer(
        runtime_of(app).cluster,
        f"{app.conf.id}-tables-restore",
        transaction_timeout_ms=_TRANSACTION_MS,
        message_timeout_ms=_MESSAGE_MS,
    )
    try:
        kafka.open()
        present = {step.table.name: TableReader(runtime_of(app).cluster, step.table).read_raw() for step in steps}
        kafka.begin()
        for step in steps:
            done = 0
            for part in step.backup.partitions:
                surplus = set(present[step.table.name][part.partition])
                for key, value in read_pairs(storage, part):
                    surplus.discard(key)
                    kafka.produce(step.table.changelog_name, value, key, part.partition)
                    done += 1
                    if done % _PROGRESS_KEYS == 0:
                        progress(step.table.name, done)
                for key in sorted(surplus):
                    kafka.produce(step.table.changelog_name, None, key, part.partition)
            progress(step.table.name, done)
        if offsets:
            kafka.send_offsets(offsets, ConsumerGroups(runtime_of(app).cluster).metadata(app.conf.id))
        kafka.commit()
    except (Aborted, Rebuild) as exc:
        raise Stop(f"the restore was interrupted, and nothing was written: {exc}", hint="repeat it") from exc
    finally:
        kafka.close()
