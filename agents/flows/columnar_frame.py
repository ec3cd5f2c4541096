"""Frame: a batch in columns on its way through a flow: the fields of its elements, and the rows that are left.

Operators change the frame as they change elements: `filter` removes rows, `with_columns` and `select` change the
fields. Rows that might fail are *set aside*, to be processed row by row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import inspect

from ..value_columns import DeclaredField, checkable
from .aggregates import What
from .columnar_expressions import Column, Mask, NotVectorizable, as_floats, column_of, evaluate
from .expressions import Expression

__all__ = ["Frame"]

_KINDS: dict[object, str] = {
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "text",
    inspect.BoolType: "bool",
}
_JSON = (None, Any, dict, dict[str, Any])


class Frame:
    """The rows of an Arrow batch, each a JSON object.

    Args:
        declared: the type that rows are decoded into.

    Attributes:
        rows: number of rows of the batch.
        live: flags of the rows that are left.
        aside: flags of the other rows that have to be processed row by row.

    Raises:
        NotVectorizable: decoding may refuse some of the rows, or change them.
    """

    def __init__(self, batch: pa.RecordBatch, declared: object = None) -> None:
        self._batch = batch
        self._columns: dict[str, Column] = {}
        self._names: Collection[str] = set(batch.schema.names)
        self.rows: int = batch.num_rows
        self.live: Mask = np.ones(self.rows, bool)
        self.aside: Mask = np.zeros(self.rows, bool)
        if declared not in _JSON:
            self._declare(declared)

    def _declare(self, declared: object) -> None:
        fields = _plain_fields(declared)
        if fields is None:
            raise NotVectorizable(f"elements are {declared}")
        for field in fields:
            if field.name not in self._names:
                raise NotVectorizable(f"no column {field.name}")
            kind = _KINDS[field.kind]
            column = column_of(self._batch[field.name])
            if column.null.any() and not field.nullable:
                raise NotVectorizable(f"{field.name}: None")
            if column.kind == "int" and kind == "float":
                column = as_floats(column)
            elif column.kind not in (kind, "null"):
                raise NotVectorizable(f"{field.name}: {column.kind}, not {kind}")
            self._columns[field.attribute] = column
        self._names = set(self._columns)

    def column(self, what: What) -> Column:
        """Return the column of a field or an expression.

        Raises:
            NotVectorizable: there is no such field, or as `evaluate`.
        """
        if isinstance(what, Expression):
            return evaluate(what, self._field, self.rows)
        if isinstance(what, str):
            return self._field(what)
        raise NotVectorizable(f"{what!r} is not a field")

    def texts(self, keys: pa.Array | None) -> Column:
        """Return the records' own keys as text.

        Args:
            keys: text, whole numbers or bytes; None where the records have no keys.

        Raises:
            NotVectorizable: a key is not text.
        """
        if keys is None:
            return column_of(pa.nulls(self.rows))
        try:
            return column_of(keys.cast(pa.large_string()))
        except pa.ArrowInvalid:
            raise NotVectorizable("keys that are not text") from None

    def _field(self, name: str) -> Column:
        if name not in self._names:
            raise NotVectorizable(f"no column {name}")
        if name not in self._columns:
            self._columns[name] = column_of(self._batch[name])
        return self._columns[name]

    def set_aside(self, rows: Mask) -> None:
        """Set these rows aside, as far as they are left."""
        rows = rows & self.live
        if rows.any():
            self.aside |= rows
            self.live = self.live & ~rows

    def keep(self, condition: What) -> None:
        """Keep only the rows for which the condition is true."""
        column = self.column(condition)
        self.set_aside(column.bad)
        self.live = self.live & column.truth()

    def with_columns(self, columns: Mapping[str, What]) -> None:
        """Add fields."""
        made = {name: self.column(what) for name, what in columns.items()}
        for column in made.values():
            self.set_aside(column.bad)
        self._columns.update(made)
        self._names = {*self._names, *made}

    def select(self, columns: Mapping[str, What]) -> None:
        """Replace the fields."""
        self.with_columns(columns)
        self._names = set(columns)


def _plain_fields(declared: object) -> list[DeclaredField] | None:
    """Return the fields of a struct whose fields are all plain, so that columns can be checked against it; else
    None."""
    fields = checkable(declared) if isinstance(declared, type) and issubclass(declared, msgspec.Struct) else None
    return fields if fields is not None and all(field.kind in _KINDS for field in fields) else None
