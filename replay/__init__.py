"""History back into the stream: files and sockets read in order, and played into a topic exactly once.

history = find_history(["orders/*.jsonl.gz"], Format(key="user", time="at"))
report = Player(cluster, history, "orders").play()
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.lateness import Disorder
    from .pipeline.pace import Pace
    from .pipeline.pipeline import Pipeline
    from .pipeline.selection import Selection
    from .pipeline.transform import Record
    from .player import Player
    from .replay_report import Progress, Report
    from .sources.file_history import FileHistory, find_history
    from .sources.format import Format

__all__ = [
    "Disorder", "Format", "FileHistory", "Pace", "Pipeline", "Player", "Progress", "Record", "Report", "Selection",
    "find_history",
]  # fmt: skip

_HOMES = {
    "Pipeline": ".pipeline.pipeline",
    "Disorder": ".pipeline.lateness",
    "Pace": ".pipeline.pace",
    "Selection": ".pipeline.selection",
    "Record": ".pipeline.transform",
    "Player": ".player",
    "Progress": ".replay_report",
    "Report": ".replay_report",
    "Format": ".sources.format",
    "FileHistory": ".sources.file_history",
    "find_history": ".sources.file_history",
}


def __getattr__(name: str) -> Any:
    # Commands live below this page, and most of them, workers above all, replay nothing.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
