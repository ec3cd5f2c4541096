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

from ....topics.errors import Stop, Usage
from ....topics.printable import utf8, without_passwords
from .walk import files_below, globbed, hidden, shown_by

__all__ = [
    "absolute",
    "changed_after",
    "find_files",
    "fingerprint",
    "is_remote",
    "open_raw",
    "same",
    "size_bytes",
    "version",
    "version_of",
]

_HASHED_BYTES = 64 * 1024
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What stores tell about a version of a file, each by a name of its own.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "generation", "md5", "contentHash")

T = TypeVar("T")


def is_remote(spec: str) -> bool:
    """Whether this is a URL rather than a path."""
    return _URL.match(spec) is not None


def absolute(spec: str) -> str:
    """What means the same from any folder, as it is kept with a run: valid text, without passwords."""
    return without_passwords(spec) if is_remote(spec) else utf8(str(Path(spec).absolute()))


def same(path: str) -> str:
    """One name for a file, however it is reached."""
    return path if is_remote(path) else str(Path(path).resolve())


def find_files(spec: str) -> tuple[list[str], bool]:
    """The files behind a path, a glob or a folder, sorted; and whether they were found rather than named.

    Of a folder, those below it too, also behind links. Hidden names are left out, see `hidden`, unless the glob spells
    their first character.

    Raises:
        Usage: there is nothing, a folder cannot be read, or what is named cannot be read again.
    """
    found = _find_remote(spec) if is_remote(spec) else _find_local(spec)
    if not found[0]:
        folders = not is_remote(spec) and any(Path(each).is_dir() for each in glob.iglob(spec))  # noqa: PTH207 - as typed
        raise Usage(
            f"{spec}: no file matches" + (", only folders do" if folders else ""),
            hint=f"{spec.rstrip('/')}/** takes the files in them"
            if folders
            else "globs are relative to the folder you are in; ** needs a folder",
        )
    return found


def version(path: str) -> tuple[int, ...]:
    """What tells a local file from what it was before: inode, size, time of change. Nothing of a remote one.

    Raises:
        Usage: it has gone, or cannot be read a second time.
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
    """As `version`."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


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
    if glob.has_magic(spec) and not os.path.lexists(spec):
        return _once(globbed(spec)), True
    try:
        mode = Path(spec).stat().st_mode
    except (OSError, ValueError) as exc:
        raise Usage(f"{spec}: {getattr(exc, 'strerror', None) or exc}") from None
    if stat.S_ISDIR(mode):
        found = _once(files_below(spec))
        if not found:
            raise Usage(f"{spec}: the folder holds no files")
        return found, True
    version(spec)
    return [spec], False


def _once(paths: Iterable[str]) -> list[str]:
    """Sorted; a file that was found by several links goes by the shortest way to it."""
    found = {same(path): path for path in sorted(paths, key=lambda path: (path.count("/"), path), reverse=True)}
    return sorted(found.values())


def _find_remote(spec: str) -> tuple[list[str], bool]:
    def find(fs: Any, at: str) -> tuple[list[str], bool]:
        # What follows the ? of a web address is no glob.
        if glob.has_magic(at.partition("?")[0] if spec.startswith("http") else at):
            found = [path for path in fs.glob(at) if shown_by(at, path) and fs.isfile(path)]
            return [fs.unstrip_protocol(path) for path in found], True
        if fs.isdir(at) and not fs.isfile(at):
            below = [(path, PurePosixPath(path.removeprefix(at)).parts) for path in fs.find(at)]
            return [fs.unstrip_protocol(path) for path, parts in below if not any(map(hidden, parts))], True
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
