"""A batch in columns on its way through a flow: which fields its elements have, and which of its rows are still there.

The row way's twin: `filter` takes rows out, `with_columns` and `select` change the fields, and rows at which something
is the matter are *set aside*, for the row way to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import inspect

from ..value_columns import Field, checkable
from .aggregates import What
from .columnar_expressions import Column, NotVectorizable, as_floats, column_of, evaluate
from .expressions import Expression

__all__ = ["Frame"]

_KINDS = {inspect.IntType: "int", inspect.FloatType: "float", inspect.StrType: "text", inspect.BoolType: "bool"}
_JSON = (None, Any, dict, dict[str, Any])


class Frame:
    """The rows of an Arrow batch, each a JSON object.

    Args:
        batch: a `pyarrow.RecordBatch`.
        declared: the type that rows are decoded into.

    Attributes:
        live: which rows are still there; aside: which of the others the row way has to look at.

    Raises:
        Doubt: decoding may refuse some of the rows, or change them.
    """

    def __init__(self, batch: Any, declared: Any = None) -> None:
        self._batch = batch
        self._columns: dict[str, Column] = {}
        self._names: Collection[str] = set(batch.schema.names)
        self.rows: int = batch.num_rows
        self.live: Any = np.ones(self.rows, bool)
        self.aside: Any = np.zeros(self.rows, bool)
        if declared not in _JSON:
            self._declare(declared)

    def _declare(self, declared: Any) -> None:
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
        """A field, or an expression's value.

        Raises:
            Doubt: see `evaluate`; or there is no such field.
        """
        if isinstance(what, Expression):
            return evaluate(what, self._field, self.rows)
        if isinstance(what, str):
            return self._field(what)
        raise NotVectorizable(f"{what!r} is no field")

    def texts(self, keys: Any) -> Column:
        """The keys of records, an Arrow array of text, whole numbers or bytes; None where they have none."""
        if keys is None:
            return column_of(pa.nulls(self.rows))
        try:
            return column_of(keys.cast(pa.large_string()))
        except pa.ArrowInvalid:
            raise NotVectorizable("keys that are no text") from None

    def _field(self, name: str) -> Column:
        if name not in self._names:
            raise NotVectorizable(f"no column {name}")
        if name not in self._columns:
            self._columns[name] = column_of(self._batch[name])
        return self._columns[name]

    def set_aside(self, rows: Any) -> None:
        """The row way has to look at these, as far as they are still there."""
        rows = rows & self.live
        if rows.any():
            self.aside |= rows
            self.live = self.live & ~rows

    def keep(self, condition: What) -> None:
        """Only the rows for which it is true."""
        column = self.column(condition)
        self.set_aside(column.bad)
        self.live = self.live & column.truth()

    def with_columns(self, columns: Mapping[str, What]) -> None:
        """These fields, too."""
        made = {name: self.column(what) for name, what in columns.items()}
        for column in made.values():
            self.set_aside(column.bad)
        self._columns.update(made)
        self._names = {*self._names, *made}

    def select(self, columns: Mapping[str, What]) -> None:
        """These fields only."""
        self.with_columns(columns)
        self._names = set(columns)


def _plain_fields(declared: Any) -> list[Field] | None:
    """The fields of a struct whose rows are plain fields, so that columns can be checked against it; else None."""
    fields = checkable(declared) if isinstance(declared, type) and issubclass(declared, msgspec.Struct) else None
    return fields if fields is not None and all(field.kind in _KINDS for field in fields) else None
