"""Key, time and partition of rows that stay columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...topics.arrays import as_numpy
from ...topics.packed import arrow
from .columns import as_columns
from .shape import Shape
from .stamp import Stamps

__all__ = ["shaped", "stamped"]


def stamped(stamps: Stamps, column: Any) -> Any:
    """Times as a column holds them, in ms, as int64. Each of them is read once, however often it occurs.

    Raises:
        ValueError: one is none.
    """
    import numpy

    if column.null_count:
        raise ValueError("no time")
    if arrow().types.is_int64(column.type):
        numbers: Any = as_numpy(column)
        found = stamps.whole(numbers, int(numbers.min()), int(numbers.max()))
        if found is not None:
            return found
    coded = column.dictionary_encode()
    times = numpy.array(stamps.many(coded.dictionary.to_pylist()), numpy.int64)
    return times[as_numpy(coded.indices)]


def shaped(shape: Shape, columns: Mapping[str, Any], rows: int) -> tuple[Any, Any, Any]:
    """Keys, times and partitions as `Columns` takes them, where they are computed: row by row.

    Args:
        columns: of Arrow, by the fields' names.

    Raises:
        ValueError: one of them cannot be had.
    """
    used = [name for name in columns if name in shape.fields]
    cells = [columns[name].to_pylist() for name in used]
    records = (dict(zip(used, row, strict=True)) for row in zip(*cells, strict=True)) if used else [{}] * rows
    keys, times, _, partitions = zip(*map(shape, records), strict=True)
    return as_columns(keys, times, partitions)
