"""The windows of one partition of a window table that are not closed, and the order in which they close."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import itemgetter
from typing import Any

from ..event_time.channel import END_MS, NEVER_MS
from ..event_time.windows import Windows

__all__ = ["OpenWindows", "Place", "WindowKey"]

WindowKey = tuple[Any, int, int]
"""A key of the table: the key of the records, and the start and the end of the window in milliseconds."""

Place = tuple[int, bytes]
"""A window in the order in which windows close: when it is complete, then the bytes of its key."""


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
        "_expected_ms",
        "_heap",
        "_keep",
        "_open",
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
        self._closing: list[tuple[bytes, WindowKey]] = []
        self._closing_at = 0
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

    def existing(self, keys: Iterable[WindowKey]) -> list[WindowKey]:
        """Return the keys of those windows that are noted as open."""
        known, after = self._open, self._windows.closes_after_ms
        return [key for key in keys if (at := after(key[2])) in known and key in known[at]]

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
        return sum(map(len, self._open.values())) + len(self._closing)

    @property
    def next_ms(self) -> int | None:
        """When the next window is complete: once the watermark is beyond this; None if no window is open."""
        if self._closing:
            return self._closing_at
        return min((at for at, keys in self._open.items() if keys), default=None)

    def next_due(self, watermark_ms: int) -> WindowKey | None:
        """Return the next window that is complete, in the order of its completion and then of its key's bytes, and note
        it as closed. None if there is no more."""
        found = self.take_due(watermark_ms, 1)
        return found[0] if found else None

    def take_due(self, watermark_ms: int, most: int) -> list[WindowKey]:
        """Return the next windows that are complete, as `next_due` does, and note them as closed; none if there are no
        more. Only then `closed_ms` moves on: windows expire by it, and those that are returned must be readable."""
        taken: list[WindowKey] = []
        while len(taken) < most:
            if self._closing:
                part = self._closing[len(taken) - most :]
                del self._closing[len(taken) - most :]
                taken.extend(key for _, key in reversed(part))
                if self.changed:
                    for _, key in part:
                        self.changed.pop(key, None)
                self.after = self._closing_at, part[0][0]
            elif self.has_due(watermark_ms):
                keys = self._begin()
                self._closing = sorted(zip(self._keep(keys), keys, strict=True), key=itemgetter(0), reverse=True)
            else:
                break
        if not taken:
            self.closed_ms, self.after = watermark_ms, None
        return taken

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
        self._closing = []
        while self.has_due(watermark_ms):
            self._begin()
        self.closed_ms, self.after = watermark_ms, None

    def _begin(self) -> set[WindowKey]:
        """Begin to close the windows that are complete first, and return them."""
        self.is_touched = True
        self._closing_at = heappop(self._heap)
        keys = self._open.pop(self._closing_at)
        if self._by_key:
            for key in keys:
                self._forget_session(key)
        return keys

    def has_due(self, watermark_ms: int) -> bool:
        """Return whether `next_due` may return a window."""
        return bool(self._closing) or (bool(self._heap) and self._heap[0] < watermark_ms)

    def is_closed(self, key: WindowKey, kept: bytes) -> bool:
        """Return whether a window is closed, by its key and the key's bytes."""
        place = self._windows.closes_after_ms(key[2]), kept
        return place[0] < self.closed_ms or (self.after is not None and place <= self.after)
