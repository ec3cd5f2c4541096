"""Types of a flow's elements, as far as the program declares them.

JSON has text, numbers, flags, lists and dicts. Tables and repartition topics need the declared type of other elements
(dates, `Decimal`, bytes, structs, …), or they would return something else.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from .aggregates import What
from .expressions import Expression, FieldReference, Function, Operation

__all__ = ["UNKNOWN", "declarable", "returned", "type_of"]

UNKNOWN: object = Any
"""Stands for the type of elements where the program does not declare it; msgspec decodes it as untyped JSON."""

_NOT_JSON = (bytes, date, time, timedelta, Decimal, UUID, Enum, msgspec.Struct)
_CONDITIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "&", "|"})
_CONDITIONAL = frozenset({"~", "is_null", "startswith", "endswith", "contains"})


def declarable(type_: object) -> type | None:
    """Return a type that has to be declared, without None; None where JSON returns what it was given, or nothing is
    known."""
    if get_origin(type_) in (Union, UnionType):
        parts = [part for part in get_args(type_) if part is not NoneType]
        return declarable(parts[0]) if len(parts) == 1 else None
    if isinstance(type_, type) and (type_ is bool or issubclass(type_, _NOT_JSON) or is_dataclass(type_)):
        return type_
    return None


def type_of(what: What, element: object) -> object:
    """Return the type of the part that `what` (see `getter`) takes out of elements of a type; UNKNOWN where it is not
    known.

    >>> type_of(0, tuple[str, int]), type_of(FieldReference("n") > 1, dict), type_of(None, int)
    (<class 'str'>, <class 'bool'>, <class 'int'>)
    """
    if what is None:
        return element
    if isinstance(what, FieldReference):
        what = what.name
    if isinstance(what, str):
        return _hints(element).get(what, UNKNOWN) if isinstance(element, type) else UNKNOWN
    if isinstance(what, int):
        parts = get_args(element) if get_origin(element) is tuple else ()
        return parts[what] if -len(parts) <= what < len(parts) and ... not in parts else UNKNOWN
    if isinstance(what, Expression):
        true_or_false = (isinstance(what, Operation) and what.sign in _CONDITIONS) or (
            isinstance(what, Function) and what.name in _CONDITIONAL
        )
        return bool if true_or_false else UNKNOWN
    return returned(what)


def returned(function: object) -> object:
    """Return the type that a function is annotated to return; UNKNOWN where it is not."""
    return function if isinstance(function, type) else _hints(function).get("return", UNKNOWN)


def _hints(of: object) -> dict[str, object]:
    try:
        return get_type_hints(cast(Any, of))
    except (TypeError, NameError, AttributeError):  # a partial, a built-in, a name that does not exist at run time
        return {}
