"""Whether a process runs, by its id."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_running"]


def is_running(pid: int) -> bool:
    """Return whether a process with this id runs, of any user. One that has ended does not, even if it is a zombie."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process of another user
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # not Linux
        return True
    # A process that has ended is a zombie until its parent asks for its exit code.
    return stat.rpartition(")")[2].split()[0] != "Z"
