"""Writes files so that a crash leaves the old content or the new, never a part."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .running_process import is_running

__all__ = ["replace_file", "sync_path"]


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically; it is on disk when this returns.

    Raises:
        OSError: it cannot be written; the old content is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_path(path.parent)
    _remove_leftovers(path)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they replaced this file."""
    begin, end = f".{path.name}.", ".part"
    for part in path.parent.iterdir():
        pid = part.name[len(begin) : -len(end)]
        if part.name == f"{begin}{pid}{end}" and pid.isdigit() and not is_running(int(pid)):
            with suppress(OSError):
                part.unlink()


def sync_path(path: Path) -> None:
    """Sync a file or a folder to disk. The names in a folder survive a crash from then on."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
