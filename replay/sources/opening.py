"""A member's bytes: opened where they lie, taken out of `.zip`, decompressed."""

from __future__ import annotations

import bz2
import gzip
import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any, Protocol

from ...topics.errors import Usage
from ...topics.undoing import on_failure
from .member import Member
from .storage import open_raw

__all__ = ["UNREADABLE", "Opened", "Stream", "ZstdStream", "open_member", "open_seekable", "why"]

# What reading a damaged or vanished file raises.
UNREADABLE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)

_COPIED_BYTES = 1024 * 1024
# So little goes in at a time because what comes out is bounded by nothing else: 2 KiB can be up to 64 MiB.
_ZSTD_FED_BYTES = 2 * 1024


class Stream(Protocol):
    """What is asked of an open file, compressed or not."""

    def read(self, n: int = -1, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Opened:
    """A member's bytes, decompressed.

    Attributes:
        done_bytes: how much has been read, as a part of `Member.size_bytes`.
    """

    stream: Stream
    done_bytes: Callable[[], int]
    _more: list[IO[bytes] | zipfile.ZipFile]

    def close(self) -> None:
        """Close the stream and what it reads from."""
        for each in (self.stream, *self._more):
            each.close()


def open_member(member: Member) -> Opened:
    """Open for reading from its first decompressed byte; seeking forward is possible, and costs reading.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `UNREADABLE`.
        Usage: what decompresses it is not installed.
    """
    raw = open_raw(member.path)
    if member.inside is None:
        return Opened(_decompressed(raw, member.path), raw.tell, [raw])
    archive = zipfile.ZipFile(raw)
    info = archive.infolist()[member.number]
    stream = archive.open(info)
    whole = max(info.file_size, 1)
    inner = _decompressed(stream, member.inside)
    return Opened(inner, lambda: member.size_bytes * min(stream.tell(), whole) // whole, [stream, archive, raw])


def open_seekable(member: Member) -> Opened:
    """Open for reading here and there; what lies inside an archive is unpacked into a temporary file first.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `UNREADABLE`.
    """
    opened = open_member(member)
    if member.inside is None:
        return opened
    copy: Any = tempfile.TemporaryFile()  # noqa: SIM115 - `Opened.close` closes it
    with closing(opened), on_failure(copy.close):
        while data := opened.stream.read(_COPIED_BYTES):
            copy.write(data)
        copy.seek(0)
    return Opened(copy, copy.tell, [])


def why(exc: BaseException) -> str:
    """What is wrong with a file, for people."""
    return "ends too early: it is truncated" if isinstance(exc, EOFError) else f"cannot be read: {exc}"


class _UpToTheDamage:
    """A stream that gives what can be decompressed before it says that no more can be."""

    def __init__(self, stream: gzip.GzipFile | bz2.BZ2File) -> None:
        self._stream = stream
        self._error: BaseException | None = None

    def read(self, n: int = -1, /) -> bytes:
        if self._error is not None:
            raise self._error
        parts: list[bytes] = []
        left = n if n >= 0 else _COPIED_BYTES
        try:
            while left > 0 and (data := self._stream.read1(left)):
                parts.append(data)
                left -= len(data)
        except UNREADABLE as exc:
            if not parts:
                raise
            self._error = exc
        return b"".join(parts)

    def seek(self, offset: int, /) -> int:
        return self._stream.seek(offset)

    def close(self) -> None:
        self._stream.close()


class ZstdStream(io.RawIOBase):
    """Frames of zstd, one after another, decompressed. A last frame that is cut short is an error, as with gzip."""

    def __init__(self, raw: IO[bytes]) -> None:
        try:
            import zstandard
        except ImportError:
            raise Usage("zstd is not installed", hint="pip install 'anabranch[zstd]' reads .zst") from None
        self._raw = raw
        self._error = zstandard.ZstdError
        self._new: Callable[[], Any] = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
        self._frame: Any = None
        self._out = b""
        self._at = 0
        self._byte = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, n: int = -1, /) -> bytes:
        """Up to `n` bytes; nothing only at the end.

        Raises:
            EOFError: the last frame is not complete.
            OSError: this is no zstd.
        """
        while self._at >= len(self._out):
            if not self._decompress():
                return b""
        end = len(self._out) if n < 0 else self._at + n
        data = self._out[self._at : end]
        self._at += len(data)
        self._byte += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """To a byte from the beginning; backward costs reading from there."""
        if whence:
            raise OSError("zstd is read from its beginning")
        if offset < self._byte:
            self._raw.seek(0)
            self._frame, self._out, self._at, self._byte = None, b"", 0, 0
        while self._byte < offset and self.read(offset - self._byte):
            pass
        return self._byte

    def _decompress(self) -> bool:
        left = b""
        if self._frame is not None and self._frame.eof:
            left, self._frame = self._frame.unused_data, None
        data = left or self._raw.read(_ZSTD_FED_BYTES)
        if not data:
            if self._frame is not None:
                raise EOFError("ended before its end was marked")
            return False
        if self._frame is None:
            self._frame = self._new()
        try:
            self._out, self._at = self._frame.decompress(data), 0
        except self._error as exc:
            raise OSError(str(exc)) from None
        return True


def _decompressed(raw: IO[bytes], name: str) -> Stream:
    name = name.lower()
    if name.endswith(".gz"):
        return _UpToTheDamage(gzip.GzipFile(fileobj=raw))
    if name.endswith(".bz2"):
        return _UpToTheDamage(bz2.BZ2File(raw))
    if name.endswith(".zst"):
        return ZstdStream(raw)  # pyright: ignore[reportReturnType]
    return raw
