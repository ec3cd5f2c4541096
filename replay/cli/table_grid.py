"""An app's table on the terminal: its first rows and its digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from rich.table import Table as Grid

from ..table_reader import Snapshot, json_text
from ..time_text import format_time
from .console import counted, out

__all__ = ["BY_KEY", "Order", "show_table", "shown_time", "table_grid"]

_ROWS = 20
_NUMBERS = (int, float, type(None))


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which the rows of a table are shown: by a column, else by key."""

    column: str | None = None
    descending: bool = False

    def rows_of(self, snapshot: Snapshot) -> list[list[object]]:
        """Return the rows of a table in this order.

        Raises:
            Usage: the table has no such column.
        """
        if self.column is None:
            _, rows = snapshot.rows
            return rows[::-1] if self.descending else rows
        return snapshot.sorted_rows(self.column, descending=self.descending)


BY_KEY = Order()


def show_table(snapshot: Snapshot, *, most: int = _ROWS, title: str | None = None, order: Order = BY_KEY) -> None:
    """Print the first rows of a table, and its digest."""
    out.print(table_grid(snapshot, most=most, title=title, order=order))
    out.print(f"digest {snapshot.digest()}   {counted(len(snapshot), 'key')}")


def table_grid(snapshot: Snapshot, *, most: int = _ROWS, title: str | None = None, order: Order = BY_KEY) -> Grid:
    """Return the first rows of a table as a rich table. The start and the end of a window are times in UTC here;
    results and JSON have them in milliseconds.
    """
    columns, rows = snapshot.rows[0], snapshot.shown(order.rows_of(snapshot))
    times = snapshot.time_columns
    grid = Grid(title=title or snapshot.table.help or snapshot.table.name, title_justify="left")
    for i, column in enumerate(columns):
        numbers = column not in times and all(isinstance(row[i], _NUMBERS) for row in rows)
        grid.add_column(column, justify="right" if numbers and i else "left", overflow="fold")
    for row in rows[:most]:
        cells = zip(columns, row, strict=True)
        grid.add_row(*[shown_time(cell) if column in times else _shown(cell) for column, cell in cells])
    if len(rows) > most:
        grid.add_row(*["…"] * len(columns))
    return grid


def shown_time(cell: object) -> str:
    """Return a time in milliseconds as text; as a number where no calendar has it."""
    return format_time(cast(int, cell))


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, list | dict):
        return json_text(cell)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.2f}"
