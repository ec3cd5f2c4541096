"""`Bzip2Stream`: decompresses bzip2, and refuses what follows the last stream of a file.

Why not `bz2.BZ2File`: it ends without an error where a stream after the first cannot be read, so that the rest of a
file that several programs wrote one after another would be lost without a word.
"""

from __future__ import annotations

import bz2
import io
from typing import Protocol

__all__ = ["Bzip2Stream"]

_READ_BYTES = 64 * 1024


class _Raw(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class Bzip2Stream(io.BufferedReader):
    """The decompressed bytes of consecutive bzip2 streams, which zeros may follow.

    Moving backward reads again from the beginning. Reading raises OSError if the data is not bzip2, and EOFError if the
    last stream is incomplete.
    """

    def __init__(self, raw: _Raw) -> None:
        super().__init__(_Decompressed(raw))


class _Decompressed(io.RawIOBase):
    def __init__(self, raw: _Raw) -> None:
        self._raw = raw
        self._stream = bz2.BZ2Decompressor()
        self._byte = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        self._byte += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == io.SEEK_CUR:
            offset += self._byte
        elif whence:
            raise OSError("bzip2 is read from its beginning")
        if offset < self._byte:
            self._raw.seek(0)
            self._stream, self._byte = bz2.BZ2Decompressor(), 0
        while self._byte < offset and (data := self._some(min(offset - self._byte, _READ_BYTES))):
            self._byte += len(data)
        return self._byte

    def _some(self, most: int) -> bytes:
        """Return at least one byte, or none at the end."""
        while True:
            fed = b""
            if self._stream.eof:
                fed = self._stream.unused_data
                # As with gzip, zeros are padding.
                while not (fed := fed.lstrip(b"\0")):
                    fed = self._raw.read(_READ_BYTES)
                    if not fed:
                        return b""
                self._stream = bz2.BZ2Decompressor()
            elif self._stream.needs_input:
                fed = self._raw.read(_READ_BYTES)
                if not fed:
                    raise EOFError("ended before its end was marked")
            if data := self._stream.decompress(fed, most):
                return data
