"""SIGTERM and Ctrl-C end every command within seconds, whatever it waits for.

Unless a command stops by itself (`call_on_signal`), the first signal raises an exception in the main thread: open files
and clients are closed, and what is half written is removed or was never visible. Python raises the exception between
two of its own instructions, but a call into librdkafka may take minutes when no broker answers. So the signal also
wakes a thread, which ends the process `GRACE_S` later. A second signal ends the process at once. Either is a crash like
any other: nothing that was committed is lost, and the same command resumes from there.

Exit codes: 143 after SIGTERM and 130 after SIGINT if work was left; 0 for commands that run until they are stopped
(`worker`, `broker`, `--follow`).
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType

from ..topics import clock

__all__ = ["GRACE_S", "Terminated", "call_on_signal", "disable_deadline", "exit_code", "install", "received"]

GRACE_S = 6.0

_ENDING = (signal.SIGTERM, signal.SIGINT)
_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, as `KeyboardInterrupt` is by Ctrl-C."""


def install() -> None:
    """Install the handlers and start the thread that enforces the deadline (in the main thread)."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_enforce_deadline, args=(read_end,), name="anabranch-signals", daemon=True).start()
    for number in _ENDING:
        signal.signal(number, _interrupt)


def call_on_signal(stop: Callable[[], object]) -> None:
    """Call `stop` on each signal instead of raising an exception. The command has `GRACE_S` to end after the first."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        _received.append(number)
        stop()

    for number in _ENDING:
        signal.signal(number, on_signal)


def disable_deadline() -> None:
    """Let the process take as long as it needs: for a worker and for its supervisor, which have deadlines of their own.

    Signals still raise exceptions, until the caller installs handlers of its own.
    """
    signal.set_wakeup_fd(-1)


def received() -> bool:
    """Return whether a signal has been received."""
    return bool(_received)


def exit_code() -> int:
    """Return the exit code of a command that a signal ended while work was left."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _enforce_deadline(read_end: int) -> None:
    first = _next_signal(read_end, None)
    second = _next_signal(read_end, clock.now_s() + GRACE_S)
    name = signal.Signals(first or signal.SIGTERM).name
    why = "second signal" if second else f"still running {GRACE_S:.0f} s after {name}: is the broker up?"
    line = f"\nended at once ({why}); committed work is kept, and the same command resumes from there\n"
    os.write(2, line.encode())
    os._exit(128 + (first or signal.SIGTERM))


def _next_signal(read_end: int, until_s: float | None) -> int | None:
    """Wait for the next ending signal; None if there is none until `until_s` (monotonic clock)."""
    while True:
        left_s = None if until_s is None else max(0.0, until_s - clock.now_s())
        if not select.select([read_end], [], [], left_s)[0]:
            return None
        number = os.read(read_end, 1)[0]
        if number in _ENDING:
            return number
