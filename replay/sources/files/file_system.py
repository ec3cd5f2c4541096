"""Files on this machine, or on any store that `fsspec` reaches (`s3://…`, `https://…`; extra `remote`).

Local files do not go through `fsspec`: importing it takes 0.1 s of each start, and it cannot tell whether a file
changed while it was read.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ....topics.errors import Stop, Usage
from ....topics.printable import utf8, without_passwords

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "absolute",
    "changed_after",
    "fingerprint",
    "is_remote",
    "on_remote",
    "open_raw",
    "open_unchanged",
    "same",
    "size_bytes",
    "version",
    "version_of",
]

_HASHED_BYTES = 64 * 1024
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Names under which stores report a file's version.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "generation", "md5", "contentHash")

T = TypeVar("T")


def is_remote(spec: str) -> bool:
    """Return whether this is a URL rather than a path."""
    return _URL.match(spec) is not None


def absolute(spec: str) -> str:
    """Return the form of a spec that is stored with a run: independent of the working directory, without passwords."""
    return without_passwords(spec) if is_remote(spec) else utf8(str(Path(spec).absolute()))


def same(path: str) -> str:
    """Return the canonical path of a file: the same for all links to it."""
    return path if is_remote(path) else str(Path(path).resolve())


def version(path: str) -> tuple[int, ...]:
    """Return the version of a local file (device, inode, size, modification time); empty for a remote file.

    Raises:
        Usage: the file no longer exists, or cannot be read twice.
    """
    if is_remote(path):
        return ()
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as exc:
        raise Usage(f"{path}: {getattr(exc, 'strerror', None) or exc}") from None
    if not stat.S_ISREG(found.st_mode):
        raise Usage(
            f"{path} is not a regular file: it cannot be read again after a crash", hint="save it to a file first"
        )
    return version_of(found)


def version_of(found: os.stat_result) -> tuple[int, ...]:
    """Return the version of a file, from its status."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def size_bytes(path: str) -> int:
    """Return the size in bytes; 0 if a server does not report it."""
    if not is_remote(path):
        return Path(path).stat().st_size
    return int(on_remote(path, lambda fs, at: fs.info(at)).get("size") or 0)


def open_raw(path: str) -> IO[bytes]:
    """Open the raw bytes of a file.

    Raises:
        OSError: the file cannot be opened.
    """
    if not is_remote(path):
        return Path(path).open("rb")
    return _Remote(on_remote(path, lambda fs, at: fs.open(at, "rb")))  # pyright: ignore[reportReturnType]


def fingerprint(paths: Iterable[str]) -> str:
    """Return a digest of files that changes with them: paths, sizes, modification times, first and last 64 KiB.

    Raises:
        OSError: a file no longer exists.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_version(path).encode("utf-8", "surrogateescape"))
        try:
            with open_raw(path) as file:
                digest.update(file.read(_HASHED_BYTES))
                size = size_bytes(path)
                if size > _HASHED_BYTES:
                    file.seek(size - _HASHED_BYTES)
                    digest.update(file.read(_HASHED_BYTES))
        except FileNotFoundError:
            raise
        except OSError:
            # Reading it reports the error, according to --on-bad-line.
            digest.update(b"unreadable")
    return digest.hexdigest()


def changed_after(path: str, time_ms: int) -> bool:
    """Return whether a local file was modified after a time; always False for remote files."""
    return not is_remote(path) and Path(path).stat().st_mtime_ns > time_ms * 1_000_000


def _version(path: str) -> str:
    if is_remote(path):
        info = on_remote(path, lambda fs, at: fs.info(at))
        return f"{path}\0{info.get('size')}\0{[str(info[name]) for name in _VERSIONS if name in info]}\0"
    real = Path(path).resolve()
    status = real.stat()
    return f"{real}\0{status.st_size}\0{status.st_mtime_ns}\0"


def on_remote(url: str, do: Callable[[Any, str], T]) -> T:
    """Return `do(file system, path)` of a URL.

    Raises:
        Usage: fsspec, or its package for this kind of store, is not installed.
        OSError: the store reports any error; FileNotFoundError if there is no such file.
    """
    try:
        import fsspec
    except ImportError:
        raise Usage(f"{url}: not a path on this machine", hint="to open URLs: pip install fsspec") from None
    try:
        fs, at = fsspec.core.url_to_fs(url)
        return do(fs, at)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: no such file") from None
    except ImportError as exc:
        raise Usage(f"{url}: {exc}", hint="fsspec needs a package of its own for each kind of store") from None
    except Stop:
        raise
    except Exception as exc:  # each store raises its own types
        raise OSError(f"{url}: {type(exc).__name__}: {exc}") from exc


class _Remote:
    """A remote file whose errors are all `OSError`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.closed = False

    def read(self, n: int = -1, /) -> bytes:
        return self._try(lambda: self._file.read(n))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._try(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing: the file is read only."""

    def close(self) -> None:
        self.closed = True
        self._file.close()

    def __enter__(self) -> _Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _try(do: Callable[[], T]) -> T:
        try:
            return do()
        except OSError:
            raise
        except Exception as exc:
            raise OSError(f"{type(exc).__name__}: {exc}") from exc


_BUFFER_BYTES = 64 * 1024


def open_unchanged(path: str, version: tuple[int, ...]) -> IO[bytes]:
    """Open the raw bytes of a file; reading raises Stop once the file no longer has this version.

    Otherwise records of two versions would be sent as those of one file. Remote files are not checked.

    Raises:
        OSError: the file cannot be opened.
    """
    if is_remote(path) or not version:
        return open_raw(path)
    return io.BufferedReader(_UnchangedFile(path, version), _BUFFER_BYTES)


class _UnchangedFile(io.FileIO):
    def __init__(self, path: str, version: tuple[int, ...]) -> None:
        super().__init__(path, "rb")
        self._path, self._version = Path(path), version

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Read into a buffer, then check the version."""
        count = super().readinto(buffer)
        self._check()
        return count

    def readall(self) -> bytes:
        """Read to the end, then check the version."""
        data = super().readall()
        self._check()
        return data

    def _check(self) -> None:
        # After reading, so that the bytes read belong to the version found.
        try:
            now = version_of(self._path.stat())
        except OSError as exc:
            raise _changed(self._path, f"it no longer exists ({exc.strerror})") from None
        if now != self._version:
            replaced = now[:2] != self._version[:2]
            what = f"from {self._version[2]:,} to {now[2]:,} bytes" if now[2] != self._version[2] else "in its content"
            raise _changed(self._path, "it was replaced by another file" if replaced else f"it changed {what}")


def _changed(path: Path, how: str) -> Stop:
    return Stop(
        f"{path} changed while it was read: {how}",
        hint="replay files that are complete; for a growing file use a copy, or tcp://",
    )
