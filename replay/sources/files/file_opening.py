"""Opens file entries for reading: plain files, compressed files (gzip, bzip2, zstd), and files inside zip archives.

Why not `fsspec` for zip and compression: it opens the whole archive for each of its files (3,000 small files: 0.2 s
here, 6 minutes there), cannot distinguish two files of one name, and loses the content before a damaged place.
Resuming at a byte is exact only if a damaged file always gives the same bytes, however it is read.
"""

from __future__ import annotations

import gzip
import io
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TYPE_CHECKING, Protocol, cast

from ....topics.cleanup import on_failure
from ....topics.errors import AnabranchError, Stop, Usage
from ....topics.printable import utf8, without_passwords
from .bzip2_stream import Bzip2Stream
from .file_system import open_unchanged

if TYPE_CHECKING:
    import zstandard

__all__ = [
    "READ_ERRORS",
    "ByteStream",
    "FileEntry",
    "Opened",
    "ZipArchive",
    "ZstdStream",
    "library_errors",
    "open_entry",
    "open_seekable",
    "opened_zip",
    "why",
    "zip_entries",
]

# Number of archives that stay open for the next of their files. One with 70,000 files takes 40 MB.
_KEPT = 3


class ZipArchive:
    """An open zip archive with any number of concurrent readers."""

    def __init__(self, path: str, version: tuple[int, ...]) -> None:
        raw: IO[bytes] = open_unchanged(path, version)
        with on_failure(raw.close):
            self._raw, self._zip = raw, zipfile.ZipFile(raw)
        self.infos = self._zip.infolist()
        self.users = 0
        self.kept = True

    def open(self, info: zipfile.ZipInfo) -> zipfile.ZipExtFile:
        """Open one of its files, decompressed. Several may be open at a time."""
        return cast(zipfile.ZipExtFile, self._zip.open(info))

    def release(self) -> None:
        """Remove a reader that `opened_zip` has added."""
        self.users -= 1
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the archive if it has no reader and is not kept for the next one."""
        if not self.users and not self.kept:
            self._zip.close()
            self._raw.close()


_archives: OrderedDict[tuple[str, tuple[int, ...]], ZipArchive] = OrderedDict()


def opened_zip(path: str, version: tuple[int, ...]) -> ZipArchive:
    """Return an open archive, kept from before or opened now, with a reader added; the caller releases it.

    Raises:
        Exception: any that `zipfile` raises for a damaged archive.
    """
    key = path, version
    archive = _archives.get(key)
    if archive is None:
        archive = _archives[key] = ZipArchive(path, version)
        while len(_archives) > _KEPT:
            _, oldest = _archives.popitem(last=False)
            oldest.kept = False
            oldest.close_if_unused()
    _archives.move_to_end(key)
    archive.users += 1
    return archive


def zip_entries(path: str, version: tuple[int, ...]) -> list[zipfile.ZipInfo]:
    """Return the directory of an archive.

    Raises:
        Stop: the file is not a zip archive.
    """
    try:
        archive = opened_zip(path, version)
    except AnabranchError:
        raise
    except Exception as exc:  # noqa: BLE001 - zipfile raises many types for a damaged archive
        raise Stop(f"{path}: cannot be read as a zip archive: {exc or type(exc).__name__}") from None
    infos = archive.infos
    archive.release()
    return infos


# The errors of reading a damaged or removed file.
READ_ERRORS = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)

_COPIED_BYTES = 1024 * 1024
# Compressed data is read in steps of this size: a call that fails loses what it has read, at most a block of bzip2.
_STEP_BYTES = 64 * 1024
_BYTEWISE_BYTES = 1024 * 1024
# zipfile copies its read-ahead buffer with each read, so skipping in larger steps is slower.
_SKIPPED_BYTES = 8 * 1024
# A file that is unpacked before it is read is Parquet, which is compressed inside and hardly shrinks in a zip: one that
# grows more than this is a decompression bomb.
_UNPACKED_BYTES = 64 * 1024 * 1024
_UNPACKED_TIMES = 200
# Input goes in in small pieces, because nothing else bounds the output: 2 KiB can become 64 MiB.
_ZSTD_FED_BYTES = 2 * 1024
# The default limit of `zstd -d`: the file decides how much memory its window takes.
_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One stream of records: a file, or one file inside a `.zip`.

    Attributes:
        path: the file's path, as the user wrote it.
        inside: name inside the archive. It selects the format and is shown to the user, and never becomes a path.
        number: index in the archive's directory, because names can occur twice.
        size_bytes: size on disk, so compressed.
        version: version of the file when it was found; reading fails once it differs. See `file_system.version`.
        fields: fields from the names of its folders, see `hive_fields`.
    """

    path: str
    inside: str | None
    number: int
    size_bytes: int
    version: tuple[int, ...] = ()
    fields: Mapping[str, str | int | None] = field(default_factory=dict[str, "str | int | None"], compare=False)

    @property
    def name(self) -> str:
        """`flights.csv.zip!flights.csv`, as shown to the user: valid text, without passwords."""
        name = self.path if self.inside is None else f"{self.path}!{self.inside}"
        return without_passwords(utf8(name))


class ByteStream(Protocol):
    """The methods used of an open file, compressed or not."""

    def read(self, n: int = -1, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Opened:
    """The decompressed bytes of a file entry.

    Attributes:
        done_bytes: returns how many of `FileEntry.size_bytes` have been read.
    """

    stream: ByteStream
    done_bytes: Callable[[], int]
    _more: list[Callable[[], object]]

    def close(self) -> None:
        """Close the stream and what it reads from."""
        self.stream.close()
        while self._more:
            self._more.pop(0)()


@contextmanager
def library_errors() -> Generator[None]:
    """Turn any exception that a library raises over untrusted data inside the block into an `OSError`.

    Libraries raise any type for damaged data, and panics of Rust code are not even an `Exception`.
    """
    try:
        yield
    except (AnabranchError, *READ_ERRORS, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from exc


def open_entry(entry: FileEntry) -> Opened:
    """Open a file, or a file inside a zip, at its first decompressed byte. Seeking forward reads what it skips.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `READ_ERRORS`.
        Usage: the decompressor is not installed.
    """
    if entry.inside is None:
        raw = open_unchanged(entry.path, entry.version)
        with on_failure(raw.close), library_errors():
            return Opened(_decompressed(raw, entry.path, partial(_rewound, raw)), raw.tell, [raw.close])
    with library_errors():
        archive = opened_zip(entry.path, entry.version)
    with on_failure(archive.release), library_errors():
        info = archive.infos[entry.number]
        stream = archive.open(info)
        whole = max(info.file_size, 1)
        inner = _decompressed(stream, entry.inside, lambda: archive.open(info))
        if isinstance(inner, zipfile.ZipExtFile):
            inner = _ReadUpToDamage(inner, lambda: archive.open(info))
    return Opened(inner, lambda: entry.size_bytes * min(stream.tell(), whole) // whole, [stream.close, archive.release])


def open_seekable(entry: FileEntry) -> Opened:
    """Open for random access; a file inside a zip is unpacked into a temporary file first.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `READ_ERRORS`.
    """
    opened = open_entry(entry)
    if entry.inside is None:
        return opened
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - `Opened.close` closes it
    with closing(opened), on_failure(copy.close):
        most = max(_UNPACKED_BYTES, _UNPACKED_TIMES * entry.size_bytes)
        while data := opened.stream.read(_COPIED_BYTES):
            if copy.write(data) + copy.tell() > most:
                raise OSError(f"it decompresses to more than {_UNPACKED_TIMES} times its size")
        copy.seek(0)
    return Opened(copy, copy.tell, [])


def why(exc: BaseException) -> str:
    """Return what is wrong with a file, in words for the user."""
    return "ends too early: it is truncated" if isinstance(exc, EOFError) else f"cannot be read: {exc}"


class _ReadUpToDamage:
    """A stream that returns every byte before a damage, then raises the decompressor's error.

    A call that meets damage loses what it has decompressed so far. So the last stretch is read again, byte by byte:
    what is read of a damaged file depends on the file alone, and not on the sizes of the reads.

    Args:
        again: opens the same stream at its first byte.
    """

    def __init__(self, stream: _Compressed, again: Callable[[], _Compressed]) -> None:
        self._stream = stream
        self._again = again
        self._byte = 0
        # Up to here it reads byte by byte, because a call that began before this byte met damage.
        self._bytewise_until = 0
        self._error: BaseException | None = None

    def read(self, n: int = -1, /) -> bytes:
        parts: list[bytes] = []
        left = n if n >= 0 else _COPIED_BYTES
        while left > 0 and self._error is None:
            bytewise = self._byte < self._bytewise_until
            try:
                with library_errors():
                    data = self._stream.read1(1 if bytewise else min(left, _STEP_BYTES))
            except READ_ERRORS as exc:
                if bytewise or not self._go_back():
                    self._error = exc
                continue
            if not data:
                break
            parts.append(data)
            left -= len(data)
            self._byte += len(data)
        if self._error is not None and not parts:
            raise self._error
        return b"".join(parts)

    def _go_back(self) -> bool:
        """Reopen the stream at the byte where the failed call began; return whether that byte was reached."""
        at = 0
        try:
            with library_errors():
                self._stream = self._again()
                # Otherwise zipfile decompresses this much at a time, whatever the size of the read.
                if isinstance(self._stream, zipfile.ZipExtFile):
                    self._stream.MIN_READ_SIZE = 1
                while at < self._byte and (skipped := self._stream.read1(min(self._byte - at, _SKIPPED_BYTES))):
                    at += len(skipped)
        except READ_ERRORS:
            return False
        self._bytewise_until = at + _BYTEWISE_BYTES
        return at == self._byte

    def seek(self, offset: int, /) -> int:
        with library_errors():
            self._byte = self._stream.seek(offset)
        return self._byte

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()


# The bytes that are decompressed lie in a file, or in a zip.
_Raw = IO[bytes] | zipfile.ZipExtFile
_Compressed = gzip.GzipFile | Bzip2Stream | zipfile.ZipExtFile


class ZstdStream(io.RawIOBase):
    """Decompresses consecutive zstd frames. A truncated last frame is an error, as with gzip."""

    def __init__(self, raw: _Raw) -> None:
        try:
            import zstandard
        except ImportError:
            raise Usage("zstd is not installed", hint="pip install zstandard reads .zst") from None
        self._raw = raw
        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._out = b""
        self._at = 0
        self._byte = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, n: int = -1, /) -> bytes:
        """Return up to `n` bytes; empty at the end only.

        Raises:
            EOFError: the last frame is incomplete.
            OSError: the data is not zstd.
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
        """Move to a byte counted from the beginning; moving backward reads again from there."""
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
            large = "; compress it again without --long" if "too much memory" in str(exc) else ""
            raise OSError(f"{exc}{large}") from None
        return True


def _rewound(raw: IO[bytes]) -> IO[bytes]:
    raw.seek(0)
    return raw


def _decompressed(raw: _Raw, name: str, again: Callable[[], _Raw]) -> ByteStream:
    """Return the decompressed stream of `raw`, by the ending of its name; `again` reopens `raw` at its first byte."""
    name = name.lower()
    if name.endswith(".gz"):
        return _ReadUpToDamage(gzip.GzipFile(fileobj=raw), lambda: gzip.GzipFile(fileobj=again()))
    if name.endswith(".bz2"):
        return _ReadUpToDamage(Bzip2Stream(raw), lambda: Bzip2Stream(again()))
    if name.endswith(".zst"):
        return ZstdStream(raw)  # pyright: ignore[reportReturnType]
    return raw
