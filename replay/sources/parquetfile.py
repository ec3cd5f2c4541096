"""Parquet files: batches out of row groups, rows as JSON objects, made column by column.

pyarrow reads, because it hands a row group out piece by piece; polars writes JSON, ten times as fast as row by row.
What polars cannot write as we want it (bytes or times inside of lists) goes row by row, and so does a batch in which
something is wrong, to find out what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

from ...topics.errors import Usage
from .expression import as_bytes
from .format import Format
from .item import NO_LIMIT, Item, check_sizes
from .lines import BATCH_LINES
from .member import Member
from .opening import Opened, open_seekable
from .parquetcolumns import ParquetColumns
from .rowfile import RowFile, Rows, items_of, shape_of
from .shape import Shape
from .source import Position
from .stamp import LAST_MS

__all__ = ["is_simple", "open_parquet"]

# Rows of wide text come fewer at a time: a batch exists as pages, columns, text and records, and allocators keep more
# than that. By column there is less of all that.
_BATCH_BYTES = 2 * 1024 * 1024
_COLUMN_BYTES = 16 * 1024 * 1024
_READ_BYTES = 256 * 1024
_COLUMN_ROWS = 262_144


def open_parquet(
    member: Member,
    format: Format,
    position: Position | None = None,
    *,
    batch_rows: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
    columns: bool = False,
) -> RowFile:
    """A Parquet file as a source. Memory is bounded by the compressed pages of a row group and a batch of rows.

    Args:
        columns: make columns, see `Columns`.

    Raises:
        Usage: pyarrow and polars are not installed, or a field that is asked for does not exist.
    """
    return RowFile(member, open_seekable, _Parquet(member, format, batch_rows, max_record_bytes, columns), position)


class _Parquet:
    DAMAGE: tuple[type[BaseException], ...] = (ValueError, KeyError, NotImplementedError)

    def __init__(self, member: Member, format: Format, batch_rows: int, max_bytes: int, columns: bool) -> None:
        self._member, self._format, self._columns = member, format, columns
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        try:
            import polars
            import pyarrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise Usage(
                f"{self._member.name}: Parquet needs pyarrow and polars", hint="pip install 'anabranch[parquet]'"
            ) from None
        try:
            file: Any = parquet.ParquetFile(opened.stream, buffer_size=_READ_BYTES, pre_buffer=False)  # pyright: ignore[reportArgumentType]
            columns = tuple(file.schema_arrow.names)
        except (pyarrow.ArrowException, OSError) as exc:
            raise OSError(f"not a Parquet file ({exc})") from None
        shape, fields = shape_of(self._format, self._member.name, columns, self._member.fields)
        table = _Table(polars, file.schema_arrow, shape, fields, self._max_bytes)
        made = (
            ParquetColumns(self._member.name, file.schema_arrow, shape, fields, self._max_bytes)
            if self._columns
            else None
        )
        whole = max(1, file.metadata.num_rows)
        size = self._member.size_bytes
        done = [first]
        opened.done_bytes = lambda: size * done[0] // whole
        return self._batches(file, first, table, made, done)

    def _batches(
        self, file: Any, first: int, table: _Table, made: ParquetColumns | None, done: list[int]
    ) -> Iterator[Rows]:
        groups, skip = list(range(file.metadata.num_row_groups)), first
        while groups and skip >= file.metadata.row_group(groups[0]).num_rows:
            skip -= file.metadata.row_group(groups.pop(0)).num_rows
        for group in groups:
            about = file.metadata.row_group(group)
            row_bytes = max(1, about.total_byte_size // max(1, about.num_rows))
            most = (self._batch_rows, _BATCH_BYTES) if made is None else (_COLUMN_ROWS, _COLUMN_BYTES)
            rows = max(1, min(most[0], most[1] // row_bytes))
            for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                rest = batch.slice(skip)
                skip = 0
                for found in [table.rows(rest)] if made is None else self._as_columns(rest, table, made):
                    done[0] += found.count
                    yield found

    def _as_columns(self, batch: Any, table: _Table, made: ParquetColumns) -> Iterator[Rows]:
        try:
            yield Rows(batch.num_rows, made(batch), [])
        except ValueError:  # something in it is wrong, or polars could not write it as JSON: as records, then
            for begin in range(0, batch.num_rows, self._batch_rows):
                yield table.rows(batch.slice(begin, self._batch_rows))


class _Table:
    """Batches of one file as records."""

    def __init__(self, polars: Any, schema: Any, shape: Shape, fields: Mapping[str, Any], max_bytes: int) -> None:
        self._polars = polars
        self._shape = shape
        self._fields = fields
        self._max_bytes = max_bytes
        import pyarrow

        # Not `schema.empty_table()`, which loads pandas where that happens to be installed.
        empty = polars.from_arrow(pyarrow.Table.from_batches([], schema))
        written = [_as_json(polars, name, kind) for name, kind in empty.schema.items()]
        self._value: Any = None
        if all(part is not None for part in written):
            parts = [*written, *(polars.lit(value).alias(name) for name, value in fields.items())]
            self._value = polars.struct(*parts).struct.json_encode().cast(polars.Binary)

    def rows(self, batch: Any) -> Rows:
        """A batch as records."""
        frame = self._polars.from_arrow(batch)
        if self._value is not None:
            try:
                return Rows(frame.height, self._items(frame), [])
            except ValueError:
                pass  # something in it is wrong: look at each
        return items_of(frame.iter_rows(named=True), self._shape, self._fields, self._max_bytes)

    def _items(self, frame: Any) -> list[Item]:
        values: list[bytes] = frame.select(self._value).to_series().to_list()
        check_sizes(values, self._max_bytes)
        shape = self._shape
        if not shape.plain or not shape.fields.isdisjoint(self._fields):
            used = frame.select(name for name in frame.columns if name in shape.fields)
            records = used.iter_rows(named=True) if used.width else repeat({}, frame.height)
            shaped = [shape({**self._fields, **record}) for record in records]
            return [
                (key, value, time_ms, headers, partition)
                for value, (key, time_ms, headers, partition) in zip(values, shaped, strict=True)
            ]
        keys: Any = repeat(None) if shape.key_field is None else self._keys(frame[shape.key_field])
        times: Any = repeat(0) if shape.time_field is None else self._times(frame[shape.time_field])
        return list(zip(keys, values, times, repeat(None), repeat(None)))

    def _keys(self, column: Any) -> list[bytes | None]:
        polars = self._polars
        if column.dtype == polars.String or column.dtype.is_integer():
            return column.cast(polars.String).cast(polars.Binary).to_list()
        return list(map(as_bytes, column.to_list()))

    def _times(self, column: Any) -> list[int]:
        polars, stamps = self._polars, self._shape.stamps
        if isinstance(column.dtype, polars.Datetime) and (column.dtype.time_zone or stamps.in_utc):
            times = column.dt.epoch("ms")
            if times.null_count() or not (times.min() > 0 and times.max() <= LAST_MS):
                raise ValueError("a time that is none")
            return times.to_list()
        return stamps.many(column.to_list())


def _as_json(polars: Any, name: str, kind: Any) -> Any:
    """What makes a column ready to be written as JSON; None where polars cannot."""
    column = polars.col(name)
    if isinstance(kind, polars.Datetime):
        text = column.dt.to_string("iso:strict")
        return text if kind.time_zone is None else text.str.replace(r"\+00:00$", "Z")
    if kind == polars.Binary:
        return column.bin.encode("base64").alias(name)
    if kind in (polars.Date, polars.Time, polars.Categorical) or isinstance(kind, polars.Decimal | polars.Enum):
        return column
    return column if is_simple(polars, kind) else None


def is_simple(polars: Any, kind: Any) -> bool:
    """Whether a polars type is one that it writes as JSON has it."""
    if isinstance(kind, polars.Struct):
        return all(is_simple(polars, field.dtype) for field in kind.fields)
    if isinstance(kind, polars.List):
        return is_simple(polars, kind.inner)
    numbers = (polars.Int8, polars.Int16, polars.Int32, polars.Int64, polars.Float32, polars.Float64)
    more = (polars.UInt8, polars.UInt16, polars.UInt32, polars.UInt64, polars.Boolean, polars.String)
    return kind in (*numbers, *more)
