"""A worker's identity, kept in its data folder.

`group.instance.id` and `transactional.id` come from it. A worker that is killed and started again has its partitions
and its transactions back in a second instead of a session timeout; one that another has replaced is fenced by it.

Format: `<data>/identity/<n>.json`, one slot for each process on this folder, locked while the process lives:
`{"name": "<random>", "host": "<host name>", "inode": <of the file>}`. A crash leaves the file and frees the lock. A
folder that was copied (other host, or other inode) would make two workers fence each other for ever, so a slot whose
host or inode is not its own gets a new name.
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
    """A locked slot of a data folder; held until `release` or the end of the process.

    Attributes:
        name: what group.instance.id and transactional.id are made of.
        slot: number of the slot.
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
        """Let another process have the slot."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Identity:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def slots(data: Path) -> int:
    """How many processes a data folder has had at a time."""
    return len(list((data / "identity").glob("*.json")))


def _read_or_make(fd: int) -> str:
    host, inode = socket.gethostname(), os.fstat(fd).st_ino
    try:
        noted = json.loads(os.pread(fd, 4096, 0))
        name = noted["name"]
        if noted["host"] == host and noted["inode"] == inode and isinstance(name, str) and name:
            return name
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # new, or cut off by a crash while it was written: either way nobody has used the name for a commit
    name = random_hex(12)
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"name": name, "host": host, "inode": inode}).encode(), 0)
    os.fsync(fd)
    return name
