"""A clock that moves only when it is told to, or when somebody waits."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from ...topics.clock import Clock

__all__ = ["START", "VirtualClock"]

START = datetime(2026, 1, 1, tzinfo=UTC)

# Floats count the time since the start; a sum of steps may be below a whole millisecond by this much.
_ROUNDING_MS = 1e-3


class VirtualClock(Clock):
    """A clock that waits for nothing: `sleep` and `wait` move it and return at once.

    Args:
        start: the time of day at which it begins; its seconds begin at 0.
    """

    def __init__(self, start: datetime = START) -> None:
        self._start_ms = round(start.timestamp() * 1000)
        self._now_s = 0.0

    def now_s(self) -> float:
        """Return the seconds since the clock's start."""
        return self._now_s

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return self._start_ms + int(self._now_s * 1000 + _ROUNDING_MS)

    @property
    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def sleep(self, seconds: float) -> None:
        """Move by so many seconds."""
        self.move_to(self._now_s + seconds)

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Move by so many seconds, unless `stop` is set."""
        if not stop.is_set():
            self.sleep(seconds)

    def move_to(self, at_s: float) -> None:
        """Move to a time in seconds since the start; a time that has passed leaves the clock as it is."""
        self._now_s = max(self._now_s, at_s)
