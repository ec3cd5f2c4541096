"""Where a backup lies: a folder, or an address that `fsspec` knows (`s3://…`; extra `remote`).

A backup is there as a whole or not at all. A folder is filled under another name beside its own, synced, and renamed.
An object store cannot rename; there the manifest is written last, and what has no manifest is no backup.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO, Any, Protocol

from ...topics.errors import Stop, Usage
from ...topics.private_folder import private_folder
from ..sources.files.file_system import is_remote

__all__ = ["MANIFEST", "BackupStorage", "depot"]

MANIFEST = "manifest.json"


class BackupStorage(Protocol):
    """Files of one backup."""

    def begin(self) -> None:
        """Before the first file is written.

        Raises:
            Usage: something is there.
        """
        ...

    def create(self, name: str) -> IO[bytes]:
        """A new file, to be written and closed."""
        ...

    def finish(self, manifest: bytes) -> None:
        """All files are written: from here on it is a backup."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read.

        Raises:
            Stop: it is not there.
        """
        ...


def depot(address: str) -> BackupStorage:
    """The depot at a path or an address.

    Raises:
        Usage: an address without the extra, or of a kind that nobody knows.
    """
    return _Remote(address) if is_remote(address) else _Folder(Path(address))


def _taken(where: object) -> Usage:
    return Usage(f"{where}: there is something already", hint="give each backup a folder of its own")


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._part = self._folder.with_name(f".{self._folder.name}.part")

    def begin(self) -> None:
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise _taken(self._folder)
        shutil.rmtree(self._part, ignore_errors=True)  # of one that was killed
        try:
            private_folder(self._part)
        except OSError as exc:
            raise Stop(f"{self._part}: {exc.strerror}", hint="look at the disk") from exc

    def create(self, name: str) -> IO[bytes]:
        return (self._part / name).open("xb")

    def finish(self, manifest: bytes) -> None:
        with self.create(MANIFEST) as file:
            file.write(manifest)
        for path in (*self._part.iterdir(), self._part):
            _sync(path)
        try:
            self._part.rename(self._folder)
        except OSError as exc:
            raise _taken(self._folder) from exc
        _sync(self._folder.parent)

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._folder / name).open("rb")
        except OSError as exc:
            raise _missing(self._folder, name) from exc


def _missing(where: object, name: str) -> Stop:
    if name == MANIFEST:
        return Usage(f"{where}: no backup is there", hint=f"a backup that is whole has a {MANIFEST}")
    return Stop(f"{where}: {name} is missing", hint="the backup is damaged: take another one")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Remote:
    def __init__(self, address: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise Usage(
                f"{address}: not a path on this machine", hint="pip install 'anabranch[remote]' opens addresses"
            ) from None
        self._address = address
        try:
            found: Any = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as exc:
            raise Usage(f"{address}: {exc}", hint="fsspec needs a package of its own for each kind of store") from None
        self._files, self._root = found

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def begin(self) -> None:
        if self._files.exists(self._root) and self._files.find(self._root):
            raise _taken(self._address)
        self._files.makedirs(self._root, exist_ok=True)

    def create(self, name: str) -> IO[bytes]:
        return self._files.open(self._at(name), "wb")

    def finish(self, manifest: bytes) -> None:
        with self.create(MANIFEST) as file:
            file.write(manifest)

    def open(self, name: str) -> IO[bytes]:
        try:
            return self._files.open(self._at(name), "rb")
        except FileNotFoundError as exc:
            raise _missing(self._address, name) from exc
