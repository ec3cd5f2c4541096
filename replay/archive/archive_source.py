"""An archive as history: its records are replayed unchanged, each to its partition, in order."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from ...topics.errors import Usage
from ..sources.column_batch import leading_run, unpack_records
from ..sources.files.file_system import absolute
from ..sources.format import Format
from ..sources.formats.line_buffer import BATCH_LINES
from ..sources.source import Part, Source, SourceBatch, SourcePosition
from ..sources.source_record import BadLine, SourceRecord, zero_time_error
from .archive_check import check_offsets
from .archive_reader import damaged, read_archived_file
from .manifest import MANIFEST, ArchivedFile, Encoding, Manifest, read_manifest
from .record_columns import RecordColumns

__all__ = ["ArchiveHistory", "ArchiveSource"]


class ArchiveHistory:
    """An archive as a `Replayable`.

    Args:
        repartition: place records by their keys' hashes instead of keeping their partitions; unpacks packed batches.
            Records with pseudonyms are always placed so.

    Raises:
        Usage: the folder is not an archive, or an option is given that the records already determine.
        Stop: the manifest is damaged.
    """

    resumable = True
    timed = True

    def __init__(self, folder: Path, format: Format, *, repartition: bool = False) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise Usage(f"{folder} is not an archive: it has no manifest.json")
        if format != Format():
            raise Usage(
                f"{folder}: options for keys, times and formats apply to files only; records of an archive have "
                "their own"
            )
        self.folder, self.format, self.manifest = folder, format, manifest
        self.specs = (absolute(str(folder)),)
        self.size_bytes = manifest.size_bytes
        # Pseudonyms are not where the keys before them were.
        self._repartition = self._rows = repartition or manifest.pseudonyms is not None
        self.partitions = None if self._repartition else manifest.partitions

    @property
    def parts(self) -> list[Part]:
        """Its partitions."""
        return [
            Part(self._name(partition), sum(entry.size_bytes for entry in entries), partial(self._open, partition))
            for partition in range(self.manifest.partitions)
            if (entries := self.manifest.of(partition))
        ]

    def _name(self, partition: int) -> str:
        return f"{self.folder}[{partition:05d}]"

    def _open(self, partition: int, position: SourcePosition | None, batch_rows: int) -> Source:
        return ArchiveSource(
            self.folder,
            self.manifest,
            [partition],
            position,
            batch_rows=batch_rows,
            keep_partitions=not self._repartition,
            by_row=self._rows,
        )

    def identity(self, topic: str) -> str:
        """Return the run's id: the same for the same folder, options and topic."""
        question = ["archive", self.specs, self._repartition, topic]
        return hashlib.sha256(msgspec.json.encode(question)).hexdigest()[:16]

    def fingerprint(self) -> str:
        """Return a digest of the names and checksums in the manifest."""
        named = [(entry.name, entry.sha256) for entry in self.manifest.files]
        return hashlib.sha256(msgspec.json.encode([self.manifest.topic_id, named])).hexdigest()

    def changed_since(self, time_ms: int) -> list[str]:
        """Return a note if the manifest was written after `time_ms`."""
        return [f"{self.folder} was archived into"] if self.manifest.updated_ms > time_ms else []

    def check(self, topic: str) -> None:
        """Check that all files are present with their sizes, and that no record occurs twice."""
        del topic
        for entry in self.manifest.files:
            path = self.folder / entry.name
            if not path.is_file() or path.stat().st_size != entry.size_bytes:
                raise damaged(path, "it differs from the file that the archiver wrote")
        for partition in range(self.manifest.partitions):
            for finding in check_offsets(self.manifest, partition):
                if finding.kind == "overlap":
                    raise damaged(self.folder / MANIFEST, f"{finding.position}: {finding.text}")

    def unpacked(self) -> ArchiveHistory:
        """Return a copy that yields the rows of packed batches."""
        found = copy.copy(self)
        found._rows = True
        return found

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = BATCH_LINES) -> Source:
        """Open all partitions, one after another."""
        return ArchiveSource(
            self.folder,
            self.manifest,
            range(self.manifest.partitions),
            position,
            batch_rows=batch_lines,
            keep_partitions=not self._repartition,
            by_row=self._rows,
        )


class ArchiveSource:
    """Reads partitions of an archive one after another. A position is `partition` and `offset`.

    A whole file is read before the first of its records is returned, see `archive_reader`.

    Args:
        keep_partitions: records keep their partitions instead of being keep_partitions by their keys.
        by_row: yield the rows of packed batches.
    """

    poll_again_s = 0.0

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        partitions: Sequence[int],
        position: SourcePosition | None = None,
        *,
        batch_rows: int = BATCH_LINES,
        keep_partitions: bool = True,
        by_row: bool = False,
    ) -> None:
        self._folder = folder
        self._encoding: Encoding = manifest.encoding
        self._batch_rows, self._keep_partitions, self._by_row = batch_rows, keep_partitions, by_row
        files = [entry for partition in partitions for entry in manifest.of(partition)]
        at = (position["partition"], position["offset"]) if position else (-1, 0)
        order = {partition: i for i, partition in enumerate(partitions)}
        rank = order.get(at[0], -1)
        self._files = [e for e in files if order[e.partition] > rank or (e.partition == at[0] and e.end > at[1])]
        self.done_bytes = sum(entry.size_bytes for entry in files) - sum(entry.size_bytes for entry in self._files)
        self.begins: SourcePosition = position or {"partition": -1, "offset": 0}
        self._at = self.begins
        self._batches: Iterator[tuple[ArchivedFile, RecordColumns]] = self._read(at)
        self._next = next(self._batches, None)

    @property
    def ended(self) -> bool:
        """True once all partitions have been read."""
        return self._next is None

    def next_batch(self) -> SourceBatch:
        """Return the next records of one partition."""
        if self._next is None:
            return SourceBatch((), self._at)
        entry, rows = self._next
        if 0 in rows.times:
            raise zero_time_error(f"{self._folder}/{entry.name}: offset {rows.offsets[rows.times.index(0)]:,}")
        records: Sequence[SourceRecord] = rows.to_records(entry.partition if self._keep_partitions else None)
        bad: list[BadLine] = []
        if self._by_row:
            records = unpack_records(records, f"{self._folder}/{entry.name}: offset", rows.offsets[0], bad)
        self._at = {"partition": entry.partition, "offset": rows.offsets[-1] + 1}
        self._next = next(self._batches, None)
        return SourceBatch(records, self._at, bad)

    def close(self) -> None:
        """Stop reading. May be called more than once."""
        self._next = None
        self._batches = iter(())

    def _read(self, at: tuple[int, int]) -> Iterator[tuple[ArchivedFile, RecordColumns]]:
        for entry in self._files:
            for rows in read_archived_file(self._folder, entry, self._encoding, self._batch_rows):
                if entry.partition == at[0] and rows.offsets[0] < at[1]:
                    rows.drop_below(at[1])
                while self._by_row and rows:
                    yield entry, rows.cut(leading_run(rows.headers))
                if rows:
                    yield entry, rows
            self.done_bytes += entry.size_bytes
