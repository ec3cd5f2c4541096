"""Files of rows, not lines: what Parquet and Avro share. The position is the number of the next row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from ....topics.cleanup import on_failure
from ....topics.errors import Usage
from ....topics.packed import RESERVED, arrow, is_text, row_values
from ..column_mapping import ColumnMapping, find_bad_rows
from ..field_mapping import FieldMapping
from ..files.file_opening import UNREADABLE, FileEntry, Opened, why
from ..format import Format
from ..source import Batch, SourcePosition
from ..source_record import BadLine, SourceRecord
from .arrow_json import check_depth, fitted, to_json_array

__all__ = ["RowFile", "RowReader", "Rows", "Table", "json_types"]


class Rows(NamedTuple):
    """Some rows that became records, and those that could not: (index among them, reason, row as JSON)."""

    count: int
    records: Sequence[SourceRecord]
    bad: list[tuple[int, str, bytes]]


class RowReader(Protocol):
    """Reads a kind of file. Where the file is damaged it says so with an OSError, or goes on behind the damage."""

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        """Read from the row numbered `first`, from 0, in bounded batches; what is wrong from the start is told now."""
        ...


class RowFile:
    """One file of rows as a source. A file that cannot be read on is bad from there: it ends with a bad line.

    Args:
        open: opens the file.
    """

    poll_again_s = 0.0

    def __init__(
        self, entry: FileEntry, open: Callable[[FileEntry], Opened], reader: RowReader, position: SourcePosition | None
    ) -> None:
        self._entry = entry
        self._row = position["row"] if position else 0
        self.begins: SourcePosition = {"row": self._row}
        self._rows: Iterator[Rows] = iter(())
        self._next: Rows | None = None
        self._looked = False
        self._broken: BadLine | None = None
        self._opened: Opened | None = None
        with on_failure(self.close):
            try:
                self._opened = open(entry)
                self._rows = reader(self._opened, self._row)
            except UNREADABLE as exc:
                self._breaks(why(exc))

    @property
    def ended(self) -> bool:
        """See `Source`."""
        # A last batch that is known to be the last saves the run a transaction of its own for its end.
        self._look_ahead()
        return self._next is None and self._broken is None

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        whole = self._entry.size_bytes
        return whole if self.ended or self._opened is None else min(self._opened.done_bytes(), whole)

    def next_batch(self) -> Batch:
        """See `Source`."""
        self._look_ahead()
        rows = self._next
        if rows is None:
            broken, self._broken = self._broken, None
            return Batch((), {"row": self._row}, () if broken is None else (broken,))
        name = self._entry.name
        bad = [BadLine(name, self._row + at + 1, reason, row) for at, reason, row in rows.bad]
        self._row += rows.count
        self._looked = False
        return Batch(rows.records, {"row": self._row}, bad)

    def close(self) -> None:
        """See `Source`."""
        if self._opened is not None:
            self._opened.close()

    def _look_ahead(self) -> None:
        if self._looked:
            return
        self._looked = True
        self._next = None
        try:
            self._next = next(self._rows, None)
        except UNREADABLE as exc:
            self._breaks(why(exc))

    def _breaks(self, reason: str) -> None:
        reason = f"{reason}; the rest of the file is not read"
        self._broken = BadLine(self._entry.name, self._row + 1, reason, b"")


def json_types(schema: Any) -> dict[str, Any]:
    """The types under which JSON has the columns of a file, by name.

    Raises:
        OSError: it has no columns, two of one name, or one that JSON has nothing for.
    """
    found: dict[str, Any] = {}
    for field in schema:
        try:
            check_depth(field.type)
            name, made = field.name, to_json_array(arrow().nulls(0, field.type)).type
        except (ValueError, NotImplementedError) as exc:
            raise OSError(f"column {field.name}: {exc}") from None
        if name in found:
            raise OSError(f"two of its columns are called {name!r}")
        found[name] = made
    if not found:
        raise OSError("it has no columns")
    return found


class Table:
    """Batches of one file as records.

    Args:
        schema: of the file.
        types: of the columns in all files together, as JSON has them; those that are missing are as in this file.
        columns: give columns, see `Columns`.

    Raises:
        OSError: as `json_types`.
        Usage: a field that is asked for does not exist, or has a name that packed batches use for themselves.
    """

    def __init__(
        self, entry: FileEntry, format: Format, schema: Any, types: Mapping[str, Any], max_bytes: int, columns: bool
    ) -> None:
        self._types = {**json_types(schema), **types}
        names = tuple(schema.names)
        fields = {name: value for name, value in entry.fields.items() if name not in names}
        for name in RESERVED.intersection((*names, *fields)) if columns else ():
            raise Usage(f"{entry.name}: a packed batch cannot hold a field {name}", hint="without --pack it can")
        self._shape = FieldMapping(format, entry.name, (*names, *fields))
        self._shaping, self._columns = ColumnMapping(self._shape, fields, max_bytes), columns

    def rows(self, batch: Any) -> Rows:
        """A batch as records; what is wrong with a row concerns that row alone."""
        rows, given = batch.num_rows, batch
        if not rows:
            return Rows(0, (), [])
        reasons: dict[int, str] = {}
        numbers = range(rows)
        try:
            made = self._made(batch)
        except ValueError:
            reasons = self._unfit(batch)
            numbers = [row for row in range(rows) if row not in reasons]
            if not numbers:
                return Rows(rows, (), self._bad(given, reasons))
            batch = batch.take(arrow().array(numbers, arrow().int64()))
            made = self._made(batch)
        found = self._shaping(made, self._raw(batch))
        reasons.update((numbers[row], reason) for row, reason in found.bad.items())
        items = found.columns if self._columns else list(found.columns)
        return Rows(rows, items, self._bad(given, reasons) if reasons else [])

    def _made(self, batch: Any) -> Any:
        names = batch.schema.names
        columns = [self._column(name, column) for name, column in zip(names, batch.columns, strict=True)]
        return arrow().record_batch(columns, names)

    def _column(self, name: str, column: Any) -> Any:
        try:
            return fitted(to_json_array(column), self._types[name])
        except ValueError as exc:
            raise ValueError(f"column {name}: {exc}") from None

    def _unfit(self, batch: Any) -> dict[int, str]:
        found: dict[int, str] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for row, reason in _unfit_cells(self._column, name, column).items():
                found.setdefault(row, reason)
        return found

    def _raw(self, batch: Any) -> dict[str, Any]:
        """Keys that are bytes, and times that are moments, as they are in the file."""
        types: Any = arrow().types
        found: dict[str, Any] = {}
        for name in {self._shape.key_field, self._shape.time_field}:
            if name is None or name not in batch.schema.names:
                continue
            column = batch[name]
            if types.is_timestamp(column.type):
                found[name] = column
            elif types.is_large_binary(column.type) or types.is_fixed_size_binary(column.type):
                found[name] = column.cast(arrow().binary())
            elif types.is_binary(column.type):
                found[name] = column
        return found

    def _bad(self, batch: Any, reasons: Mapping[int, str]) -> list[tuple[int, str, bytes]]:
        return [(row, reasons[row], self._said(batch.slice(row, 1))) for row in sorted(reasons)]

    def _said(self, row: Any) -> bytes:
        """A row as JSON; what JSON has nothing for stands in it as Arrow shows it."""
        parts: list[bytes] = []
        for name, column in zip(row.schema.names, row.columns, strict=True):
            try:
                (value,) = row_values(arrow().record_batch([self._column(name, column)], ["v"]), "json")
                value = value[5:-1]
            except ValueError:
                value = msgspec.json.encode(_shown(column[0]))
            parts.append(msgspec.json.encode(name) + b":" + value)
        return b"{" + b",".join(parts) + b"}"


def _unfit_cells(convert: Callable[[str, Any], Any], name: str, column: Any) -> dict[int, str]:
    return find_bad_rows(len(column), lambda begin, end: convert(name, column.slice(begin, end - begin)))


def _shown(cell: Any) -> Any:
    """A cell that JSON has nothing for: what is wrong in it as it is in the file, all around it as ever."""
    types: Any = arrow().types
    kind = cell.type
    if not cell.is_valid:
        return None
    if types.is_dictionary(kind):
        return _shown(cell.value)
    if types.is_struct(kind):
        return {kind.field(at).name: _shown(cell[at]) for at in range(kind.num_fields)}
    if types.is_nested(kind):
        return [_shown(each) for each in cell.values]
    if is_text(kind):
        return bytes(cell.as_buffer()).decode(errors="backslashreplace")
    if types.is_temporal(kind):
        return str(getattr(cell, "value", kind))
    return cell.as_py()
