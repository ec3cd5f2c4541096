"""Folders for data (records, tables, keys) that only their owner can read, whatever the umask is."""

from __future__ import annotations

from pathlib import Path

__all__ = ["private_folder"]


def private_folder(path: Path) -> None:
    """Create a folder and its missing parents, readable by the owner only; a folder that exists is not changed.

    Raises:
        OSError: it cannot be created.
    """
    if path.is_dir():
        return
    if path.parent != path:
        private_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
