"""The terminal: output on stdout, progress on stderr; progress is JSON lines if stderr is not a terminal."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from ...topics import clock
from ...topics.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table as Grid

__all__ = ["ProgressView", "Screen", "counted", "err", "folding", "out", "plain", "write_json"]


class Screen(Console):
    """A console that prints text as it is: markup in it has no effect, and control characters are escaped.

    To style a line, print it with `markup=True` and pass the text of others in it through `plain`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Render a text after escaping its control characters."""
        return super().render_str(printable(text), **settings)


# Output that goes to a file or a pipe has a fixed width, so that lines are not broken; None uses the terminal's width.
_WIDTH = None if sys.stdout.isatty() else 140
out = Screen(width=_WIDTH)
err = Screen(stderr=True)


def plain(text: object) -> str:
    """Escape a text for use inside a line with markup."""
    return escape(str(text))


def folding(grid: Grid) -> Grid:
    """Let the cells of a table that are too wide continue on the next line: names are there to be typed."""
    for column in grid.columns:
        column.overflow = "fold"
    return grid


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "record"), counted(20_000, "bad line")
    ('1 record', '20,000 bad lines')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def write_json(facts: object) -> None:
    """Write a line of JSON to stdout; control characters that JSON allows are escaped, too."""
    sys.stdout.write(printable(msgspec.json.encode(facts).decode()) + "\n")
    sys.stdout.flush()


_LINE_EVERY_S = 2.0


class ProgressView:
    """Progress of long work on stderr: bars on a terminal, otherwise a JSON line every two seconds."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = 0.0

    def __enter__(self) -> Self:
        if err.is_terminal:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[status]}", markup=False),
                TimeElapsedColumn(),
                console=err,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, name: str, done: float, total: float | None, status: str, *, unit: str, **facts: object) -> None:
        """Show the progress of the work called `name`.

        Args:
            done: work done, in `unit`s.
            total: all of the work, in `unit`s; None if it is unknown.
            status: text beside the bar.
            unit: unit of `done` and `total`, such as `bytes`.
            facts: more fields of the JSON line.
        """
        if self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(printable(name, one_line=True), total=total, status="")
            status = printable(status, one_line=True)
            self._bars.update(self._tasks[name], completed=done, total=total, status=status)
        elif clock.now_s() - self._last_line_s >= _LINE_EVERY_S:
            self._last_line_s = clock.now_s()
            line = {"progress": name, f"done_{unit}": done, f"total_{unit}": total, **facts}
            sys.stderr.write(json.dumps(line) + "\n")
