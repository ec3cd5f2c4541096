"""The line of the user's code that an error comes from."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

__all__ = ["raised_at"]

# The package's folders, Python's own modules and installed packages; all other code is the user's.
_ROOT = Path(__file__).parents[1]
_JOBS = _ROOT / "agents" / "jobs"
_NOT_USERS = {_ROOT / room for room in ("topics", "agents", "replay")} | {
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
}


def raised_at(error: BaseException) -> str | None:
    """Return `file:line in function` of the innermost frame of the user's code; None if there is none.

    Paths below the working directory are relative to it.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if frame.filename.startswith("<") or not _is_users(path):
            continue
        return f"{_from_here(path)}:{frame.lineno} in {frame.name}"
    return None


def _from_here(path: Path) -> Path:
    try:
        here = Path.cwd()
    except OSError:  # the working directory has been deleted
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path


def _is_users(path: Path) -> bool:
    return _JOBS in path.parents or _NOT_USERS.isdisjoint(path.parents)
