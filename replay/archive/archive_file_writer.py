"""`ArchiveFileWriter`: writes one file of an archive in groups of rows, and gives it its name when it is complete."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...topics.message import Message
from ..hashed_file import HashedFile
from . import jsonl_format, parquet_format
from .manifest import ArchivedFile, Encoding
from .record_columns import Change, RecordColumns

if TYPE_CHECKING:
    pass

__all__ = ["GROUP_BYTES", "GROUP_ROWS", "ArchiveFileWriter", "is_archive_file"]

# Number of rows that are buffered before they are written; a reader must hold as many in memory.
GROUP_ROWS = 65_536
GROUP_BYTES = 8 * 1024 * 1024

_DIGITS = 20


class _RowWriter(Protocol):
    def write(self, rows: RecordColumns) -> None: ...

    def close(self) -> None: ...


class ArchiveFileWriter:
    """An open file of one partition, still under a temporary name.

    Args:
        begin: offset at which the file begins.
        opened_s: time of opening by a monotonic clock, in seconds.
    """

    def __init__(
        self, folder: Path, encoding: Encoding, topic: str, partition: int, begin: int, opened_s: float
    ) -> None:
        form = parquet_format if encoding == "parquet" else jsonl_format
        self._name = f"{partition:05d}-{begin:0{_DIGITS}d}{form.ENDING}"
        self._folder, self._partition, self._begin = folder, partition, begin
        self._temporary = folder / f".{self._name}.part"
        self._file = HashedFile(self._temporary.open("wb"))
        self._encoder: _RowWriter = form.Writer(self._file, topic, partition)
        self._records = 0
        self._times: tuple[int, int] | None = None
        self.waiting = RecordColumns()
        self.opened_s = opened_s

    @property
    def size_bytes(self) -> int:
        """Size on disk plus the buffered rows, which will take less there."""
        return self._file.size_bytes + self.waiting.size_bytes

    def take(self, messages: Sequence[Message], change: Change | None = None) -> None:
        """Buffer messages, as `change` makes them; write them once there are enough."""
        rows = self.waiting
        rows.take(messages, change)
        if len(rows) >= GROUP_ROWS or rows.size_bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        rows = self.waiting
        if not rows:
            return
        self.waiting = RecordColumns()
        self._records += len(rows)
        first, last = min(rows.times), max(rows.times)
        self._times = (min(first, self._times[0]), max(last, self._times[1])) if self._times else (first, last)
        self._encoder.write(rows)

    def finish(self, end: int) -> ArchivedFile:
        """Close the file and give it its final name; the caller syncs the folder.

        Args:
            end: offset after the file.
        """
        self.flush()
        assert self._times is not None, "a file is begun with a record"
        self._encoder.close()
        self._file.sync()
        self._file.close()
        self._temporary.replace(self._folder / self._name)
        return ArchivedFile(
            name=self._name,
            partition=self._partition,
            begin=self._begin,
            end=end,
            records=self._records,
            first_ms=self._times[0],
            last_ms=self._times[1],
            size_bytes=self._file.size_bytes,
            sha256=self._file.sha256(),
        )

    def abandon(self) -> None:
        """Close and delete the unfinished file."""
        with contextlib.suppress(Exception):  # of a full disk; Arrow would write to the closed file later
            self._encoder.close()
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def is_archive_file(name: str) -> bool:
    """Return whether a file name is that of an archive's file, finished or not. No other file is ever deleted.

    >>> is_archive_file("00003-00000000000000012345.parquet"), is_archive_file("notes.parquet")
    (True, False)
    """
    stem = name.removeprefix(".").partition(".")[0]
    partition, _, offset = stem.partition("-")
    return partition.isdigit() and offset.isdigit() and len(partition) >= 5 and len(offset) == _DIGITS
