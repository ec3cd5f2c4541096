"""What a person sees: progress while it goes on, a report at the end. JSON lines where nobody sits at a terminal."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from .report import Progress as ReplayProgress
from .report import Report
from .run import RunReport, Watcher
from .shown import shown_ms
from .tables import Snapshot, rows_of

__all__ = ["ProgressView", "RunView", "show_replay", "show_run", "show_table"]

# Where nobody looks, lines need not be broken; 0 takes the terminal's width.
_WIDTH = 0 if sys.stdout.isatty() else 140
out = Console(width=_WIDTH or None)
err = Console(stderr=True)

_ROWS = 20
_RATED = 10_000
_LINE_EVERY_S = 2.0


class ProgressView:
    """Progress of long work on stderr: bars on a terminal, a JSON line every two seconds elsewhere."""

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
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

    def replaying(self, name: str, progress: ReplayProgress) -> None:
        """A replay's progress."""
        rate = progress.sent / progress.seconds if progress.seconds else 0.0
        said = f"{progress.sent:,} records  {rate:,.0f}/s"
        if progress.size_bytes and progress.done_bytes:
            left_s = progress.seconds * (progress.size_bytes - progress.done_bytes) / progress.done_bytes
            said += f"  {left_s:.0f} s left"
        self.move(name, progress.done_bytes, progress.size_bytes or None, said, sent=progress.sent)


class RunView(ProgressView, Watcher):
    """Progress of a bounded run."""

    def replaying(self, topic: str, progress: ReplayProgress) -> None:
        """As a replay's."""
        super().replaying(f"replay → {topic}", progress)

    def draining(self, done: int, left: int) -> None:
        """Agents at work."""
        self.move("agents", done, done + left, f"{left:,} offsets left", left=left)

    def note(self, text: str) -> None:
        """A line."""
        err.print(text)


def show_replay(report: Report) -> None:
    """What a replay did."""
    if report.already_done:
        out.print(
            f"run {report.run_id} was finished before: {report.sent:,} records are in [bold]{report.topic}[/bold]; "
            "nothing was written"
        )
        return
    resumed = f", resumed after {report.resumed_from:,}" if report.resumed_from else ""
    spread = "  ".join(f"{p}: {n:,}" for p, n in sorted(report.counts.items()))
    out.print(
        f"[bold]{report.sent_now:,}[/bold] records → [bold]{report.topic}[/bold] in {report.seconds:.1f} s"
        f"{f' ({report.rate:,.0f}/s)' if report.sent_now >= _RATED else ''}{resumed}"
    )
    out.print(f"  run {report.run_id}   partitions {spread or '-'}")
    _show_bad(report)
    if not report.done:
        out.print("  stopped before the end" + ("; the same command goes on from there" if report.resumable else ""))


def _show_bad(report: Report) -> None:
    if report.skipped:
        out.print(f"  [yellow]{report.skipped:,} bad lines skipped[/yellow]")
    if report.dead_letters:
        out.print(f"  [yellow]{report.dead_letters:,} bad lines in {report.topic}.dlq[/yellow]")
    for example in report.examples[:3]:
        out.print(f"    {example}", markup=False)
    if report.late:
        out.print(
            f"  [yellow]{report.late:,} records were late in their source, by {shown_ms(report.late_ms)} at most; "
            "they keep their places (--disorder)[/yellow]"
        )
    for warning in report.warnings:
        out.print(f"  [yellow]{warning}[/yellow]")


def show_run(report: RunReport) -> None:
    """What a bounded run did."""
    if report.finished_before:
        out.print(f"run {report.run_id} was finished before: {report.records:,} records; nothing was computed again")
    else:
        # Of a few records it would only say how long a start takes.
        rate = f"{report.records_now / report.seconds:,.0f}/s, " if report.records_now >= _RATED else ""
        out.print(
            f"[bold]{report.records:,}[/bold] records through the agents in {report.seconds:.1f} s "
            f"({rate}exactly once)   run {report.run_id}"
        )
    for replay in report.replays:
        out.print(f"  {replay.sent:>10,} → {replay.topic}")
        _show_bad(replay)
    for topic, count in report.dead_letters.items():
        out.print(f"  [yellow]{count:>10,} dead letters in {topic}[/yellow]")
    if report.restarts:
        out.print(f"  a worker was killed and started again {report.restarts} times; totals are not touched by that")
    if report.snapshot is not None:
        show_table(report.snapshot)
    if report.output is not None and report.snapshot is not None:
        out.print(f"{len(report.snapshot):,} keys → [bold]{report.output}[/bold]")


def show_table(snapshot: Snapshot, *, most: int = _ROWS, title: str | None = None) -> None:
    """A table's first rows and its digest."""
    out.print(table_grid(snapshot, most=most, title=title))
    out.print(f"digest {snapshot.digest()}   {len(snapshot):,} keys")


def table_grid(snapshot: Snapshot, *, most: int = _ROWS, title: str | None = None) -> Grid:
    """A table's first rows as something rich can print."""
    columns, rows = rows_of(snapshot)
    grid = Grid(title=title or snapshot.table.help or snapshot.table.name, title_justify="left")
    for i, column in enumerate(columns):
        numbers = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        grid.add_column(column, justify="right" if numbers and i else "left")
    for row in rows[:most]:
        grid.add_row(*[_shown(cell) for cell in row])
    if len(rows) > most:
        grid.add_row(*["…"] * len(columns))
    return grid


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.2f}"
