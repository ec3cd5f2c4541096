"""Folders that hold data: records, tables, keys. Nobody but their owner reads them, whatever the umask says."""

from __future__ import annotations

from pathlib import Path

__all__ = ["private_folder"]


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone; one that is there stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    if path.parent != path:
        private_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
