"""What time it is, and waiting; the only place of a replay that knows, so that a test can be the clock."""

from __future__ import annotations

import threading
import time

__all__ = ["Clock"]


class Clock:
    """The machine's own clock."""

    def now_s(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Let time pass, unless `stop` is set or comes to be."""
        stop.wait(seconds)
