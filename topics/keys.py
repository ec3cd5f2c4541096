"""Equality of keys, and the bytes of a record's key.

Python decides: keys that are equal to a dict are one key. So 1, 1.0, True and `Decimal(1)` are one, and so are 0.0 and
-0.0, `("a", 1)` and `("a", 1.0)`, an `IntEnum` and its number; "1" and 1 are two. `plain` returns one form
for all of them, the one that JSON gives back: an integer if there is one.

Everything that depends on a key uses that form, so that no part of the project takes one key for two:

- the bytes of a record's key (`record_key`), and with them its partition;
- the bytes of a table's key in store and changelog (`anabranch.topics.serde.key_codec`).
"""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from math import isfinite
from numbers import Number
from typing import Any, NoReturn, cast
from uuid import UUID

import msgspec

from .errors import BadRecord

__all__ = ["as_key", "has_one_form", "json_element", "json_key", "plain", "record_key", "without_minus_zero"]

# A Decimal with a larger exponent is not written out as an integer.
_MOST_DIGITS = 400

_JSON = frozenset({str, int, float, type(None)})

# Types whose values have one encoding, and parts of types whose values have several.
_ONE_FORM = frozenset({int, bool, date, timedelta, UUID})
_SEVERAL_FORMS = re.compile("Float|Decimal|DateTime|TimeType|Any|Custom|Recursion|Dict|Set")


def plain(key: Any) -> Any:
    """Return the form that all keys equal to this one share; keys of types unknown to JSON are returned unchanged.

    >>> plain(2.0), plain(True), plain(-0.0), plain(("a", (1.0, "b"))), plain("2"), plain(2.5)
    (2, 1, 0, ('a', (1, 'b')), '2', 2.5)

    Raises:
        BadRecord: the key is NaN or infinite, or contains such a number.
    """
    kind = type(key)
    if kind is str or kind is int or key is None:
        return key
    if isinstance(key, tuple):
        return tuple(map(plain, cast("tuple[object, ...]", key)))
    if isinstance(key, (Number, Decimal)):
        return _number(key)
    if isinstance(key, str):
        return str.__str__(key)
    if kind.__module__ == "numpy":
        return plain(key.item())
    if isinstance(key, datetime) and key.tzinfo is not None:
        return key.astimezone(timezone.utc)  # noqa: UP017 (msgspec knows this one)
    return key


def _number(key: Any) -> Any:
    if isinstance(key, int):
        return int(key)
    if isinstance(key, complex):
        return plain(key.real) if not key.imag else key
    if isinstance(key, Decimal) and key.is_finite() and abs(key.adjusted()) > _MOST_DIGITS:
        return key.normalize()
    if not (key.is_finite() if isinstance(key, Decimal) else _is_finite(key)):
        raise BadRecord(f"{key} cannot be a key: it is not a finite number", hint="filter such records out")
    if key == (whole := int(key)):
        return whole
    try:
        near = float(key)
    except OverflowError:  # a fraction outside of the range of floats
        return key
    if key == near:
        return near
    return key.normalize() if isinstance(key, Decimal) else key


def _is_finite(key: Any) -> bool:
    try:
        return isfinite(key)
    except OverflowError:
        return True


def as_key(value: object) -> object:
    """Return a JSON value as a key: with tuples for arrays."""
    return tuple(map(as_key, cast("list[object]", value))) if isinstance(value, list) else value


def json_key(key: object) -> object:
    """Return `plain(key)` for a key that JSON can hold.

    Raises:
        BadRecord: as `plain`; or JSON would give back another value.
    """
    key = plain(key)
    if type(key) is tuple:
        return tuple(map(json_key, cast("tuple[object, ...]", key)))
    if type(key) not in _JSON:
        _refused(type(key))
    return key


def json_element(value: object) -> object:
    """Return an element of an undeclared set, which is part of a value.

    As `json_key`, but booleans stay booleans, and types that only equal those of JSON are refused.

    Raises:
        BadRecord: JSON would give back another value.
    """
    kind = type(value)
    if kind is tuple:
        return tuple(map(json_element, cast("tuple[object, ...]", value)))
    return value if kind is bool else json_key(value) if kind in _JSON else _refused(kind)


def _refused(kind: type) -> NoReturn:
    raise BadRecord(
        f"a value of type {kind.__qualname__} would be read back from JSON as another type",
        hint="declare its type (key_type=…, or value_type=… of a SetTable)",
    )


def has_one_form(declared: type) -> bool:
    """Return whether equal values of exactly this type have the same encoding."""
    if declared in _ONE_FORM or issubclass(declared, Enum):
        return True
    if not issubclass(declared, msgspec.Struct) and not is_dataclass(declared):
        return False
    return not _SEVERAL_FORMS.search(repr(msgspec.inspect.multi_type_info([declared])))


def without_minus_zero(key: object) -> object:
    """Return a float, or a tuple of floats, with 0.0 for -0.0; other keys unchanged."""
    if isinstance(key, tuple):
        return tuple(map(without_minus_zero, cast("tuple[object, ...]", key)))
    return 0.0 if type(key) is float and not key else key


def record_key(key: Any) -> bytes | None:
    """Return the bytes of a record's key without a declared type. Equal keys have equal bytes.

    Bytes are unchanged, text is UTF-8, numbers are decimal, tuples are JSON arrays, other objects are JSON if it knows
    them, else their `str`.

    >>> record_key("a"), record_key(2.0), record_key(2.5), record_key(("a", 1.0)), record_key(b"raw")
    (b'a', b'2', b'2.5', b'["a",1]', b'raw')

    Raises:
        BadRecord: as `plain`.
    """
    kind = type(key)
    if kind is str:
        return key.encode()
    if kind is int:
        return b"%d" % key
    if key is None or isinstance(key, bytes):
        return key
    shown = msgspec.to_builtins(plain(key), order="deterministic", str_keys=True, enc_hook=str)
    return msgspec.json.encode(shown) if isinstance(shown, (tuple, list, dict)) else str(shown).encode()
