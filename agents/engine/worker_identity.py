"""A worker's identity, kept in its data folder.

`group.instance.id` and `transactional.id` are derived from it. A worker that is killed and restarted gets its
partitions and transactions back within a second instead of after a session timeout. A worker that another one has
replaced is fenced by the new one.

Format: `<data>/identity/<n>.json`, one slot for each process that uses the folder, locked while the process lives:
`{"name": "<random>", "host": "<host name>", "inode": <inode of the file>}`. After a crash the file remains and the lock
is released. In a copied folder (other host, or other inode) two workers with one name would fence each other forever.
A slot whose file has another host or inode than it records therefore gets a new name.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from ...topics.errors import Stop
from ...topics.identifiers import random_hex
from ...topics.private_folder import private_folder

__all__ = ["Identity", "slots"]

MAX_SLOTS = 256


class Identity:
    """A locked slot of a data folder, held until `release` or the end of the process.

    Args:
        data: the data folder.

    Attributes:
        name: random name from which `group.instance.id` and `transactional.id` are derived.
        slot: number of the slot.

    Raises:
        Stop: all slots of the folder are locked.
    """

    def __init__(self, data: Path) -> None:
        folder = data / "identity"
        private_folder(folder)
        for slot in range(MAX_SLOTS):
            fd = os.open(folder / f"{slot}.json", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._fd, self.slot = fd, slot
            self.name = _read_or_make(fd)
            return
        raise Stop(f"{folder}: all {MAX_SLOTS} identities are taken", hint="give this worker a --datadir of its own")

    def release(self) -> None:
        """Release the slot for another process."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Identity:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def slots(data: Path) -> int:
    """Return the largest number of processes that have used a data folder at the same time."""
    return len(list((data / "identity").glob("*.json")))


def _read_or_make(fd: int) -> str:
    host, inode = socket.gethostname(), os.fstat(fd).st_ino
    try:
        noted = json.loads(os.pread(fd, 4096, 0))
        name = noted["name"]
        if noted["host"] == host and noted["inode"] == inode and isinstance(name, str) and name:
            return name
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # the file is new or was truncated by a crash; in both cases no commit used the name
    name = random_hex(12)
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"name": name, "host": host, "inode": inode}).encode(), 0)
    os.fsync(fd)
    return name
