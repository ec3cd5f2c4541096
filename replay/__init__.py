"""History back into the stream: files and sockets read in order, and played into a topic exactly once.

history = find_history(["orders/*.jsonl.gz"], Format(key="user", time="at"))
report = Player(cluster, history, "orders").play()
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .course.course import Course
    from .course.disorder import Disorder
    from .course.pace import Pace
    from .course.selection import Selection
    from .course.transform import Record
    from .player import Player
    from .report import Progress, Report
    from .sources.format import Format
    from .sources.history import History, find_history

__all__ = [
    "Course", "Disorder", "Format", "History", "Pace", "Player", "Progress", "Record", "Report", "Selection",
    "find_history",
]  # fmt: skip

_HOMES = {
    "Course": ".course.course",
    "Disorder": ".course.disorder",
    "Pace": ".course.pace",
    "Selection": ".course.selection",
    "Record": ".course.transform",
    "Player": ".player",
    "Progress": ".report",
    "Report": ".report",
    "Format": ".sources.format",
    "History": ".sources.history",
    "find_history": ".sources.history",
}


def __getattr__(name: str) -> Any:
    # Commands live below this page, and most of them, workers above all, replay nothing.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
