"""Rows of Parquet as columns: what `parquetfile` makes as records, without making each.

Columns that hold what JSON holds go as they are. Others (times, bytes, decimals, categories) become the text that they
are in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...topics.arrays import as_numpy
from ...topics.errors import Usage
from ...topics.packed import RESERVED, arrow
from .columns import Columns
from .expression import as_bytes
from .shape import Shape
from .shapedcolumns import shaped, stamped
from .stamp import LAST_MS

__all__ = ["ParquetColumns"]


class ParquetColumns:
    """Batches of one file as columns.

    Args:
        schema: of the file, as Arrow.
        fields: what each row has beside its own.

    Raises:
        Usage: a column has a name that packed batches use for themselves.
    """

    def __init__(self, source: str, schema: Any, shape: Shape, fields: Mapping[str, Any], max_bytes: int) -> None:
        for name in RESERVED.intersection((*schema.names, *fields)):
            raise Usage(f"{source}: a packed batch cannot hold a field {name}", hint="without --pack it can")
        self._shape, self._fields, self._max_bytes = shape, fields, max_bytes
        self._names = tuple(schema.names)

    def __call__(self, batch: Any) -> Columns:
        """A batch as columns: the very records that its rows would be.

        Raises:
            ValueError: it cannot be had.
        """
        shape, pyarrow = self._shape, arrow()
        columns = {name: _as_json(column) for name, column in zip(self._names, batch.columns, strict=True)}
        self._check_size(columns.values())
        for name, value in self._fields.items():
            columns[name] = pyarrow.array([value] * batch.num_rows)
        key, keys, times, partitions = None, None, None, None
        if not shape.plain or not shape.fields.isdisjoint(self._fields):
            own = dict(zip(self._names, batch.columns, strict=True))
            keys, times, partitions = shaped(shape, {**columns, **own}, batch.num_rows)
        else:
            if shape.key_field is not None:
                column = batch[shape.key_field]
                if _is_text(column.type) or pyarrow.types.is_integer(column.type):
                    key = shape.key_field
                else:
                    keys = pyarrow.array(list(map(as_bytes, _cells(column))), pyarrow.binary())
            if shape.time_field is not None:
                times = self._times(batch[shape.time_field])
        made = pyarrow.record_batch(list(columns.values()), list(columns))
        return Columns(made, key=key, keys=keys, times=times, partitions=partitions)

    def _times(self, column: Any) -> Any:
        import numpy

        types: Any = arrow().types
        if types.is_timestamp(column.type) and (column.type.tz or self._shape.stamps.in_utc):
            units = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
            times, by = units[column.type.unit]
            if column.null_count:
                raise ValueError("no time")
            found: Any = as_numpy(column.cast(arrow().int64())) * times // by
            if not (found.min() > 0 and found.max() <= LAST_MS):
                raise ValueError("a time that is none")
            return found
        if types.is_integer(column.type) or types.is_string(column.type):
            return stamped(self._shape.stamps, column)
        return numpy.array(self._shape.stamps.many(_cells(column)), numpy.int64)

    def _check_size(self, columns: Any) -> None:
        """Whether each row is small enough, going by the largest cells.

        Raises:
            ValueError: that cannot be told.
        """
        import pyarrow.compute

        compute: Any = pyarrow.compute
        largest = sum(6 * len(name) + 4 for name in (*self._names, *self._fields))
        for column in columns:
            if _is_text(column.type):
                largest += 6 * (compute.max(compute.binary_length(column)).as_py() or 0) + 2
            elif arrow().types.is_nested(column.type):
                largest += 6 * column.nbytes
            else:
                largest += 32
        if largest > self._max_bytes:
            raise ValueError("a row that may be too large")


def _is_text(kind: Any) -> bool:
    types = arrow().types
    return types.is_string(kind) or types.is_large_string(kind)


def _cells(column: Any) -> list[Any]:
    import polars

    found: Any = polars.from_arrow(column)
    return found.to_list()


def _as_json(column: Any) -> Any:
    """A column that holds what JSON holds.

    Raises:
        ValueError: JSON has no such thing, or it is not known how it is written.
    """
    import polars

    kind = column.type
    if _is_plain(kind):
        return column
    series: Any = polars.from_arrow(column)
    dtype = series.dtype
    if isinstance(dtype, polars.Datetime):
        text = series.dt.to_string("iso:strict")
        text = text if dtype.time_zone is None else text.str.replace(r"\+00:00$", "Z")
    elif dtype == polars.Binary:
        text = series.bin.encode("base64")
    elif dtype in (polars.Date, polars.Time, polars.Categorical) or isinstance(dtype, polars.Decimal | polars.Enum):
        text = series.cast(polars.String)
    elif dtype == polars.String:
        text = series
    else:
        raise ValueError(f"columns of {kind} are written row by row")
    return text.to_arrow()


def _is_plain(kind: Any) -> bool:
    types: Any = arrow().types
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    floating = types.is_float32(kind) or types.is_float64(kind)
    return floating or types.is_integer(kind) or types.is_boolean(kind) or _is_text(kind)
