"""`Spool`: a file that stores the lines of a socket before they are used.

    FILE    the lines as received, each with its line end, and nothing else: the file can be replayed like any other

Promise: when `sync` returns, the lines given to `append` are on disk as whole lines. One process at a time has the file
open. A line that a crash of the machine cut off is removed at the next opening; no record was made of it, because
`sync` comes first. Limits: the file grows with the data received, and is not truncated while its run is unfinished.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from ...topics.cleanup import on_failure
from ...topics.durable_files import sync_path
from ...topics.errors import Stop, Usage

__all__ = ["Spool"]

_CHUNK_BYTES = 256 * 1024
_SEAM_BYTES = 4 * 1024

_logger = logging.getLogger("anabranch.replay")


class Spool:
    """An open spool, created if it does not exist.

    Args:
        begin: the bytes before this one have been used.
        seam: the value of `seam(begin)` then, which identifies the file; None if unknown.

    Raises:
        Usage: the file cannot be opened or written.
        Stop: another process has it open, or it is not the file that `begin` refers to.
    """

    def __init__(self, path: str, begin: int = 0, seam: int | None = None) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise Usage(f"--spool {path}: {exc.strerror or exc}", hint="name a file that can be written") from None
        with on_failure(self.close):
            self._lock()
            self.size_bytes = self._remove_incomplete_line()
            if begin > self.size_bytes or (seam is not None and seam != self.seam(begin)):
                raise Stop(
                    f"{path} is not the spool of which this run has sent {begin:,} bytes",
                    hint="restore it, or start another run: --run-id NAME",
                )
        # The name of a new file must survive a crash too.
        sync_path(Path(path).parent)

    def read(self, begin: int) -> Iterator[bytes]:
        """Yield the content from a byte on, in chunks."""
        end = self.size_bytes
        while begin < end and (data := os.pread(self._file, min(_CHUNK_BYTES, end - begin), begin)):
            begin += len(data)
            yield data

    def append(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            Stop: they cannot be written, for example because the disk is full.
        """
        left = memoryview(lines)
        try:
            while left:
                written = os.pwrite(self._file, left, self.size_bytes)
                self.size_bytes += written
                left = left[written:]
        except OSError as exc:
            raise Stop(f"--spool {self._path}: {exc.strerror or exc}", hint="the same command resumes") from None

    def sync(self) -> None:
        """Wait until the appended lines are on disk."""
        os.fsync(self._file)

    def seam(self, byte: int) -> int:
        """Return a checksum of the bytes right before this one."""
        begin = max(0, byte - _SEAM_BYTES)
        return zlib.crc32(os.pread(self._file, byte - begin, begin))

    def close(self) -> None:
        """Close the file. May be called more than once."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(
                f"--spool {self._path}: another process writes to it",
                hint="use a spool of its own for each replay of a socket",
            ) from None

    def _remove_incomplete_line(self) -> int:
        """Remove a last line without a line end; return the size."""
        size = end = os.fstat(self._file).st_size
        while end:
            begin = max(0, end - _CHUNK_BYTES)
            at = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if at >= 0:
                end = begin + at + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._file, end)
            _logger.warning("%s: removed an incomplete last line of %d bytes", self._path, size - end)
        return end
