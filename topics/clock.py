"""The time, and waiting: the one file that reads the machine's clock (`tests/test_tidy.py`).

Write `from ..topics import clock` and call `clock.now_s()`. These names are the machine's own functions, without a
wrapper, so that a call costs what `time.monotonic()` costs; `use` binds them to another clock. For that reason nothing
imports the functions by name, and no default argument holds one.

Timers of asyncio go by their event loop's time. What waits inside of the operating system or a client (an event, a
queue, a process, a poll of librdkafka) takes a timeout and is not waited for here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["Clock", "current", "time_of_day", "use"]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _wait(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


now_s: Callable[[], float] = time.monotonic
"""Return the monotonic time in seconds."""

now_ms: Callable[[], int] = _now_ms
"""Return the wall-clock time in milliseconds since 1970."""

sleep: Callable[[float], None] = time.sleep
"""Block this thread for so many seconds."""

wait: Callable[[threading.Event, float], None] = _wait
"""Block this thread for so many seconds, or until an event is set."""


class Clock:
    """The machine's clock as an object. A test's clock overrides all four methods."""

    def now_s(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return _now_ms()

    def sleep(self, seconds: float) -> None:
        """Block this thread for so many seconds."""
        time.sleep(seconds)

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Block this thread for so many seconds, or until `stop` is set."""
        stop.wait(seconds)


_current = Clock()


def time_of_day() -> str:
    """Return the local time as HH:MM:SS."""
    return time.strftime("%H:%M:%S", time.localtime(now_ms() / 1000))


def current() -> Clock:
    """Return the clock that this process goes by."""
    return _current


@contextmanager
def use(clock: Clock) -> Generator[None]:
    """Let the whole process, all threads of it, go by another clock inside of the block."""
    global now_s, now_ms, sleep, wait, _current
    before = now_s, now_ms, sleep, wait, _current
    now_s, now_ms, sleep, wait, _current = clock.now_s, clock.now_ms, clock.sleep, clock.wait, clock
    try:
        yield
    finally:
        now_s, now_ms, sleep, wait, _current = before
