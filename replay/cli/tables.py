"""`anabranch tables`: what an app holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ...topics import clock
from ...topics.errors import Usage
from ...topics.printable import printable, without_passwords
from .common_options import app_name, choose_cluster, cluster_options, status_line
from .console import err, out, plain, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ...agents.app import App
    from ..table_reader import Snapshot, TableReader

__all__ = ["tables"]

_EVERY_S = 1.0


class _Tables(click.Group):
    """With a word of its own it does that; anything else, and nothing, shows tables."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["show", *args])


@click.group(cls=_Tables)
def tables() -> None:
    """Show what an app's tables hold, back it up, bring it back."""


@tables.command()
@click.argument("name", required=False, metavar="[TABLE]")
@click.option("--key", help="Only this key.")
@click.option("--follow", is_flag=True, help="Show it anew every second.")
@click.option("--digest", is_flag=True, help="Only the digest: equal for equal content.")
@click.option("-J", "--json", "as_json", is_flag=True, help="JSON lines, all keys.")
@click.option("-n", "most", type=int, default=20, show_default=True, help="Rows to show.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to a file: .txt .csv .json .jsonl .parquet"
)
@click.option("--run-id", help="Of a bounded run, instead of the live tables.")
@cluster_options
@click.pass_context
def show(
    context: click.Context,
    name: str | None,
    key: str | None,
    follow: bool,
    digest: bool,
    as_json: bool,
    most: int,
    output: Path | None,
    run_id: str | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Show a table's content, as committed, whether a worker runs or not.

    \b
    Examples:
      anabranch -A shop tables
      anabranch -A shop tables totals --key alice
      anabranch -A shop tables totals --follow

    \b
    More:
      anabranch -A shop tables backup --help
      anabranch -A shop tables restore --help
    """
    log_to_stderr(None)
    if run_id:
        os.environ["ANABRANCH_RUN"] = run_id
    from ..app_loader import load_app, runtime_of

    app = load_app(app_name(context))
    with choose_cluster(bootstrap_server, options, runtime_of(app)) as place:
        runtime_of(app).cluster = place.cluster
        look(app, name, key=key, follow=follow, digest=digest, as_json=as_json, most=most, output=output)


@tables.command()
@click.argument("names", nargs=-1, metavar="[TABLE]…")
@click.option("--to", "address", required=True, metavar="FOLDER", help="A new folder, or an address (s3://…).")
@cluster_options
@click.pass_context
def backup(
    context: click.Context,
    names: tuple[str, ...],
    address: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Write what tables hold, as committed, to a folder that is there as a whole or not at all.

    Workers may run meanwhile. Stop them first where the backup is to be brought back without its changelogs: only then
    are all partitions, and the offsets that belong to them, of one moment.

    \b
    Examples:
      anabranch -A shop tables backup --to backups/monday
      anabranch -A shop tables backup --to s3://backups/shop/monday totals
    """
    from ..app_loader import load_app, runtime_of
    from ..table_backup.backup import back_up
    from ..table_backup.backup_storage import depot
    from ..table_reader import find_table

    log_to_stderr(None)
    app = load_app(app_name(context))
    chosen = [find_table(app, name) for name in names] or list(runtime_of(app).tables)
    to = depot(address)
    with choose_cluster(bootstrap_server, options, runtime_of(app)) as place:
        runtime_of(app).cluster = place.cluster
        made = back_up(app, chosen, to, lambda table: status_line(f"{table.table} …"))
    status_line("")
    for table in made.tables:
        keys = sum(part.count for part in table.partitions) - (len(table.partitions) if table.expires else 0)
        size = sum(part.bytes for part in table.partitions)
        click.echo(f"{table.table}  {max(0, keys):,} keys in {len(table.partitions)} partitions, {size:,} bytes")
    click.echo(printable(without_passwords(f"→ {address}")))
    if not made.settled:
        click.echo(
            "the app was at work: each partition is of a moment of its own. That is fine where the changelogs stay; "
            "for a backup of one moment stop the workers",
            err=True,
        )


@tables.command()
@click.argument("names", nargs=-1, metavar="[TABLE]…")
@click.option("--from", "address", required=True, metavar="FOLDER", help="Where `backup` wrote to.")
@click.option("--overwrite", is_flag=True, help="Make tables what they were, whatever they hold now.")
@click.option("--other-app", is_flag=True, help="The backup may be of an app of another name.")
@click.option(
    "--start",
    type=click.Choice(["earliest", "latest", "backup"]),
    help="Where the app's group goes on in its topics; `backup`: where it was, if the topics are the same.",
)
@click.option("-D", "--datadir", type=click.Path(path_type=Path), help="Of the worker whose stores are to be made.")
@click.option(
    "--processes", type=click.IntRange(1, 64), help="Workers on that folder; as many as there were on it, unless given."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@cluster_options
@click.pass_context
def restore(
    context: click.Context,
    names: tuple[str, ...],
    address: str,
    overwrite: bool,
    other_app: bool,
    start: Literal["earliest", "latest", "backup"] | None,
    datadir: Path | None,
    processes: int | None,
    dry_run: bool,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Bring tables back from a backup.

    Where a table's changelog is still there, a worker restores it from there by itself; for a table on disk this makes
    the worker's store from the backup, so that only what has come since is read; with --processes it does so for each
    worker of `worker --processes`. Where the changelog is gone, or on a new cluster, it is filled from the backup, in
    one transaction. A changelog with other content is not touched, unless asked with --overwrite.

    \b
    Examples:
      anabranch -A shop tables restore --from backups/monday --dry-run
      anabranch -A shop tables restore --from backups/monday --start earliest -b new-kafka:9092
      anabranch -A shop tables restore --from backups/monday --overwrite --start backup
    """
    from ..app_loader import load_app, runtime_of
    from ..table_backup.backup import read_manifest
    from ..table_backup.backup_storage import depot
    from ..table_backup.restore import recover
    from ..table_backup.restore_plan import decide

    log_to_stderr(None)
    app = load_app(app_name(context))
    if datadir is not None:
        runtime_of(app).configure(datadir=datadir)
    source = depot(address)
    kept = read_manifest(source)
    with choose_cluster(bootstrap_server, options, runtime_of(app)) as place:
        runtime_of(app).cluster = place.cluster
        steps = decide(app, kept, names, overwrite=overwrite, other_app=other_app)
        for step in steps:
            click.echo(printable(f"{step.table.name}: {_WHAT[step.what]} ({step.why})"))
        if dry_run:
            return

        def said(table: str, done: int) -> None:
            status_line(f"{table}: {done:,}")

        recover(app, source, kept, steps, start=start, processes=processes, on_progress=said)
        status_line("")
    written = any(step.what == "write" for step in steps)
    click.echo("done")
    if written and start is None:
        click.echo(
            "the group's offsets were left as they are. Where it has none, a worker refuses to begin, because it could "
            "count history twice: say --start next time, or set them with kafka-consumer-groups",
            err=True,
        )


_WHAT = {"write": "its changelog is filled", "seed": "the workers' stores are made", "keep": "nothing to be done"}


def look(
    app: App,
    name: str | None,
    *,
    key: str | None,
    follow: bool,
    digest: bool,
    as_json: bool,
    most: int,
    output: Path | None,
) -> None:
    """Show, print, write or follow one table; without a name and with several tables, list them."""
    from ..app_loader import runtime_of
    from ..table_reader import TableReader, find_table, write_result
    from .table_grid import show_table

    tables = list(runtime_of(app).tables)
    if name is None and len(tables) != 1:
        if not tables:
            raise Usage(f"{app.conf.id} has no tables")
        for table in tables:
            name, changelog = plain(table.name), plain(table.changelog_name)
            out.print(f"[bold]{name}[/bold]  {plain(table.help)}  [dim]{changelog}[/dim]", markup=True)
        return
    table = find_table(app, name)
    reader = TableReader(runtime_of(app).cluster, table)
    if follow:
        _follow(reader, most)
        return
    snapshot = reader.read()
    if key is not None:
        _show_key(snapshot, key)
    elif digest:
        out.print(snapshot.digest())
    elif output is not None:
        write_result(snapshot, output)
        out.print(f"{len(snapshot):,} keys → {output}")
    elif as_json:
        columns, rows = snapshot.rows
        for row in rows:
            write_json(dict(zip(columns, row, strict=True)))
    else:
        show_table(snapshot, most=most)


def _show_key(snapshot: Snapshot, key: str) -> None:
    """The value of a key, as it is shown or as JSON; of a local table that of each partition."""
    import msgspec

    from ..table_reader import json_text, key_cells

    located = snapshot.located()
    cells = key_cells([candidate for candidate, _, _ in located])
    shown = [row for row, cell in zip(located, cells, strict=True) if str(cell) == key] or [
        row for row in located if json_text(row[0]) == key
    ]
    if not shown:
        raise Usage(f"table {snapshot.table.name} has no key {key}")
    for _, partition, value in shown:
        if snapshot.table.local:
            out.print(f"partition {partition}")
        text = msgspec.json.format(json_text(snapshot.table.plain(value)), indent=2)
        out.print(text, soft_wrap=True)


def _follow(reader: TableReader, most: int) -> None:
    from rich.live import Live

    from .table_grid import table_grid

    try:
        with Live(console=err if not out.is_terminal else out, auto_refresh=False) as live:
            while True:
                snapshot = reader.read()
                live.update(table_grid(snapshot, most=most, title=clock.time_of_day()), refresh=True)
                clock.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return
