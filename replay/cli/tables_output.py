"""`anabranch tables`: looking at a table, once or every second."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from rich.live import Live

from ...agents.app import App
from ...topics.errors import Usage
from ..table_reader import Snapshot, TableReader, find_table, json_text, key_cells, write_result
from .console import err, out, plain, write_json
from .run_output import show_table, table_grid

__all__ = ["look"]

_EVERY_S = 1.0


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
    tables = list(app.live_tables)
    if name is None and len(tables) != 1:
        if not tables:
            raise Usage(f"{app.conf.id} has no tables")
        for table in tables:
            name, changelog = plain(table.name), plain(table.changelog_name)
            out.print(f"[bold]{name}[/bold]  {plain(table.help)}  [dim]{changelog}[/dim]", markup=True)
        return
    table = find_table(app, name)
    reader = TableReader(app.cluster, table)
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
    try:
        with Live(console=err if not out.is_terminal else out, auto_refresh=False) as live:
            while True:
                snapshot = reader.read()
                live.update(table_grid(snapshot, most=most, title=time.strftime("%H:%M:%S")), refresh=True)
                time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return
