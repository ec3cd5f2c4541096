"""The windows of one partition of a window table that are not closed, and the order in which they close."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heappop, heappush, merge
from itertools import islice
from typing import Any

from ..event_time.channel import END_MS, NEVER_MS
from ..event_time.windows import Windows

__all__ = ["OpenWindows", "Place", "WindowKey"]

WindowKey = tuple[Any, int, int]
"""A key of the table: the key of the records, and the start and the end of the window in milliseconds."""

Place = tuple[int, bytes]
"""A window in the order in which windows close: when it is complete, then the bytes of its key."""


_SORTED = 5_000
"""Windows that one call of `take_due` puts into the order in which they close: of a million it takes seconds."""


class OpenWindows:
    """The windows that are not closed.

    Args:
        keep: returns the bytes of keys.

    Attributes:
        closed_ms: windows that were complete before this are closed.
        after: the windows up to this place are closed as well; None while none is being closed.
        is_touched: whether something has changed since it was last set to False.
        changed: windows that have changed since they were last taken by `take_changed`; None before its first call.
        taken_changes: how often `take_changed` has returned windows. It is written with the epoch, so that it is known
            when a rollback has undone it.
    """

    __slots__ = (
        "_by_key",
        "_closing",
        "_closing_at",
        "_closing_left",
        "_expected_ms",
        "_heap",
        "_keep",
        "_open",
        "_sorted",
        "_unsorted",
        "_windows",
        "after",
        "changed",
        "closed_ms",
        "is_touched",
        "taken_changes",
    )

    def __init__(self, windows: Windows, keep: Callable[[Collection[WindowKey]], list[bytes]]) -> None:
        self._windows, self._keep = windows, keep
        self.closed_ms, self.is_touched = NEVER_MS, False
        self.after: Place | None = None
        self.changed: dict[WindowKey, None] | None = None
        self.taken_changes = 0
        # When windows are complete -> their keys. May hold keys that do not exist any more.
        self._open: dict[int, set[WindowKey]] = {}
        self._heap: list[int] = []
        self._by_key: dict[Any, set[WindowKey]] = {}  # of sessions
        # Those that are being closed: first they are sorted, in parts, then these are merged.
        self._closing_at, self._closing_left = NEVER_MS, 0
        self._unsorted: Iterator[WindowKey] | None = None
        self._sorted: list[list[tuple[bytes, WindowKey]]] = []
        self._closing: Iterator[tuple[bytes, WindowKey]] = iter(())
        self._expected_ms = END_MS

    def add(self, key: WindowKey) -> None:
        """Note that a window exists and is not closed."""
        self.is_touched = True
        if self.changed is not None:
            self.changed[key] = None
        at = self._windows.closes_after_ms(key[2])
        keys = self._open.get(at)
        if keys is None:
            keys = self._open[at] = set()
            heappush(self._heap, at)
        keys.add(key)
        if self._windows.gap_ms is not None:
            self._by_key.setdefault(key[0], set()).add(key)

    def expect(self, at_ms: int) -> None:
        """Note that pending changes will add windows, the first of which is complete at a time."""
        self._expected_ms = min(self._expected_ms, at_ms)

    def may_be_due(self, watermark_ms: int) -> bool:
        """Return whether windows may be complete; they may be among those that pending changes will add."""
        return self._expected_ms < watermark_ms or self.has_due(watermark_ms)

    def possible(self, keys: Iterable[WindowKey]) -> list[WindowKey]:
        """Return the keys of those windows that may exist: they are noted as open, are being closed, or are so old that
        they may be closed."""
        known, after = self._open, self._windows.closes_after_ms
        begun_ms = max(self.closed_ms - 1, self._closing_at, NEVER_MS if self.after is None else self.after[0])
        return [key for key in keys if (at := after(key[2])) <= begun_ms or (at in known and key in known[at])]

    def add_all(self, end_ms: int, keys: Sequence[WindowKey]) -> None:
        """Note that windows with an end exist and are not closed; they are no sessions. What was expected is added."""
        self._expected_ms = END_MS
        self.add(keys[0])
        self._open[self._windows.closes_after_ms(end_ms)].update(keys)
        if self.changed is not None:
            self.changed.update(dict.fromkeys(keys))

    def has_any(self, end_ms: int) -> bool:
        """Return whether windows with an end are noted as open; they are no sessions."""
        return bool(self._open.get(self._windows.closes_after_ms(end_ms)))

    def remove(self, key: WindowKey) -> None:
        """Note that a session has become part of another one."""
        self.is_touched = True
        self._open[self._windows.closes_after_ms(key[2])].discard(key)
        self._forget_session(key)

    def _forget_session(self, key: WindowKey) -> None:
        sessions = self._by_key.get(key[0])
        if sessions is not None:
            sessions.discard(key)
            if not sessions:
                del self._by_key[key[0]]

    def sessions(self, key: object) -> list[WindowKey]:
        """Return the sessions of a key that are not closed, the earliest first."""
        return sorted(self._by_key.get(key, ()), key=lambda session: session[1])

    def __len__(self) -> int:
        return sum(map(len, self._open.values())) + self._closing_left

    @property
    def next_ms(self) -> int | None:
        """When the next window is complete: once the watermark is beyond this; None if no window is open."""
        if self._closing_left:
            return self._closing_at
        return min((at for at, keys in self._open.items() if keys), default=None)

    @property
    def first_ms(self) -> int | None:
        """A lower bound of `next_ms` that is found quickly: windows that do not exist any more count as well."""
        return self._closing_at if self._closing_left else self._heap[0] if self._heap else None

    def take_due(self, watermark_ms: int, most: int) -> list[WindowKey]:
        """Return the next windows that are complete, and note them as closed.

        Their order is that of their completion, and then of their keys' bytes.

        Returns:
            None of them if there are no more, or, while `has_due`, if their order is not known yet: that of many
            windows takes several calls, between which a worker can do something else.
        """
        taken: list[WindowKey] = []
        while len(taken) < most:
            if self._unsorted is not None:
                if not self._sort_some(self._unsorted):
                    return taken
            elif self._closing_left:
                part = list(islice(self._closing, most - len(taken)))
                self._closing_left -= len(part)
                self.is_touched = True
                taken.extend(key for _, key in part)
                if self.changed:
                    for _, key in part:
                        self.changed.pop(key, None)
                self.after = self._closing_at, part[-1][0]
            elif self.has_due(watermark_ms):
                # Nothing is touched by this: a commit without changes must not have all windows read and sorted again.
                keys = self._begin()
                self._unsorted, self._sorted, self._closing_left = iter(keys), [], len(keys)
            else:
                break
        # Only with the next call: windows expire by `closed_ms`, and those that are returned must be readable.
        if not taken:
            self.closed_ms, self.after = watermark_ms, None
        return taken

    def _sort_some(self, unsorted: Iterator[WindowKey]) -> bool:
        """Sort the next windows that are being closed; return whether all of them are sorted."""
        keys = list(islice(unsorted, _SORTED))
        if keys:
            self._sorted.append(sorted(zip(self._keep(keys), keys, strict=True)))  # no two have the same bytes
        if len(keys) == _SORTED:
            return False
        self._unsorted, self._closing, self._sorted = None, merge(*self._sorted), []
        return True

    def take_changed(self, most: int) -> list[WindowKey]:
        """Return some open windows that have changed, those first that changed first, and forget that they have; with
        the first call after a restore or a rollback, all open windows count as changed."""
        if self.changed is None:
            self.changed = dict.fromkeys(key for keys in self._open.values() for key in keys)
        taken = list(islice(self.changed, most))
        for key in taken:
            del self.changed[key]
        self.taken_changes += bool(taken)
        return taken

    def close_due(self, watermark_ms: int) -> None:
        """Note all windows that are complete as closed."""
        self._unsorted, self._sorted, self._closing, self._closing_left = None, [], iter(()), 0
        while self.has_due(watermark_ms):
            self.is_touched = True
            self._begin()
        self.closed_ms, self.after = watermark_ms, None

    def _begin(self) -> set[WindowKey]:
        """Begin to close the windows that are complete first, and return them."""
        self._closing_at = heappop(self._heap)
        keys = self._open.pop(self._closing_at)
        if self._by_key:
            for key in keys:
                self._forget_session(key)
        return keys

    def has_due(self, watermark_ms: int) -> bool:
        """Return whether `take_due` returns a window, now or after some calls."""
        return self._closing_left > 0 or (bool(self._heap) and self._heap[0] < watermark_ms)

    def is_closed(self, key: WindowKey, kept: bytes) -> bool:
        """Return whether a window is closed, by its key and the key's bytes."""
        place = self._windows.closes_after_ms(key[2]), kept
        return place[0] < self.closed_ms or (self.after is not None and place <= self.after)
