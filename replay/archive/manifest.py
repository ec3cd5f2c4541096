"""`Manifest`: the content and the position of an archive, in one JSON file that is always replaced as a whole.

    {"manifest": {…}, "sha256": "<of the bytes of {…}>"}

Offsets are those of the next record, as in Kafka. In each partition, files and losses follow each other without gaps
from `begun` on; the offsets from the last of them to `positions` held no records when they were read (transaction
markers, aborted records).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import msgspec

from ...topics.durable_files import replace_file
from ...topics.errors import Stop

__all__ = [
    "MANIFEST",
    "ArchivedFile",
    "Encoding",
    "Lost",
    "Manifest",
    "is_archive",
    "locked",
    "read_manifest",
]

MANIFEST = "manifest.json"
_LOCK = ".lock"
_VERSION = 1
_MOST_PARTITIONS = 1_000_000

Encoding = Literal["parquet", "jsonl"]


class ArchivedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file with records of one partition, in order.

    Attributes:
        begin, end: offset range; records removed by compaction or an abort leave gaps inside.
        records: number of records.
        first_ms, last_ms: smallest and largest timestamp.
    """

    name: str
    partition: int
    begin: int
    end: int
    records: int
    first_ms: int
    last_ms: int
    size_bytes: int
    sha256: str


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """An offset range whose records Kafka deleted before they were read."""

    partition: int
    begin: int
    end: int


class Manifest(msgspec.Struct, kw_only=True):
    """The manifest of an archive.

    Attributes:
        topic_id: Kafka's id, which distinguishes the topic from a later one of the same name.
        columns: names and types of the fields of a record, see `record_columns`.
        partitioner: how keys were mapped to partitions, as far as Kafka's clients agree on that.
        pseudonyms: which fields were replaced by pseudonyms, and a check of their key (`Pseudonyms.identity`); None if
            records are as they were in the topic.
        compacted: the topic is or was compacted, so gaps between offsets are normal.
        begun, positions: offsets by partition, of the first record and of the next one to read.
        created_ms, updated_ms: wall clock, milliseconds since 1970.
    """

    kind: Literal["anabranch-archive"] = "anabranch-archive"
    version: int = 1
    topic: str
    topic_id: str
    encoding: Encoding
    columns: dict[str, str]
    partitions: int
    partitioner: str = "murmur2"
    pseudonyms: dict[str, object] | None = None
    compacted: bool = False
    begun: dict[int, int] = {}
    positions: dict[int, int] = {}
    files: list[ArchivedFile] = []
    lost: list[Lost] = []
    created_ms: int
    updated_ms: int = 0

    @property
    def records(self) -> int:
        """Number of records in the archive."""
        return sum(entry.records for entry in self.files)

    @property
    def size_bytes(self) -> int:
        """Size of the files on disk."""
        return sum(entry.size_bytes for entry in self.files)

    def of(self, partition: int) -> list[ArchivedFile]:
        """Return the files of a partition, in order."""
        return sorted((entry for entry in self.files if entry.partition == partition), key=lambda entry: entry.begin)

    def covered(self, partition: int) -> int:
        """Return the offset at which a partition's files and losses end."""
        ends = [each.end for each in (*self.files, *self.lost) if each.partition == partition]
        return max(ends, default=self.begun[partition])

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder. The files that it names must be on disk already.

        Raises:
            OSError: writing failed; the old manifest is unchanged.
        """
        body = msgspec.json.format(msgspec.json.encode(self), indent=1)
        sealed = b'{"manifest":%b,\n"sha256":"%b"}\n' % (body, hashlib.sha256(body).hexdigest().encode())
        replace_file(folder / MANIFEST, sealed)


class _Sealed(msgspec.Struct):
    manifest: msgspec.Raw
    sha256: str


def is_archive(folder: Path) -> bool:
    """Return whether a folder is an archive."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None if there is none.

    Raises:
        Stop: it cannot be read, or was changed after it was written.
    """
    path = folder / MANIFEST
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        body = bytes(sealed.manifest)
        if hashlib.sha256(body).hexdigest() != sealed.sha256:
            raise Stop(f"{path}: it was changed after it was written", hint="restore a complete copy of the archive")
        return _checked(msgspec.json.decode(body, type=Manifest), path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Stop(f"{path}: {exc.strerror or exc}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise Stop(f"{path}: not the manifest of an archive: {exc}") from None


def _checked(manifest: Manifest, path: Path) -> Manifest:
    """Return a manifest after checking that its content is possible: a forged one has a valid checksum too."""
    if manifest.version != _VERSION:
        raise Stop(
            f"{path}: format version {manifest.version}, but this program knows version {_VERSION}",
            hint="a newer anabranch wrote it",
        )
    spans = [(each.partition, each.begin, each.end) for each in (*manifest.files, *manifest.lost)]
    names = [entry.name for entry in manifest.files]
    if (
        not 0 < manifest.partitions <= _MOST_PARTITIONS
        or not all(0 <= p < manifest.partitions and 0 <= begin <= end < 2**63 for p, begin, end in spans)
        or not all(0 <= p < manifest.partitions for p in (*manifest.begun, *manifest.positions))
        or not all(name == Path(name).name and name[:1] not in ("", ".") for name in names)
        or len(set(names)) < len(names)
        or any(entry.records < 0 or entry.size_bytes < 0 for entry in manifest.files)
    ):
        raise Stop(f"{path}: not the manifest of an archive: impossible partitions, offsets or names")
    return manifest


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the exclusive right to write to a folder; the lock ends with the process, however that ends.

    Raises:
        Stop: another process holds it.
    """
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(
                f"{folder}: another process archives into this folder", hint="only one process can write to an archive"
            ) from None
        yield
    finally:
        os.close(fd)
