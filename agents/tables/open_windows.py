"""The windows of one partition of a window table that are not closed, and the order in which they close."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from ..event_time.channel import NEVER_MS
from ..event_time.windows import Windows

__all__ = ["OpenWindows", "Place", "WindowKey"]

WindowKey = tuple[Any, int, int]
"""A key of the table: the key of the records, and the start and the end of the window in milliseconds."""

Place = tuple[int, bytes]
"""A window in the order in which windows close: when it is complete, then the bytes of its key."""


class OpenWindows:
    """The windows that are not closed.

    Args:
        keep: returns the bytes of a key.

    Attributes:
        closed_ms: windows that were complete before this are closed.
        after: the windows up to this place are closed as well; None while none is being closed.
        is_touched: whether something has changed since it was last set to False.
    """

    __slots__ = (
        "_by_key",
        "_closing",
        "_closing_at",
        "_heap",
        "_keep",
        "_open",
        "_windows",
        "after",
        "closed_ms",
        "is_touched",
    )

    def __init__(self, windows: Windows, keep: Callable[[object], bytes]) -> None:
        self._windows, self._keep = windows, keep
        self.closed_ms, self.is_touched = NEVER_MS, False
        self.after: Place | None = None
        # When windows are complete -> their keys. May hold keys that do not exist any more.
        self._open: dict[int, set[WindowKey]] = {}
        self._heap: list[int] = []
        self._by_key: dict[Any, set[WindowKey]] = {}  # of sessions
        self._closing: list[tuple[bytes, WindowKey]] = []
        self._closing_at = 0

    def add(self, key: WindowKey) -> None:
        """Note that a window exists and is not closed."""
        self.is_touched = True
        at = self._windows.closes_after_ms(key[2])
        keys = self._open.get(at)
        if keys is None:
            keys = self._open[at] = set()
            heappush(self._heap, at)
        keys.add(key)
        if self._windows.gap_ms is not None:
            self._by_key.setdefault(key[0], set()).add(key)

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
        while True:
            if self._closing:
                kept, key = self._closing.pop()
                self.after = self._closing_at, kept
                return key
            if not self._heap or self._heap[0] >= watermark_ms:
                self.closed_ms, self.after = watermark_ms, None
                return None
            self.is_touched = True
            self._closing_at = heappop(self._heap)
            keys = self._open.pop(self._closing_at)
            for key in keys:
                self._forget_session(key)
            self._closing = sorted(((self._keep(key), key) for key in keys), reverse=True)

    def has_due(self, watermark_ms: int) -> bool:
        """Return whether `next_due` may return a window."""
        return bool(self._closing) or (bool(self._heap) and self._heap[0] < watermark_ms)

    def is_closed(self, key: WindowKey, kept: bytes) -> bool:
        """Return whether a window is closed, by its key and the key's bytes."""
        place = self._windows.closes_after_ms(key[2]), kept
        return place[0] < self.closed_ms or (self.after is not None and place <= self.after)
