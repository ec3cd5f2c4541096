"""Files on disk as streams of bytes: found, opened through `.gz` and `.zip`, told from changed ones."""

from __future__ import annotations

import glob
import gzip
import hashlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ..topics.errors import Stop, Usage
from .format import ENDINGS, Format

__all__ = ["UNREADABLE", "Member", "Opened", "find_members", "fingerprint", "open_member"]

# What reading a damaged or vanished file raises.
UNREADABLE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)

_HASHED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One stream of lines: a file, or one file inside a `.zip`.

    Attributes:
        path: the file, as the user wrote it.
        inside: name inside the archive; it chooses the format and is shown, and never becomes a path.
        number: which entry of the archive, because names can stand twice.
        size_bytes: on disk, so compressed.
    """

    path: str
    inside: str | None
    number: int
    size_bytes: int

    @property
    def name(self) -> str:
        """`flights.csv.zip!flights.csv`, as shown to the user."""
        return self.path if self.inside is None else f"{self.path}!{self.inside}"


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


def find_members(specs: Iterable[str], format: Format) -> tuple[list[Member], list[str]]:
    """The streams behind paths and globs: specs in the order given, what a glob matches sorted by name.

    Returns:
        Members, and the names inside archives that were left out because their ending is none that we know.

    Raises:
        Usage: nothing matches, a file is missing or given twice, or an archive holds nothing to read.
    """
    members: list[Member] = []
    left_out: list[str] = []
    seen: dict[Path, str] = {}
    for spec in specs:
        for path in _files(spec):
            real = Path(path).resolve()
            if real in seen:
                raise Usage(f"{path} is given twice (also as {seen[real]})", hint="each file is replayed once")
            seen[real] = path
            if path.lower().endswith(".zip"):
                inside, others = _zip_members(path, format)
                members += inside
                left_out += others
            else:
                members.append(Member(path, None, 0, real.stat().st_size))
    return members, left_out


def open_member(member: Member) -> Opened:
    """Open for reading from its first decompressed byte; seeking forward is possible, and costs reading.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError: see `UNREADABLE`.
    """
    if member.inside is not None:
        archive = zipfile.ZipFile(member.path)
        info = archive.infolist()[member.number]
        stream = archive.open(info)
        whole = max(info.file_size, 1)
        inner: Stream = stream
        if member.inside.lower().endswith(".gz"):
            inner = gzip.GzipFile(fileobj=stream)
        return Opened(inner, lambda: member.size_bytes * min(stream.tell(), whole) // whole, [stream, archive])
    raw = Path(member.path).open("rb")  # noqa: SIM115 - `Opened.close` closes it
    if member.path.lower().endswith(".gz"):
        return Opened(gzip.GzipFile(fileobj=raw), raw.tell, [raw])
    return Opened(raw, raw.tell, [])


def fingerprint(paths: Iterable[str]) -> str:
    """What tells files from changed ones: where they are, sizes, times of change, first and last 64 KiB."""
    digest = hashlib.sha256()
    for path in paths:
        real = Path(path).resolve()
        with real.open("rb") as file:
            status = real.stat()
            digest.update(f"{real}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, status.st_size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()


def _files(spec: str) -> list[str]:
    if glob.has_magic(spec) and not Path(spec).exists():
        found = sorted(path for path in glob.glob(spec, recursive=True) if Path(path).is_file())  # noqa: PTH207 - Path.glob knows no absolute patterns
        if not found:
            raise Usage(
                f"{spec}: no file matches", hint="globs are relative to the folder you are in; ** needs a folder"
            )
        return found
    try:
        mode = Path(spec).stat().st_mode
    except OSError as exc:
        raise Usage(f"{spec}: {exc.strerror or exc}") from None
    if stat.S_ISDIR(mode):
        raise Usage(f"{spec} is a folder", hint=f"'{spec.rstrip('/')}/*' reads the files in it")
    if not stat.S_ISREG(mode):
        raise Usage(
            f"{spec} is not a regular file: it cannot be read again after a crash", hint="save it to a file first"
        )
    return [spec]


def _zip_members(path: str, format: Format) -> tuple[list[Member], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as exc:
        raise Stop(f"{path}: cannot be read as a zip archive: {exc}") from None
    members: list[Member] = []
    left_out: list[str] = []
    for number, info in enumerate(entries):
        # Archives made on a Mac carry a hidden twin of each file, which holds no lines.
        if info.is_dir() or info.filename.startswith("__MACOSX/"):
            continue
        known = Path(info.filename.lower().removesuffix(".gz")).suffix in ENDINGS
        if format.kind == "auto" and not known:
            left_out.append(f"{path}!{info.filename}")
            continue
        members.append(Member(path, info.filename, number, info.compress_size))
    if not members:
        raise Usage(
            f"{path}: no file inside whose ending is known" + (f" ({', '.join(left_out[:5])})" if left_out else ""),
            hint="--format text|csv|jsonl says what they are",
        )
    members.sort(key=lambda member: (member.inside or "", member.number))
    return members, left_out
