"""`anabranch tables`: show an app's tables, back them up, restore them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ...topics import clock
from ...topics.errors import Usage
from ...topics.printable import printable, without_passwords
from .common_options import app_name, choose_cluster, cluster_options, show_private_option, status_line
from .completion import complete_tables
from .console import counted, err, folding, out, write_json
from .logs import log_to_stderr

if TYPE_CHECKING:
    from rich.table import Table as Grid

    from ...agents.app import App
    from ...agents.tables.table import Table
    from ...topics.cluster import Cluster
    from ..table_reader import Snapshot, TableReader
    from .table_grid import Order

__all__ = ["tables"]

_EVERY_S = 1.0
_ROWS = 20


class _TablesGroup(click.Group):
    """A group whose default command is `show`, used unless the first argument is the name of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["show", *args])


@click.group(cls=_TablesGroup)
def tables() -> None:
    """Show, back up and restore an app's tables."""


@tables.command()
@click.argument("name", required=False, metavar="[TABLE]", shell_complete=complete_tables)
@click.option("--key", help="Only this key.")
@click.option("--follow", is_flag=True, help="Refresh every second.")
@click.option("--digest", is_flag=True, help="Print only the digest, which is equal for equal content.")
@click.option("-J", "--json", "as_json", is_flag=True, help="Print JSON lines, all keys.")
@click.option("-n", "--limit", "most", type=click.IntRange(0), help="Rows to show.  [default: 20; all with --json]")
@click.option("-s", "--sort", metavar="COLUMN", help="Sort by this column instead of by key.")
@click.option("--desc", is_flag=True, help="Greatest first.")
@click.option("--counts", is_flag=True, help="Show the number of keys: of each table, or of each partition of TABLE.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the table to a file: .txt, .csv, .json, .jsonl or .parquet.",
)
@click.option("--run-id", help="Show the table of this bounded run instead of the live table.")
@show_private_option
@cluster_options
@click.pass_context
def show(
    context: click.Context,
    name: str | None,
    key: str | None,
    follow: bool,
    digest: bool,
    as_json: bool,
    most: int | None,
    sort: str | None,
    desc: bool,
    counts: bool,
    output: Path | None,
    run_id: str | None,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Show the committed content of a table; no worker needs to run. Without TABLE, show the only table, or list all.

    Private fields are shown as ***. A file of --output holds them: it is a result, as that of `run`.

    The windows of a table of windows are shown with times in UTC; --json and --output have them in milliseconds. --key
    shows all windows of a key.

    \b
    Examples:
      anabranch -A shop tables
      anabranch -A shop tables totals --key alice
      anabranch -A shop tables totals --sort value --desc --limit 10
      anabranch -A shop tables totals --counts
      anabranch -A shop tables totals --follow

    \b
    More:
      anabranch -A shop tables backup --help
      anabranch -A shop tables restore --help
    """
    log_to_stderr(None)
    shown = TableView(key, follow, digest, as_json, most, sort, desc, counts, output)
    if run_id:
        os.environ["ANABRANCH_RUN"] = run_id
    from ..app_loader import load_app, runtime_of

    app = load_app(app_name(context))
    with choose_cluster(bootstrap_server, options, runtime_of(app)) as choice:
        runtime_of(app).cluster = choice.cluster
        show_tables(app, name, shown)


@tables.command()
@click.argument("names", nargs=-1, metavar="[TABLE]…", shell_complete=complete_tables)
@click.option("--to", "address", required=True, metavar="FOLDER", help="New folder, or a URL (s3://…).")
@cluster_options
@click.pass_context
def backup(
    context: click.Context,
    names: tuple[str, ...],
    address: str,
    bootstrap_server: str | None,
    options: tuple[str, ...],
) -> None:
    """Write the committed content of tables to a folder, which appears only when it is complete.

    Workers may keep running. Stop them first if the backup must be restorable without the changelogs: only then do all
    partitions and their offsets belong to the same moment.

    \b
    Examples:
      anabranch -A shop tables backup --to backups/monday
      anabranch -A shop tables backup --to s3://backups/shop/monday totals
    """
    from ..app_loader import load_app, runtime_of
    from ..table_backup.backup import back_up
    from ..table_backup.backup_storage import open_backup_storage
    from ..table_reader import find_table

    log_to_stderr(None)
    app = load_app(app_name(context))
    chosen = [find_table(app, name) for name in names] or list(runtime_of(app).tables)
    to = open_backup_storage(address)
    with choose_cluster(bootstrap_server, options, runtime_of(app)) as choice:
        runtime_of(app).cluster = choice.cluster
        made = back_up(app, chosen, to, lambda table: status_line(f"{table.table} …"))
    status_line("")
    for table in made.tables:
        keys = sum(part.count for part in table.partitions)
        size = sum(part.bytes for part in table.partitions)
        content = f"{counted(keys, 'key')} in {counted(len(table.partitions), 'partition')}, {size:,} bytes"
        click.echo(f"{table.table}: {content}")
    click.echo(printable(without_passwords(f"backup written to {address}")))
    if not made.consistent:
        click.echo(
            "the app was running, so partitions were backed up at different moments. That is sufficient as long as the "
            "changelogs exist; for a backup of one moment, stop the workers first",
            err=True,
        )


@tables.command()
@click.argument("names", nargs=-1, metavar="[TABLE]…", shell_complete=complete_tables)
@click.option("--from", "address", required=True, metavar="FOLDER", help="Folder or URL that `backup` wrote.")
@click.option("--overwrite", is_flag=True, help="Replace the content of tables that differ from the backup.")
@click.option("--other-app", is_flag=True, help="Accept the backup of an app with another name.")
@click.option(
    "--start",
    type=click.Choice(["earliest", "latest", "backup"]),
    help="Set the group's offsets in the input topics; backup: those of the backup, if the topics are the same.",
)
@click.option(
    "-D", "--datadir", type=click.Path(path_type=Path), help="Data directory of the worker whose stores are seeded."
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    help="Number of workers on that directory.  [default: as many as it was used by]",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
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
    """Restore tables from a backup.

    If a table's changelog exists, workers restore the table from it by themselves; for a table on disk, this command
    seeds the worker's store from the backup, so that the worker reads only newer changes; with --processes, the stores
    of all workers of `worker --processes`. If the changelog is gone, or on a new cluster, the command fills the
    changelog from the backup, in one transaction. A changelog with other content is only replaced with --overwrite.

    \b
    Examples:
      anabranch -A shop tables restore --from backups/monday --dry-run
      anabranch -A shop tables restore --from backups/monday --start earliest -b new-kafka:9092
      anabranch -A shop tables restore --from backups/monday --overwrite --start backup
    """
    from ..app_loader import load_app, runtime_of
    from ..table_backup.backup import read_manifest
    from ..table_backup.backup_storage import open_backup_storage
    from ..table_backup.restore import plan_restore, restore_tables

    log_to_stderr(None)
    app = load_app(app_name(context))
    if datadir is not None:
        runtime_of(app).configure(datadir=datadir)
    source = open_backup_storage(address)
    kept = read_manifest(source)
    with choose_cluster(bootstrap_server, options, runtime_of(app)) as choice:
        runtime_of(app).cluster = choice.cluster
        steps = plan_restore(app, kept, names, overwrite=overwrite, other_app=other_app)
        for step in steps:
            click.echo(printable(f"{step.table.name}: {_STEPS[step.action]} ({step.why})"))
        if dry_run:
            return

        def show_progress(table: str, done: int) -> None:
            status_line(f"{table}: {done:,} keys")

        restore_tables(app, source, kept, steps, start=start, processes=processes, on_progress=show_progress)
        status_line("")
    written = any(step.action == "write" for step in steps)
    click.echo("done")
    if written and start is None:
        click.echo(
            "the group's offsets are unchanged. If the group has none, workers refuse to start, because they could "
            "process the history twice: use --start next time, or set the offsets with kafka-consumer-groups",
            err=True,
        )


_STEPS = {"write": "fill its changelog", "seed": "seed the workers' stores", "keep": "nothing to do"}


@dataclass(frozen=True, slots=True)
class TableView:
    """The options of `show`; `anabranch tables --help` describes them.

    Raises:
        Usage: two options contradict each other.
    """

    key: str | None = None
    follow: bool = False
    digest: bool = False
    as_json: bool = False
    most: int | None = None
    sort: str | None = None
    desc: bool = False
    counts: bool = False
    output: Path | None = None

    def __post_init__(self) -> None:
        ordered = self.sort is not None or self.desc
        for name, given in (("--key", self.key), ("--digest", self.digest), ("--output", self.output)):
            if given and (ordered or self.counts):
                raise Usage(f"{name} shows no rows in an order", hint="omit --sort, --desc and --counts, or omit it")
        if self.counts and (ordered or self.follow):
            raise Usage("--counts shows no rows", hint="omit --sort, --desc and --follow")


def show_tables(app: App, name: str | None, view: TableView) -> None:
    """Show, write or follow one table; list the tables if `name` is None and the app has several."""
    from ..app_loader import runtime_of
    from ..table_reader import TableReader, find_table, write_result
    from .table_grid import Order, show_table

    tables = list(runtime_of(app).tables)
    if name is None and (len([table for table in tables if table.is_result]) != 1 or view.counts):
        if not tables:
            raise Usage(f"{app.conf.id} has no tables")
        _show_counts(runtime_of(app).cluster, tables, as_json=view.as_json)
        return
    table = find_table(app, name, similar=("backup", "restore"))  # whoever misspells `backup` has named a table
    reader, order = TableReader(runtime_of(app).cluster, table), Order(view.sort, view.desc)
    if view.counts:
        _show_partitions(table.changelog_name, reader.counts(), as_json=view.as_json)
        return
    if view.follow:
        _follow(reader, _ROWS if view.most is None else view.most, order)
        return
    snapshot = reader.read()
    if view.key is not None:
        _show_key(snapshot, view.key)
    elif view.digest:
        out.print(snapshot.digest())
    elif view.output is not None:
        write_result(snapshot, view.output)
        out.print(f"wrote {counted(len(snapshot), 'key')} to {view.output}")
    elif view.as_json:
        columns, rows = snapshot.rows[0], order.rows_of(snapshot)
        for row in snapshot.shown(rows[: view.most]):
            write_json(dict(zip(columns, row, strict=True)))
    else:
        show_table(snapshot, most=_ROWS if view.most is None else view.most, order=order)


def _show_counts(cluster: Cluster, tables: Sequence[Table], *, as_json: bool) -> None:
    """List tables with their numbers of keys."""
    from ..table_reader import TableReader

    grid = _grid("table", "keys", "partitions", "fewest", "most", "changelog", "about")
    for table in tables:
        try:
            reader = TableReader(cluster, table)
            counts = reader.counts()
            keys = len(reader.read()) if table.is_global else sum(counts)  # its partitions may have the same keys
        except Usage:  # no worker has made its changelog yet
            keys, counts = 0, []
        if as_json:
            write_json({"table": table.name, "keys": keys, "partitions": counts})
            continue
        shown = [f"{n:,}" for n in (keys, len(counts), min(counts, default=0), max(counts, default=0))]
        grid.add_row(table.name, *(shown if counts else ["-"] * 4), table.changelog_name, table.help or "")
    if not as_json:
        out.print(grid)


def _show_partitions(changelog: str, counts: Sequence[int], *, as_json: bool) -> None:
    """List the partitions of a table with their numbers of keys."""
    grid = _grid("partition", "keys", "share")
    for partition, count in enumerate(counts):
        if as_json:
            write_json({"changelog": changelog, "partition": partition, "keys": count})
        else:
            grid.add_row(str(partition), f"{count:,}", f"{100 * count / max(1, sum(counts)):.0f} %")
    if not as_json:
        out.print(grid)
        out.print(f"{counted(sum(counts), 'key')} in {counted(len(counts), 'partition')} of {changelog}")


def _grid(*columns: str) -> Grid:
    from rich.table import Table as Grid

    grid = Grid(header_style="bold")
    for column in columns:
        grid.add_column(column, justify="left" if column in ("table", "changelog", "about") else "right")
    return folding(grid)


def _show_key(snapshot: Snapshot, key: str) -> None:
    """Print the value of a key, which may be given as text or as JSON; for a local table, of each partition."""
    import msgspec

    from ..table_reader import json_text, key_cells
    from .table_grid import shown_time

    located = snapshot.keyed_rows()
    cells = key_cells([row.key for row in located])
    shown = [row for row, cell in zip(located, cells, strict=True) if str(cell) == key] or [
        row for row in located if json_text(row.key) == key
    ]
    if not shown:
        raise Usage(f"table {snapshot.table.name} has no key {key}")
    for _, partition, window, value in shown:
        if snapshot.table.local:
            out.print(f"partition {partition}")
        if window:
            out.print(f"{shown_time(window[0])} … {shown_time(window[1])}", highlight=False)
        text = msgspec.json.format(json_text(snapshot.table.private.value(snapshot.table.plain(value))), indent=2)
        out.print(text, soft_wrap=True)


def _follow(reader: TableReader, most: int, order: Order) -> None:
    from rich.live import Live

    from .table_grid import table_grid

    try:
        with Live(console=err if not out.is_terminal else out, auto_refresh=False) as live:
            while True:
                snapshot = reader.read()
                live.update(table_grid(snapshot, most=most, title=clock.time_of_day(), order=order), refresh=True)
                clock.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return
