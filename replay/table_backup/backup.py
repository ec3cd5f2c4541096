"""Backups of tables: committed content, each partition with the changelog position at which it stands.

    manifest.json               what follows, as JSON; written last
    <table>-<partition>.gz      one partition

A partition's file is gzip; in it, pair after pair by key: two unsigned 32-bit big-endian lengths, of key and of value,
then both, as they stand in the changelog. The same content gives the same bytes.

What it promises. Each partition is whole: what was committed, and nothing else, at its position. Content comes from the
changelogs, so workers may run or not. Where the app committed nothing while the backup was taken, all partitions and
the group's offsets are of one moment (`settled`). Otherwise each partition is of a moment of its own, which is as good
where the changelog's tail follows it, and is a torn picture where it does not.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import msgspec
from confluent_kafka import TopicPartition

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.table import Table
from ...topics import clock
from ...topics.admin import Admin
from ...topics.consumer_groups import Groups
from ...topics.errors import Stop, Usage
from ...topics.partition_reader import read_to_end
from .backup_storage import MANIFEST, BackupStorage

__all__ = [
    "Backup",
    "BackupPartition",
    "BackupTable",
    "Offset",
    "back_up",
    "check",
    "pairs_of",
    "read_manifest",
    "write_pairs",
]

FORMAT = 1

_LENGTHS = struct.Struct(">II")
_LEVEL = 1  # JSON shrinks to a fifth at 100 MB/s
_CHUNK_BYTES = 1 << 20

Key = tuple[str, int]


class BackupPartition(msgspec.Struct, frozen=True):
    """One partition of a table.

    Attributes:
        position: of the changelog; what follows there is not in the file.
        count: pairs; bytes, sha256: of the file.
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
        topic_id: of the changelog. A topic that is deleted and made anew has another one.
        expires: whether values come with times (a table with a time-to-live).
    """

    table: str
    changelog: str
    topic_id: str
    expires: bool
    partitions: list[BackupPartition]


class Offset(msgspec.Struct, frozen=True):
    """Where the app's group stood in a topic it reads; `metadata` has the marks of agents that were further."""

    topic: str
    partition: int
    offset: int
    metadata: str


class Backup(msgspec.Struct, frozen=True):
    """The manifest.

    Attributes:
        cluster: id of the cluster; taken_ms: since 1970, when the first position was looked up.
        settled: nothing was committed meanwhile: content and offsets are of one moment.
    """

    format: int
    app: str
    cluster: str
    taken_ms: int
    settled: bool
    tables: list[BackupTable]
    offsets: list[Offset]


def back_up(
    app: App, tables: Iterable[Table], to: BackupStorage, on_table: Callable[[BackupTable], None] | None = None
) -> Backup:
    """Write tables' committed content.

    Raises:
        Usage: something is there already, or a table has no changelog yet.
        Stop: no broker answers, the disk is full.
    """
    tables = list(tables)
    admin, groups = Admin(runtime_of(app).cluster), Groups(runtime_of(app).cluster)
    counts = admin.partitions([table.changelog_name for table in tables])
    missing = sorted(table.name for table in tables if table.changelog_name not in counts)
    if missing:
        raise Usage(
            f"no changelog of {', '.join(missing)} on {runtime_of(app).cluster.bootstrap_servers}",
            hint="it is made by the first worker of the app",
        )
    at = [TopicPartition(name, partition) for name, count in counts.items() for partition in range(count)]
    ids = admin.topic_ids(counts) if counts else {}
    to.begin()
    taken_ms = clock.now_ms()
    ends, offsets = admin.ends(at, committed=True), groups.offsets(app.conf.id)
    settled = ends == admin.ends(at)  # else a transaction is open, or ends just now
    try:
        kept: list[BackupTable] = []
        for table in tables:
            name = table.changelog_name
            parts = [_keep(app, table, p, ends[name, p], to) for p in range(counts[name])]
            kept.append(BackupTable(table.name, name, ids[name], table.ttl_ms is not None, parts))
            if on_table is not None:
                on_table(kept[-1])
        settled = settled and ends == admin.ends(at) and offsets == groups.offsets(app.conf.id)
        noted = [Offset(topic, p, offset, mark) for (topic, p), (offset, mark) in sorted(offsets.items())]
        made = Backup(FORMAT, app.conf.id, admin.cluster_id(), taken_ms, settled, kept, noted)
        to.finish(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    except OSError as exc:
        raise Stop(f"the backup cannot be written: {exc}", hint="look at the disk; nothing has been replaced") from exc
    return made


def _keep(app: App, table: Table, partition: int, end: int, to: BackupStorage) -> BackupPartition:
    at = (table.changelog_name, partition)
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
    return BackupPartition(partition, file, position, len(content), size, sha256)


def write_pairs(raw: IO[bytes], content: Mapping[bytes, bytes]) -> tuple[int, str]:
    """Write a partition's file; returns its size and SHA-256."""
    hashed = _Hashed(raw)
    with gzip.GzipFile("", "wb", _LEVEL, hashed, mtime=0) as out:  # pyright: ignore[reportArgumentType]
        for key, value in sorted(content.items()):
            out.write(_LENGTHS.pack(len(key), len(value)) + key + value)
    return hashed.size, hashed.digest.hexdigest()


class _Hashed:
    """Counts and hashes what is written through it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self.size, self.digest = raw, 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.size += len(data)
        self.digest.update(data)
        return self._raw.write(data)

    def flush(self) -> None:
        self._raw.flush()


def read_manifest(depot: BackupStorage) -> Backup:
    """What a backup holds.

    Raises:
        Usage: there is none, or it is of another version.
        Stop: its manifest is damaged.
    """
    with depot.open(MANIFEST) as file:
        data = file.read()
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version == FORMAT:
            return msgspec.json.decode(data, type=Backup)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise Stop(f"{MANIFEST} is damaged: {exc}", hint="take another backup") from exc
    raise Usage(f"the backup has format {version}, this program knows {FORMAT}", hint="use a newer anabranch")


class _Version(msgspec.Struct):
    format: int


def check(depot: BackupStorage, tables: Iterable[BackupTable]) -> None:
    """Read all files and compare their hashes, before anything is made of them.

    Raises:
        Stop: one is missing or has changed.
    """
    for part in (part for table in tables for part in table.partitions):
        digest = hashlib.sha256()
        with depot.open(part.file) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != part.sha256:
            raise Stop(f"{part.file} is not what was written: its SHA-256 differs", hint="take another backup")


def pairs_of(depot: BackupStorage, part: BackupPartition) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a partition, as they stand in the changelog, by key."""
    with depot.open(part.file) as raw, gzip.GzipFile(fileobj=raw, mode="rb") as file:
        while lengths := file.read(_LENGTHS.size):
            key_length, value_length = _LENGTHS.unpack(lengths)
            yield file.read(key_length), file.read(value_length)
