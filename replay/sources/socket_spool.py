"""What a socket gave, written down before it is used.

    FILE    the lines as they came, each with its end; nothing else, so the file can be read, and replayed, as such

Promise: what `append` was given is on disk when `sync` returns, as whole lines, and one process at a time has the file.
A line that a crash of the machine tore is cut off at the next opening: nothing was made of it, since `sync` comes
first. Limits: it grows by what comes; nobody shortens it while its run is not finished.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from ...topics.cleanup import on_failure
from ...topics.errors import Stop, Usage

__all__ = ["Spool"]

_CHUNK_BYTES = 256 * 1024
_SEAM_BYTES = 4 * 1024

_logger = logging.getLogger("anabranch.replay")


class Spool:
    """An open spool; made where there is none.

    Args:
        begin: what lies before this byte has been used.
        seam: what `seam(begin)` was, to tell the file from another one; None where nothing is known.

    Raises:
        Usage: it cannot be opened or written.
        Stop: another process has it, or it is not the one that `begin` is of.
    """

    def __init__(self, path: str, begin: int = 0, seam: int | None = None) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise Usage(f"--spool {path}: {exc.strerror or exc}", hint="name a file that can be written") from None
        with on_failure(self.close):
            self._lock()
            self.size_bytes = self._cut()
            if begin > self.size_bytes or (seam is not None and seam != self.seam(begin)):
                raise Stop(
                    f"{path} is not the spool that this run has sent {begin:,} bytes of",
                    hint="bring it back as it was, or start another run: --run-id NAME",
                )
        # The name of a new file is to outlive a crash as well.
        folder = os.open(Path(path).parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self, begin: int) -> Iterator[bytes]:
        """What it holds from a byte on, piece by piece."""
        end = self.size_bytes
        while begin < end and (data := os.pread(self._file, min(_CHUNK_BYTES, end - begin), begin)):
            begin += len(data)
            yield data

    def append(self, lines: bytes) -> None:
        """Write whole lines at its end.

        Raises:
            Stop: they cannot be written, because the disk is full for example.
        """
        left = memoryview(lines)
        try:
            while left:
                written = os.pwrite(self._file, left, self.size_bytes)
                self.size_bytes += written
                left = left[written:]
        except OSError as exc:
            raise Stop(f"--spool {self._path}: {exc.strerror or exc}", hint="the same command goes on") from None

    def sync(self) -> None:
        """Wait until all of it is on disk."""
        os.fsync(self._file)

    def seam(self, byte: int) -> int:
        """A checksum of what stands right before a byte."""
        begin = max(0, byte - _SEAM_BYTES)
        return zlib.crc32(os.pread(self._file, byte - begin, begin))

    def close(self) -> None:
        """Let go of it; harmless when repeated."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(
                f"--spool {self._path}: another process writes to it", hint="one spool for each replay of a socket"
            ) from None

    def _cut(self) -> int:
        """Cut off a last line without an end; returns the size."""
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
            _logger.warning("%s: a torn last line of %d bytes is cut off", self._path, size - end)
        return end
