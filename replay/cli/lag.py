"""`anabranch lag`: how far a consumer group is behind."""

from __future__ import annotations

import click

from ...topics.errors import Usage
from ...topics.spelling import did_you_mean
from .common_options import choose_cluster, cluster_options, named_app
from .console import counted, folding, out, write_json
from .logs import log_to_stderr

__all__ = ["lag"]


@click.command()
@click.argument("group", required=False)
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines.")
@cluster_options
@click.pass_context
def lag(
    context: click.Context, group: str | None, as_json: bool, bootstrap_server: str | None, options: tuple[str, ...]
) -> None:
    """Show the committed offset, the end and the lag of each partition that a consumer group reads.

    Lag counts offsets: it includes transaction markers, and a packed batch counts as one. GROUP is the app's id; with
    -A it is that of the app.

    \b
    Examples:
      anabranch -A shop lag
      anabranch lag shop
    """
    from rich.table import Table as Grid

    from ...topics.admin import Admin
    from ...topics.consumer_groups import ConsumerGroups

    log_to_stderr(None)
    app = named_app(context)
    name = group or (None if app is None else app.group_id)
    if name is None:
        raise Usage("no group given", hint="anabranch lag GROUP, or anabranch -A MODULE lag")
    with choose_cluster(bootstrap_server, options, app) as choice:
        groups, admin = ConsumerGroups(choice.cluster), Admin(choice.cluster)
        committed = {at: offset for at, (offset, _) in sorted(groups.offsets(name).items())}
        if not committed:
            hint = did_you_mean(name, groups.names(), "has a worker of the app run on this cluster?")
            raise Usage(f"group {name} has no committed offsets", hint=hint)
        members = groups.size(name, while_moving=0)
        _, ends = admin.spans(committed)
    lags = {at: max(0, ends[at] - offset) for at, offset in committed.items()}
    if as_json:
        for at, offset in committed.items():
            place = {"topic": at.topic, "partition": at.partition}
            write_json({**place, "offset": offset, "end": ends[at], "lag": lags[at]})
        return
    grid = folding(Grid("topic", "partition", "offset", "end", "lag", header_style="bold"))
    for column in grid.columns[1:]:
        column.justify = "right"
    for at, offset in committed.items():
        grid.add_row(at.topic, str(at.partition), f"{offset:,}", f"{ends[at]:,}", f"{lags[at]:,}")
    out.print(grid)
    out.print(f"group {name}: lag {sum(lags.values()):,}, {counted(members, 'member')}")
    if any(lags.values()):
        out.print("  lag counts offsets; the marker at the end of a transaction is one")
