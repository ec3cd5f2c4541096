"""Records made of columns: what of them becomes key, time, headers and partition, and which rows are bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...topics.arrow_numpy import as_numpy
from ...topics.packed import arrow, is_text, row_values
from ...topics.producer import Headers
from .column_batch import ColumnBatch, as_columns
from .field_mapping import FieldMapping
from .formats.arrow_json import unit_of
from .source_record import check_sizes
from .time_parser import AT_ZERO, LAST_MS, TimeParser

__all__ = ["ColumnMapping", "Made", "as_json_text", "find_bad_rows", "stamped"]

Row = Mapping[str, Any]


class Made(NamedTuple):
    """Rows that became records, and those that could not: number among all, from 0, and reason."""

    columns: ColumnBatch
    bad: dict[int, str]


def find_bad_rows(rows: int, attempt: Callable[[int, int], object]) -> dict[int, str]:
    """Which rows make `attempt(begin, end)` raise ValueError, each with its reason.

    Each row is judged alone, so its neighbours change nothing.
    """
    found: dict[int, str] = {}

    def look(begin: int, end: int) -> None:
        try:
            attempt(begin, end)
        except ValueError as exc:
            if end - begin == 1:
                found[begin] = str(exc)
                return
            middle = (begin + end) // 2
            look(begin, middle)
            look(middle, end)

    if rows:
        look(0, rows)
    return found


class ColumnMapping:
    """Makes records of batches of columns; the same rows give the same records, wherever a batch is cut.

    Args:
        fields: what each row has beside its columns.
        max_bytes: rows whose values are larger are bad.
    """

    def __init__(self, shape: FieldMapping, fields: Row, max_bytes: int) -> None:
        self._shape, self._fields, self._max_bytes = shape, fields, max_bytes
        self._by_row = not shape.plain or not shape.fields.isdisjoint(fields)

    def __call__(self, batch: Any, written: Mapping[str, Any]) -> Made:
        """Records of a batch.

        Args:
            batch: at least one row; columns of what JSON holds.
            written: fields whose values as keys and times are others than those of `batch`: raw bytes, moments, the
                text of cells.
        """
        batch = self._with_fields(batch)
        rows = batch.num_rows
        bad = self._too_large(batch)
        own = None
        if self._by_row:
            own, more = self._computed(batch, written)
            bad = {**more, **bad}
        elif not bad:
            try:
                own = self._found(batch, written, 0, rows)
            except ValueError:
                bad = find_bad_rows(rows, lambda begin, end: self._found(batch, written, begin, end))
        else:
            bad = {**find_bad_rows(rows, lambda begin, end: self._found(batch, written, begin, end)), **bad}
        if not bad:
            assert own is not None
            return Made(self._columns(batch, own), {})
        good = arrow().array([row for row in range(rows) if row not in bad], arrow().int64())
        kept = batch.take(good)
        if self._by_row:
            assert own is not None
            return Made(self._columns(batch, own).take(as_numpy(good)) if len(good) else self._none(kept), bad)
        if not len(good):
            return Made(self._none(kept), bad)
        there = {name: column.take(good) for name, column in written.items()}
        return Made(self._columns(kept, self._found(kept, there, 0, len(good))), bad)

    def _none(self, batch: Any) -> ColumnBatch:
        return ColumnBatch(batch)

    def _with_fields(self, batch: Any) -> Any:
        for name, value in self._fields.items():
            batch = batch.append_column(name, arrow().array([value] * batch.num_rows))
        return batch

    def _columns(self, batch: Any, own: tuple[Any, Any, Any, Any]) -> ColumnBatch:
        keys, times, partitions, headers = own
        key = keys if isinstance(keys, str) else None
        return ColumnBatch(
            batch, key=key, keys=None if key else keys, times=times, partitions=partitions, headers=headers
        )

    def _found(self, batch: Any, written: Mapping[str, Any], begin: int, end: int) -> tuple[Any, Any, Any, Any]:
        """Keys, or the name of the field that is the key as it stands; times; neither partitions nor headers."""
        shape, keys, times = self._shape, None, None
        batch = batch.slice(begin, end - begin)
        if shape.key_field is not None:
            raw = written.get(shape.key_field)
            if raw is not None and _is_key(raw.type):
                keys = raw.slice(begin, end - begin)
            elif _is_key(batch[shape.key_field].type):
                keys = shape.key_field
            else:
                keys = as_json_text(batch, shape.key_field)
        if shape.time_field is not None:
            column = written.get(shape.time_field)
            column = batch[shape.time_field] if column is None else column.slice(begin, end - begin)
            times = stamped(shape.stamps, column)
        return keys, times, None, None

    def _computed(self, batch: Any, written: Mapping[str, Any]) -> tuple[tuple[Any, Any, Any, Any], dict[int, str]]:
        """Keys, times, partitions and headers, row by row; rows that are bad have none."""
        shape, rows = self._shape, batch.num_rows
        used = [name for name in batch.schema.names if name in shape.fields]
        cells = [_listed(batch[name]) for name in used]
        keys = list[bytes | None]()
        times, partitions, headers = list[int](), list[int | None](), list[Headers | None]()
        bad: dict[int, str] = {}
        as_written = self._as_written(batch, written)
        for number in range(rows):
            key, time_ms, told, partition = None, 0, None, None
            try:
                record = {name: column[number] for name, column in zip(used, cells, strict=True)}
                key, time_ms, told, partition = shape(record)
            except ValueError as exc:
                bad[number] = str(exc)
            keys.append(key)
            times.append(time_ms)
            headers.append(told)
            partitions.append(partition)
        if as_written is not None:
            keys = as_written
        made = as_columns(keys, times, partitions)
        return (*made, headers if any(headers) else None), bad

    def _as_written(self, batch: Any, written: Mapping[str, Any]) -> list[bytes | None] | None:
        """The keys, where those are a field as it stands: the same as without headers and partitions."""
        field = self._shape.key_field
        if field is None or field not in batch.schema.names or field in self._fields:
            return None
        column = written.get(field)
        if column is None or not _is_key(column.type):
            column = batch[field] if _is_key(batch[field].type) else as_json_text(batch, field)
        return [cell.encode() if isinstance(cell, str) else cell for cell in map(_key_cell, column.to_pylist())]

    def _too_large(self, batch: Any) -> dict[int, str]:
        """Rows that are too large, which is found out row by row only where the largest cells together might be."""
        if _largest(batch) <= self._max_bytes:
            return {}
        bad: dict[int, str] = {}
        for number, value in enumerate(row_values(batch, "json")):
            try:
                check_sizes((value,), self._max_bytes)
            except ValueError as exc:
                bad[number] = str(exc)
        return bad


def _key_cell(cell: Any) -> Any:
    return b"%d" % cell if isinstance(cell, int) else cell


def _largest(batch: Any) -> int:
    """No row's value is larger."""
    import pyarrow.compute

    compute, largest = pyarrow.compute, 2
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        largest += 6 * len(name.encode()) + 4
        if is_text(column.type):
            largest += 6 * (compute.max(compute.binary_length(column)).as_py() or 0) + 2
        elif arrow().types.is_nested(column.type):
            largest += _nested_most(column.type, column.nbytes)
        else:
            largest += 32
    return largest


def _nested_most(kind: Any, size: int) -> int:
    """No cell of a column of lists or objects is larger, going by the bytes of all of them."""
    names = len(str(kind).encode())
    return (32 + 6 * names) * (8 * size + 1)


def as_json_text(batch: Any, name: str) -> Any:
    """What stands for each value of a field in JSON, as text; null where it is null.

    Raises:
        ValueError: it is an object or a list.
    """
    pyarrow = arrow()
    column = batch[name]
    if pyarrow.types.is_nested(column.type):
        if column.null_count < len(column):
            raise ValueError("the key is an object or a list; text, a number, true, false or null can be one")
        return pyarrow.nulls(len(column), pyarrow.string())
    if pyarrow.types.is_null(column.type):
        return column.cast(pyarrow.string())
    values = row_values(pyarrow.record_batch([column], ["v"]), "json")
    texts = [None if value == b'{"v":null}' else value[5:-1].decode() for value in values]
    return pyarrow.array(texts, pyarrow.string())


def stamped(stamps: TimeParser, column: Any) -> Any:
    """Times as a column holds them, in ms, as int64. Each of them is read once, however often it occurs.

    Raises:
        ValueError: one is none.
    """
    import numpy

    types: Any = arrow().types
    if column.null_count:
        raise ValueError("no time")
    if types.is_timestamp(column.type):
        return _moments(stamps, column)
    if types.is_nested(column.type) or types.is_boolean(column.type):
        raise ValueError("not a time")
    if types.is_int64(column.type):
        numbers: Any = as_numpy(column)
        found = stamps.whole(numbers, int(numbers.min()), int(numbers.max()))
        if found is not None:
            return found
    if types.is_float32(column.type):
        column = column.cast(arrow().float64())
    coded = column.dictionary_encode()
    times = numpy.array(stamps.many(coded.dictionary.to_pylist()), numpy.int64)
    return times[as_numpy(coded.indices)]


def _moments(stamps: TimeParser, column: Any) -> Any:
    """Of timestamps; those without a zone are of the zone that was asked for."""
    import numpy

    per_s = unit_of(column.type)
    numbers: Any = as_numpy(column.view(arrow().int64()))
    times: Any = numbers * (1_000 // per_s) if per_s < 1_000 else numbers // (per_s // 1_000)
    if not (times.min() > 0 and times.max() <= LAST_MS):
        raise ValueError("not between 1970 and 9999" if times.any() else AT_ZERO)
    if column.type.tz or stamps.in_utc:
        return times
    return numpy.array([stamps.local_ms(ms) for ms in times.tolist()], numpy.int64)


def _is_key(kind: Any) -> bool:
    types: Any = arrow().types
    return is_text(kind) or types.is_integer(kind) or types.is_binary(kind)


def _listed(column: Any) -> list[Any]:
    """Values as expressions see them; a float of 32 bits is the number that JSON shows."""
    if arrow().types.is_float32(column.type):
        import numpy

        return [None if cell is None else float(str(numpy.float32(cell))) for cell in column.to_pylist()]
    return column.to_pylist()
