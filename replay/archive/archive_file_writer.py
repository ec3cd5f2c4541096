"""One file of an archive while it grows: rows gather, are written in groups, and in the end it gets its name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

from . import jsonl_format, parquet_format
from .manifest import Encoding, Entry
from .record_columns import RecordColumns

__all__ = ["GROUP_BYTES", "GROUP_ROWS", "ArchiveFileWriter", "is_ours"]

# Rows that gather before they are written; also what one who reads must hold at a time.
GROUP_ROWS = 65_536
GROUP_BYTES = 8 * 1024 * 1024

_DIGITS = 20


class _Writes(Protocol):
    def write(self, rows: RecordColumns) -> None: ...

    def close(self) -> None: ...


class _Hashed:
    """A file that knows the SHA-256 and the size of what went into it. It has no way back, so both stay true."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.size_bytes

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def finish(self) -> str:
        """On disk; returns the digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        self.closed = True
        self._file.close()


class ArchiveFileWriter:
    """A file of one partition that has no name yet.

    Args:
        begin: offset that it begins at.
        opened_s: monotonic clock.
    """

    def __init__(
        self, folder: Path, encoding: Encoding, topic: str, partition: int, begin: int, opened_s: float
    ) -> None:
        form = parquet_format if encoding == "parquet" else jsonl_format
        self._name = f"{partition:05d}-{begin:0{_DIGITS}d}{form.ENDING}"
        self._folder, self._partition, self._begin = folder, partition, begin
        self._beside = folder / f".{self._name}.part"
        self._file = _Hashed(self._beside)
        self._encoder: _Writes = form.Writer(self._file, topic, partition)
        self._records = 0
        self._times: tuple[int, int] | None = None
        self.waiting = RecordColumns()
        self.opened_s = opened_s

    @property
    def size_bytes(self) -> int:
        """What is on disk, and what waits, which will be less there."""
        return self._file.size_bytes + self.waiting.size_bytes

    def take(self, messages: list[Any]) -> None:
        """Add messages; they are written when there are enough of them."""
        rows = self.waiting
        rows.take(messages)
        if len(rows) >= GROUP_ROWS or rows.size_bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        rows = self.waiting
        if not rows:
            return
        self.waiting = RecordColumns()
        self._records += len(rows)
        first, last = min(rows.times), max(rows.times)
        self._times = (min(first, self._times[0]), max(last, self._times[1])) if self._times else (first, last)
        self._encoder.write(rows)

    def finish(self, end: int) -> Entry:
        """Give it its name; the folder has yet to be synced.

        Args:
            end: offset after it.
        """
        self.flush()
        assert self._times is not None, "a file is begun with a record"
        self._encoder.close()
        digest = self._file.finish()
        self._beside.replace(self._folder / self._name)
        return Entry(
            name=self._name,
            partition=self._partition,
            begin=self._begin,
            end=end,
            records=self._records,
            first_ms=self._times[0],
            last_ms=self._times[1],
            size_bytes=self._file.size_bytes,
            sha256=digest,
        )

    def abandon(self) -> None:
        """Remove it."""
        self._file.close()
        self._beside.unlink(missing_ok=True)


def is_ours(name: str) -> bool:
    """Whether a file of that name was made here, whole or not. Nothing else is ever removed from a folder.

    >>> is_ours("00003-00000000000000012345.parquet"), is_ours("notes.parquet")
    (True, False)
    """
    stem = name.removeprefix(".").partition(".")[0]
    partition, _, offset = stem.partition("-")
    return partition.isdigit() and offset.isdigit() and len(partition) >= 5 and len(offset) == _DIGITS
