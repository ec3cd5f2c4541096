"""SIGTERM and Ctrl-C end every command within seconds, whatever it waits for.

Unless a command stops by itself (`stopping`), the first signal is an exception in the main thread: what is open is
closed, what is half written is removed or was never visible. Python raises it between two of its own instructions, and
a call into librdkafka may take minutes where no broker answers: so the signal also wakes a thread, which ends the
process `GRACE_S` later. A second signal ends it at once. Either is a crash as any other: nothing that was committed is
lost, and the same command goes on from there.

Exit codes: 143 after SIGTERM and 130 after SIGINT where something was left to be done; 0 of commands that go on until
they are told to end (`worker`, `broker`, `--follow`).
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

from ..topics import clock

__all__ = ["GRACE_S", "Terminated", "exit_code", "leave_to_others", "listen", "stopping", "told"]

GRACE_S = 6.0

_ENDING = (signal.SIGTERM, signal.SIGINT)
_told: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Ctrl-C is raised."""


def listen() -> None:
    """Begin (in the main thread)."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ours,), name="anabranch-signals", daemon=True).start()
    for number in _ENDING:
        signal.signal(number, _interrupt)


def stopping(stop: Callable[[], object]) -> None:
    """Let signals call this, once for each, instead of raising an exception; it has `GRACE_S` to take effect."""

    def note(number: int, _: Any) -> None:
        _told.append(number)
        stop()

    for number in _ENDING:
        signal.signal(number, note)


def leave_to_others() -> None:
    """Who watches its own end from here on: a worker, which takes longer, and who supervises workers."""
    signal.set_wakeup_fd(-1)


def told() -> bool:
    """Whether a signal has come."""
    return bool(_told)


def exit_code() -> int:
    """Of a command that was told to end with something left to be done."""
    return 128 + (_told[0] if _told else signal.SIGINT)


def _interrupt(number: int, _: Any) -> None:
    _told.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _watch(ours: int) -> None:
    first = _next(ours, None)
    second = _next(ours, clock.now_s() + GRACE_S)
    name = signal.Signals(first or signal.SIGTERM).name
    why = "a second signal came" if second else f"still at work {GRACE_S:.0f} s after {name}: is the broker up?"
    line = f"\nended at once ({why}); what was committed stays, and the same command goes on from there\n"
    os.write(2, line.encode())
    os._exit(128 + (first or signal.SIGTERM))


def _next(ours: int, until_s: float | None) -> int | None:
    """The next signal that ends a process."""
    while True:
        left_s = None if until_s is None else max(0.0, until_s - clock.now_s())
        if not select.select([ours], [], [], left_s)[0]:
            return None
        number = os.read(ours, 1)[0]
        if number in _ENDING:
            return number
