"""What a person sees: progress while it goes on, a report at the end. JSON lines where nobody sits at a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table as Grid

from ..replay_report import Progress
from ..runs.bounded_run import RunReport, Watcher
from ..table_reader import Snapshot
from .console import ProgressView, err, out, plain
from .replay_output import ReplayView, show_bad, show_refused

__all__ = ["ProgressView", "RunView", "err", "out", "show_run", "show_table", "table_grid"]

_ROWS = 20
_NUMBERS = (int, float, type(None))
_RATED = 10_000


class RunView(ReplayView, Watcher):
    """Progress of a bounded run."""

    def replaying(self, topic: str, progress: Progress) -> None:
        """As a replay's."""
        super().replaying(f"replay → {topic}", progress)

    def draining(self, done: int, left: int) -> None:
        """Agents at work."""
        self.move("agents", done, done + left, f"{left:,} offsets left", left=left)

    def note(self, text: str) -> None:
        """A line."""
        err.print(text)


def show_run(report: RunReport) -> None:
    """What a bounded run did."""
    if report.finished_before:
        what = f"into live of {report.app_id}" if report.into_live else f"run {report.run_id}"
        out.print(f"{what} was finished before: {report.records:,} records; nothing was computed again")
    else:
        # Of a few records it would only say how long a start takes.
        rate = f"{report.records_now / report.seconds:,.0f}/s" if report.records_now >= _RATED else ""
        promise = "" if report.failures else "exactly once"
        facts = ", ".join(filter(None, (rate, promise)))
        out.print(
            f"[bold]{report.records:,}[/bold] records through the agents in {report.seconds:.1f} s"
            f"{f' ({facts})' if facts else ''}   {'into live' if report.into_live else plain(f'run {report.run_id}')}",
            markup=True,
        )
    if report.failures:
        out.print(f"  [red]{report.failures:,} failed[/red], and the result is without them:", markup=True)
        for failed in report.failed:
            out.print(f"  {failed.count:>10,} {failed}", markup=False, highlight=False, soft_wrap=True)
    if report.unrecorded:
        out.print(f"  what agents skip is in the workers' logs: {', '.join(report.unrecorded)}", markup=False)
    for replay in report.replays:
        out.print(f"  {replay.sent:>10,} → {replay.topic}")
        show_bad(replay)
        show_refused(replay)
    more = f", {report.found - report.records:,} more of its agents" if report.found > report.records else ""
    if not report.into_live:
        out.print(f"  certificate: {report.records:,} records sent, {report.found:,} in its topics{more}")
    for stage in report.stages:
        if stage.records:
            rate = f" ({stage.rate:,.0f}/s)" if stage.records >= _RATED else ""
            out.print(f"  {stage.records:>10,} worked off in {stage.topic}, through after {stage.seconds:.1f} s{rate}")
    if not report.finished_before:
        out.print(f"  times: {report.moments}")
    if report.restarts:
        out.print(f"  workers killed and started again: {report.restarts}; totals are not touched by that")
    if report.snapshot is not None:
        show_table(report.snapshot)
    if report.output is not None and report.snapshot is not None:
        out.print(f"{len(report.snapshot):,} keys → [bold]{plain(report.output)}[/bold]", markup=True)


def show_table(snapshot: Snapshot, *, most: int = _ROWS, title: str | None = None) -> None:
    """A table's first rows and its digest."""
    out.print(table_grid(snapshot, most=most, title=title))
    out.print(f"digest {snapshot.digest()}   {len(snapshot):,} keys")


def table_grid(snapshot: Snapshot, *, most: int = _ROWS, title: str | None = None) -> Grid:
    """A table's first rows as something rich can print."""
    columns, rows = snapshot.rows
    grid = Grid(title=title or snapshot.table.help or snapshot.table.name, title_justify="left")
    for i, column in enumerate(columns):
        numbers = all(isinstance(row[i], _NUMBERS) for row in rows)
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
