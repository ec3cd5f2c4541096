"""The terminal: what is printed, and progress while it goes on. JSON lines where nobody sits at one."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["ProgressView", "err", "out"]

# Where nobody looks, lines need not be broken; 0 takes the terminal's width.
_WIDTH = 0 if sys.stdout.isatty() else 140
out = Console(width=_WIDTH or None)
err = Console(stderr=True)

_LINE_EVERY_S = 2.0


class ProgressView:
    """Progress of long work on stderr: bars on a terminal, a JSON line every two seconds elsewhere."""

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=err,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lined_s = 0.0

    def __enter__(self) -> Self:
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if err.is_terminal:
            self._bars.stop()

    def move(self, name: str, done: float, total: float | None, said: str, **facts: Any) -> None:
        """Say how far `name` is; without a total it only spins."""
        if err.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, said="")
            self._bars.update(self._tasks[name], completed=done, total=total, said=said)
        elif time.monotonic() - self._lined_s >= _LINE_EVERY_S:
            self._lined_s = time.monotonic()
            sys.stderr.write(json.dumps({"progress": name, "done": done, "total": total, **facts}) + "\n")
