"""Values by column: columns are made of plain records, and those of packed batches are checked against the declared
type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import inspect

from ..topics.packed import Rows, arrow, arrow_compute, is_text

if TYPE_CHECKING:
    import pyarrow

__all__ = ["DeclaredField", "checkable", "columns", "fits"]

_ARROW = {inspect.IntType: "int64", inspect.FloatType: "float64", inspect.StrType: "string", inspect.BoolType: "bool_"}


class DeclaredField(NamedTuple):
    """A field of a declared class.

    Attributes:
        attribute: name in Python.
        name: name in JSON.
        kind: msgspec's class of the type, without None; None for types that JSON does not have.
    """

    attribute: str
    name: str
    kind: type | None
    required: bool
    nullable: bool


def fits(declared: object, rows: Rows) -> bool:
    """Return True if all rows can be decoded as the declared type for certain; False if they may or may not."""
    if declared is bytes:
        return True
    if rows.package.open().kind != "json" or declared is ...:
        return False
    if declared in (None, Any, str, dict):
        return True
    fields = checkable(declared)
    if fields is None:
        return False
    batch = rows.columns()
    return all(_holds(batch, field) for field in fields)


def _holds(batch: pyarrow.RecordBatch, field: DeclaredField) -> bool:
    types, compute = arrow().types, arrow_compute()
    if field.name not in batch.schema.names:
        return not field.required
    column = batch[field.name]
    if column.null_count and not field.nullable:
        return False
    kind = column.type
    if field.kind is inspect.AnyType or (types.is_null(kind) and field.nullable):
        return True
    if field.kind is inspect.IntType:
        return types.is_integer(kind)
    if field.kind is inspect.FloatType:
        finite = types.is_floating(kind) and (field.nullable or compute.all(compute.is_finite(column)).as_py())
        return types.is_integer(kind) or finite  # JSON has null for the others
    if field.kind is inspect.StrType:
        return is_text(kind)
    return field.kind is inspect.BoolType and types.is_boolean(kind)


@lru_cache(maxsize=256)
def checkable(declared: object) -> list[DeclaredField] | None:
    """Return the fields of a class that constrains nothing but their types; None for other types."""
    fields = _fields(declared)
    if fields is None or hasattr(declared, "__post_init__") or any(field.kind is None for field in fields):
        return None
    config = getattr(declared, "__struct_config__", None)
    if config is not None and (config.forbid_unknown_fields or config.array_like or config.tag is not None):
        return None
    return fields


@lru_cache(maxsize=256)
def _fields(declared: object) -> list[DeclaredField] | None:
    """Return the fields of a struct or a dataclass; None for other types."""
    if not isinstance(declared, type) or not (issubclass(declared, msgspec.Struct) or _is_dataclass(declared)):
        return None
    about: Any = inspect.type_info(declared)
    fields: list[DeclaredField] = []
    for field in about.fields:
        of = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        kinds = [kind for kind in of if not isinstance(kind, inspect.NoneType)]
        nullable = len(kinds) < len(of) or isinstance(field.type, inspect.AnyType)
        # Equal to a type without constraints: columns are not checked against a bound or a pattern.
        plain = len(kinds) == 1 and type(kinds[0]) in (*_ARROW, inspect.AnyType) and kinds[0] == type(kinds[0])()
        kind = type(kinds[0]) if plain else None
        fields.append(DeclaredField(field.name, field.encode_name, kind, field.required, nullable))
    return fields


def _is_dataclass(declared: type) -> bool:
    return hasattr(declared, "__dataclass_fields__")


def columns(values: Sequence[Any], declared: object) -> pyarrow.RecordBatch:
    """Convert decoded values to columns; see `RecordBatch.arrow`. A tombstone becomes a row of nulls."""
    pyarrow = arrow()
    fields = _fields(declared)
    if fields is not None:
        return pyarrow.record_batch({field.name: _column(values, field) for field in fields})
    if all(value is None or isinstance(value, Mapping) for value in values):
        names = dict.fromkeys(name for value in values for name in value or ())
        if names:
            rows = [value or {} for value in values]
            return pyarrow.record_batch({name: pyarrow.array([row.get(name) for row in rows]) for name in names})
    return pyarrow.record_batch({"value": pyarrow.array(values)})


def _column(values: Sequence[object], field: DeclaredField) -> pyarrow.Array:
    pyarrow = arrow()
    try:
        column: list[object] = list(map(attrgetter(field.attribute), values))
    except AttributeError:  # a tombstone among them
        column = [None if value is None else getattr(value, field.attribute) for value in values]
    if field.kind in _ARROW:
        return pyarrow.array(column, getattr(pyarrow, _ARROW[field.kind])())
    return pyarrow.array(msgspec.to_builtins(column, builtin_types=(bytes,)))
