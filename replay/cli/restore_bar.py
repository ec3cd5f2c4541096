"""A line on the terminal while a worker restores its tables."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...topics.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["RestoreBar"]


class RestoreBar:
    """Shown while there is something to restore, on a terminal only; the log has it everywhere.

    Args:
        console: where it is drawn; stderr unless given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None

    def show(self, progress: Any) -> None:
        """A worker's `RestoreProgress`; None when it is done."""
        if progress is None:
            self._end()
        elif self._console.is_terminal if self._console is not None else sys.stderr.isatty():
            self._bar = self._bar or self._begin()
            self._bar.update(self._task, completed=progress.share, description=printable(progress, one_line=True))

    def _begin(self) -> Progress:
        from rich.console import Console  # a worker needs it for this, if at all
        from rich.progress import BarColumn, Progress, TextColumn

        bar = Progress(
            BarColumn(30), TextColumn("{task.description}", markup=False), console=self._console or Console(stderr=True)
        )
        self._task = bar.add_task("", total=1.0)
        bar.start()
        return bar

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> RestoreBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._end()
