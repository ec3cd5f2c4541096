"""What an archive holds, and how far it has come: one JSON file, replaced as a whole.

    {"manifest": {…}, "sha256": "<of the bytes of {…}>"}

Offsets are Kafka's: of the next record. Per partition, files and what was lost lie end to end from `begun` on; what
lies between the last of them and `positions` held no records when it was read (transaction markers, aborted records).
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

from ...topics.errors import Stop

__all__ = ["MANIFEST", "Encoding", "Entry", "Lost", "Manifest", "is_archive", "locked", "read_manifest", "replace_file"]

MANIFEST = "manifest.json"
_LOCK = ".lock"
_VERSION = 1
_MOST_PARTITIONS = 1_000_000

Encoding = Literal["parquet", "jsonl"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A file of records of one partition, in order.

    Attributes:
        begin, end: offsets; records that compaction or an abort has taken away leave gaps inside.
        records: how many.
        first_ms, last_ms: the smallest and the largest timestamp.
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
    """Offsets whose records Kafka had deleted before they were read."""

    partition: int
    begin: int
    end: int


class Manifest(msgspec.Struct, kw_only=True):
    """See the module.

    Attributes:
        topic_id: tells the topic from one of the same name that was made anew.
        columns: name and type of what a record's envelope holds, see `envelope`.
        partitioner: how keys were mapped to partitions, as far as Kafka's clients agree on that.
        compacted: the topic is, or was, so gaps between offsets are normal.
        begun, positions: by partition.
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
    compacted: bool = False
    begun: dict[int, int] = {}
    positions: dict[int, int] = {}
    files: list[Entry] = []
    lost: list[Lost] = []
    created_ms: int
    updated_ms: int = 0

    @property
    def records(self) -> int:
        """How many records the archive holds."""
        return sum(entry.records for entry in self.files)

    @property
    def size_bytes(self) -> int:
        """What its files take on disk."""
        return sum(entry.size_bytes for entry in self.files)

    def of(self, partition: int) -> list[Entry]:
        """Files of a partition, in order."""
        return sorted((entry for entry in self.files if entry.partition == partition), key=lambda entry: entry.begin)

    def covered(self, partition: int) -> int:
        """To where a partition's files and losses reach."""
        ends = [each.end for each in (*self.files, *self.lost) if each.partition == partition]
        return max(ends, default=self.begun[partition])

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder; what it names must be on disk already.

        Raises:
            OSError: nothing has changed.
        """
        body = msgspec.json.format(msgspec.json.encode(self), indent=1)
        sealed = b'{"manifest":%b,\n"sha256":"%b"}\n' % (body, hashlib.sha256(body).hexdigest().encode())
        replace_file(folder / MANIFEST, sealed)


class _Sealed(msgspec.Struct):
    manifest: msgspec.Raw
    sha256: str


def is_archive(folder: Path) -> bool:
    """Whether a path is the folder of an archive."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        Stop: it cannot be read, or is not what was written.
    """
    path = folder / MANIFEST
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        body = bytes(sealed.manifest)
        if hashlib.sha256(body).hexdigest() != sealed.sha256:
            raise Stop(f"{path}: it was changed after it was written", hint="bring back a whole copy of the archive")
        return _sound(msgspec.json.decode(body, type=Manifest), path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Stop(f"{path}: {exc.strerror or exc}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise Stop(f"{path}: not the manifest of an archive: {exc}") from None


def _sound(manifest: Manifest, path: Path) -> Manifest:
    """A manifest that says what can be; its checksum is right in one that somebody made up, too."""
    if manifest.version != _VERSION:
        raise Stop(f"{path}: of version {manifest.version}, {_VERSION} is known", hint="a newer anabranch wrote it")
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
        raise Stop(f"{path}: not the manifest of an archive: partitions, offsets or names that cannot be")
    return manifest


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Be the only one who writes to a folder; the lock ends with the process, however that ends.

    Raises:
        Stop: somebody else writes there.
    """
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(f"{folder}: another process archives into this folder", hint="one writer at a time") from None
        yield
    finally:
        os.close(fd)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; it is on disk when this returns."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
