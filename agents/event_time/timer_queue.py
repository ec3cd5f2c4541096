"""The order in which timers become due, over a table that holds them.

The table says which timers there are; this says which one is due next, without looking at all. It holds *at least* the
timers of the table: entries of timers that were cancelled or replaced stay until they come up, and the caller skips
them. So nothing has to be undone here when a rollback returns the table to an earlier content, except that what was
taken meanwhile comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

__all__ = ["TimerQueue"]

# The queue is rebuilt from the table when it has grown beyond twice its last size and this.
_SLACK = 10_000

Entry = tuple[int, bytes]
"""When a timer is due, in milliseconds, and the bytes of its key."""


class TimerQueue:
    """A queue of timers, the earliest first, then by the bytes of their keys.

    Args:
        entries: the timers of the table.
    """

    __slots__ = ("_committing", "_heap", "_last", "_limit", "_taken", "_taken_before")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._heap = list(set(entries))
        heapify(self._heap)
        self._limit = 2 * len(self._heap) + _SLACK
        self._last: int | None = None
        # What was taken since the last savepoint, before that in this epoch, and in the epoch that is being committed.
        self._taken: list[Entry] = []
        self._taken_before: list[Entry] = []
        self._committing: list[Entry] = []

    def add(self, due_ms: int, key: bytes) -> None:
        """Add a timer."""
        heappush(self._heap, (due_ms, key))
        self._last = None

    @property
    def first(self) -> Entry | None:
        """The entry that comes up next; it may be of a timer that is not there any more."""
        return self._heap[0] if self._heap else None

    def take(self) -> None:
        """Remove the first entry, until a rollback."""
        self._taken.append(heappop(self._heap))
        self._last = None

    @property
    def last_ms(self) -> int | None:
        """When the last entry comes up; None without entries."""
        if self._last is None and self._heap:
            self._last = max(self._heap)[0]
        return self._last

    @property
    def is_overgrown(self) -> bool:
        """True if most entries are of timers that are not there any more, so that it should be made anew."""
        return len(self._heap) > self._limit

    # The table's transactions -----------------------------------------------------------------------------------------

    def savepoint(self) -> None:
        """Let `undo` return to this point."""
        self._taken_before += self._taken
        self._taken.clear()

    def undo(self) -> None:
        """Put back what was taken since the last savepoint."""
        self._put_back(self._taken)

    def freeze(self) -> None:
        """Begin a new epoch, while the one before is being committed."""
        self.savepoint()
        self._committing += self._taken_before
        self._taken_before.clear()

    def commit(self) -> None:
        """Forget what was taken in the epoch before: it is committed."""
        self._committing.clear()

    def drop(self) -> None:
        """Put back all that is not committed."""
        for taken in (self._taken, self._taken_before, self._committing):
            self._put_back(taken)

    def _put_back(self, taken: list[Entry]) -> None:
        for entry in taken:
            heappush(self._heap, entry)
        taken.clear()
        self._last = None
