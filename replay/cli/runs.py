"""`anabranch runs`: list replays and bounded runs with their progress, show one, or delete it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ...topics.errors import Usage
from ...topics.printable import printable
from ..time_text import format_local_time
from .common_options import choose_cluster, cluster_options
from .console import out, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..runs.run_list import RunSummary

__all__ = ["runs"]


@click.command()
@click.argument("run", required=False)
@click.option(
    "--forget", is_flag=True, help="Delete the run's state; for a bounded run also its topics, consumer group and data."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines.")
@cluster_options
def runs(
    run: str | None, forget: bool, yes: bool, as_json: bool, bootstrap_server: str | None, options: tuple[str, ...]
) -> None:
    """List replays and bounded runs, show one, or forget it.

    RUN is the id of a run. A run that is forgotten starts from the beginning when its command is repeated: a replay
    then produces its records a second time. Forgetting a bounded run deletes everything that belongs to it.

    \b
    Examples:
      anabranch runs
      anabranch runs shop-run-1f0c9a7e
      anabranch runs shop-run-1f0c9a7e --forget --yes
    """
    from ..runs.run_list import RunList

    log_to_stderr(None)
    if forget and run is None:
        raise Usage("--forget needs a RUN", hint="anabranch runs lists them")
    with choose_cluster(bootstrap_server, options) as choice:
        ledger = RunList(choice.cluster)
        found = ledger.runs()
        if run is not None:
            found = [kept for kept in found if kept.name == run]
            if not found:
                raise Usage(f"run {run} does not exist", hint="anabranch runs lists them")
        if not forget:
            if as_json:
                for kept in found:
                    write_json(kept.facts())
            elif run is None:
                show_runs(found)
            else:
                show_run_states(found[0])
            return
        resources = ledger.resources(found[0])
        for line in resources.lines():
            click.echo(printable(line), err=True)
        if not yes and not click.confirm(printable(f"Forget {found[0].name}?"), err=True):
            raise click.Abort
        ledger.forget(found[0], resources)
        click.echo(printable(f"forgot {found[0].name}"))


def show_runs(runs: Sequence[RunSummary]) -> None:
    """Print a table of runs."""
    if not runs:
        out.print("no runs")
        return
    from rich.table import Table as Grid

    grid = Grid()
    for column in ("run", "state", "records", "topic", "source", "updated"):
        grid.add_column(column, justify="right" if column == "records" else "left", overflow="fold")
    for run in runs:
        topics = "own topics" if run.bounded else run.states[0].topic
        sources = [spec for state in run.states for spec in state.specs]
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        last = _when(run.updated_ms or run.started_ms)
        grid.add_row(run.name, _state(run.done), f"{run.records:,}", topics, sources[0] + more, last)
    out.print(grid)


def show_run_states(run: RunSummary) -> None:
    """Print one run and its replays."""
    out.print(f"{run.name}: {_state(run.done)}, started {_when(run.started_ms)}", markup=False)
    for state in run.states:
        out.print(f"  {state.sent:>12,} → {state.topic}  {_state(state.done)}, updated {_when(state.updated_ms)}")
        for count, what in (
            (state.skipped, "bad lines skipped"),
            (state.dead_letters, "bad lines sent to the dead-letter topic"),
        ):
            if count:
                out.print(f"  {count:>12,} {what}")
        for spec in state.specs:
            out.print(f"               {spec}", markup=False)


def _state(done: bool) -> str:
    return "finished" if done else "unfinished"


def _when(time_ms: int) -> str:
    return format_local_time(time_ms) if time_ms else "-"
