"""What is read one after another: files, and files inside `.zip`; found behind paths, globs, folders and URLs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote

from ...topics.errors import Stop, Usage
from .format import Format, known
from .storage import find_files, open_raw, same, size_bytes

__all__ = ["Member", "find_members"]

# `year=2013` as the name of a folder, as Hive and Spark write it; the second stands for null.
_FIELD = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Member:
    """One stream of records: a file, or one file inside a `.zip`.

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

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the names of its folders say: `year=2013/month=01/a.csv` is of year 2013 and month 1."""
        folders = PurePath(self.path).parts[:-1]
        pairs = [found.groups() for part in folders if (found := _FIELD.fullmatch(part))]
        return {name: _value(unquote(written)) for name, written in pairs}


def find_members(specs: Iterable[str], format: Format) -> tuple[list[Member], list[str]]:
    """The streams behind paths, globs, folders and URLs: specs in the order given, what one matches sorted by name.

    `archive.zip!*.csv` names files inside an archive.

    Returns:
        Members, and what was found and left out because its ending is none that we know.

    Raises:
        Usage: nothing matches, a file is missing or given twice, or an archive holds nothing to read.
    """
    members: list[Member] = []
    left_out: list[str] = []
    seen: dict[str, str] = {}
    for spec in specs:
        path, chosen = _split(spec)
        files, found = find_files(path)
        taken = len(members)
        for file in files:
            is_zip = file.lower().endswith(".zip")
            if found and not is_zip and format.kind == "auto" and not known(file):
                left_out.append(file)
                continue
            real = same(file) + (f"!{chosen}" if chosen else "")
            if real in seen:
                raise Usage(f"{file} is given twice (also as {seen[real]})", hint="each file is replayed once")
            seen[real] = file
            if is_zip:
                inside, others = _inside(file, chosen, format)
                members += inside
                left_out += others
            else:
                members.append(Member(file, None, 0, size_bytes(file)))
        if len(members) == taken:
            raise Usage(
                f"{spec}: no file whose ending is known" + (f" ({', '.join(left_out[:5])})" if left_out else ""),
                hint="--format text|csv|jsonl|parquet|avro says what they are",
            )
    return members, left_out


def _split(spec: str) -> tuple[str, str | None]:
    """`archive.zip!member` as the two."""
    archive, mark, inside = spec.partition("!")
    return (archive, inside) if mark and inside and archive.lower().endswith(".zip") else (spec, None)


def _inside(path: str, chosen: str | None, format: Format) -> tuple[list[Member], list[str]]:
    try:
        with open_raw(path) as raw, zipfile.ZipFile(raw) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as exc:
        raise Stop(f"{path}: cannot be read as a zip archive: {exc}") from None
    members: list[Member] = []
    left_out: list[str] = []
    for number, info in enumerate(entries):
        # Archives made on a Mac carry a hidden twin of each file, which holds no lines.
        if info.is_dir() or info.filename.startswith("__MACOSX/"):
            continue
        if chosen is not None and not fnmatchcase(info.filename, chosen):
            continue
        if format.kind == "auto" and not known(info.filename):
            left_out.append(f"{path}!{info.filename}")
            continue
        members.append(Member(path, info.filename, number, info.compress_size))
    if chosen is not None and not members:
        names = ", ".join(info.filename for info in entries[:5])
        raise Usage(f"{path}: no file {chosen} inside that can be read", hint=f"it holds: {names}")
    members.sort(key=lambda member: (member.inside or "", member.number))
    return members, left_out


def _value(written: str) -> Any:
    if written == _NULL:
        return None
    return int(written) if _WHOLE.fullmatch(written) else written
