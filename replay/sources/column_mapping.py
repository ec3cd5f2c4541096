"""`ColumnMapping`: maps batches of columns to records with key, timestamp, headers and partition; finds bad rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...topics.arrow_numpy import as_numpy
from ...topics.packed import arrow, arrow_compute, is_text, row_values
from ...topics.producer import Headers
from .column_batch import ColumnBatch, to_columns
from .field_expression import NOT_FINITE
from .field_mapping import FieldMapping
from .formats.arrow_json import unit_of
from .source_record import check_sizes
from .time_parser import AT_ZERO, LAST_MS, TimeParser

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = ["ColumnMapping", "MappedRows", "as_json_text", "find_bad_rows", "parse_times"]


class MappedRows(NamedTuple):
    """Rows that became records, and the reason for each that could not, by its number in the batch (from 0)."""

    columns: ColumnBatch
    bad: dict[int, str]


class _Mapped(NamedTuple):
    """The mapped fields of some rows, each in the form that `ColumnBatch` takes; None if no row has one.

    Attributes:
        keys: name of the column if the key is a field unchanged, otherwise the keys.
    """

    keys: str | pyarrow.Array | None
    times: numpy.ndarray | None
    partitions: numpy.ndarray | None = None
    headers: list[Headers | None] | None = None


def find_bad_rows(rows: int, attempt: Callable[[int, int], object]) -> dict[int, str]:
    """Return the rows for which `attempt(begin, end)` raises ValueError, each with its reason.

    Each row is judged on its own, so that its neighbours make no difference.
    """
    found: dict[int, str] = {}

    def bisect(begin: int, end: int) -> None:
        try:
            attempt(begin, end)
        except ValueError as exc:
            if end - begin == 1:
                found[begin] = str(exc)
                return
            middle = (begin + end) // 2
            bisect(begin, middle)
            bisect(middle, end)

    if rows:
        bisect(0, rows)
    return found


class ColumnMapping:
    """Maps batches of columns to records. The same rows give the same records, wherever a batch is cut.

    Args:
        fields: constant fields that each row has in addition to its columns.
        max_bytes: rows with larger values are bad.
    """

    def __init__(self, mapping: FieldMapping, fields: Mapping[str, str | int | None], max_bytes: int) -> None:
        self._mapping, self._fields, self._max_bytes = mapping, fields, max_bytes
        self._by_row = not mapping.plain or not mapping.fields.isdisjoint(fields)

    def __call__(self, batch: pyarrow.RecordBatch, written: Mapping[str, pyarrow.Array]) -> MappedRows:
        """Map a batch to records.

        Args:
            batch: at least one row; columns of JSON values.
            written: columns that keys and times are read from instead of those of `batch`, because they hold the
                original value: raw bytes, timestamps, the text of cells.
        """
        batch = self._with_fields(batch)
        rows = batch.num_rows
        bad = self._find_too_large(batch)
        mapped = None
        if self._by_row:
            mapped, more = self._map_by_row(batch, written)
            bad = {**more, **bad}
        elif not bad:
            try:
                mapped = self._map_columns(batch, written, 0, rows)
            except ValueError:
                bad = find_bad_rows(rows, lambda begin, end: self._map_columns(batch, written, begin, end))
        else:
            bad = {**find_bad_rows(rows, lambda begin, end: self._map_columns(batch, written, begin, end)), **bad}
        if not bad:
            assert mapped is not None
            return MappedRows(_columns(batch, mapped), {})
        good = arrow().array([row for row in range(rows) if row not in bad], arrow().int64())
        kept = batch.take(good)
        if not len(good):
            return MappedRows(ColumnBatch(kept), bad)
        if self._by_row:
            assert mapped is not None
            return MappedRows(_columns(batch, mapped).take(as_numpy(good)), bad)
        written = {name: column.take(good) for name, column in written.items()}
        return MappedRows(_columns(kept, self._map_columns(kept, written, 0, len(good))), bad)

    def _with_fields(self, batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        for name, value in self._fields.items():
            batch = batch.append_column(name, arrow().array([value] * batch.num_rows))
        return batch

    def _map_columns(
        self, batch: pyarrow.RecordBatch, written: Mapping[str, pyarrow.Array], begin: int, end: int
    ) -> _Mapped:
        """Map keys and times of some rows without looking at each.

        Raises:
            ValueError: one of the rows is bad.
        """
        mapping, keys, times = self._mapping, None, None
        batch = batch.slice(begin, end - begin)
        if mapping.key_field is not None:
            raw = written.get(mapping.key_field)
            if raw is not None and _is_key(raw.type):
                keys = raw.slice(begin, end - begin)
            elif _is_key(batch[mapping.key_field].type):
                keys = mapping.key_field
            else:
                keys = as_json_text(batch, mapping.key_field)
        if mapping.time_field is not None:
            column = written.get(mapping.time_field)
            column = batch[mapping.time_field] if column is None else column.slice(begin, end - begin)
            times = parse_times(mapping.time_parser, column)
        return _Mapped(keys, times)

    def _map_by_row(
        self, batch: pyarrow.RecordBatch, written: Mapping[str, pyarrow.Array]
    ) -> tuple[_Mapped, dict[int, str]]:
        """Evaluate the expressions row by row; return the mapped fields (empty in bad rows), and the bad rows."""
        mapping, rows = self._mapping, batch.num_rows
        used = [name for name in batch.schema.names if name in mapping.fields]
        cells = [_to_list(batch[name]) for name in used]
        keys = list[bytes | None]()
        times, partitions, headers = list[int](), list[int | None](), list[Headers | None]()
        bad: dict[int, str] = {}
        unchanged_keys = self._unchanged_keys(batch, written)
        for number in range(rows):
            key, time_ms, own_headers, partition = None, 0, None, None
            try:
                record = {name: column[number] for name, column in zip(used, cells, strict=True)}
                key, time_ms, own_headers, partition = mapping(record)
            except ValueError as exc:
                bad[number] = str(exc)
            keys.append(key)
            times.append(time_ms)
            headers.append(own_headers)
            partitions.append(partition)
        if unchanged_keys is not None:
            keys = unchanged_keys
        return _Mapped(*to_columns(keys, times, partitions), headers if any(headers) else None), bad

    def _unchanged_keys(
        self, batch: pyarrow.RecordBatch, written: Mapping[str, pyarrow.Array]
    ) -> list[bytes | None] | None:
        """Return the keys if the key is a field unchanged: they must not depend on whether headers are mapped."""
        field = self._mapping.key_field
        if field is None or field not in batch.schema.names or field in self._fields:
            return None
        column = written.get(field)
        if column is None or not _is_key(column.type):
            # Rows whose key is no finite number are bad already: the mapping has refused them.
            column = batch[field] if _is_key(batch[field].type) else as_json_text(batch, field, finite=False)
        return [cell.encode() if isinstance(cell, str) else cell for cell in map(_key_cell, column.to_pylist())]

    def _find_too_large(self, batch: pyarrow.RecordBatch) -> dict[int, str]:
        """Find rows that are too large. Looks at single rows only if the largest cells together might be too large."""
        if _size_bound(batch) <= self._max_bytes:
            return {}
        bad: dict[int, str] = {}
        for number, value in enumerate(row_values(batch, "json")):
            try:
                check_sizes((value,), self._max_bytes)
            except ValueError as exc:
                bad[number] = str(exc)
        return bad


def _columns(batch: pyarrow.RecordBatch, mapped: _Mapped) -> ColumnBatch:
    key = mapped.keys if isinstance(mapped.keys, str) else None
    keys = None if isinstance(mapped.keys, str) else mapped.keys
    return ColumnBatch(
        batch, key=key, keys=keys, times=mapped.times, partitions=mapped.partitions, headers=mapped.headers
    )


def _key_cell(cell: str | bytes | int | None) -> str | bytes | None:
    return b"%d" % cell if isinstance(cell, int) else cell


def _size_bound(batch: pyarrow.RecordBatch) -> int:
    """Return an upper bound for the size in bytes of a row's value."""
    compute, bound = arrow_compute(), 2
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        bound += 6 * len(name.encode()) + 4
        if is_text(column.type):
            bound += 6 * (compute.max(compute.binary_length(column)).as_py() or 0) + 2
        elif arrow().types.is_nested(column.type):
            bound += _nested_size_bound(column.type, column.nbytes)
        else:
            bound += 32
    return bound


def _nested_size_bound(kind: pyarrow.DataType, size_bytes: int) -> int:
    """Return an upper bound for a cell of a column of lists or objects, from the size of the whole column."""
    names = len(str(kind).encode())
    return (32 + 6 * names) * (8 * size_bytes + 1)


def as_json_text(batch: pyarrow.RecordBatch, name: str, *, finite: bool = True) -> pyarrow.Array:
    """Return the JSON text of each value of a column; null for null.

    Args:
        finite: refuse NaN and infinity, which JSON does not have; else they are null.

    Raises:
        ValueError: a value is an object or a list, or not a finite number.
    """
    pyarrow = arrow()
    column = batch[name]
    if pyarrow.types.is_nested(column.type):
        if column.null_count < len(column):
            raise ValueError("the key is an object or a list; expected text, a number, true, false or null")
        return pyarrow.nulls(len(column), pyarrow.string())
    if pyarrow.types.is_null(column.type):
        return column.cast(pyarrow.string())
    values = row_values(pyarrow.record_batch([column], ["v"]), "json")
    texts = [None if value == b'{"v":null}' else value[5:-1].decode() for value in values]
    if finite and texts.count(None) > column.null_count:
        raise ValueError(NOT_FINITE)
    return pyarrow.array(texts, pyarrow.string())


def parse_times(parser: TimeParser, column: pyarrow.Array) -> numpy.ndarray:
    """Return a column of times as ms since 1970 in int64. Each distinct value is parsed once.

    Raises:
        ValueError: a value is not a time.
    """
    import numpy

    types = arrow().types
    if column.null_count:
        raise ValueError("no time")
    if types.is_timestamp(column.type):
        return _timestamps_ms(parser, column)
    if types.is_nested(column.type) or types.is_boolean(column.type):
        raise ValueError("not a time")
    if types.is_int64(column.type):
        numbers = as_numpy(column)
        found = parser.parse_integers(numbers, int(numbers.min()), int(numbers.max()))
        if found is not None:
            return found
    if types.is_float32(column.type):
        column = column.cast(arrow().float64())
    coded = column.dictionary_encode()
    times = numpy.array(parser.parse_all(coded.dictionary.to_pylist()), numpy.int64)
    return times[as_numpy(coded.indices)]


def _timestamps_ms(parser: TimeParser, column: pyarrow.Array) -> numpy.ndarray:
    """Convert a column of Arrow timestamps; those without a zone are in the zone of the parser."""
    import numpy

    per_s = unit_of(column.type)
    numbers = as_numpy(column.view(arrow().int64()))
    times = numbers * (1_000 // per_s) if per_s < 1_000 else numbers // (per_s // 1_000)
    if not (times.min() > 0 and times.max() <= LAST_MS):
        raise ValueError("not between 1970 and 9999" if times.any() else AT_ZERO)
    if column.type.tz or parser.in_utc:
        return times
    return numpy.array([parser.local_ms(ms) for ms in times.tolist()], numpy.int64)


def _is_key(kind: pyarrow.DataType) -> bool:
    types = arrow().types
    return is_text(kind) or types.is_integer(kind) or types.is_binary(kind)


def _to_list(column: pyarrow.Array) -> list[Any]:
    """Return values as expressions see them; a 32-bit float is the number that JSON shows."""
    if arrow().types.is_float32(column.type):
        import numpy

        return [None if cell is None else float(str(numpy.float32(cell))) for cell in column.to_pylist()]
    return column.to_pylist()
