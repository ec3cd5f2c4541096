"""Comparison of a value with its decoded copy: equal, and of the same types at every depth.

Equality is not enough: a `Counter` equals the dict that JSON makes of it, an `IntEnum` its number, 1 equals 1.0. A
program that gets one of them before a commit and the other after it has results that depend on the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from math import isfinite
from operator import attrgetter, eq
from typing import Any, cast

import msgspec
from msgspec import inspect

__all__ = ["identical", "identical_json", "plainly_exact", "same_value"]

_SCALARS = frozenset({int, float, str, bytes, bool, type(None)})


def identical(a: Any, b: Any) -> bool:
    """Return whether two values are equal and of the same types; NaN is equal to nothing.

    >>> from collections import Counter
    >>> identical([1, {"a": 1}], [1, {"a": 1}]), identical([1], [1.0]), identical({"a": Counter()}, {"a": {}})
    (True, False, False)
    """
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in _SCALARS:
        return a == b
    if issubclass(kind, (list, tuple)):
        kinds = list(map(type, a))
        if kinds != list(map(type, b)):
            return False
        return list(a) == list(b) if _SCALARS.issuperset(kinds) else all(map(identical, a, b))
    if issubclass(kind, dict):
        if list(a) != list(b):  # written in this order, it comes back in this order
            return _same_elements(a, b) and all(identical(value, b[key]) for key, value in a.items())
        return identical(list(a), list(b)) and identical(list(a.values()), list(b.values()))
    if issubclass(kind, (set, frozenset)):
        return _same_elements(a, b)
    return _of_fields(a, b, kind)


def _same_elements(a: Collection[object], b: Collection[object]) -> bool:
    read_back = {element: element for element in b}
    return len(a) == len(b) and all(identical(element, read_back.get(element, read_back)) for element in a)


def _of_fields(a: Any, b: Any, kind: type) -> bool:
    names = _fields(kind)
    if names is not None:
        return all(identical(getattr(a, name), getattr(b, name)) for name in names)
    if hasattr(kind, "asdict"):  # a Faust record
        return identical(a.asdict(), b.asdict())
    return a == b


@lru_cache(maxsize=512)
def _fields(kind: type) -> tuple[str, ...] | None:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None


def same_value(back: object, value: object) -> bool:
    """Return `identical(back, value)`, several times faster for structs and dataclasses of scalars.

    Tables call it for each record.

    >>> same_value(1, 1), same_value(1.0, 1)
    (True, False)
    """
    kind = type(value)
    get = _getter(kind)
    if get is None or type(back) is not kind:
        return identical(back, value)
    written, read_back = get(value), get(back)
    kinds = list(map(type, written))
    if not _SCALARS.issuperset(kinds):
        return identical(back, value)
    return kinds == list(map(type, read_back)) and all(map(eq, written, read_back))


@lru_cache(maxsize=512)
def _getter(kind: type) -> Callable[[object], tuple[object, ...]] | None:
    """Return a getter of all fields of a struct or dataclass; None for one field, which would not be a tuple."""
    names = _fields(kind)
    return attrgetter(*names) if names is not None and len(names) > 1 else None


def identical_json(back: list[object], values: list[object]) -> bool:
    """Return `identical(back, values)` where `back` is decoded JSON: faster, since it has built-in types only.

    >>> from enum import IntEnum
    >>> identical_json([{"n": [1]}], [{"n": [1]}]), identical_json([{"n": 1}], [{"n": IntEnum("E", "A").A}])
    (True, False)
    """
    return back == values and _is_plain_json(values)


def _is_plain_json(values: list[Any]) -> bool:
    """Return whether values have built-in types only; checks all values of one depth at a time."""
    while not _SCALARS.issuperset(map(type, values)):
        inner: list[Any] = []
        for value in values:
            kind = type(value)
            if kind is dict:
                inner += value
                inner += value.values()
            elif kind is list:
                inner += value
            elif kind not in _SCALARS:
                return False
        values = inner
    return True


_EXACT: Mapping[type, type] = {
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BoolType: bool,
    inspect.NoneType: type(None),
}


@lru_cache(maxsize=512)
def plainly_exact(declared: object) -> Callable[[list[object]], bool] | None:
    """Return a fast test whether instances of a class hold what it declares; None if it declares more than scalars."""
    if not isinstance(declared, type) or not (issubclass(declared, msgspec.Struct) or is_dataclass(declared)):
        return None
    columns: list[tuple[Callable[[object], object], frozenset[type]]] = []
    for field in cast(Any, inspect.type_info(declared)).fields:
        of = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        if not all(type(each) in _EXACT and each == type(each)() for each in of):
            return None
        columns.append((attrgetter(field.name), frozenset(_EXACT[type(each)] for each in of)))

    def exact(values: list[object]) -> bool:
        if set(map(type, values)) != {declared}:
            return False
        for get, kinds in columns:
            found = list(map(get, values))
            if not kinds.issuperset(map(type, found)):
                return False
            if float in kinds and not all(isfinite(value) for value in found if type(value) is float):
                return False
        return True

    return exact
