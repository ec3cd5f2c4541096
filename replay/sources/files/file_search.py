"""Finds the files behind paths, folders, globs, URLs and zip archives.

Folders and globs follow the same rule: a name that is hidden in a folder (`hidden`) is hidden from a glob too. `glob`
and `fsspec` have no such rule for Hive's `_temporary` and Spark's `_SUCCESS`, and skip folders that cannot be read
without a word, so local globs are expanded here, at the same speed.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from ....topics.errors import Usage
from ..format import Format, has_known_ending
from .file_opening import FileEntry, zip_entries
from .file_system import is_remote, on_remote, same, size_bytes, version
from .hive_fields import parse_hive_fields, type_hive_fields

__all__ = ["files_below", "find_entries", "find_files", "globbed", "hidden", "shown_by"]

_ANYWHERE = "**"


def find_entries(specs: Iterable[str], format: Format) -> tuple[list[FileEntry], list[str]]:
    """Find the entries behind paths, globs, folders and URLs: in the order of specs, matches of one spec by name.

    `archive.zip!*.csv` names files inside an archive.

    Returns:
        The entries, and the names of files that were found but skipped because their ending is unknown.

    Raises:
        Usage: nothing matches, a file is missing or given twice, or an archive has no file that can be read.
    """
    entries: list[FileEntry] = []
    left_out: list[str] = []
    seen: dict[str, str] = {}
    for spec in specs:
        path, chosen = _split(spec)
        files, found = find_files(path)
        taken = len(entries)
        for file in files:
            is_zip = file.lower().endswith(".zip")
            if found and not is_zip and format.kind == "auto" and not has_known_ending(file):
                left_out.append(file)
                continue
            real = same(file) + (f"!{chosen}" if chosen else "")
            if real in seen:
                raise Usage(f"{file} is given twice (also as {seen[real]})", hint="each file is replayed once")
            seen[real] = file
            now = version(file)
            if is_zip:
                inside, others = _inside(file, now, chosen, format)
                entries += inside
                left_out += others
            else:
                entries.append(FileEntry(file, None, 0, size_bytes(file), now))
        if len(entries) == taken:
            raise Usage(
                f"{spec}: no file with a known extension" + (f" ({', '.join(left_out[:5])})" if left_out else ""),
                hint="--format text|csv|jsonl|parquet|avro names the format",
            )
    return _with_fields(entries), left_out


def _with_fields(entries: list[FileEntry]) -> list[FileEntry]:
    """Add the fields of folder names, each of one type over all entries."""
    written = {path: parse_hive_fields(path) for path in dict.fromkeys(entry.path for entry in entries)}
    if not any(written.values()):
        return entries
    fields = dict(zip(written, type_hive_fields(list(written.values())), strict=True))
    return [replace(entry, fields=fields[entry.path]) for entry in entries]


def _split(spec: str) -> tuple[str, str | None]:
    """Split `archive.zip!file` into archive and file."""
    archive, mark, inside = spec.partition("!")
    return (archive, inside) if mark and inside and archive.lower().endswith(".zip") else (spec, None)


def _inside(path: str, now: tuple[int, ...], chosen: str | None, format: Format) -> tuple[list[FileEntry], list[str]]:
    infos = zip_entries(path, now)
    entries: list[FileEntry] = []
    left_out: list[str] = []
    for number, info in enumerate(infos):
        # Archives made on macOS contain a metadata file for each file.
        if info.is_dir() or info.filename.startswith("__MACOSX/"):
            continue
        if not (_shown(info.filename) if chosen is None else _chosen(info.filename, chosen)):
            continue
        if format.kind == "auto" and not has_known_ending(info.filename):
            left_out.append(f"{path}!{info.filename}")
            continue
        entries.append(FileEntry(path, info.filename, number, info.compress_size, now))
    if chosen is not None and not entries:
        names = ", ".join(info.filename for info in infos[:5])
        raise Usage(f"{path}: no file {chosen} inside that can be read", hint=f"it holds: {names}")
    entries.sort(key=lambda entry: (entry.inside or "", entry.number))
    return entries, left_out


def _shown(name: str) -> bool:
    return not any(hidden(part) for part in name.split("/") if part not in (".", ".."))


def _chosen(name: str, chosen: str) -> bool:
    return name == chosen or (fnmatchcase(name, chosen) and shown_by(chosen, name))


def find_files(spec: str) -> tuple[list[str], bool]:
    """Return the files behind a path, a glob or a folder, sorted; and whether they were found rather than named.

    A folder is searched recursively, links included. Hidden names are skipped, see `hidden`, unless the glob spells
    their first character.

    Raises:
        Usage: nothing is found, a folder cannot be read, or a named file cannot be read twice.
    """
    found = _find_remote(spec) if is_remote(spec) else _find_local(spec)
    if not found[0]:
        folders = not is_remote(spec) and any(Path(each).is_dir() for each in glob.iglob(spec))  # noqa: PTH207 - as typed
        raise Usage(
            f"{spec}: no file matches" + (", only folders match" if folders else ""),
            hint=f"{spec.rstrip('/')}/** matches the files in them"
            if folders
            else "globs are relative to the folder you are in; ** needs a folder",
        )
    return found


def _find_local(spec: str) -> tuple[list[str], bool]:
    if glob.has_magic(spec) and not os.path.lexists(spec):
        return _once(globbed(spec)), True
    try:
        mode = Path(spec).stat().st_mode
    except (OSError, ValueError) as exc:
        hint = "standard input cannot be read again after a crash: save it to a file first" if spec == "-" else ""
        raise Usage(f"{spec}: {getattr(exc, 'strerror', None) or exc}", hint=hint) from None
    if stat.S_ISDIR(mode):
        found = _once(files_below(spec))
        if not found:
            raise Usage(f"{spec}: the folder contains no files")
        return found, True
    version(spec)
    return [spec], False


def _once(paths: Iterable[str]) -> list[str]:
    """Return paths sorted, and of several links to one file the shortest."""
    found = {same(path): path for path in sorted(paths, key=lambda path: (path.count("/"), path), reverse=True)}
    return sorted(found.values())


def _find_remote(spec: str) -> tuple[list[str], bool]:
    def find(fs: Any, at: str) -> tuple[list[str], bool]:
        # The query of a web address is not part of the glob.
        if glob.has_magic(at.partition("?")[0] if spec.startswith("http") else at):
            found = [path for path in fs.glob(at) if shown_by(at, path) and fs.isfile(path)]
            return [fs.unstrip_protocol(path) for path in found], True
        if fs.isdir(at) and not fs.isfile(at):
            below = [(path, PurePosixPath(path.removeprefix(at)).parts) for path in fs.find(at)]
            return [fs.unstrip_protocol(path) for path, parts in below if not any(map(hidden, parts))], True
        fs.info(at)
        return [spec], False

    try:
        paths, several = on_remote(spec, find)
    except OSError as exc:
        raise Usage(f"{spec}: {exc}") from None
    return sorted(paths), several


def hidden(name: str) -> bool:
    """Return whether a file or folder is skipped unless named: `.x`, `_SUCCESS`, `_temporary`, as in Spark and Hive.

    >>> hidden("_SUCCESS"), hidden(".x.crc"), hidden("x._COPYING_"), hidden("_year=2013"), hidden("a_b.csv")
    (True, True, True, False, False)
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def files_below(folder: str) -> Iterator[str]:
    """Yield the files in a folder and below it; links are followed.

    Raises:
        Usage: a folder cannot be read.
    """
    return (path for path, is_folder in _walk(folder) if not is_folder)


def globbed(pattern: str) -> Iterator[str]:
    """Yield the files that a glob matches. A whole name `**` stands for any number of folders.

    Raises:
        Usage: a folder cannot be read.
    """
    *folders, name = pattern.split("/")
    if name == _ANYWHERE:
        folders, name = [*folders, _ANYWHERE], "*"
    bases: Iterable[str] = ("/",) if pattern.startswith("/") else ("",)
    for part in folders:
        if part in ("", "."):
            continue
        bases = _below(bases) if part == _ANYWHERE else _matching(bases, part, folders=True)
    yield from _matching(bases, name, folders=False)


def shown_by(pattern: str, path: str) -> bool:
    """Return whether no name in a path that a glob matched is hidden, except names that the glob spells out."""
    spelled = [part for part in pattern.split("/") if hidden(part)]
    return all(any(fnmatch.fnmatchcase(name, part) for part in spelled) for name in path.split("/") if hidden(name))


def _walk(folder: str) -> Iterator[tuple[str, bool]]:
    """Yield everything below a folder that is not hidden: path, and whether it is a folder."""
    waiting = [(folder, frozenset({_identity(folder)}))]
    while waiting:
        folder, above = waiting.pop()
        for name, path, is_folder in _entries(folder):
            if hidden(name):
                continue
            yield path, is_folder
            # A link to a folder above it would never end.
            if is_folder and (identity := _identity(path)) not in above:
                waiting.append((path, above | {identity}))


def _below(bases: Iterable[str]) -> Iterator[str]:
    """Yield folders and all folders below them, each once."""
    seen = set[str]()
    for base in bases:
        for folder in (base, *(path for path, is_folder in _walk(base) if is_folder)):
            if folder not in seen:
                seen.add(folder)
                yield folder


def _matching(bases: Iterable[str], part: str, *, folders: bool) -> Iterator[str]:
    matches = re.compile(fnmatch.translate(part)).match if glob.has_magic(part) else None
    for base in bases:
        if matches is None:
            path = os.path.join(base, part)  # noqa: PTH118 - keeps the path as the user wrote it
            if os.path.lexists(path) and os.path.isdir(path) == folders:  # noqa: PTH112
                yield path
            continue
        for name, path, is_folder in _entries(base):
            spelled = name[0] in "._" and part[0] == name[0]
            if is_folder == folders and (spelled or not hidden(name)) and matches(name):
                yield path


def _entries(folder: str) -> list[tuple[str, str, bool]]:
    """Return the entries of a folder: name, path, and whether it is a folder.

    Raises:
        Usage: the folder cannot be read; skipping it would skip its files silently.
    """
    try:
        with os.scandir(folder or ".") as found:
            return [(entry.name, os.path.join(folder, entry.name), _is_folder(entry)) for entry in found]  # noqa: PTH118
    except OSError as exc:
        raise Usage(f"{folder or '.'}: this folder cannot be read: {exc.strerror or exc}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: opening it reports the error
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder or ".")  # noqa: PTH116
    except OSError as exc:
        raise Usage(f"{folder}: this folder cannot be read: {exc.strerror or exc}") from None
    return found.st_dev, found.st_ino
