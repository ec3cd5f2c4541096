"""Replays history into Kafka topics exactly once: files, sockets, archives and topics are read in order and produced.

history = find_history(["orders/*.jsonl.gz"], Format(key="user", time="at"))
report = Player(cluster, history, "orders").play()
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.out_of_order import OutOfOrder
    from .pipeline.pace import Pace
    from .pipeline.pipeline import Pipeline
    from .pipeline.selection import Selection
    from .pipeline.transform import Record
    from .player import Player
    from .replay_report import Progress, Report
    from .sources.file_history import FileHistory, find_history
    from .sources.format import Format

__all__ = [
    "FileHistory", "Format", "OutOfOrder", "Pace", "Pipeline", "Player", "Progress", "Record", "Report", "Selection",
    "find_history",
]  # fmt: skip

_MODULES = {
    "Pipeline": ".pipeline.pipeline",
    "OutOfOrder": ".pipeline.out_of_order",
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
    # Imported on first use: the commands are in this package, and most of them, such as the worker, replay nothing.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
