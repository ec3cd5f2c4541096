"""JSON Lines as columns: what `JsonLinesParser` makes, without making each line.

A record's value is its line, byte for byte, and a packed row's value is what polars writes of its columns. So columns
are made of those blocks whose lines polars would write the very same way, which is found out by doing it: lines without
spaces (`{"user":"ann","n":3}`), as most programs write them, all with the same fields in the same order. Parsing and
writing together are several times as fast as looking at each line.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ....topics.packed import RESERVED, arrow, is_text
from ..column_batch import ColumnBatch
from ..field_mapping import FieldMapping
from ..format import Format
from ..mapped_columns import stamped
from .line_blocks import Block
from .text_columns import checked_text

__all__ = ["JsonColumns"]

_DEEPEST = 64
_BRACKETS, _STRINGS = re.compile(rb"[\[\]{}]"), re.compile(rb'"(?:[^"\\]|\\.)*"')
# Not all writers of JSON write these the same way, so a reader might not give them back as they were.
_LARGE = re.compile(rb"[0-9]e\+[0-9]")


class JsonColumns:
    """See `MadeColumns`.

    Args:
        shape: of the records; keys and times are fields as they stand (`FieldMapping.plain`).
    """

    def __init__(self, format: Format, shape: FieldMapping, max_bytes: int) -> None:
        assert shape.plain
        self._encoding, self._shape, self._max_bytes = format.encoding, shape, max_bytes
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

        ends: Any = numpy.flatnonzero(numpy.frombuffer(data, numpy.uint8) == 10)
        if int(numpy.diff(ends, prepend=-1).max()) - 1 > self._max_bytes:
            raise ValueError("a line that is too large")

    def _shaped(self, frame: Any) -> ColumnBatch:
        pyarrow, shape = arrow(), self._shape
        columns = [frame[name].to_arrow() for name in frame.columns]
        # As other sources have text: half the size beside it.
        columns = [column.cast(pyarrow.string()) if is_text(column.type) else column for column in columns]
        batch = pyarrow.record_batch(columns, frame.columns)
        times: Any = None
        if not shape.fields.issubset(frame.columns):
            raise ValueError("a field that no line has")
        if shape.key_field is not None:
            kind = batch[shape.key_field].type
            if not is_text(kind) and not pyarrow.types.is_integer(kind):
                raise ValueError("keys that are neither text nor whole numbers")
        if shape.time_field is not None:
            written = batch[shape.time_field]
            if pyarrow.types.is_nested(written.type) or pyarrow.types.is_boolean(written.type):
                raise ValueError("no times")
            times = stamped(shape.stamps, written)
        return ColumnBatch(batch, key=shape.key_field, times=times)


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

    bytes_: Any = numpy.frombuffer(data, numpy.uint8)
    ends: Any = numpy.flatnonzero(bytes_ == 10)
    if int(numpy.diff(ends, prepend=-1).max()) <= 2 * _DEEPEST:
        return  # each bracket is closed, so no line is long enough
    opening: Any = numpy.flatnonzero((bytes_ == ord("[")) | (bytes_ == ord("{")))
    counts: Any = numpy.diff(numpy.searchsorted(opening, ends), prepend=0)
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
