"""Local files behind folders and globs, found alike: what is hidden in a folder is hidden from a glob."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator

from ....topics.errors import Usage

__all__ = ["files_below", "globbed", "hidden", "shown_by"]

_ANYWHERE = "**"


def hidden(name: str) -> bool:
    """Whether a file or folder is left out where it is not named: `.x`, `_SUCCESS`, `_temporary`, as in Spark and Hive.

    >>> hidden("_SUCCESS"), hidden(".x.crc"), hidden("x._COPYING_"), hidden("_year=2013"), hidden("a_b.csv")
    (True, True, True, False, False)
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def files_below(folder: str) -> Iterator[str]:
    """What lies in a folder and below, folders themselves left out; links are followed.

    Raises:
        Usage: a folder cannot be read.
    """
    return (path for path, is_folder in _walk(folder) if not is_folder)


def globbed(pattern: str) -> Iterator[str]:
    """What a glob matches, folders left out. `**` as a whole name is any number of folders.

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
    """Whether none of the names of a path that a glob has found is hidden, those aside that the glob spells."""
    spelled = [part for part in pattern.split("/") if hidden(part)]
    return all(any(fnmatch.fnmatchcase(name, part) for part in spelled) for name in path.split("/") if hidden(name))


def _walk(folder: str) -> Iterator[tuple[str, bool]]:
    """All that is not hidden below a folder: path, and whether it is a folder."""
    waiting = [(folder, frozenset({_identity(folder)}))]
    while waiting:
        folder, above = waiting.pop()
        for name, path, is_folder in _entries(folder):
            if hidden(name):
                continue
            yield path, is_folder
            # A link to a folder that it lies in would never end.
            if is_folder and (identity := _identity(path)) not in above:
                waiting.append((path, above | {identity}))


def _below(bases: Iterable[str]) -> Iterator[str]:
    """Folders, and all folders below them; each once."""
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
            path = os.path.join(base, part)  # noqa: PTH118 - the user's own words are kept
            if os.path.lexists(path) and os.path.isdir(path) == folders:  # noqa: PTH112
                yield path
            continue
        for name, path, is_folder in _entries(base):
            spelled = name[0] in "._" and part[0] == name[0]
            if is_folder == folders and (spelled or not hidden(name)) and matches(name):
                yield path


def _entries(folder: str) -> list[tuple[str, str, bool]]:
    """What stands in a folder: name, path, and whether it is a folder.

    Raises:
        Usage: it cannot be read: leaving it out would leave out what it holds.
    """
    try:
        with os.scandir(folder or ".") as found:
            return [(entry.name, os.path.join(folder, entry.name), _is_folder(entry)) for entry in found]  # noqa: PTH118
    except OSError as exc:
        raise Usage(f"{folder or '.'}: this folder cannot be read: {exc.strerror or exc}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: who opens it tells
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder or ".")  # noqa: PTH116
    except OSError as exc:
        raise Usage(f"{folder}: this folder cannot be read: {exc.strerror or exc}") from None
    return found.st_dev, found.st_ino
