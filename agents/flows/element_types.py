"""What types a flow's elements are of, as far as the program says so.

JSON knows text, numbers, flags, lists and dicts. Of other types (dates, `Decimal`, bytes, structs, …) a table and a
repartition topic have to be told, or they would give back something else.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from .aggregates import What
from .expressions import Expression, Field, Function, Operation

__all__ = ["declarable", "returned", "type_of"]

_NOT_JSON = (bytes, date, time, timedelta, Decimal, UUID, Enum, msgspec.Struct)
_CONDITIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "&", "|"})
_CONDITIONAL = frozenset({"~", "is_null", "startswith", "endswith", "contains"})


def declarable(type_: Any) -> Any:
    """A type that has to be declared, None left out of it; None where JSON gives back what it was given, or nothing is
    known."""
    if get_origin(type_) in (Union, UnionType):
        parts = [part for part in get_args(type_) if part is not NoneType]
        return declarable(parts[0]) if len(parts) == 1 else None
    if isinstance(type_, type) and (type_ is bool or issubclass(type_, _NOT_JSON) or is_dataclass(type_)):
        return type_
    return None


def type_of(what: What, element: Any) -> Any:
    """The type of what `what` (see `getter`) takes out of elements of a type; Any where that is not known.

    >>> type_of(0, tuple[str, int]), type_of(Field("n") > 1, dict), type_of(None, int)
    (<class 'str'>, <class 'bool'>, <class 'int'>)
    """
    if what is None:
        return element
    if isinstance(what, Field):
        what = what.name
    if isinstance(what, str):
        return _hints(element).get(what, Any) if isinstance(element, type) else Any
    if isinstance(what, int):
        parts = get_args(element) if get_origin(element) is tuple else ()
        return parts[what] if -len(parts) <= what < len(parts) and ... not in parts else Any
    if isinstance(what, Expression):
        true_or_false = (isinstance(what, Operation) and what.sign in _CONDITIONS) or (
            isinstance(what, Function) and what.name in _CONDITIONAL
        )
        return bool if true_or_false else Any
    return returned(what)


def returned(function: Any) -> Any:
    """The type of what a function gives, where it says so."""
    return function if isinstance(function, type) else _hints(function).get("return", Any)


def _hints(of: Any) -> dict[str, Any]:
    try:
        return get_type_hints(of)
    except (TypeError, NameError, AttributeError):  # a partial, a built-in, a name that is not there at run time
        return {}
