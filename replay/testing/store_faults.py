"""Faults of stores: a seam between the engine and the stores of a worker, and damage of the files of stores on disk.

The seam has the form of Kafka's (`MemoryKafka.interceptor`): each write goes through `call(place, "store", act)`, which
may act, raise before it acts, or raise after it has acted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ...agents.tables.store import Changes, Store
from ...agents.tables.store_directory import StorePlace
from ...topics.errors import Stop
from .faults import STORE

__all__ = ["StoreInterceptor", "WatchedStore", "full_disk", "spoil"]


class StoreInterceptor(Protocol):
    """Stands between the engine and the writes of its stores."""

    def call(self, client: StorePlace, operation: str, act: Callable[[], None]) -> None:
        """Perform a write, or let it fail."""
        ...


class WatchedStore:
    """A store whose writes go through an interceptor; it keeps the contract of `Store` otherwise."""

    def __init__(self, store: Store, place: StorePlace, interceptor: StoreInterceptor) -> None:
        self._store, self.place, self._interceptor = store, place, interceptor
        self.position = store.position
        # Reads do not go through this class.
        self.get, self.items, self.page = store.get, store.items, store.page
        self.begin_restore, self.approximate_count = store.begin_restore, store.approximate_count

    def apply(self, changes: Changes, position: int) -> None:
        """Write changes and the changelog position after them, unless the interceptor prevents it."""
        self._write(lambda: self._store.apply(changes, position))

    def end_restore(self) -> None:
        """Note that the restore has reached the changelog's end; this is a write, too."""
        self._write(self._store.end_restore)

    def _write(self, write: Callable[[], None]) -> None:
        self._store.position = self.position  # the engine may have set it
        try:
            self._interceptor.call(self.place, STORE, write)
        finally:
            self.position = self._store.position

    def __len__(self) -> int:
        return len(self._store)

    def close(self) -> None:
        """Free the store."""
        self._store.close()


def full_disk(place: StorePlace) -> Stop:
    """Return the error that a store on disk raises if the disk is full."""
    return Stop(
        f"cannot write {place.folder}: IO error: No space left on device",
        hint="check the disk, then start the worker again",
    )


def spoil(folder: Path, how: str, rng: random.Random) -> Iterator[Path]:
    """Damage files of the stores below a folder, which no process may have open; iterate over the damaged files.

    Args:
        how: `flip` changes bytes, `cut` shortens a file, `lose` deletes it.
    """
    for store in sorted({path.parent for path in folder.rglob("CURRENT")}):
        files = sorted(path for path in store.iterdir() if path.is_file() and path.stat().st_size)
        for path in rng.sample(files, min(len(files), 2)):
            size = path.stat().st_size
            if how == "lose":
                path.unlink()
            elif how == "cut":
                os.truncate(path, rng.randrange(size))
            else:
                data = bytearray(path.read_bytes())
                for at in rng.choices(range(size), k=4):
                    data[at] ^= 0xFF
                path.write_bytes(data)
            yield path
