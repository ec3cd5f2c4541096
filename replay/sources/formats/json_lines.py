"""Reads JSON Lines as records: the value is the line, unchanged; key and time are read from it.

`JsonLinesParser` works line by line. `JsonColumns` makes the same records as columns, several times as fast. A record's
value is its line, byte for byte, and the value of a packed row is what polars writes of its columns. So a block becomes
columns only if polars writes its lines in exactly the same way, which is checked by writing them: lines without spaces
(`{"user":"ann","n":3}`), as most programs write them, all with the same fields in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from ....topics.packed import RESERVED, arrow, is_text
from ..column_batch import ColumnBatch
from ..column_mapping import parse_times
from ..field_mapping import FieldMapping
from ..format import Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord, check_sizes
from .line_buffer import NO_FIELDS, LineBlock, Parsed, check_text, decode_lines

if TYPE_CHECKING:
    import polars
    from polars._typing import PolarsDataType

__all__ = ["JsonColumns", "JsonLinesParser"]

_CACHED = 16_384
# A lone surrogate.
_HALF = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_NO_OBJECT = "not a JSON object, so it has no fields"
_decode_any = msgspec.json.Decoder().decode


class JsonLinesParser:
    """Makes each line a record. The line must be one JSON value, and only the requested fields are decoded.

    A line that is not JSON, or lacks a requested field, is bad. Blank lines are skipped.

    Args:
        fields: constant fields that each record has in addition, from folder names; its own fields take precedence.
    """

    def __init__(
        self,
        source: str,
        format: Format,
        *,
        fields: Mapping[str, str | int | None] = NO_FIELDS,
        max_bytes: int = NO_LIMIT,
    ) -> None:
        self._source = source
        self._encoding = format.encoding
        self._fields = fields
        self._max_bytes = max_bytes
        self._names: list[bytes] = [msgspec.json.encode(name) for name in fields]
        self._pairs = {
            name: b"%b:%b" % (written, msgspec.json.encode(value))
            for written, (name, value) in zip(self._names, fields.items(), strict=True)
        }
        self._mapping = FieldMapping(format, source)
        short = self._mapping.fields.isdisjoint(fields)
        self._key = self._mapping.key_field if short else None
        self._time = self._mapping.time_field if short else None
        self._plain = short and self._mapping.plain
        # A field that is both key and time is decoded once.
        self._both = self._key is not None and self._key == self._time
        # Keys are decoded as text until one is not text: that is twice as fast as decoding any type.
        self._text_keys = not self._both
        self._decode = self._decoder()
        self._keys = _Keys()

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse lines together, or one by one if one of them is bad; see `LineParser`."""
        used = len(lines)
        lines, numbers, bad = decode_lines(lines, first, source=self._source, encoding=self._encoding)
        if self._text_keys:
            try:
                return Parsed(self._records(lines), bad, 0, used)
            except (ValueError, RecursionError):
                self._text_keys = False
                self._decode = self._decoder()
        try:
            return Parsed(self._records(lines), bad, 0, used)
        except (ValueError, RecursionError):
            # A line is bad (msgspec's errors and ours are ValueErrors): look at each.
            return self._one_by_one(lines, numbers, bad, used)

    def _decoder(self) -> Callable[[bytes], Any]:
        fields: list[tuple[str, object]] = []
        names: dict[str, str] = {}
        if self._key is not None:
            fields.append(("key", str if self._text_keys else msgspec.Raw))
            names["key"] = self._key
        if self._time is not None and not self._both:
            fields.append(("time", int | float | str | None))
            names["time"] = self._time
        kind = msgspec.defstruct("Line", fields, rename=names, gc=False) if fields else msgspec.Raw
        return msgspec.json.Decoder(kind).decode

    def _records(self, lines: list[bytes]) -> list[SourceRecord]:
        if self._fields:
            lines = [self._with_fields(line) for line in lines]
        check_sizes(lines, self._max_bytes)
        if not self._plain:
            return [self._map(line) for line in lines]
        found: list[Any] = list(map(self._decode, lines))
        keys = repeat(None)
        times = repeat(0)
        if self._key is not None:
            known_keys = self._keys
            if self._text_keys:
                keys = [line.key.encode() for line in found]
            else:
                keys = [known_keys[bytes(line.key)] for line in found]
        if self._time is not None:
            if self._both:
                times = self._mapping.time_parser.parse_all([msgspec.json.decode(line.key) for line in found])
            else:
                times = self._mapping.time_parser.parse_all([line.time for line in found])
        return list(zip(keys, lines, times, repeat(None), repeat(None)))

    def _map(self, line: bytes) -> SourceRecord:
        record = _decode_any(line)
        if not isinstance(record, dict):
            raise ValueError(_NO_OBJECT)
        key, time_ms, headers, partition = self._mapping(record)
        if self._key is not None:
            # As it is written, like without headers and partitions: 1.50 stays 1.50.
            own = self._decode(line).key
            key = own.encode() if self._text_keys else self._keys[bytes(own)]
        return key, line, time_ms, headers, partition

    def _with_fields(self, line: bytes) -> bytes:
        body = line.strip()
        if body[:1] != b"{" or body[-1:] != b"}":
            raise ValueError(_NO_OBJECT)
        more = self._pairs
        # A name may also be written with escapes.
        if b"\\" in body or any(name in body for name in self._names):
            own = _decode_any(body)
            more = {name: pair for name, pair in more.items() if name not in own}
            if not more:
                return body
        inner = body[:-1].rstrip()
        return inner + (b"" if inner == b"{" else b",") + b",".join(more.values()) + b"}"

    def _one_by_one(self, lines: list[bytes], numbers: Sequence[int], bad: list[BadLine], used: int) -> Parsed:
        records: list[SourceRecord] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            if not line.strip():
                blank += 1
                continue
            try:
                records.extend(self._records([line]))
            except ValueError as exc:
                bad.append(BadLine(self._source, number, self._reason(line, exc), line))
            except RecursionError:
                bad.append(BadLine(self._source, number, "too many levels of nested lists or objects", line))
        return Parsed(records, bad, blank, used)

    def _reason(self, line: bytes, exc: ValueError) -> str:
        if isinstance(exc, msgspec.DecodeError) and not isinstance(exc, msgspec.ValidationError):
            return _why_no_json(line, exc)
        if not isinstance(exc, msgspec.ValidationError):
            return str(exc)
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            return _why_no_json(line, error)
        if not isinstance(value, dict):
            return _NO_OBJECT
        for field in (self._key, self._time):
            if field is not None and field not in value:
                return f"no field {field!r}; fields: {', '.join(map(str, value))}"
        return str(exc)


def _why_no_json(line: bytes, exc: Exception) -> str:
    if line.strip() in (b"[", b"{", b"[{"):
        return (
            "JSON that continues in the next line; JSON Lines has one value per line: jq -c '.[]' FILE converts a list"
        )
    half = _HALF.search(line.replace(rb"\\", b"  "))
    if half and ("truncated" in str(exc) or "surrogate" in str(exc)):
        return f"{half[0].decode()} is half of a character (a lone surrogate), which no UTF-8 can hold"
    return f"not JSON: {exc}"


class _Keys(dict[bytes, bytes | None]):
    """A cache from a key's JSON text to the record's key."""

    def __missing__(self, written: bytes) -> bytes | None:
        key: bytes | None = written
        if written[:1] == b'"':
            key = written[1:-1] if b"\\" not in written else msgspec.json.decode(written, type=str).encode()
        elif written == b"null":
            key = None
        elif written[:1] in (b"{", b"["):
            raise ValueError("the key is an object or a list; expected text, a number, true, false or null")
        if len(self) >= _CACHED:
            self.clear()
        self[written] = key
        return key


_DEEPEST = 64
_BRACKETS, _STRINGS = re.compile(rb"[\[\]{}]"), re.compile(rb'"(?:[^"\\]|\\.)*"')
# Programs write these numbers in two ways, so a reader might not return them unchanged.
_LARGE = re.compile(rb"[0-9]e\+[0-9]")


class JsonColumns:
    """Makes columns of the fields of a block of lines; a `ColumnParser`.

    Args:
        mapping: must be `plain`: key and time are fields unchanged.
    """

    def __init__(self, format: Format, mapping: FieldMapping, max_bytes: int) -> None:
        assert mapping.plain
        self._encoding, self._mapping, self._max_bytes = format.encoding, mapping, max_bytes
        # The schema of the block before.
        self._schema: polars.Schema | None = None

    def __call__(self, block: LineBlock) -> ColumnBatch:
        """Return the lines of a block as columns; see `ColumnParser`."""
        data = block.data
        check_text(data, self._encoding)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if not data.endswith(b"\n"):
            data += b"\n"
        first = data[: data.index(b"\n")]
        if not _encodes_unchanged(first):
            raise ValueError("lines that are written otherwise")  # almost always decides it, and cheaply
        _check_depth(data)
        if b"e+" in data and _LARGE.search(data):
            raise ValueError("numbers that JSON may be written in two ways for")
        self._check_sizes(data)
        return self._to_batch(self._read(data, len(block)))

    def _read(self, data: bytes, rows: int) -> polars.DataFrame:
        """Return the frame that polars writes as `data`."""
        import polars

        for schema in (None,) if self._schema is None else (self._schema, None):
            try:
                frame = polars.read_ndjson(data, schema=schema, infer_schema_length=None)
            except polars.exceptions.PolarsError:
                continue
            if frame.height == rows and _is_json(frame.schema) and _encode_lines(frame) == data:
                self._schema = frame.schema
                return frame.rechunk()
        self._schema = None
        raise ValueError("lines that are written otherwise")

    def _check_sizes(self, data: bytes) -> None:
        import numpy

        ends = numpy.flatnonzero(numpy.frombuffer(data, numpy.uint8) == 10)
        if int(numpy.diff(ends, prepend=-1).max()) - 1 > self._max_bytes:
            raise ValueError("a line that is too large")

    def _to_batch(self, frame: polars.DataFrame) -> ColumnBatch:
        pyarrow, mapping = arrow(), self._mapping
        columns = [frame[name].to_arrow() for name in frame.columns]
        # With 32-bit offsets, like the text of other sources.
        columns = [column.cast(pyarrow.string()) if is_text(column.type) else column for column in columns]
        batch = pyarrow.record_batch(columns, frame.columns)
        times = None
        if not mapping.fields.issubset(frame.columns):
            raise ValueError("a field that no line has")
        if mapping.key_field is not None:
            kind = batch[mapping.key_field].type
            if not is_text(kind) and not pyarrow.types.is_integer(kind):
                raise ValueError("keys that are neither text nor whole numbers")
        if mapping.time_field is not None:
            written = batch[mapping.time_field]
            if pyarrow.types.is_nested(written.type) or pyarrow.types.is_boolean(written.type):
                raise ValueError("no times")
            times = parse_times(mapping.time_parser, written)
        return ColumnBatch(batch, key=mapping.key_field, times=times)


def _encodes_unchanged(line: bytes) -> bool:
    """Return whether encoding a line again gives the same bytes."""
    try:
        return msgspec.json.encode(msgspec.json.decode(line)) == line
    except RecursionError:
        return False


def _check_depth(data: bytes) -> None:
    """Refuse lines that are nested so deeply that polars would crash.

    Raises:
        ValueError: a line is.
    """
    import numpy

    bytes_ = numpy.frombuffer(data, numpy.uint8)
    ends = numpy.flatnonzero(bytes_ == 10)
    if int(numpy.diff(ends, prepend=-1).max()) <= 2 * _DEEPEST:
        return  # every bracket is closed, so no line is long enough
    opening = numpy.flatnonzero((bytes_ == ord("[")) | (bytes_ == ord("{")))
    counts = numpy.diff(numpy.searchsorted(opening, ends), prepend=0)
    # A line with few brackets cannot be deep; in others the depth is count_byte.
    for number in numpy.flatnonzero(counts > _DEEPEST).tolist():
        begin = int(ends[number - 1]) + 1 if number else 0
        depth = deepest = 0
        for bracket in _BRACKETS.findall(_STRINGS.sub(b"", data[begin : int(ends[number])])):
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
        if deepest > _DEEPEST:
            raise ValueError("too many levels of nested lists or objects")


def _is_json(schema: polars.Schema) -> bool:
    """Return whether a packed batch can hold columns of these types."""
    import polars

    fields = list(schema.items())
    return bool(fields) and all(
        name not in RESERVED and (kind == polars.Null or _is_simple(kind)) for name, kind in fields
    )


def _is_simple(kind: PolarsDataType) -> bool:
    """Return whether polars writes values of a type as JSON does."""
    import polars

    if isinstance(kind, polars.Struct):
        return all(_is_simple(field.dtype) for field in kind.fields)
    if isinstance(kind, polars.List):
        return _is_simple(kind.inner)
    numbers = (polars.Int8, polars.Int16, polars.Int32, polars.Int64, polars.Float32, polars.Float64)
    more = (polars.UInt8, polars.UInt16, polars.UInt32, polars.UInt64, polars.Boolean, polars.String)
    return any(kind == simple for simple in (*numbers, *more))


def _encode_lines(frame: polars.DataFrame) -> bytes:
    """Return the lines that readers of the packed batch will see."""
    import polars

    values = frame.select(polars.struct(polars.all()).struct.json_encode().str.join("\n")).item()
    return f"{values}\n".encode()
