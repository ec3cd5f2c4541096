"""Zip archives, opened once for many of their files: an archive's directory is as long as it has files.

A entry's bytes: opened where they lie, taken out of `.zip`, decompressed."""

from __future__ import annotations

import bz2
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
from typing import IO, Any, Protocol

from ....topics.cleanup import on_failure
from ....topics.errors import AnabranchError, Stop, Usage
from ....topics.printable import utf8, without_passwords
from .file_system import open_unchanged

__all__ = [
    "UNREADABLE",
    "Archive",
    "FileEntry",
    "Opened",
    "Stream",
    "ZstdStream",
    "foreign",
    "open_entry",
    "open_seekable",
    "opened_zip",
    "why",
    "zip_entries",
]

# So many archives stay open when nobody reads them, for the next file of theirs. One with 70,000 files takes 40 MB.
_KEPT = 3


class Archive:
    """An open archive that several may read at a time."""

    def __init__(self, path: str, version: tuple[int, ...]) -> None:
        raw: IO[bytes] = open_unchanged(path, version)
        with on_failure(raw.close):
            self._raw, self._zip = raw, zipfile.ZipFile(raw)
        self.infos = self._zip.infolist()
        self.users = 0
        self.kept = True

    def open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """One of its files, decompressed; may be read beside others."""
        return self._zip.open(info)

    def release(self) -> None:
        """One reader less."""
        self.users -= 1
        self.let_go()

    def let_go(self) -> None:
        """Close it, if nobody needs it."""
        if not self.users and not self.kept:
            self._zip.close()
            self._raw.close()


_archives: OrderedDict[tuple[str, tuple[int, ...]], Archive] = OrderedDict()


def opened_zip(path: str, version: tuple[int, ...]) -> Archive:
    """An archive with one reader more, who releases it.

    Raises:
        whatever `zipfile` finds to raise over what is none.
    """
    key = path, version
    archive = _archives.get(key)
    if archive is None:
        archive = _archives[key] = Archive(path, version)
        while len(_archives) > _KEPT:
            _, oldest = _archives.popitem(last=False)
            oldest.kept = False
            oldest.let_go()
    _archives.move_to_end(key)
    archive.users += 1
    return archive


def zip_entries(path: str, version: tuple[int, ...]) -> list[zipfile.ZipInfo]:
    """What is in an archive.

    Raises:
        Stop: it is none.
    """
    try:
        archive = opened_zip(path, version)
    except AnabranchError:
        raise
    except Exception as exc:  # noqa: BLE001 - zipfile has no one error for what is wrong with an archive
        raise Stop(f"{path}: cannot be read as a zip archive: {exc or type(exc).__name__}") from None
    infos = archive.infos
    archive.release()
    return infos


# What reading a damaged or vanished file raises.
UNREADABLE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)

_COPIED_BYTES = 1024 * 1024
# Of what is compressed so much is asked for at a time. A call that fails loses what it had, or a block of bzip2.
_STEP_BYTES = 64 * 1024
_CAREFUL_BYTES = 1024 * 1024
# What is read ahead is copied with each byte that is taken of it.
_SKIPPED_BYTES = 8 * 1024
# What has to be unpacked before it can be read is Parquet, which is compressed inside: it hardly becomes smaller, or
# somebody means harm.
_UNPACKED_BYTES = 64 * 1024 * 1024
_UNPACKED_TIMES = 200
# So little goes in at a time because what comes out is bounded by nothing else: 2 KiB can be up to 64 MiB.
_ZSTD_FED_BYTES = 2 * 1024
# What `zstd -d` takes too, unless told otherwise: the window is memory that a file asks for.
_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One stream of records: a file, or one file inside a `.zip`.

    Attributes:
        path: the file, as the user wrote it.
        inside: name inside the archive; it chooses the format and is shown, and never becomes a path.
        number: which entry of the archive, because names can stand twice.
        size_bytes: on disk, so compressed.
        version: of the file when it was found; it must not be another one while it is read.
        fields: what the names of its folders say, see `folders`.
    """

    path: str
    inside: str | None
    number: int
    size_bytes: int
    version: tuple[int, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    @property
    def name(self) -> str:
        """`flights.csv.zip!flights.csv`, as shown to the user: valid text, without passwords."""
        name = self.path if self.inside is None else f"{self.path}!{self.inside}"
        return without_passwords(utf8(name))


class Stream(Protocol):
    """What is asked of an open file, compressed or not."""

    def read(self, n: int = -1, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Opened:
    """A entry's bytes, decompressed.

    Attributes:
        done_bytes: how much has been read, as a part of `FileEntry.size_bytes`.
    """

    stream: Stream
    done_bytes: Callable[[], int]
    _more: list[Callable[[], object]]

    def close(self) -> None:
        """Close the stream and what it reads from."""
        self.stream.close()
        while self._more:
            self._more.pop(0)()


@contextmanager
def foreign() -> Generator[None]:
    """A block in which a library looks at a stranger's data: whatever it raises over that is an `OSError`.

    Libraries tell damage by any exception there is, and panics of Rust's are not even an `Exception`.
    """
    try:
        yield
    except (AnabranchError, *UNREADABLE, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from exc


def open_entry(entry: FileEntry) -> Opened:
    """Open for reading from its first decompressed byte; seeking forward is possible, and costs reading.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `UNREADABLE`.
        Usage: what decompresses it is not installed.
    """
    if entry.inside is None:
        raw = open_unchanged(entry.path, entry.version)
        with on_failure(raw.close), foreign():
            return Opened(_decompressed(raw, entry.path, partial(_rewound, raw)), raw.tell, [raw.close])
    with foreign():
        archive = opened_zip(entry.path, entry.version)
    with on_failure(archive.release), foreign():
        info = archive.infos[entry.number]
        stream: Any = archive.open(info)
        whole = max(info.file_size, 1)
        inner = _decompressed(stream, entry.inside, lambda: archive.open(info))
        if inner is stream:
            inner = _UpToTheDamage(stream, lambda: archive.open(info))
    return Opened(inner, lambda: entry.size_bytes * min(stream.tell(), whole) // whole, [stream.close, archive.release])


def open_seekable(entry: FileEntry) -> Opened:
    """Open for reading here and there; what lies inside an archive is unpacked into a temporary file first.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `UNREADABLE`.
    """
    opened = open_entry(entry)
    if entry.inside is None:
        return opened
    copy: Any = tempfile.TemporaryFile()  # noqa: SIM115 - `Opened.close` closes it
    with closing(opened), on_failure(copy.close):
        most = max(_UNPACKED_BYTES, _UNPACKED_TIMES * entry.size_bytes)
        while data := opened.stream.read(_COPIED_BYTES):
            if copy.write(data) + copy.tell() > most:
                raise OSError(f"it grows to more than {_UNPACKED_TIMES} times its size when it is unpacked")
        copy.seek(0)
    return Opened(copy, copy.tell, [])


def why(exc: BaseException) -> str:
    """What is wrong with a file, for people."""
    return "ends too early: it is truncated" if isinstance(exc, EOFError) else f"cannot be read: {exc}"


class _UpToTheDamage:
    """A stream that gives every byte before a damage, then says that no more can be decompressed.

    A call that meets damage loses what it has decompressed until then. So the last stretch is read again, by the byte:
    what is read of a damaged file depends on the file alone, and not on how much is asked for at once.

    Args:
        again: opens the same from its first byte.
    """

    def __init__(self, stream: Any, again: Callable[[], Any]) -> None:
        self._stream = stream
        self._again = again
        self._byte = 0
        # Up to here it goes by the byte, because a call that began before has met damage.
        self._careful_until = 0
        self._error: BaseException | None = None

    def read(self, n: int = -1, /) -> bytes:
        parts: list[bytes] = []
        left = n if n >= 0 else _COPIED_BYTES
        while left > 0 and self._error is None:
            careful = self._byte < self._careful_until
            try:
                with foreign():
                    data = self._stream.read1(1 if careful else min(left, _STEP_BYTES))
            except UNREADABLE as exc:
                if careful or not self._go_back():
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
        """Begin again, where the call that failed began; whether it could be reached."""
        at = 0
        try:
            with foreign():
                self._stream = self._again()
                # Else zipfile decompresses so much at a time, whatever it is asked for.
                self._stream.MIN_READ_SIZE = 1
                while at < self._byte and (skipped := self._stream.read1(min(self._byte - at, _SKIPPED_BYTES))):
                    at += len(skipped)
        except UNREADABLE:
            return False
        self._careful_until = at + _CAREFUL_BYTES
        return at == self._byte

    def seek(self, offset: int, /) -> int:
        with foreign():
            self._byte = self._stream.seek(offset)
        return self._byte

    def tell(self) -> int:
        return self._stream.tell()

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
        self._new: Callable[[], Any] = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj
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
            large = "; compress it anew, without --long" if "too much memory" in str(exc) else ""
            raise OSError(f"{exc}{large}") from None
        return True


def _rewound(raw: IO[bytes]) -> IO[bytes]:
    raw.seek(0)
    return raw


def _decompressed(raw: IO[bytes], name: str, again: Callable[[], IO[bytes]]) -> Stream:
    """The stream of what is inside; `again` gives `raw` from its first byte."""
    name = name.lower()
    if name.endswith(".gz"):
        return _UpToTheDamage(gzip.GzipFile(fileobj=raw), lambda: gzip.GzipFile(fileobj=again()))
    if name.endswith(".bz2"):
        return _UpToTheDamage(bz2.BZ2File(raw), lambda: bz2.BZ2File(again()))
    if name.endswith(".zst"):
        return ZstdStream(raw)  # pyright: ignore[reportReturnType]
    return raw
