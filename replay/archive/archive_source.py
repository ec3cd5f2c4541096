"""An archive as history: its records go back as they were, each to its partition, in its order."""

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
from ..sources.formats.lines import BATCH_LINES
from ..sources.source import Batch, Part, Source, SourcePosition
from ..sources.source_record import BadLine, SourceRecord, zero_time_error
from .archive_check import check_offsets
from .archive_reader import damaged, read_archived_file
from .manifest import MANIFEST, Encoding, Entry, Manifest, read_manifest
from .record_columns import RecordColumns

__all__ = ["ArchiveHistory", "ArchiveSource"]


class ArchiveHistory:
    """An archive; see `Replayable`.

    Args:
        repartition: records go where their key's hash says, not where they were; of packed batches the rows.

    Raises:
        Usage: it is no archive, or an option is given that says what its records already say.
        Stop: its manifest is damaged.
    """

    resumable = True
    timed = True

    def __init__(self, folder: Path, format: Format, *, repartition: bool = False) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise Usage(f"{folder} is no archive: it has no manifest.json")
        if format != Format():
            raise Usage(
                f"{folder}: options about keys, times and formats are for files; an archive's records have all that"
            )
        self.folder, self.format, self.manifest = folder, format, manifest
        self.specs = (absolute(str(folder)),)
        self.size_bytes = manifest.size_bytes
        self._repartition = self._rows = repartition
        self.partitions = None if repartition else manifest.partitions

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
            placed=not self._repartition,
            by_row=self._rows,
        )

    def identity(self, topic: str) -> str:
        """See `Replayable`."""
        asked = ["archive", self.specs, self._repartition, topic]
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]

    def fingerprint(self) -> str:
        """The files that its manifest names, by content."""
        named = [(entry.name, entry.sha256) for entry in self.manifest.files]
        return hashlib.sha256(msgspec.json.encode([self.manifest.topic_id, named])).hexdigest()

    def changed_since(self, time_ms: int) -> list[str]:
        """The manifest, where it was written since."""
        return [f"{self.folder} was archived into"] if self.manifest.updated_ms > time_ms else []

    def check(self, topic: str) -> None:
        """Whether all files are there, and no record twice."""
        del topic
        for entry in self.manifest.files:
            path = self.folder / entry.name
            if not path.is_file() or path.stat().st_size != entry.size_bytes:
                raise damaged(path, "it is not what the archiver wrote")
        for partition in range(self.manifest.partitions):
            for finding in check_offsets(self.manifest, partition):
                if finding.kind == "overlap":
                    raise damaged(self.folder / MANIFEST, f"{finding.position}: {finding.text}")

    def unpacked(self) -> ArchiveHistory:
        """See `Replayable`."""
        found = copy.copy(self)
        found._rows = True
        return found

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = BATCH_LINES) -> Source:
        """One partition after another."""
        return ArchiveSource(
            self.folder,
            self.manifest,
            range(self.manifest.partitions),
            position,
            batch_rows=batch_lines,
            placed=not self._repartition,
            by_row=self._rows,
        )


class ArchiveSource:
    """Partitions of an archive, one after another. Position: `partition`, and `offset` in it.

    A file is read as a whole before the first of its records is given away, see `reading`.
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
        placed: bool = True,
        by_row: bool = False,
    ) -> None:
        self._folder = folder
        self._encoding: Encoding = manifest.encoding
        self._batch_rows, self._placed, self._by_row = batch_rows, placed, by_row
        files = [entry for partition in partitions for entry in manifest.of(partition)]
        at = (position["partition"], position["offset"]) if position else (-1, 0)
        order = {partition: i for i, partition in enumerate(partitions)}
        rank = order.get(at[0], -1)
        self._files = [e for e in files if order[e.partition] > rank or (e.partition == at[0] and e.end > at[1])]
        self.done_bytes = sum(entry.size_bytes for entry in files) - sum(entry.size_bytes for entry in self._files)
        self.begins: SourcePosition = position or {"partition": -1, "offset": 0}
        self._at = self.begins
        self._batches: Iterator[tuple[Entry, RecordColumns]] = self._read(at)
        self._next = next(self._batches, None)

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self._next is None

    def next_batch(self) -> Batch:
        """See `Source`."""
        if self._next is None:
            return Batch((), self._at)
        entry, rows = self._next
        if 0 in rows.times:
            raise zero_time_error(f"{self._folder}/{entry.name}: offset {rows.offsets[rows.times.index(0)]:,}")
        items: Sequence[SourceRecord] = rows.items(entry.partition if self._placed else None)
        bad: list[BadLine] = []
        if self._by_row:
            items = unpack_records(items, f"{self._folder}/{entry.name}: offset", rows.offsets[0], bad)
        self._at = {"partition": entry.partition, "offset": rows.offsets[-1] + 1}
        self._next = next(self._batches, None)
        return Batch(items, self._at, bad)

    def close(self) -> None:
        """See `Source`."""
        self._next = None
        self._batches = iter(())

    def _read(self, at: tuple[int, int]) -> Iterator[tuple[Entry, RecordColumns]]:
        for entry in self._files:
            for rows in read_archived_file(self._folder, entry, self._encoding, self._batch_rows):
                if entry.partition == at[0] and rows.offsets[0] < at[1]:
                    rows.drop_below(at[1])
                while self._by_row and rows:
                    yield entry, rows.cut(leading_run(rows.headers))
                if rows:
                    yield entry, rows
            self.done_bytes += entry.size_bytes
