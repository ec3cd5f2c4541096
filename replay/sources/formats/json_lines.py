"""JSON Lines as records: the value is the line, key and time are read out of it.

JSON Lines as columns: what `JsonLinesParser` makes, without making each line.

A record's value is its line, byte for byte, and a packed row's value is what polars writes of its columns. So columns
are made of those blocks whose lines polars would write the very same way, which is found out by doing it: lines without
spaces (`{"user":"ann","n":3}`), as most programs write them, all with the same fields in the same order. Parsing and
writing together are several times as fast as looking at each line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

import msgspec

from ....topics.packed import RESERVED, arrow, is_text
from ..column_batch import ColumnBatch
from ..column_mapping import parse_times
from ..field_mapping import FieldMapping
from ..format import Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord, check_sizes
from .lines import NO_FIELDS, Block, Parsed, checked_text, clean

__all__ = ["JsonColumns", "JsonLinesParser"]

_CACHED = 16_384
# A surrogate, unless it is the first of two.
_HALF = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_NO_OBJECT = "not a JSON object, so it has no fields"
_decode_any = msgspec.json.Decoder().decode


class JsonLinesParser:
    """Each line is one JSON value; its bytes travel as they are. Only what is asked for is decoded.

    A line that is not JSON is bad, and one without a field that is asked for. Blank lines are none.

    Args:
        fields: what each record has beside its own, because of the folder it lies in; a record's own fields win.
    """

    def __init__(
        self, source: str, format: Format, *, fields: Mapping[str, Any] = NO_FIELDS, max_bytes: int = NO_LIMIT
    ) -> None:
        self._source = source
        self._encoding = format.encoding
        self._fields = fields
        self._max_bytes = max_bytes
        self._names: list[bytes] = [msgspec.json.encode(name) for name in fields]
        pairs = [
            b"%b:%b" % (name, msgspec.json.encode(value))
            for name, value in zip(self._names, fields.values(), strict=True)
        ]
        self._more = b",".join(pairs) + b"}"
        self._mapping = FieldMapping(format, source)
        short = self._mapping.fields.isdisjoint(fields)
        self._key = self._mapping.key_field if short else None
        self._time = self._mapping.time_field if short else None
        self._plain = short and self._mapping.plain
        # A field that is named for both is decoded once.
        self._both = self._key is not None and self._key == self._time
        # Keys are taken to be text until one is not: decoding text at once is twice as fast as looking at what it is.
        self._text_keys = not self._both
        self._decode = self._decoder()
        self._keys = _Keys()

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        used = len(lines)
        lines, numbers, bad = clean(lines, first, source=self._source, encoding=self._encoding)
        if self._text_keys:
            try:
                return Parsed(self._items(lines), bad, 0, used)
            except (ValueError, RecursionError):
                self._text_keys = False
                self._decode = self._decoder()
        try:
            return Parsed(self._items(lines), bad, 0, used)
        except (ValueError, RecursionError):
            # One of them is bad: msgspec's errors and ours are ValueErrors. Look at each.
            return self._one_by_one(lines, numbers, bad, used)

    def _decoder(self) -> Callable[[bytes], Any]:
        fields: list[tuple[str, Any]] = []
        names: dict[str, str] = {}
        if self._key is not None:
            fields.append(("key", str if self._text_keys else msgspec.Raw))
            names["key"] = self._key
        if self._time is not None and not self._both:
            fields.append(("time", int | float | str | None))
            names["time"] = self._time
        kind = msgspec.defstruct("Line", fields, rename=names, gc=False) if fields else msgspec.Raw
        return msgspec.json.Decoder(kind).decode

    def _items(self, lines: list[bytes]) -> list[SourceRecord]:
        if self._fields:
            lines = [self._with_fields(line) for line in lines]
        check_sizes(lines, self._max_bytes)
        if not self._plain:
            return [self._shaped(line) for line in lines]
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

    def _shaped(self, line: bytes) -> SourceRecord:
        record = _decode_any(line)
        if not isinstance(record, dict):
            raise ValueError(_NO_OBJECT)
        key, time_ms, headers, partition = self._mapping(record)
        if self._key is not None:
            # As it is written, as on the short way: 1.50 stays 1.50.
            own = self._decode(line).key
            key = own.encode() if self._text_keys else self._keys[bytes(own)]
        return key, line, time_ms, headers, partition

    def _with_fields(self, line: bytes) -> bytes:
        body = line.strip()
        if body[:1] != b"{" or body[-1:] != b"}":
            raise ValueError(_NO_OBJECT)
        if any(name in body for name in self._names):
            own = _decode_any(body)
            more = {name: value for name, value in self._fields.items() if name not in own}
            return msgspec.json.encode({**own, **more})
        inner = body[:-1].rstrip()
        return inner + (b"" if inner == b"{" else b",") + self._more

    def _one_by_one(self, lines: list[bytes], numbers: Sequence[int], bad: list[BadLine], used: int) -> Parsed:
        items: list[SourceRecord] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            if not line.strip():
                blank += 1
                continue
            try:
                items.extend(self._items([line]))
            except ValueError as exc:
                bad.append(BadLine(self._source, number, self._reason(line, exc), line))
            except RecursionError:
                bad.append(
                    BadLine(self._source, number, "lists or objects within each other, too deep to be read", line)
                )
        return Parsed(items, bad, blank, used)

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
        return "JSON that goes on in the next line; JSON Lines has a value in each: jq -c '.[]' FILE writes a list so"
    half = _HALF.search(line.replace(rb"\\", b"  "))
    if half and ("truncated" in str(exc) or "surrogate" in str(exc)):
        return f"{half[0].decode()} is half of a character (a lone surrogate), which no UTF-8 can hold"
    return f"not JSON: {exc}"


class _Keys(dict[bytes, bytes | None]):
    """A key as JSON, to the record's key."""

    def __missing__(self, written: bytes) -> bytes | None:
        key: bytes | None = written
        if written[:1] == b'"':
            key = written[1:-1] if b"\\" not in written else msgspec.json.decode(written, type=str).encode()
        elif written == b"null":
            key = None
        elif written[:1] in (b"{", b"["):
            raise ValueError("the key is an object or a list; text, a number, true, false or null can be one")
        if len(self) >= _CACHED:
            self.clear()
        self[written] = key
        return key


_DEEPEST = 64
_BRACKETS, _STRINGS = re.compile(rb"[\[\]{}]"), re.compile(rb'"(?:[^"\\]|\\.)*"')
# Not all writers of JSON write these the same way, so a reader might not give them back as they were.
_LARGE = re.compile(rb"[0-9]e\+[0-9]")


class JsonColumns:
    """See `MadeColumns`.

    Args:
        mapping: of the records; keys and times are fields as they stand (`FieldMapping.plain`).
    """

    def __init__(self, format: Format, mapping: FieldMapping, max_bytes: int) -> None:
        assert mapping.plain
        self._encoding, self._mapping, self._max_bytes = format.encoding, mapping, max_bytes
        # As the block before has it.
        self._schema: Any = None

    def __call__(self, block: Block) -> ColumnBatch:
        """See `MadeColumns`."""
        data = block.data
        checked_text(data, self._encoding)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if not data.endswith(b"\n"):
            data += b"\n"
        first = data[: data.index(b"\n")]
        if not _again(first):
            raise ValueError("lines that are written otherwise")  # as good as always; found out cheaply
        _check_depth(data)
        if b"e+" in data and _LARGE.search(data):
            raise ValueError("numbers that JSON may be written in two ways for")
        self._check_sizes(data)
        return self._shaped(self._read(data, len(block)))

    def _read(self, data: bytes, rows: int) -> Any:
        """A frame that is written as `data`."""
        import polars

        for schema in (None,) if self._schema is None else (self._schema, None):
            try:
                frame = polars.read_ndjson(data, schema=schema, infer_schema_length=None)
            except polars.exceptions.PolarsError:
                continue
            if frame.height == rows and _is_json(polars, frame.schema) and _written(polars, frame) == data:
                self._schema = frame.schema
                return frame.rechunk()
        self._schema = None
        raise ValueError("lines that are written otherwise")

    def _check_sizes(self, data: bytes) -> None:
        import numpy

        ends = numpy.flatnonzero(numpy.frombuffer(data, numpy.uint8) == 10)
        if int(numpy.diff(ends, prepend=-1).max()) - 1 > self._max_bytes:
            raise ValueError("a line that is too large")

    def _shaped(self, frame: Any) -> ColumnBatch:
        pyarrow, mapping = arrow(), self._mapping
        columns = [frame[name].to_arrow() for name in frame.columns]
        # As other sources have text: half the size beside it.
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


def _again(line: bytes) -> bool:
    """Whether a line is written as it would be again."""
    try:
        return msgspec.json.encode(msgspec.json.decode(line)) == line
    except RecursionError:
        return False


def _check_depth(data: bytes) -> None:
    """Refuse what lies so deep that polars would not come back from reading it.

    Raises:
        ValueError: a line does.
    """
    import numpy

    bytes_ = numpy.frombuffer(data, numpy.uint8)
    ends = numpy.flatnonzero(bytes_ == 10)
    if int(numpy.diff(ends, prepend=-1).max()) <= 2 * _DEEPEST:
        return  # each bracket is closed, so no line is long enough
    opening = numpy.flatnonzero((bytes_ == ord("[")) | (bytes_ == ord("{")))
    counts = numpy.diff(numpy.searchsorted(opening, ends), prepend=0)
    # A line of few brackets cannot be deep; of others it is counted.
    for number in numpy.flatnonzero(counts > _DEEPEST).tolist():
        begin = int(ends[number - 1]) + 1 if number else 0
        depth = deepest = 0
        for bracket in _BRACKETS.findall(_STRINGS.sub(b"", data[begin : int(ends[number])])):
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
        if deepest > _DEEPEST:
            raise ValueError("lists or objects within each other, too deep")


def _is_json(polars: Any, schema: Any) -> bool:
    """Whether columns of such types are what a packed batch can hold."""
    fields = list(schema.items())
    return bool(fields) and all(
        name not in RESERVED and (kind == polars.Null or _is_simple(polars, kind)) for name, kind in fields
    )


def _is_simple(polars: Any, kind: Any) -> bool:
    """Whether a polars type is one that it writes as JSON has it."""
    if isinstance(kind, polars.Struct):
        return all(_is_simple(polars, field.dtype) for field in kind.fields)
    if isinstance(kind, polars.List):
        return _is_simple(polars, kind.inner)
    numbers = (polars.Int8, polars.Int16, polars.Int32, polars.Int64, polars.Float32, polars.Float64)
    more = (polars.UInt8, polars.UInt16, polars.UInt32, polars.UInt64, polars.Boolean, polars.String)
    return kind in (*numbers, *more)


def _written(polars: Any, frame: Any) -> bytes:
    """The lines that readers will find."""
    values = frame.select(polars.struct(polars.all()).struct.json_encode().str.join("\n")).item()
    return f"{values}\n".encode()
