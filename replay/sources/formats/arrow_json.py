"""Converts Arrow arrays to arrays of JSON values: numbers, booleans, text, lists and objects.

The type of the result depends only on the type of the array, and each value only on itself: neither its neighbours nor
the place where a batch is cut can change it.

    timestamps           2013-01-01T10:00:00.000000, digits by the unit; Z or +05:30 if the type names a zone
    dates, times         2013-01-01; 10:00:00, with a fraction if there is one
    durations            PT3600S, PT0.5S
    decimals             text with all of their digits
    bytes                text in base64
    dictionaries         their values
    maps                 lists of objects with key and value
    NaN                  null, because pandas and others write missing numbers as NaN
"""

from __future__ import annotations

import binascii
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ....topics.arrow_numpy import as_numpy
from ....topics.packed import arrow_compute

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FIRST_S", "INFINITY", "LAST_S", "cast_to", "check_depth", "common_type", "to_json_array", "unit_of"]

# The years 1 to 9999, in seconds since 1970.
FIRST_S, LAST_S = -62_135_596_800, 253_402_300_799
INFINITY = "infinity: JSON has no such number"
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DEEPEST = 64
_ZONE_STEP_S = 900
_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Z", "+00:00", "-00:00", "GMT", "Zulu"})


def to_json_array(array: pyarrow.Array) -> pyarrow.Array:
    """Convert an array to an array of JSON values.

    Raises:
        ValueError: JSON cannot represent a value, or the type; the message says why.
    """
    import pyarrow

    types = pyarrow.types
    kind = array.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _text(array)
    if types.is_floating(kind):
        return _floats(array)
    if types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind):
        return array
    if types.is_temporal(kind):
        return _temporal(array)
    if types.is_decimal(kind):
        return _decimals(array)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or _is_view(kind):
        encoded = [None if b is None else binascii.b2a_base64(b, newline=False).decode() for b in array.to_pylist()]
        return pyarrow.array(encoded, pyarrow.string())
    if isinstance(array, pyarrow.ExtensionArray):
        return to_json_array(array.storage)
    if types.is_dictionary(kind):
        return to_json_array(array.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return to_json_array(arrow_compute().run_end_decode(array))
    return _nested(array)


def check_depth(kind: pyarrow.DataType, left: int = _DEEPEST) -> None:
    """Refuse types that are nested more deeply than libraries can handle.

    Raises:
        ValueError: the type is nested too deeply.
    """
    if left < 0:
        raise ValueError("too many levels of nested lists or objects")
    for number in range(kind.num_fields):
        check_depth(kind.field(number).type, left - 1)


def _nested(array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow

    types = pyarrow.types
    kind = array.type
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if not names:
            raise ValueError("an object without fields")
        _check_names(names)
        children = [to_json_array(child) for child in array.flatten()]
        return pyarrow.StructArray.from_arrays(children, names, mask=array.is_null())
    if types.is_map(kind):
        inner = pyarrow.StructArray.from_arrays(
            [to_json_array(_children(array, array.keys)), to_json_array(_children(array, array.items))],
            ["key", "value"],
        )
        return _listed(array, inner)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or _is_list_view(kind):
        return _listed(array, to_json_array(array.flatten()))
    raise ValueError(f"JSON has no {kind}")


def _children(array: pyarrow.Array, of: pyarrow.Array) -> pyarrow.Array:
    """Return the part of `of` (keys or items) that belongs to an array of maps, which may be a slice."""
    offsets = array.offsets
    first, end = offsets[0].as_py(), offsets[-1].as_py()
    return of.slice(first, end - first)


def _listed(array: pyarrow.Array, values: pyarrow.Array) -> pyarrow.Array:
    import numpy
    import pyarrow

    ends = numpy.zeros(len(array) + 1, numpy.int32)
    if pyarrow.types.is_map(array.type):
        offsets = as_numpy(array.offsets)
        ends[:] = offsets - offsets[0]
    elif len(array):
        lengths = arrow_compute().fill_null(arrow_compute().list_value_length(array), 0).cast(pyarrow.int64())
        numpy.cumsum(as_numpy(lengths), out=ends[1:])
    offsets = pyarrow.Array.from_buffers(pyarrow.int32(), len(ends), [None, pyarrow.py_buffer(ends)])
    return pyarrow.ListArray.from_arrays(offsets, values, mask=array.is_null() if array.null_count else None)


def _text(array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow

    try:
        array.validate(full=True)
    except pyarrow.ArrowInvalid:
        raise ValueError("text that is not valid UTF-8") from None
    return array if pyarrow.types.is_string(array.type) else array.cast(pyarrow.string())


def _floats(array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow

    if pyarrow.types.is_float16(array.type):
        array = array.cast(pyarrow.float32())
    compute = arrow_compute()
    if compute.any(compute.is_inf(array)).as_py():
        raise ValueError(INFINITY)
    return array


def _decimals(array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow

    text = array.cast(pyarrow.string())
    if not len(text) or not arrow_compute().any(arrow_compute().match_substring(text, "E")).as_py():
        return text
    return pyarrow.array([None if t is None else format(Decimal(t), "f") for t in text.to_pylist()], pyarrow.string())


def _temporal(array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow

    types = pyarrow.types
    kind = array.type
    if types.is_timestamp(kind):
        return _timestamps(array)
    if types.is_date(kind):
        days = array.cast(pyarrow.date32())
        _check_range(days.view(pyarrow.int32()), FIRST_S // 86_400, LAST_S // 86_400)
        return days.cast(pyarrow.string())
    if types.is_time(kind):
        wide = pyarrow.int32() if types.is_time32(kind) else pyarrow.int64()
        _check_range(array.view(wide), 0, 86_400 * _UNITS[kind.unit] - 1)
        return arrow_compute().replace_substring_regex(array.cast(pyarrow.string()), r"\.0+$", "")
    if types.is_duration(kind):
        parts = [_duration(number, _UNITS[kind.unit]) for number in array.view(pyarrow.int64()).to_pylist()]
        return pyarrow.array(parts, pyarrow.string())
    raise ValueError(f"JSON has no {kind}")


def _duration(number: int | None, per_s: int) -> str | None:
    if number is None:
        return None
    seconds, rest = divmod(abs(number), per_s)
    fraction = f"{rest:0{len(str(per_s)) - 1}d}".rstrip("0") if rest else ""
    return f"{'-' if number < 0 else ''}PT{seconds}{'.' if fraction else ''}{fraction}S"


def _timestamps(array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow

    compute, kind = arrow_compute(), array.type
    numbers = array.view(pyarrow.int64())
    per_s = _UNITS[kind.unit]
    _check_range(numbers, FIRST_S * per_s, (LAST_S + 1) * per_s - 1)
    naive = pyarrow.timestamp(kind.unit)
    if kind.tz is None or kind.tz in _UTC_NAMES:
        text = compute.replace_substring(numbers.view(naive).cast(pyarrow.string()), " ", "T", max_replacements=1)
        return text if kind.tz is None else compute.binary_join_element_wise(text, "Z", "")
    return _zoned(numbers, kind.unit, zone_of(kind.tz))


def _zoned(numbers: pyarrow.Array, unit: str, zone: tzinfo) -> pyarrow.Array:
    """Write timestamps as local time of a zone. Offsets change at quarter hours only, so each is looked up once."""
    import pyarrow

    written: list[str | None] = []
    per_s, known = _UNITS[unit], dict[int, tuple[int, str]]()
    for number in numbers.to_pylist():
        if number is None:
            written.append(None)
            continue
        quarter = number // (per_s * _ZONE_STEP_S)
        if quarter not in known:
            known[quarter] = _offset(quarter * _ZONE_STEP_S, zone)
        offset_s, shown = known[quarter]
        seconds, rest = divmod(number + offset_s * per_s, per_s)
        if not FIRST_S <= seconds <= LAST_S:
            raise ValueError("a time outside of the years 1 to 9999")
        text = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()
        digits = len(str(per_s)) - 1
        written.append(f"{text}.{rest:0{digits}d}{shown}" if digits else text + shown)
    return pyarrow.array(written, pyarrow.string())


def _offset(seconds: int, zone: tzinfo) -> tuple[int, str]:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        offset = moment.astimezone(zone).utcoffset() or timedelta()
    except OverflowError:
        raise ValueError("a time outside of the years 1 to 9999") from None
    minutes = round(offset.total_seconds() / 60)
    return minutes * 60, f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


@cache
def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name, or by an offset like +05:30.

    Raises:
        ValueError: there is no such zone.
    """
    sign, digits = name[:1], name[1:].replace(":", "")
    if sign in "+-" and digits.isascii() and digits.isdigit() and len(digits) in (2, 4):
        minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
        if minutes < 24 * 60:
            return timezone(timedelta(minutes=minutes if sign == "+" else -minutes))
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"unknown time zone {name}") from None


def unit_of(kind: pyarrow.DataType) -> int:
    """Return how many units of a timestamp type make a second."""
    return _UNITS[kind.unit]


def _check_range(numbers: pyarrow.Array, least: int, most: int) -> None:
    found = arrow_compute().min_max(numbers)
    low, high = found["min"].as_py(), found["max"].as_py()
    if low is not None and (low < least or high > most):
        raise ValueError("a time outside of the years 1 to 9999")


def _check_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object in which field {twice!r} occurs twice")


def _is_view(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary_view(kind))


def _is_list_view(kind: pyarrow.DataType) -> bool:
    import pyarrow

    types = pyarrow.types
    return bool(types.is_list_view(kind) or types.is_large_list_view(kind))


def common_type(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType:
    """Return the common type of two JSON types: integers widen to floats, and everything else to text.

    Raises:
        ValueError: there is none, because only one of them is a list or an object.
    """
    import pyarrow

    types = pyarrow.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_struct(one) and types.is_struct(other):
        fields = {one.field(i).name: one.field(i).type for i in range(one.num_fields)}
        for i in range(other.num_fields):
            field = other.field(i)
            fields[field.name] = common_type(fields[field.name], field.type) if field.name in fields else field.type
        return pyarrow.struct(list(fields.items()))
    if types.is_list(one) and types.is_list(other):
        return pyarrow.list_(common_type(one.value_type, other.value_type))
    if types.is_nested(one) or types.is_nested(other):
        raise ValueError(f"{one} in one file, {other} in another")
    if types.is_integer(one) and types.is_integer(other):
        if types.is_unsigned_integer(one) == types.is_unsigned_integer(other):
            return one if one.bit_width > other.bit_width else other
        return pyarrow.string() if pyarrow.uint64() in (one, other) else pyarrow.int64()
    if all(types.is_integer(kind) or types.is_floating(kind) for kind in (one, other)):
        return pyarrow.float64()
    return pyarrow.string()


def cast_to(array: pyarrow.Array, kind: pyarrow.DataType) -> pyarrow.Array:
    """Cast a JSON array to the type that its column has in the whole source; an object keeps the fields it has.

    Raises:
        ValueError: a value does not fit: an integer that a float cannot represent.
    """
    import pyarrow

    types = pyarrow.types
    if array.type == kind or types.is_null(array.type):
        return array
    if types.is_struct(kind):
        names = [array.type.field(i).name for i in range(array.type.num_fields)]
        children = [cast_to(child, kind.field(name).type) for name, child in zip(names, array.flatten(), strict=True)]
        return pyarrow.StructArray.from_arrays(children, names, mask=array.is_null())
    if types.is_list(kind):
        return _listed(array, cast_to(array.flatten(), kind.value_type))
    if types.is_string(kind) and types.is_floating(array.type):
        raise ValueError("a number in one file and text in another")
    try:
        return array.cast(kind)
    except pyarrow.ArrowInvalid:
        raise ValueError("an integer that a float cannot represent exactly, while another file has floats") from None
