"""`anabranch runs`: replays and bounded runs that were begun, how far they came, and forgetting them."""

from __future__ import annotations

import click

from ...topics.errors import Usage
from ...topics.printable import printable
from .common_options import cluster_options, log_to_stderr, on_ground

__all__ = ["runs"]


@click.command()
@click.argument("run", required=False)
@click.option("--forget", is_flag=True, help="Forget it; of a bounded run also delete its topics, group and data.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("-J", "--json", "as_json", is_flag=True, help="JSON lines.")
@cluster_options
def runs(
    run: str | None, forget: bool, yes: bool, as_json: bool, bootstrap_server: str | None, options: tuple[str, ...]
) -> None:
    """List runs, show one, or forget it.

    RUN is a run's id, as listed. A run that is forgotten begins anew when the same command is given: a replay sends its
    records a second time. Of a bounded run, everything that is its own is deleted.

    \b
    Examples:
      anabranch runs
      anabranch runs shop-run-1f0c9a7e
      anabranch runs shop-run-1f0c9a7e --forget --yes
    """
    from ..runs.run_list import RunList
    from .console import write_json
    from .runs_output import show_run_states, show_runs

    log_to_stderr(None)
    if forget and run is None:
        raise Usage("which run is to be forgotten?", hint="anabranch runs lists them")
    with on_ground(bootstrap_server, options) as place:
        ledger = RunList(place.cluster)
        found = ledger.runs()
        if run is not None:
            found = [kept for kept in found if kept.name == run]
            if not found:
                raise Usage(f"there is no run {run}", hint="anabranch runs lists them")
        if not forget:
            if as_json:
                for kept in found:
                    write_json(kept.facts())
            elif run is None:
                show_runs(found)
            else:
                show_run_states(found[0])
            return
        doomed = ledger.doomed(found[0])
        for line in doomed.lines():
            click.echo(printable(line), err=True)
        if not yes and not click.confirm(printable(f"Forget {found[0].name}?"), err=True):
            raise click.Abort
        ledger.forget(found[0], doomed)
        click.echo(printable(f"{found[0].name} is forgotten"))
