"""Folders for the data of simulated workers, in memory where there is room: stores on disk wait for disks otherwise."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["temporary_folder"]

_MEMORY = Path("/dev/shm")  # noqa: S108 (the folder below has a random name)
_ROOM_BYTES = 2**30  # containers often have 64 MiB


def temporary_folder() -> Path:
    """Create a folder: in `TMPDIR` if that is set, else in memory, else in the system's folder."""
    where = None
    if "TMPDIR" not in os.environ and tempfile.tempdir is None and os.access(_MEMORY, os.W_OK):
        where = _MEMORY if shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES else None
    return Path(tempfile.mkdtemp(prefix="anabranch-world-", dir=where))
