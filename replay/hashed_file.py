"""A file opened for writing that hashes what is written to it."""

from __future__ import annotations

import hashlib
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["HashedFile"]


class HashedFile:
    """A file that counts and hashes the bytes written to it. It cannot seek, so both stay true.

    Args:
        file: the file that is written to.

    Attributes:
        size_bytes: number of bytes written.
        closed: whether `close` was called.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.size_bytes = 0
        self.closed = False

    def write(self, data: ReadableBuffer) -> int:
        """Write bytes and return their number."""
        self._digest.update(data)
        self.size_bytes += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        """Flush buffered bytes to the file."""
        self._file.flush()

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size_bytes

    def writable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False."""
        return False

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes written, in hexadecimal."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Write the content to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()
