"""Where files lie: on this machine, or wherever `fsspec` reaches (`s3://…`, `https://…`; extra `remote`)."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from ...topics.errors import Stop, Usage

__all__ = ["absolute", "changed_after", "find_files", "fingerprint", "is_remote", "open_raw", "same", "size_bytes"]

_HASHED_BYTES = 64 * 1024
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HIDDEN = (".", "_")
# What stores tell about a version of a file, each by a name of its own.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "generation", "md5", "contentHash")

T = TypeVar("T")


def is_remote(spec: str) -> bool:
    """Whether this is a URL rather than a path."""
    return _URL.match(spec) is not None


def absolute(spec: str) -> str:
    """What means the same from any folder."""
    return spec if is_remote(spec) else str(Path(spec).absolute())


def same(path: str) -> str:
    """One name for a file, however it is reached."""
    return path if is_remote(path) else str(Path(path).resolve())


def find_files(spec: str) -> tuple[list[str], bool]:
    """The files behind a path, a glob or a folder, sorted; and whether they were found rather than named.

    Of a folder, those below it too. What begins with `.` or `_` is hidden, as in every lake of data.

    Raises:
        Usage: there is nothing, or it cannot be read again.
    """
    found = _find_remote(spec) if is_remote(spec) else _find_local(spec)
    if not found[0]:
        raise Usage(f"{spec}: no file matches", hint="globs are relative to the folder you are in; ** needs a folder")
    return found


def size_bytes(path: str) -> int:
    """Its size; 0 where a server does not tell."""
    if not is_remote(path):
        return Path(path).stat().st_size
    return int(_remote(path, lambda fs, at: fs.info(at)).get("size") or 0)


def open_raw(path: str) -> IO[bytes]:
    """Open its bytes as they are.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_remote(path):
        return Path(path).open("rb")
    return _Remote(_remote(path, lambda fs, at: fs.open(at, "rb")))  # pyright: ignore[reportReturnType]


def fingerprint(paths: Iterable[str]) -> str:
    """What tells files from changed ones: where they are, sizes, times of change, first and last 64 KiB.

    Raises:
        OSError: one has gone.
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
            # Who reads it tells what is wrong, by the policy for what is bad.
            digest.update(b"unreadable")
    return digest.hexdigest()


def changed_after(path: str, time_ms: int) -> bool:
    """Whether it was written to after that time; of remote files nobody can tell."""
    return not is_remote(path) and Path(path).stat().st_mtime_ns > time_ms * 1_000_000


def _version(path: str) -> str:
    if is_remote(path):
        info = _remote(path, lambda fs, at: fs.info(at))
        return f"{path}\0{info.get('size')}\0{[str(info[name]) for name in _VERSIONS if name in info]}\0"
    real = Path(path).resolve()
    status = real.stat()
    return f"{real}\0{status.st_size}\0{status.st_mtime_ns}\0"


def _find_local(spec: str) -> tuple[list[str], bool]:
    if glob.has_magic(spec) and not Path(spec).exists():
        return sorted(path for path in glob.glob(spec, recursive=True) if Path(path).is_file()), True  # noqa: PTH207 - Path.glob knows no absolute patterns
    try:
        mode = Path(spec).stat().st_mode
    except OSError as exc:
        raise Usage(f"{spec}: {exc.strerror or exc}") from None
    if stat.S_ISDIR(mode):
        found = [
            os.path.join(folder, name)  # noqa: PTH118 - the user's own words are kept
            for folder, folders, names in os.walk(spec)
            for name in names
            if _shown(folders, name)
        ]
        if not found:
            raise Usage(f"{spec}: the folder holds no files")
        return sorted(path for path in found if Path(path).is_file()), True
    if not stat.S_ISREG(mode):
        raise Usage(
            f"{spec} is not a regular file: it cannot be read again after a crash", hint="save it to a file first"
        )
    return [spec], False


def _shown(folders: list[str], name: str) -> bool:
    folders[:] = [folder for folder in folders if not folder.startswith(_HIDDEN)]
    return not name.startswith(_HIDDEN)


def _find_remote(spec: str) -> tuple[list[str], bool]:
    def find(fs: Any, at: str) -> tuple[list[str], bool]:
        if glob.has_magic(at):
            return [fs.unstrip_protocol(path) for path in fs.glob(at) if fs.isfile(path)], True
        if fs.isdir(at) and not fs.isfile(at):
            below = [(path, PurePosixPath(path.removeprefix(at)).parts) for path in fs.find(at)]
            return [fs.unstrip_protocol(p) for p, parts in below if not any(x.startswith(_HIDDEN) for x in parts)], True
        fs.info(at)
        return [spec], False

    try:
        paths, several = _remote(spec, find)
    except OSError as exc:
        raise Usage(f"{spec}: {exc}") from None
    return sorted(paths), several


def _remote(url: str, do: Callable[[Any, str], T]) -> T:
    try:
        import fsspec
    except ImportError:
        raise Usage(f"{url}: not a path on this machine", hint="pip install 'anabranch[remote]' opens URLs") from None
    try:
        fs, at = fsspec.core.url_to_fs(url)
        return do(fs, at)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: no such file") from None
    except ImportError as exc:
        raise Usage(f"{url}: {exc}", hint="fsspec needs a package of its own for each kind of store") from None
    except Stop:
        raise
    except Exception as exc:  # each store raises errors of its own making
        raise OSError(f"{url}: {type(exc).__name__}: {exc}") from exc


class _Remote:
    """A remote file whose errors are those of a file."""

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
        """Nothing is written."""

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
