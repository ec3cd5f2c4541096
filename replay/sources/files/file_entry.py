"""What is read one after another: files, and files inside `.zip`; found behind paths, globs, folders and URLs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from ....topics.errors import Usage
from ....topics.printable import utf8, without_passwords
from ..format import Format, known
from .hive_fields import typed, written_fields
from .storage import find_files, same, size_bytes, version
from .walk import hidden, shown_by
from .zip_archive import zip_entries

__all__ = ["FileEntry", "find_members"]


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


def find_members(specs: Iterable[str], format: Format) -> tuple[list[FileEntry], list[str]]:
    """The streams behind paths, globs, folders and URLs: specs in the order given, what one matches sorted by name.

    `archive.zip!*.csv` names files inside an archive.

    Returns:
        Members, and what was found and left out because its ending is none that we know.

    Raises:
        Usage: nothing matches, a file is missing or given twice, or an archive holds nothing to read.
    """
    members: list[FileEntry] = []
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
            now = version(file)
            if is_zip:
                inside, others = _inside(file, now, chosen, format)
                members += inside
                left_out += others
            else:
                members.append(FileEntry(file, None, 0, size_bytes(file), now))
        if len(members) == taken:
            raise Usage(
                f"{spec}: no file whose ending is known" + (f" ({', '.join(left_out[:5])})" if left_out else ""),
                hint="--format text|csv|jsonl|parquet|avro says what they are",
            )
    return _with_fields(members), left_out


def _with_fields(members: list[FileEntry]) -> list[FileEntry]:
    """Of all members together, so that a field is of one type in all of them."""
    written = {path: written_fields(path) for path in dict.fromkeys(member.path for member in members)}
    if not any(written.values()):
        return members
    fields = dict(zip(written, typed(list(written.values())), strict=True))
    return [replace(member, fields=fields[member.path]) for member in members]


def _split(spec: str) -> tuple[str, str | None]:
    """`archive.zip!member` as the two."""
    archive, mark, inside = spec.partition("!")
    return (archive, inside) if mark and inside and archive.lower().endswith(".zip") else (spec, None)


def _inside(path: str, now: tuple[int, ...], chosen: str | None, format: Format) -> tuple[list[FileEntry], list[str]]:
    entries = zip_entries(path, now)
    members: list[FileEntry] = []
    left_out: list[str] = []
    for number, info in enumerate(entries):
        # Archives made on a Mac carry a hidden twin of each file, which holds no lines.
        if info.is_dir() or info.filename.startswith("__MACOSX/"):
            continue
        if not (_shown(info.filename) if chosen is None else _chosen(info.filename, chosen)):
            continue
        if format.kind == "auto" and not known(info.filename):
            left_out.append(f"{path}!{info.filename}")
            continue
        members.append(FileEntry(path, info.filename, number, info.compress_size, now))
    if chosen is not None and not members:
        names = ", ".join(info.filename for info in entries[:5])
        raise Usage(f"{path}: no file {chosen} inside that can be read", hint=f"it holds: {names}")
    members.sort(key=lambda member: (member.inside or "", member.number))
    return members, left_out


def _shown(name: str) -> bool:
    return not any(hidden(part) for part in name.split("/") if part not in (".", ".."))


def _chosen(name: str, chosen: str) -> bool:
    return name == chosen or (fnmatchcase(name, chosen) and shown_by(chosen, name))
