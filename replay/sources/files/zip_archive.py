"""Zip archives, opened once for many of their files: an archive's directory is as long as it has files."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from typing import IO

from ....topics.cleanup import on_failure
from ....topics.errors import AnabranchError, Stop
from .unchanged_file import open_watched

__all__ = ["Archive", "opened_zip", "zip_entries"]

# So many archives stay open when nobody reads them, for the next file of theirs. One with 70,000 files takes 40 MB.
_KEPT = 3


class Archive:
    """An open archive that several may read at a time."""

    def __init__(self, path: str, version: tuple[int, ...]) -> None:
        raw: IO[bytes] = open_watched(path, version)
        with on_failure(raw.close):
            self._raw, self._zip = raw, zipfile.ZipFile(raw)
        self.entries = self._zip.infolist()
        self.users = 0
        self.kept = True

    def open(self, entry: zipfile.ZipInfo) -> IO[bytes]:
        """One of its files, decompressed; may be read beside others."""
        return self._zip.open(entry)

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
    entries = archive.entries
    archive.release()
    return entries
