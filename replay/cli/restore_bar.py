"""The progress bar that a worker shows on a terminal while it restores its tables."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ...topics.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["RestoreBar"]


class Restoring(Protocol):
    """Progress of a restore; `str` describes it.

    Attributes:
        share: part that is done, from 0 to 1.
    """

    @property
    def share(self) -> float: ...


class RestoreBar:
    """A progress bar, drawn on a terminal only; the log reports the progress everywhere.

    Args:
        console: console to draw on; by default stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def show(self, progress: Restoring | None) -> None:
        """Show the progress of a restore, or remove the bar if `progress` is None."""
        if progress is None:
            self._end()
        elif self._console.is_terminal if self._console is not None else sys.stderr.isatty():
            if self._bar is None or self._task is None:
                self._bar, self._task = self._begin()
            self._bar.update(self._task, completed=progress.share, description=printable(progress, one_line=True))

    def _begin(self) -> tuple[Progress, TaskID]:
        from rich.console import Console  # imported here because most workers need no rich
        from rich.progress import BarColumn, Progress, TextColumn

        bar = Progress(
            BarColumn(30),
            TextColumn("{task.description}", markup=False),
            console=self._console or Console(stderr=True),
            transient=True,
        )
        task = bar.add_task("", total=1.0)
        bar.start()
        return bar, task

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._end()
