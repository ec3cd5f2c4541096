"""Enter, typed at the terminal of a worker, asks for its status."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

from ...topics import clock

__all__ = ["call_on_enter"]

_MOST_BYTES = 4096
_BACKGROUND_S = 0.5


def call_on_enter(show: Callable[[], object]) -> bool:
    """Call `show`, in a thread, for each line that is typed while this process is in the foreground of a terminal.

    The terminal keeps its settings, so that a process that is killed leaves nothing to repair.

    Returns:
        False if standard input is no terminal, or there is none; `show` is never called then.
    """
    try:
        terminal = sys.stdin.fileno()
        if not os.isatty(terminal):
            return False
        _in_foreground(terminal)
    except (AttributeError, ValueError, OSError):  # closed, or not the terminal that controls this process
        return False
    threading.Thread(target=_read, args=(terminal, show), name="anabranch-enter", daemon=True).start()
    return True


def _read(terminal: int, show: Callable[[], object]) -> None:
    try:
        while True:
            select.select([terminal], [], [])
            # Reading in the background would stop this process (SIGTTIN), and what is typed is meant for another.
            if not _in_foreground(terminal):
                clock.sleep(_BACKGROUND_S)
            elif os.read(terminal, _MOST_BYTES):
                show()
            else:
                return  # Ctrl-D
    except OSError:  # the terminal was closed
        return


def _in_foreground(terminal: int) -> bool:
    return os.tcgetpgrp(terminal) == os.getpgrp()
