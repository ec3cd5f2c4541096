"""`RowFile` and `RowTable`: the common part of Parquet and Avro, files of rows. A position is the next row's number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isinf
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from ....topics.cleanup import on_failure
from ....topics.errors import Usage
from ....topics.packed import RESERVED, arrow, is_text, row_values
from ..column_mapping import ColumnMapping, find_bad_rows
from ..field_mapping import FieldMapping
from ..files.file_opening import READ_ERRORS, FileEntry, Opened, why
from ..format import Format
from ..source import SourceBatch, SourcePosition
from ..source_record import BadLine, SourceRecord
from .arrow_json import cast_to, check_depth, to_json_array

if TYPE_CHECKING:
    import pyarrow

__all__ = ["RowBatch", "RowFile", "RowReader", "RowTable", "json_types"]


class RowBatch(NamedTuple):
    """A number of rows: their records, and the rows that could not become one as (index, reason, row as JSON)."""

    count: int
    records: Sequence[SourceRecord]
    bad: list[tuple[int, str, bytes]]


class RowReader(Protocol):
    """Reads a file format. Damage raises OSError, unless the reader can continue behind it."""

    def __call__(self, opened: Opened, first: int) -> Iterator[RowBatch]:
        """Read in bounded batches from row number `first` (from 0) on; a file that cannot be read at all raises now."""
        ...


class RowFile:
    """A file of rows as a source. If it cannot be read any further, it ends with a bad line.

    Args:
        open: opens the file's bytes.
    """

    poll_again_s = 0.0

    def __init__(
        self, entry: FileEntry, open: Callable[[FileEntry], Opened], reader: RowReader, position: SourcePosition | None
    ) -> None:
        self._entry = entry
        self._row = position["row"] if position else 0
        self.begins: SourcePosition = {"row": self._row}
        self._rows: Iterator[RowBatch] = iter(())
        self._next: RowBatch | None = None
        self._peeked = False
        self._broken: BadLine | None = None
        self._opened: Opened | None = None
        with on_failure(self.close):
            try:
                self._opened = open(entry)
                self._rows = reader(self._opened, self._row)
            except READ_ERRORS as exc:
                self._mark_broken(why(exc))

    @property
    def ended(self) -> bool:
        """True once no batch follows. Reads ahead, so that a run needs no transaction of its own for the end."""
        self._look_ahead()
        return self._next is None and self._broken is None

    @property
    def done_bytes(self) -> int:
        """Bytes of the file that have been read, for progress."""
        whole = self._entry.size_bytes
        return whole if self.ended or self._opened is None else min(self._opened.done_bytes(), whole)

    def next_batch(self) -> SourceBatch:
        """Return the next rows as records, or one bad line for the unreadable rest of the file."""
        self._look_ahead()
        rows = self._next
        if rows is None:
            broken, self._broken = self._broken, None
            return SourceBatch((), {"row": self._row}, () if broken is None else (broken,))
        name = self._entry.name
        bad = [BadLine(name, self._row + at + 1, reason, row) for at, reason, row in rows.bad]
        self._row += rows.count
        self._peeked = False
        return SourceBatch(rows.records, {"row": self._row}, bad)

    def close(self) -> None:
        """Close the file. May be called more than once."""
        if self._opened is not None:
            self._opened.close()

    def _look_ahead(self) -> None:
        if self._peeked:
            return
        self._peeked = True
        self._next = None
        try:
            self._next = next(self._rows, None)
        except READ_ERRORS as exc:
            self._mark_broken(why(exc))

    def _mark_broken(self, reason: str) -> None:
        reason = f"{reason}; the rest of the file is not read"
        self._broken = BadLine(self._entry.name, self._row + 1, reason, b"")


def json_types(schema: pyarrow.Schema) -> dict[str, pyarrow.DataType]:
    """Return the JSON types of a file's columns, by name.

    Raises:
        OSError: the file has no columns, two of one name, or one that JSON cannot represent.
    """
    found: dict[str, pyarrow.Array] = {}
    for field in schema:
        try:
            check_depth(field.type)
            name, made = field.name, to_json_array(arrow().nulls(0, field.type)).type
        except (ValueError, NotImplementedError) as exc:
            raise OSError(f"column {field.name}: {exc}") from None
        if name in found:
            raise OSError(f"two of its columns have the name {name!r}")
        found[name] = made
    if not found:
        raise OSError("it has no columns")
    return found


class RowTable:
    """Turns the Arrow batches of one file into records.

    Args:
        schema: the file's schema.
        types: JSON types of the columns in all files together; columns that are not in it have the type of this file.
        columnar: return records as a `ColumnBatch`.

    Raises:
        OSError: as `json_types`.
        Usage: a requested field does not exist, or has a name that packed batches reserve.
    """

    def __init__(
        self,
        entry: FileEntry,
        format: Format,
        schema: pyarrow.Schema,
        types: Mapping[str, pyarrow.DataType],
        max_bytes: int,
        columnar: bool,
    ) -> None:
        self._types = {**json_types(schema), **types}
        names = tuple(schema.names)
        fields = {name: value for name, value in entry.fields.items() if name not in names}
        for name in RESERVED.intersection((*names, *fields)) if columnar else ():
            raise Usage(f"{entry.name}: a packed batch cannot hold a field {name}", hint="without --pack it can")
        self._mapping = FieldMapping(format, entry.name, (*names, *fields))
        self._column_mapping, self._columnar = ColumnMapping(self._mapping, fields, max_bytes), columnar

    def rows(self, batch: pyarrow.RecordBatch) -> RowBatch:
        """Turn a batch into records. An error in a row makes only that row bad."""
        rows, original = batch.num_rows, batch
        if not rows:
            return RowBatch(0, (), [])
        reasons: dict[int, str] = {}
        numbers = range(rows)
        try:
            values = self._to_json(batch)
        except ValueError:
            reasons = self._bad_rows(batch)
            numbers = [row for row in range(rows) if row not in reasons]
            if not numbers:
                return RowBatch(rows, (), self._bad(original, reasons))
            batch = batch.take(arrow().array(numbers, arrow().int64()))
            values = self._to_json(batch)
        found = self._column_mapping(values, self._raw_columns(batch))
        reasons.update((numbers[row], reason) for row, reason in found.bad.items())
        items = found.columns if self._columnar else list(found.columns)
        return RowBatch(rows, items, self._bad(original, reasons) if reasons else [])

    def _to_json(self, batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        names = batch.schema.names
        columns = [self._column(name, column) for name, column in zip(names, batch.columns, strict=True)]
        return arrow().record_batch(columns, names)

    def _column(self, name: str, column: pyarrow.Array) -> pyarrow.Array:
        try:
            return cast_to(to_json_array(column), self._types[name])
        except ValueError as exc:
            raise ValueError(f"column {name}: {exc}") from None

    def _bad_rows(self, batch: pyarrow.RecordBatch) -> dict[int, str]:
        found: dict[int, str] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for row, reason in _bad_cells(self._column, name, column).items():
                found.setdefault(row, reason)
        return found

    def _raw_columns(self, batch: pyarrow.RecordBatch) -> dict[str, pyarrow.DataType]:
        """Return key and time columns that are bytes or timestamps unconverted, as they are in the file."""
        types = arrow().types
        found: dict[str, pyarrow.Array] = {}
        for name in {self._mapping.key_field, self._mapping.time_field}:
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

    def _bad(self, batch: pyarrow.RecordBatch, reasons: Mapping[int, str]) -> list[tuple[int, str, bytes]]:
        return [(row, reasons[row], self._as_json(batch.slice(row, 1))) for row in sorted(reasons)]

    def _as_json(self, row: pyarrow.RecordBatch) -> bytes:
        """Return a row as JSON; values that JSON cannot represent are written as Arrow shows them."""
        parts: list[bytes] = []
        for name, column in zip(row.schema.names, row.columns, strict=True):
            try:
                (value,) = row_values(arrow().record_batch([self._column(name, column)], ["v"]), "json")
                value = value[5:-1]
            except ValueError:
                value = msgspec.json.encode(_shown(column[0]))
            parts.append(msgspec.json.encode(name) + b":" + value)
        return b"{" + b",".join(parts) + b"}"


def _bad_cells(
    convert: Callable[[str, pyarrow.Array], pyarrow.Array], name: str, column: pyarrow.Array
) -> dict[int, str]:
    return find_bad_rows(len(column), lambda begin, end: convert(name, column.slice(begin, end - begin)))


def _shown(cell: pyarrow.Scalar) -> object:
    """Return a cell that JSON cannot represent: the offending parts as text, the others unchanged."""
    types = arrow().types
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
    value = cell.as_py()
    return str(value) if isinstance(value, float) and isinf(value) else value
