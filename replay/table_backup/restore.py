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

from collections.abc import Callable
from typing import Literal

from confluent_kafka import TopicPartition

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.table import Table
from ...topics.admin import Admin, TopicSpec
from ...topics.consumer_groups import Groups
from ...topics.errors import Rebuild, Stop, Usage
from ...topics.producer import Aborted, TransactionalProducer
from ..table_reader import TableReader
from .backup import Backup, check, pairs_of
from .backup_storage import BackupStorage
from .restore_plan import PlanStep

__all__ = ["STARTS", "recover"]

Key = tuple[str, int]
Start = Literal["earliest", "latest", "backup"]
STARTS: tuple[Start, ...] = ("earliest", "latest", "backup")

# The broker's own limit (transaction.max.timeout.ms) is this by default. What a killed restore left open, the next one
# ends.
_TRANSACTION_MS = 900_000
_MESSAGE_MS = 120_000
_BATCH = 20_000


def recover(
    app: App,
    depot: BackupStorage,
    backup: Backup,
    steps: list[PlanStep],
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
        from .store_seeding import seed  # needs the extra of tables on disk

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
    admin = Admin(runtime_of(app).cluster)
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
    app: App,
    depot: BackupStorage,
    steps: list[PlanStep],
    offsets: list[TopicPartition],
    said: Callable[[str, int], None],
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
    Admin(runtime_of(app).cluster).create(specs)
    kafka = TransactionalProducer(
        runtime_of(app).cluster,
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
            kafka.send_offsets(offsets, Groups(runtime_of(app).cluster).metadata(app.conf.id))
        kafka.commit()
    except (Aborted, Rebuild) as exc:
        raise Stop(f"the restore was interrupted, and nothing has been written: {exc}", hint="do it again") from exc
    finally:
        kafka.close()


def _keys_by_partition(app: App, table: Table) -> dict[int, set[bytes]]:
    """What the changelog holds now; usually nothing."""
    return {p: set(data) for p, data in enumerate(TableReader(runtime_of(app).cluster, table).read_raw())}
