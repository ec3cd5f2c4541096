"""Finds the expired keys of one table partition in bounded steps, one step a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .store import Store

__all__ = ["ExpirySweep"]

# One step examines at most this many pairs, and the whole partition is examined so many times in a time-to-live.
SWEEP_PAIRS = 5_000
SWEEPS = 8


class ExpirySweep:
    """Examines the store of one partition for expired keys.

    Args:
        ttl_ms: the time-to-live of the keys.
        written_by: returns the keys of those stored pairs that were written until a time, in ms.
    """

    def __init__(
        self, store: Store, ttl_ms: int, written_by: Callable[[Iterable[tuple[bytes, bytes]], int], set[bytes]]
    ) -> None:
        self._store, self._ttl_ms, self._written_by = store, ttl_ms, written_by
        self._cursor: object = None
        self._due_ms = -1
        self._found: tuple[set[bytes], object] | None = None  # of the current step: expired keys, and the next cursor

    def is_due(self, stream_ms: int) -> bool:
        """Return whether a commit at this stream time has keys to examine."""
        return self._found is not None or self._cursor is not None or stream_ms >= self._due_ms

    def keys(self, stream_ms: int) -> set[bytes]:
        """Return some expired keys of the store; the same ones until `end`."""
        if self._found is None:
            if self._cursor is None:
                if stream_ms < self._due_ms:
                    return set()
                self._due_ms = stream_ms + max(1, self._ttl_ms // SWEEPS)
            pairs, rest = self._store.page(self._cursor, SWEEP_PAIRS)
            self._found = self._written_by(pairs, stream_ms - self._ttl_ms), rest
        return self._found[0]

    def end(self, *, committed: bool) -> None:
        """End the step: with `committed` its keys were removed, otherwise the next step examines them again."""
        if self._found is not None and (committed or not self._found[0]):
            self._cursor = self._found[1]
        self._found = None
