"""The terminal: what is printed, and progress while it goes on. JSON lines where nobody sits at one."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ...topics.printable import printable

__all__ = ["ProgressView", "Screen", "err", "out", "plain", "write_json"]


class Screen(Console):
    """A console on which text is shown as it is: no markup in it counts, and nothing that a terminal would obey.

    A line of our own that is styled by markup is printed with `markup=True`, and what it holds of others goes through
    `plain`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """See `Console`."""
        return super().render_str(printable(text), **settings)


# Where nobody looks, lines need not be broken; 0 takes the terminal's width.
_WIDTH = 0 if sys.stdout.isatty() else 140
out = Screen(width=_WIDTH or None)
err = Screen(stderr=True)


def plain(text: object) -> str:
    """A text to be put into markup."""
    return escape(str(text))


def write_json(facts: object) -> None:
    """A line of JSON on stdout, without characters that a terminal would obey."""
    sys.stdout.write(printable(msgspec.json.encode(facts).decode()) + "\n")
    sys.stdout.flush()


_LINE_EVERY_S = 2.0


class ProgressView:
    """Progress of long work on stderr: bars on a terminal, a JSON line every two seconds elsewhere."""

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[said]}", markup=False),
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
                self._tasks[name] = self._bars.add_task(printable(name, one_line=True), total=total, said="")
            said = printable(said, one_line=True)
            self._bars.update(self._tasks[name], completed=done, total=total, said=said)
        elif time.monotonic() - self._lined_s >= _LINE_EVERY_S:
            self._lined_s = time.monotonic()
            sys.stderr.write(json.dumps({"progress": name, "done": done, "total": total, **facts}) + "\n")
