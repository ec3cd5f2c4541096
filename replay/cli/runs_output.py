"""What a person sees of runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table as Grid

from ..runs.run_list import Kept
from .run_output import out

__all__ = ["show_run_states", "show_runs"]


def show_runs(runs: Sequence[Kept]) -> None:
    """All of them."""
    if not runs:
        out.print("no runs")
        return
    grid = Grid()
    for column in ("run", "", "records", "topic", "source", "last"):
        grid.add_column(column, justify="right" if column == "records" else "left", overflow="fold")
    for run in runs:
        topics = "its own" if run.bounded else run.states[0].topic
        sources = [spec for state in run.states for spec in state.specs]
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        last = _when(run.updated_ms or run.started_ms)
        grid.add_row(run.name, _said(run.done), f"{run.records:,}", topics, sources[0] + more, last)
    out.print(grid)


def show_run_states(run: Kept) -> None:
    """One of them, replay by replay."""
    out.print(f"{run.name}: {_said(run.done)}, begun {_when(run.started_ms)}", markup=False)
    for state in run.states:
        out.print(f"  {state.sent:>12,} → {state.topic}  {_said(state.done)}, last {_when(state.updated_ms)}")
        for count, what in ((state.skipped, "bad lines left out"), (state.dead_letters, "bad lines in dead letters")):
            if count:
                out.print(f"  {count:>12,} {what}")
        for spec in state.specs:
            out.print(f"               {spec}", markup=False)


def _said(done: bool) -> str:
    return "finished" if done else "unfinished"


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S") if time_ms else "-"
