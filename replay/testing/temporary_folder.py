"""Folders for the data of simulated workers, in memory where there is room: stores on disk wait for disks otherwise."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["WorkerFolders", "temporary_folder"]

_MEMORY = Path("/dev/shm")  # noqa: S108 (the folder below has a random name)
_ROOM_BYTES = 2**30  # containers often have 64 MiB


def temporary_folder() -> Path:
    """Create a folder: in `TMPDIR` if that is set, else in memory, else in the system's folder."""
    where = None
    if "TMPDIR" not in os.environ and tempfile.tempdir is None and os.access(_MEMORY, os.W_OK):
        where = _MEMORY if shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES else None
    return Path(tempfile.mkdtemp(prefix="anabranch-world-", dir=where))


class WorkerFolders:
    """A folder with the data folders of workers; it is made when the first of them is asked for."""

    def __init__(self) -> None:
        self._root: Path | None = None

    @property
    def root(self) -> Path:
        """The folder that holds the others."""
        if self._root is None:
            self._root = temporary_folder()
        return self._root

    def of(self, worker: int, keeps_identity: bool) -> Path:
        """Return the data folder for a worker's next life; an empty one if it does not keep its identity."""
        folder = self.root / str(worker)
        if not keeps_identity:
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def remove(self) -> None:
        """Remove all folders."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
