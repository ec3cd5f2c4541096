"""The limits of packed batches, checked against the metadata of the Arrow IPC stream before anything is allocated.

A few hundred bytes can claim 10⁹ rows, and 25 KB can decompress to 800 MB, so each batch is measured before pyarrow
opens it. The metadata are FlatBuffers (`Message.fbs`, `Schema.fbs` of Apache Arrow); this reads the few tables
that say types, lengths and buffers. The work is bounded: an offset outside of the message is an error, fields are
counted while they are visited, and a vector is read only after its claimed length has been compared with a bound.

For a compressed buffer pyarrow allocates what its length prefix says, and fails where the content has another length.
So the sum of the prefixes bounds the memory, even if they are wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

__all__ = ["InvalidBatch", "Measure", "PackedLimits", "measure"]


@dataclass(frozen=True, slots=True)
class PackedLimits:
    """The largest packed batch that is opened.

    Attributes:
        rows: the most rows.
        columns: the most columns, nested fields included.
        size_bytes: the largest decompressed size. The JSON of the rows may have about four times as many bytes, because
            it repeats names.
        depth: the deepest nesting of lists and structs; a plain column has 1.
    """

    rows: int = 32_768
    columns: int = 4_096
    size_bytes: int = 64 * 1024 * 1024
    depth: int = 32


class InvalidBatch(ValueError):
    """A value is not an Arrow stream of one batch with the types of JSON, or exceeds a limit.

    Attributes:
        limit: name of the exceeded limit; empty for another reason.
    """

    def __init__(self, reason: str, limit: str = "") -> None:
        super().__init__(reason)
        self.limit = limit


class Measure(NamedTuple):
    """The size of a stream within the limits, as its metadata claim."""

    rows: int
    columns: int
    size_bytes: int


class _ArrowField(NamedTuple):
    """A column or a field nested in one, in the order of the batch's nodes.

    Attributes:
        parent: number of the struct that it belongs to; -1 for a column, -2 for the elements of a list.
        text_bytes: size of its name and a short value in JSON.
        buffers: the number of its buffers.
    """

    parent: int
    text_bytes: int
    buffers: int
    null: bool


_COLUMN, _ELEMENTS = -1, -2

# Members of the union Type and how many buffers each has. All others are refused: views, dictionaries and run ends may
# point at data that validation does not look at, and JSON has no other types anyway.
_NULL, _BOOL, _LIST, _STRUCT, _LARGE_LIST = 1, 6, 12, 13, 21
_BUFFERS = {_NULL: 0, 2: 2, 3: 2, 4: 3, 5: 3, _BOOL: 2, _LIST: 2, _STRUCT: 1, 19: 3, 20: 3, _LARGE_LIST: 2}
_NAMES = (
    *("type", "null", "int", "float", "binary", "utf8", "bool", "decimal", "date", "time", "timestamp", "interval"),
    *("list", "struct", "union", "fixed-size binary", "fixed-size list", "map", "duration", "large binary"),
    *("large utf8", "large list", "run-end encoded type", "binary view", "utf8 view", "list view", "large list view"),
)

_CONTINUATION = b"\xff\xff\xff\xff"
_ENDS = _CONTINUATION + bytes(4), bytes(4)  # the second one is that of Arrow before 0.15
_SCHEMA, _BATCH = 1, 3
_VERSIONS = (3, 4)  # V4 and V5, which do not differ in these types
_JSON_BYTES_A_BYTE = 4
# What a short value is worth. Nulls take no bytes in Arrow and booleans a bit, so of these there can be far more.
_VALUE_TEXT_BYTES = 16
_SMALL_TEXT_BYTES = 32
_CACHED_BYTES = 16_384

_u16, _i32, _i64 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<q")


def measure(value: bytes, limits: PackedLimits) -> Measure:
    """Return the size of a stream of one batch.

    Raises:
        InvalidBatch: the stream is damaged, holds more than one batch or other types than JSON has, or exceeds a limit.
    """
    try:
        return _measure(value, limits)
    except (struct.error, UnicodeDecodeError) as exc:
        raise InvalidBatch(f"its metadata are damaged: {exc}") from None


def _measure(value: bytes, limits: PackedLimits) -> Measure:
    metadata, body, begin = _message(value, 0)
    schema = _header(metadata, _SCHEMA, "schema")
    if body:
        raise InvalidBatch("its schema has a body")
    fields = _cached_fields(metadata, limits) if len(metadata) <= _CACHED_BYTES else _fields(schema, limits)
    metadata, body, end = _message(value, begin)
    batch = _header(metadata, _BATCH, "record batch")
    begin = end - body
    if end < len(value) and not value.startswith(_ENDS, end):
        raise InvalidBatch("more than one batch")
    rows = batch.number(0, _i64)
    if not rows:
        raise InvalidBatch("no rows")
    _check("rows", rows, limits.rows)
    lengths = _lengths(batch, fields, rows)
    size_bytes = sum(_sizes(batch, fields, value, begin, body))
    size_bytes += sum(length for length, field in zip(lengths, fields, strict=True) if field.null)
    _check("size_bytes", size_bytes, limits.size_bytes)
    text = size_bytes + sum(length * field.text_bytes for length, field in zip(lengths, fields, strict=True))
    if text > limits.size_bytes * _JSON_BYTES_A_BYTE:
        most = limits.size_bytes * _JSON_BYTES_A_BYTE
        raise InvalidBatch(f"about {text:,} bytes of JSON; at most {most:,} are made", "size_bytes")
    return Measure(rows, len(fields), size_bytes)


def _check(limit: str, found: int, most: int) -> None:
    if found < 0:
        raise InvalidBatch(f"{found:,} {limit}")
    if found > most:
        what = {"rows": "rows", "columns": "columns", "size_bytes": "bytes, decompressed", "depth": "levels of nesting"}
        raise InvalidBatch(f"{found:,} {what[limit]}; at most {most:,} are allowed", limit)


# Messages ------------------------------------------------------------------------------------------------------------


def _message(value: bytes, begin: int) -> tuple[bytes, int, int]:
    """Return the metadata and the body length of the message at a position, and the position of its end."""
    if value[begin : begin + 4] != _CONTINUATION:
        raise InvalidBatch("no Arrow stream" if not begin else "no record batch")
    (size,) = _i32.unpack_from(value, begin + 4)
    body_begin = begin + 8 + size
    if size <= 0 or size % 8 or body_begin > len(value):
        raise InvalidBatch("it is truncated" if size > 0 and not size % 8 else "no record batch")
    metadata = value[begin + 8 : body_begin]
    body = _root(metadata).number(3, _i64)
    if not 0 <= body <= len(value) - body_begin:
        raise InvalidBatch("it is truncated")
    return metadata, body, body_begin + body


def _header(metadata: bytes, kind: int, what: str) -> _FlatbufferTable:
    message = _root(metadata)
    if message.number(0, _u16) not in _VERSIONS:
        raise InvalidBatch("another version of Arrow's metadata than V4 and V5")
    header = message.table(2)
    if message.byte(1) != kind or header is None:
        raise InvalidBatch(f"{what} is missing")
    return header


# The schema ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _cached_fields(metadata: bytes, limits: PackedLimits) -> tuple[_ArrowField, ...]:
    """Return the fields of a small schema; most batches of a topic have the same one."""
    return _fields(_header(metadata, _SCHEMA, "schema"), limits)


def _fields(schema: _FlatbufferTable, limits: PackedLimits) -> tuple[_ArrowField, ...]:
    if schema.number(0, _u16):
        raise InvalidBatch("big-endian numbers")
    found: list[_ArrowField] = []
    # Depth first, each before what is nested in it: the order of nodes.
    waiting = [(field, _COLUMN, 1) for field in schema.tables(1, limits.columns)][::-1]
    while waiting:
        field, parent, depth = waiting.pop()
        _check("depth", depth, limits.depth)
        number = len(found)
        found.append(_field(field, parent))
        _check("columns", len(found) + len(waiting), limits.columns)
        kind = field.byte(2)
        children = field.tables(5, limits.columns)
        if len(children) != 1 if kind in (_LIST, _LARGE_LIST) else bool(children) != (kind == _STRUCT):
            raise InvalidBatch(f"{_NAMES[kind]} of {len(children)} fields")
        inside = number if kind == _STRUCT else _ELEMENTS
        waiting += [(child, inside, depth + 1) for child in children[::-1]]
    return tuple(found)


def _field(field: _FlatbufferTable, parent: int) -> _ArrowField:
    name, kind = field.text(0), field.byte(2)
    if field.table(4) is not None:
        raise InvalidBatch(f"column {name}: dictionaries are not allowed")
    if kind not in _BUFFERS:
        what = _NAMES[kind] if kind < len(_NAMES) else f"type {kind}"
        hint = "; text can be written as utf8 or large utf8" if "view" in what else ""
        raise InvalidBatch(f"column {name}: JSON has no {what}{hint}")
    if any(entry.text(0).startswith("ARROW:extension") for entry in field.tables(6, 1_000)):
        raise InvalidBatch(f"column {name}: extension types are not allowed")
    text_bytes = _SMALL_TEXT_BYTES if kind in (_NULL, _BOOL) else _VALUE_TEXT_BYTES
    text_bytes += 0 if parent == _ELEMENTS else len(name) + 3
    return _ArrowField(parent, text_bytes, _BUFFERS[kind], kind == _NULL)


# The batch -----------------------------------------------------------------------------------------------------------


def _lengths(batch: _FlatbufferTable, fields: tuple[_ArrowField, ...], rows: int) -> list[int]:
    nodes = batch.pairs(1, len(fields), "columns")
    lengths = [length for length, _ in nodes]
    for field, length in zip(fields, lengths, strict=True):
        expected = rows if field.parent == _COLUMN else length if field.parent == _ELEMENTS else lengths[field.parent]
        if length < 0 or length != expected:
            raise InvalidBatch(f"a column of {length:,} values instead of {expected:,}")
    return lengths


def _sizes(
    batch: _FlatbufferTable, fields: tuple[_ArrowField, ...], value: bytes, begin: int, body: int
) -> Iterator[int]:
    """Yield the decompressed size of each buffer."""
    if begin % 8:
        raise InvalidBatch("its body is not aligned to 8 bytes")
    compressed = batch.table(3) is not None
    for offset, length in batch.pairs(2, sum(field.buffers for field in fields), "buffers"):
        if offset < 0 or length < 0 or offset + length > body or offset % 8:
            raise InvalidBatch("a buffer outside of its body, or not aligned to 8 bytes")
        if compressed and length:
            if length < 8:
                raise InvalidBatch("a compressed buffer without its length")
            (size,) = _i64.unpack_from(value, begin + offset)
            if size < -1:
                raise InvalidBatch(f"a buffer of {size:,} bytes")
            yield length - 8 if size == -1 else size
        else:
            yield length


# FlatBuffers ---------------------------------------------------------------------------------------------------------


def _root(data: bytes) -> _FlatbufferTable:
    return _FlatbufferTable(data, _i32.unpack_from(data, 0)[0])


class _FlatbufferTable:
    """A table of a FlatBuffer. Fields have numbers; a field that is absent has the value 0."""

    __slots__ = ("_at", "_data", "_fields", "_vtable")

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, _inside(data, at)
        self._vtable = _inside(data, at - _i32.unpack_from(data, at)[0])
        self._fields: int = _u16.unpack_from(data, self._vtable)[0] // 2 - 2

    def _position_of(self, number: int) -> int:
        if number >= self._fields:
            return 0
        offset: int = _u16.unpack_from(self._data, self._vtable + 4 + 2 * number)[0]
        return self._at + offset if offset else 0

    def _target(self, number: int) -> int:
        """Return the position that a field refers to; 0 if it is absent."""
        at = self._position_of(number)
        return _inside(self._data, at + _i32.unpack_from(self._data, at)[0]) if at else 0

    def byte(self, number: int) -> int:
        """Return a field of one byte."""
        at = self._position_of(number)
        return self._data[_inside(self._data, at)] if at else 0

    def number(self, number: int, form: struct.Struct) -> int:
        """Return a field that is an integer."""
        at = self._position_of(number)
        return form.unpack_from(self._data, at)[0] if at else 0

    def table(self, number: int) -> _FlatbufferTable | None:
        """Return a field that is a table, or a union of tables."""
        at = self._target(number)
        return _FlatbufferTable(self._data, at) if at else None

    def text(self, number: int) -> str:
        """Return a field that is a string."""
        at = self._target(number)
        if not at:
            return ""
        size = self._size(at, 1)
        return self._data[at + 4 : at + 4 + size].decode()

    def tables(self, number: int, most: int) -> list[_FlatbufferTable]:
        """Return a field that is a vector of tables."""
        at = self._target(number)
        if not at:
            return []
        size = self._size(at, 4)
        _check("columns", size, most)
        places = range(at + 4, at + 4 + 4 * size, 4)
        return [_FlatbufferTable(self._data, place + _i32.unpack_from(self._data, place)[0]) for place in places]

    def pairs(self, number: int, expected: int, what: str) -> list[tuple[int, int]]:
        """Return a field that is a vector of structs of two 64-bit numbers."""
        at = self._target(number)
        size = self._size(at, 16) if at else 0
        if size != expected:
            raise InvalidBatch(f"{size:,} {what}, but its schema has {expected:,}")
        flat = struct.unpack_from(f"<{2 * size}q", self._data, at + 4)
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _size(self, at: int, each: int) -> int:
        size: int = _i32.unpack_from(self._data, at)[0]
        if size < 0 or at + 4 + size * each > len(self._data):
            raise struct.error("a vector longer than its message")
        return size


def _inside(data: bytes, at: int) -> int:
    # Python would count a negative offset from the end.
    if not 0 <= at < len(data):
        raise struct.error("an offset outside of its message")
    return at
