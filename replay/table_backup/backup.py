"""Writes and reads backups of tables: the committed content of each partition, and its position in the changelog.

    manifest.json               `Backup` as JSON; written last
    <table>-<partition>.gz      one partition

A partition's file is gzip. It holds pairs in the order of their keys: two unsigned 32-bit big-endian lengths, of key
and value, then key and value as they are in the changelog. The same content results in the same bytes.

Promise: each partition holds exactly what was committed at its position. The content is read from the changelogs, so
workers may run meanwhile. If the app committed nothing while the backup was taken, all partitions and the group's
offsets are of the same time (`consistent`). Otherwise each partition is of a time of its own. That is sufficient where
the rest of the changelog is read after the backup, and an inconsistent picture where it is not.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO

import msgspec
from confluent_kafka import TopicPartition as KafkaPartition

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.stream_time import STREAM_TIME
from ...agents.tables.table import Table
from ...topics import clock
from ...topics.admin import Admin
from ...topics.consumer_groups import ConsumerGroups
from ...topics.errors import Stop, Usage
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition
from ..hashed_file import HashedFile
from .backup_storage import MANIFEST, BackupStorage

__all__ = [
    "Backup",
    "BackupPartition",
    "BackupTable",
    "GroupOffset",
    "back_up",
    "check_files",
    "read_manifest",
    "read_pairs",
    "write_pairs",
]

FORMAT = 1

_LENGTHS = struct.Struct(">II")
_LEVEL = 1  # JSON shrinks to a fifth at 100 MB/s
_CHUNK_BYTES = 1 << 20


class BackupPartition(msgspec.Struct, frozen=True):
    """One partition of a table.

    Attributes:
        position: offset in the changelog; records from there on are not in the file.
        count: number of keys; the file of a table with a time-to-live or windows has one pair more, that of its time.
        bytes, sha256: size and hash of the file.
    """

    partition: int
    file: str
    position: int
    count: int
    bytes: int
    sha256: str


class BackupTable(msgspec.Struct, frozen=True):
    """One table.

    Attributes:
        topic_id: of the changelog. A topic that is deleted and recreated has another one.
        expires: whether the table has a time-to-live, so that its values contain times.
    """

    table: str
    changelog: str
    topic_id: str
    expires: bool
    partitions: list[BackupPartition]


class GroupOffset(msgspec.Struct, frozen=True):
    """The app's committed offset in a partition; `metadata` holds the offsets of agents that were ahead of it."""

    topic: str
    partition: int
    offset: int
    metadata: str


class Backup(msgspec.Struct, frozen=True):
    """The manifest.

    Attributes:
        format: version of the format.
        cluster: id of the cluster.
        taken_ms: when the first position was read, in milliseconds since 1970.
        consistent: nothing was committed meanwhile, so content and offsets are of the same time.
    """

    format: int
    app: str
    cluster: str
    taken_ms: int
    consistent: bool
    tables: list[BackupTable]
    offsets: list[GroupOffset]


def back_up(
    app: App, tables: Iterable[Table], to: BackupStorage, on_table: Callable[[BackupTable], None] | None = None
) -> Backup:
    """Write a backup of the committed content of tables (blocking); returns its manifest.

    Args:
        to: where the backup is stored.
        on_table: called after each table.

    Raises:
        Usage: the storage is not empty, or a table has no changelog yet.
        Stop: no broker answers, or the disk is full.
    """
    tables = list(tables)
    admin, groups = Admin(runtime_of(app).cluster), ConsumerGroups(runtime_of(app).cluster)
    counts = admin.partitions([table.changelog_name for table in tables])
    missing = sorted(table.name for table in tables if table.changelog_name not in counts)
    if missing:
        raise Usage(
            f"no changelog of {', '.join(missing)} on {runtime_of(app).cluster.bootstrap_servers}",
            hint="it is created by the first worker of the app",
        )
    at = [KafkaPartition(name, partition) for name, count in counts.items() for partition in range(count)]
    ids = admin.topic_ids(counts) if counts else {}
    to.begin()
    taken_ms = clock.now_ms()
    ends, offsets = admin.ends(at, committed=True), groups.offsets(app.conf.id)
    consistent = ends == admin.ends(at)  # otherwise a transaction is open, or is being committed
    try:
        backups: list[BackupTable] = []
        for table in tables:
            name = table.changelog_name
            parts = [_back_up_partition(app, table, p, ends[TopicPartition(name, p)], to) for p in range(counts[name])]
            backups.append(BackupTable(table.name, name, ids[name], table.ttl_ms is not None, parts))
            if on_table is not None:
                on_table(backups[-1])
        consistent = consistent and ends == admin.ends(at) and offsets == groups.offsets(app.conf.id)
        committed = [
            GroupOffset(topic, p, offset, metadata) for (topic, p), (offset, metadata) in sorted(offsets.items())
        ]
        made = Backup(FORMAT, app.conf.id, admin.cluster_id(), taken_ms, consistent, backups, committed)
        to.finish(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    except OSError as exc:
        raise Stop(f"the backup cannot be written: {exc}", hint="check the disk; nothing has been replaced") from exc
    return made


def _back_up_partition(app: App, table: Table, partition: int, end: int, to: BackupStorage) -> BackupPartition:
    at = TopicPartition(table.changelog_name, partition)
    content: dict[bytes, bytes] = {}
    position = 0
    for run in read_to_end(runtime_of(app).cluster, {at: 0}, {at: end}):
        for message in run.messages:
            key, value = message.key(), message.value()
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
        position = run.position
    file = f"{table.name}-{partition}.gz"
    with to.create(file) as raw:
        size, sha256 = write_pairs(raw, content)
    return BackupPartition(partition, file, position, len(content.keys() - {STREAM_TIME}), size, sha256)


def write_pairs(raw: IO[bytes], content: Mapping[bytes, bytes]) -> tuple[int, str]:
    """Write the file of a partition; returns its size in bytes and its SHA-256 in hexadecimal."""
    hashed = HashedFile(raw)
    with gzip.GzipFile("", "wb", _LEVEL, hashed, mtime=0) as out:  # pyright: ignore[reportArgumentType]
        for key, value in sorted(content.items()):
            out.write(_LENGTHS.pack(len(key), len(value)) + key + value)
    return hashed.size_bytes, hashed.sha256()


def read_manifest(storage: BackupStorage) -> Backup:
    """Read the manifest of a backup.

    Raises:
        Usage: there is no backup, or its format has another version.
        Stop: the manifest is damaged.
    """
    with storage.open(MANIFEST) as file:
        data = file.read()
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version == FORMAT:
            return msgspec.json.decode(data, type=Backup)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise Stop(f"{MANIFEST} is damaged: {exc}", hint="create another backup") from exc
    raise Usage(f"the backup has format {version}, this program knows {FORMAT}", hint="use a newer anabranch")


class _Version(msgspec.Struct):
    format: int


def check_files(storage: BackupStorage, tables: Iterable[BackupTable]) -> None:
    """Read all files of tables and compare their hashes, before any of them is used.

    Raises:
        Stop: a file is missing or has changed.
    """
    for part in (part for table in tables for part in table.partitions):
        digest = hashlib.sha256()
        with storage.open(part.file) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != part.sha256:
            raise Stop(
                f"{part.file} has changed since it was written: its SHA-256 differs", hint="create another backup"
            )


def read_pairs(storage: BackupStorage, part: BackupPartition) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs of a partition as they are in the changelog, in the order of their keys."""
    with storage.open(part.file) as raw, gzip.GzipFile(fileobj=raw, mode="rb") as file:
        while lengths := file.read(_LENGTHS.size):
            key_length, value_length = _LENGTHS.unpack(lengths)
            yield file.read(key_length), file.read(value_length)
