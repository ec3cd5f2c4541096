"""`anabranch reset`: let an app begin anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ...topics.printable import printable
from .common_options import app_name, choose_cluster, cluster_options
from .console import counted
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..app_reset import ResetPlan

__all__ = ["reset"]


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Reset the app; without it, the command only shows what it would do.")
@click.option(
    "--start",
    type=click.Choice(["earliest", "latest"]),
    default="earliest",
    show_default=True,
    help="Where the next worker begins in the topics that the app reads.",
)
@click.option("-D", "--datadir", type=click.Path(path_type=Path), help="Data directory of the app's workers.")
@cluster_options
@click.pass_context
def reset(
    context: click.Context,
    yes: bool,
    start: Literal["earliest", "latest"],
    datadir: Path | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Let an app begin anew: delete its committed offsets, its tables and the topics that it made for itself.

    Without --yes, show what would be deleted, and change nothing. The app's workers have to be stopped. Topics that the
    program names are never deleted; their records are processed again, and what agents send is sent again. Dead
    letters of records that are processed again count as re-published. Run it once on each machine with a data
    directory.

    \b
    Examples:
      anabranch -A shop reset
      anabranch -A shop reset --yes
      anabranch -A shop reset --yes --start latest
    """
    from ..app_loader import load_app, runtime_of
    from ..app_reset import AppReset

    log_to_stderr(None)
    runtime = runtime_of(load_app(app_name(context)))
    if datadir is not None:
        runtime.configure(datadir=datadir)
    with choose_cluster(bootstrap_server, options, runtime) as choice:
        runtime.cluster = choice.cluster
        resetting = AppReset(runtime.app)
        plan = resetting.plan()
        superseded = resetting.execute(plan, start=start) if yes else 0
        for line in _lines(plan, runtime.group_id, "deleted" if yes else "would delete"):
            click.echo(printable(line))
        if superseded:
            letters = counted(superseded, "dead letter")
            click.echo(f"{letters} will not be re-published: their records are processed again with all others")
        if plan.empty:
            return
        if yes:
            where = "after the last" if start == "latest" else "at the first"
            click.echo(f"{runtime.group_id} is reset; the next worker begins {where} record of each partition")
        else:
            resetting.check_stopped()
            click.echo("nothing has been changed; --yes resets the app")


def _lines(plan: ResetPlan, group: str, verb: str) -> list[str]:
    """Return what is deleted and what is kept, one line each."""
    if plan.empty:
        return [f"{group} has no offsets, no topics of its own and no data here"]
    lines: list[str] = []
    read: dict[str, list[int]] = {}
    for at, offset in plan.offsets.items():
        read.setdefault(at.topic, []).append(offset)
    if plan.group:
        at = "; ".join(f"{topic} at {', '.join(f'{n:,}' for n in offsets)}" for topic, offsets in read.items())
        lines.append(f"{verb} the offsets of group {group}" + (f": {at}" if at else ""))
    lines += [f"{verb} topic {name} ({counted(size, 'offset')})" for name, size in plan.topics.items()]
    lines += [f"{verb} folder {folder}" for folder in plan.folders]
    if plan.read:
        lines.append(f"kept: {', '.join(plan.read)}, with all records")
    if plan.similar:
        lines.append(f"kept, because the program does not declare them any more: {', '.join(plan.similar)}")
    return lines
