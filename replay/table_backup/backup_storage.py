"""Where a backup is stored: a folder, or an address that `fsspec` opens (`s3://…`; extra `remote`).

A backup exists as a whole or not at all. A folder is written under a temporary name beside its own, synced, and
renamed. An object store cannot rename; there the manifest is written last, and files without a manifest are no backup.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from ...topics.durable_files import sync_path
from ...topics.errors import AnabranchError, Stop, Usage
from ...topics.printable import without_passwords
from ...topics.private_folder import private_folder
from ..sources.files.file_system import is_remote

__all__ = ["MANIFEST", "BackupStorage", "open_backup_storage"]

MANIFEST = "manifest.json"


class BackupStorage(Protocol):
    """Files of one backup. Each method raises Stop if a store behind an address cannot be reached or refuses."""

    def begin(self) -> None:
        """Prepare to write; called before the first file is created.

        Raises:
            Usage: the place is not empty.
        """
        ...

    def create(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Create a file, for the caller to write; it is closed at the end of the block."""
        ...

    def finish(self, manifest: bytes) -> None:
        """Write the manifest and make the backup visible; called after all files have been closed."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            Stop: the file does not exist.
        """
        ...


def open_backup_storage(address: str) -> BackupStorage:
    """Return the storage at a path or an address.

    Raises:
        Usage: an address is given and `fsspec` is not installed, or does not know its protocol.
    """
    return _Remote(address) if is_remote(address) else _Folder(Path(address))


def _not_empty(location: object) -> Usage:
    return Usage(f"{location} is not empty", hint="give each backup a folder of its own")


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._part = self._folder.with_name(f".{self._folder.name}.part")

    def begin(self) -> None:
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise _not_empty(self._folder)
        shutil.rmtree(self._part, ignore_errors=True)  # left over from a backup that was killed
        try:
            private_folder(self._part)
        except OSError as exc:
            raise Stop(f"{self._part}: {exc.strerror}", hint="check the disk") from exc

    def create(self, name: str) -> IO[bytes]:
        return (self._part / name).open("xb")

    def finish(self, manifest: bytes) -> None:
        with self.create(MANIFEST) as file:
            file.write(manifest)
        for path in (*self._part.iterdir(), self._part):
            sync_path(path)
        try:
            self._part.rename(self._folder)
        except OSError as exc:
            raise _not_empty(self._folder) from exc
        sync_path(self._folder.parent)

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._folder / name).open("rb")
        except OSError as exc:
            raise _missing(self._folder, name) from exc


def _missing(location: object, name: str) -> Stop:
    if name == MANIFEST:
        return Usage(f"{location} holds no backup", hint=f"a complete backup has a {MANIFEST}")
    return Stop(f"{location}: {name} is missing", hint="the backup is damaged: create another one")


@contextmanager
def _reached(address: str) -> Generator[None]:
    """Name the address in the errors of its store, which raises types of its own."""
    try:
        yield
    except AnabranchError:
        raise
    except Exception as exc:
        raise Stop(
            without_passwords(f"{address}: {type(exc).__name__}: {exc}"),
            hint="check the address, and what it needs to sign in",
        ) from exc


class _Remote:
    def __init__(self, address: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise Usage(
                f"{address} is a URL, and opening URLs needs fsspec",
                hint="pip install fsspec installs it",
            ) from None
        self._address = address
        with _reached(address):
            try:
                found: Any = fsspec.core.url_to_fs(address)
            except (ImportError, ValueError) as exc:
                raise Usage(f"{address}: {exc}", hint="fsspec needs an additional package for some protocols") from None
        self._files, self._root = found

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def begin(self) -> None:
        with _reached(self._address):
            if self._files.exists(self._root) and self._files.find(self._root):
                raise _not_empty(self._address)
            self._files.makedirs(self._root, exist_ok=True)

    @contextmanager
    def create(self, name: str) -> Generator[IO[bytes]]:
        with _reached(self._address), self._files.open(self._at(name), "wb") as file:
            yield file

    def finish(self, manifest: bytes) -> None:
        with self.create(MANIFEST) as file:
            file.write(manifest)

    def open(self, name: str) -> IO[bytes]:
        with _reached(self._address):
            try:
                return self._files.open(self._at(name), "rb")
            except FileNotFoundError as exc:
                raise _missing(self._address, name) from exc
