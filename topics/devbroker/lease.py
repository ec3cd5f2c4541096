"""Leases: commands hold one while they use a broker in the background, so that it does not end under them.

A lease is a shared lock on the file `lease` in the broker's folder. The kernel releases it with the process, whatever
ends that. The broker takes the exclusive lock before it ends for want of use, and keeps it until it has ended: a
command that comes meanwhile waits, and then starts the next broker.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from .. import clock
from ..errors import Stop
from ..private_folder import private_folder

__all__ = ["Lease", "folder_for_data"]

_FILE = "lease"
_WAIT_S = 30.0  # more than a broker takes to stop
_AGAIN_S = 0.02


def folder_for_data(data: Path) -> None:
    """Create the folder of a broker's data if it does not exist.

    Raises:
        Stop: it cannot be created.
    """
    try:
        private_folder(data)
    except OSError as exc:
        raise Stop(
            f"{data} cannot hold a broker's data: {exc.strerror or exc}",
            hint="ANABRANCH_HOME names another folder; --bootstrap-server uses a Kafka that already runs",
        ) from exc


class Lease:
    """A held lock on the `lease` file of a broker's folder; a context manager."""

    def __init__(self, held: int) -> None:
        self._held = held

    @classmethod
    def take(cls, data: Path) -> Lease:
        """Take a lease of the broker on `data`; waits while a broker ends there.

        Raises:
            Stop: the folder cannot be used, or a broker does not end.
        """
        deadline_s = clock.now_s() + _WAIT_S
        while True:
            folder_for_data(data)
            if (held := _lock(data, fcntl.LOCK_SH)) is not None:
                return cls(held)
            if clock.now_s() > deadline_s:
                raise Stop(f"the embedded Kafka in {data} does not end", hint="anabranch broker stop")
            clock.sleep(_AGAIN_S)

    @classmethod
    def exclude(cls, data: Path) -> Lease | None:
        """Prevent further leases; returns None while somebody holds one."""
        held = _lock(data, fcntl.LOCK_EX)
        return None if held is None else cls(held)

    @staticmethod
    def is_held(data: Path) -> bool:
        """Return whether a command holds a lease."""
        if (held := _lock(data, fcntl.LOCK_EX)) is None:
            return True
        os.close(held)
        return False

    def release(self) -> None:
        """Give it back. May be called more than once."""
        if self._held >= 0:
            # Unlocked, not only closed: a child that was forked meanwhile may hold a copy of the descriptor.
            fcntl.flock(self._held, fcntl.LOCK_UN)
            os.close(self._held)
            self._held = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(data: Path, how: int) -> int | None:
    """Return a descriptor with the lock; None if it is not free, or if the file was deleted meanwhile."""
    path = data / _FILE
    try:
        # Another user may have made it, and reading suffices.
        held = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Stop(f"{path}: {exc.strerror}", hint="ANABRANCH_HOME names another folder, or change its owner") from exc
    try:
        fcntl.flock(held, how | fcntl.LOCK_NB)
        if os.fstat(held).st_ino == path.stat().st_ino:
            return held
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(held)
    return None
