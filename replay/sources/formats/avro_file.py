"""Reads Avro container files block by block: rows become JSON objects, and those become records.

A record has the value that Avro gives it, including maps and unions, which columns cannot hold. So a packed record has
the same bytes as a plain one.

Blocks are decoded as a whole: by polars if all fields are plain, which is faster (see `avro_container`), else by
fastavro. If that fails, each record is decoded on its own, so that a value that cannot be decoded makes only its own
row bad. A record that fails is decoded again without logical types (a date in the year 60000 is a number without them),
which finds the beginning of the next one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from math import isinf
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ....topics.errors import Usage
from ..field_expression import as_bytes
from ..field_mapping import FieldMapping
from ..files.file_opening import READ_ERRORS, FileEntry, Opened, open_entry, why
from ..format import Format
from ..source import SourcePosition
from ..source_record import NO_LIMIT, SourceRecord, check_sizes
from .arrow_json import INFINITY
from .avro_container import AvroBlock, Container, number_bytes
from .line_buffer import BATCH_LINES
from .row_file import RowBatch, RowFile

if TYPE_CHECKING:
    import polars
    from fastavro.types import Schema

__all__ = ["BadRow", "DecodeBlocks", "decoder", "open_avro"]

_ENCODER = msgspec.json.Encoder()

AvroRow = Mapping[str, Any]


def open_avro(
    entry: FileEntry,
    format: Format,
    position: SourcePosition | None = None,
    *,
    batch_rows: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
) -> RowFile:
    """Open an Avro file as a source. Memory is bounded by a block of the file and a batch of rows.

    Raises:
        Usage: fastavro is not installed, or a requested field does not exist.
    """
    return RowFile(entry, open_entry, _AvroReader(entry, format, batch_rows, max_record_bytes), position)


class _AvroReader:
    def __init__(self, entry: FileEntry, format: Format, batch_rows: int, max_bytes: int) -> None:
        self._entry, self._format = entry, format
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[RowBatch]:
        try:
            import fastavro  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise Usage(f"{self._entry.name}: fastavro is not installed", hint="pip install fastavro") from None
        container = Container(opened.stream)
        decode = decoder(container.schema, self._entry.size_bytes)
        schema = container.schema
        assert isinstance(schema, dict), "decoder() refuses others"
        columns = tuple(field["name"] for field in schema["fields"])
        fields = {name: value for name, value in self._entry.fields.items() if name not in columns}
        records = _Records(FieldMapping(self._format, self._entry.name, (*columns, *fields)), fields, self._max_bytes)
        return self._batches(container.blocks(), first, decode, records)

    def _batches(
        self, blocks: Iterator[AvroBlock], first: int, decode: DecodeBlocks, records: _Records
    ) -> Iterator[RowBatch]:
        skip, count, waiting = first, 0, list[AvroBlock]()
        damage: BaseException | None = None
        while True:
            try:
                block = next(blocks, None)
            except READ_ERRORS as exc:
                # The rows before the damage are returned first.
                block, damage = None, exc
            if block is not None:
                if not waiting and skip >= block.count:
                    skip -= block.count
                    continue
                waiting.append(block)
                count += block.count
                if count < self._batch_rows:
                    continue
            yield from records.batches(decode(waiting), skip, self._batch_rows)
            skip, count, waiting = 0, 0, []
            if damage is not None:
                raise OSError(why(damage).removeprefix("cannot be read: ")) from damage
            if block is None:
                return


class _Records:
    """Turns the rows of one file into records.

    Args:
        fields: constant fields that each record has in addition to its own.
    """

    def __init__(self, mapping: FieldMapping, fields: AvroRow, max_bytes: int) -> None:
        self._mapping, self._fields, self._max_bytes = mapping, fields, max_bytes

    def batches(self, rows: Iterator[AvroRow | BadRow], skip: int, most: int) -> Iterator[RowBatch]:
        """Yield the records of rows, at most `most` at a time, without the first `skip` rows."""
        at = 0
        while piece := list(islice(rows, most)):
            counts = [row.lost if isinstance(row, BadRow) else 1 for row in piece]
            if at + sum(counts) <= skip:
                at += sum(counts)
                continue
            while at < skip:  # a BadRow for several rows was returned as one
                at += counts.pop(0)
                piece = piece[1:]
            if piece:
                yield self._rows(piece, sum(counts))

    def _rows(self, rows: Sequence[AvroRow | BadRow], count: int) -> RowBatch:
        good: list[AvroRow] = [row for row in rows if not isinstance(row, BadRow)]
        if len(good) == len(rows) and self._mapping.plain and self._mapping.fields.isdisjoint(self._fields):
            try:
                return RowBatch(count, self._map_all(good), [])
            except (ValueError, TypeError, LookupError, RecursionError):
                pass  # one of them is bad: look at each
        items: list[SourceRecord] = []
        bad: list[tuple[int, str, bytes]] = []
        for at, row in enumerate(rows):
            if isinstance(row, BadRow):
                bad.append((at, row.reason, b"" if row.lost > 1 else _row_as_json(row.row)))
                continue
            try:
                items.append(self._map({**row, **self._fields}))
            except (ValueError, TypeError, RecursionError) as exc:
                bad.append((at, str(exc), _row_as_json({**row, **self._fields})))
        return RowBatch(count, items, bad)

    def _map(self, record: AvroRow) -> SourceRecord:
        key, time_ms, headers, partition = self._mapping(record)
        value = msgspec.json.encode(record)
        check_sizes((value,), self._max_bytes)
        _refuse_infinity(record, value)
        return key, value, time_ms, headers, partition

    def _map_all(self, rows: list[AvroRow]) -> list[SourceRecord]:
        mapping = self._mapping
        records = [{**row, **self._fields} for row in rows] if self._fields else rows
        # Encoded JSON contains no line end, so each one separates two records.
        encoded = _ENCODER.encode_lines(records)
        values = encoded.split(b"\n")[:-1]
        check_sizes(values, self._max_bytes)
        for row, value in zip(records, values, strict=True) if b"null" in encoded else ():
            _refuse_infinity(row, value)
        keys = repeat(None)
        times = repeat(0)
        if mapping.key_field is not None:
            column = [row[mapping.key_field] for row in rows]
            try:
                keys = list(map(str.encode, column))
            except TypeError:  # not all are text
                keys = map(as_bytes, column)
        if mapping.time_field is not None:
            times = mapping.time_parser.parse_all([row[mapping.time_field] for row in rows])
        return list(zip(keys, values, times, repeat(None), repeat(None)))


def _refuse_infinity(record: AvroRow, encoded: bytes) -> None:
    """Refuse a record with an infinite number, which would be null in JSON.

    Raises:
        ValueError: there is one; the message names its column.
    """
    if b"null" in encoded:
        for name, cell in record.items():
            if _has_infinity(cell):
                raise ValueError(f"column {name}: {INFINITY}")


def _has_infinity(cell: object) -> bool:
    if isinstance(cell, float):
        return isinf(cell)
    if isinstance(cell, dict):
        return any(map(_has_infinity, cast("dict[str, object]", cell).values()))
    return isinstance(cell, list | tuple) and any(map(_has_infinity, cast("Sequence[object]", cell)))


def _row_as_json(record: AvroRow) -> bytes:
    return msgspec.json.encode({name: _as_json(cell) for name, cell in record.items()})


def _as_json(cell: object) -> object:
    try:
        if b"null" not in msgspec.json.encode(cell) or not _has_infinity(cell):
            return cell
    except (ValueError, TypeError, RecursionError):
        pass
    return str(cell)[:10_000]


_PLAIN = frozenset({"boolean", "int", "long", "float", "double", "string"})
_SYNC = b"anabranch-sync-0"
_POLARS_MIN_BYTES = 1024 * 1024
# A block of a few megabytes may be a hundred million small rows.
_SLICE_ROWS = 20_000


# Part of fastavro's messages that differs from run to run.
_OBJECT = re.compile(r" from <[^>]*>")


class BadRow:
    """A record that cannot be decoded; with `lost` above 1, the rest of its block."""

    def __init__(self, reason: str, row: AvroRow, lost: int = 1) -> None:
        self.reason, self.row, self.lost = reason, row, lost


DecodeBlocks = Callable[[Sequence[AvroBlock]], Iterator[AvroRow | BadRow]]


def decoder(schema: Schema, file_bytes: int) -> DecodeBlocks:
    """Return the function that decodes blocks of a schema.

    Raises:
        OSError: the schema is invalid or not that of records, or a few bytes could claim any number of its values.
    """
    import fastavro

    if not isinstance(schema, dict) or schema.get("type") not in ("record", "error") or not schema.get("fields"):
        raise OSError("its schema does not describe records with fields")
    try:
        parsed = fastavro.parse_schema(schema)
        bare = fastavro.parse_schema(_without_logical_types(schema))
    except Exception as exc:  # noqa: BLE001 - fastavro raises many types for a damaged schema
        raise OSError(f"its schema is damaged: {type(exc).__name__}: {exc}") from None
    sizes = _TypeSizes(schema)
    if sizes.least(schema) == 0 or sizes.endless:
        raise OSError(
            "its schema has lists, or records, of types without bytes, so that a few bytes could declare any number "
            "of them"
        )
    read = _record_reader(recursive=sizes.recursive)
    head = _head(schema)
    # Loading polars takes longer than it saves on small files.
    quick = file_bytes >= _POLARS_MIN_BYTES and all(_is_plain(field["type"]) for field in schema["fields"])

    def decode(blocks: Sequence[AvroBlock]) -> Iterator[AvroRow | BadRow]:
        count = sum(block.count for block in blocks)
        data = b"".join((head, *(part for block in blocks for part in _framed(block))))
        if quick and (frame := _decode_with_polars(data)) is not None and frame.height == count:
            if _encoded_bytes(frame, schema) == sum(len(block.data) for block in blocks):
                return (row for piece in frame.iter_slices(_SLICE_ROWS) for row in piece.to_dicts())
        elif not sizes.recursive and count <= _SLICE_ROWS:
            try:
                found = _decode_whole_blocks(data)
                if found is not None and len(found) == count:
                    return iter(found)
            except Exception:  # noqa: BLE001, S110 - decoded record by record below
                pass
        return (row for block in blocks for row in _one_by_one(block, parsed, bare, read))

    return decode


def _decode_with_polars(data: bytes) -> polars.DataFrame | None:
    try:
        import polars
    except ImportError:
        return None
    try:
        return polars.read_avro(io.BytesIO(data))
    except (Exception, polars.exceptions.PanicException):  # noqa: BLE001 - fastavro then reports the error
        return None


def _encoded_bytes(frame: polars.DataFrame, schema: Mapping[str, Any]) -> int:
    """Return how many bytes the records of a plain schema take: polars does not say how many it has read."""
    import polars

    size, numbers, texts = 0, list[polars.Expr](), set[str]()
    for number, field in enumerate(schema["fields"]):
        name, kind = field["name"], field["type"]
        nulls = frame[name].null_count()
        if isinstance(kind, list):
            size += frame.height
            kind = next(one for one in kind if one != "null")
        if kind in ("string", "int", "long"):
            # By number, because a name may be a pattern to polars.
            written = polars.nth(number)
            if kind == "string":
                written = written.str.len_bytes()
                texts.add(name)
            # A null becomes a number of one byte.
            size -= nulls
            numbers.append(written.cast(polars.Int64).fill_null(0))
        else:
            size += (frame.height - nulls) * {"boolean": 1, "float": 4, "double": 8}[kind]
    for column in frame.select(numbers):
        size += _number_sizes(column) + (int(column.sum()) if column.name in texts else 0)
    return size


def _number_sizes(numbers: polars.Series) -> int:
    """Return how many bytes numbers take together: seven bits of a zigzag number in each."""
    import numpy

    written = numbers.to_numpy()
    # A negative number takes as many bytes as its complement.
    written = written ^ (written >> 63)
    size, bits, most = len(written), 6, int(written.max(initial=0))
    while most >> bits:
        size += int(numpy.count_nonzero(written >> bits))
        bits += 7
    return size


def _decode_whole_blocks(data: bytes) -> list[Any] | None:
    """Decode the blocks of a container; return None if one of them has more bytes than its records take."""
    import fastavro

    found: list[Any] = []
    for block in cast(Iterable[Any], fastavro.block_reader(io.BytesIO(data))):
        found += block
        if block.bytes_.read(1):
            return None
    return found


def _one_by_one(block: AvroBlock, parsed: object, bare: object, read: Callable[..., Any]) -> Iterator[AvroRow | BadRow]:
    stream = io.BytesIO(block.data)
    for number in range(block.count):
        begin = stream.tell()
        try:
            row = read(stream, parsed, None)
        except Exception as exc:  # noqa: BLE001 - fastavro's error depends on where the damage is
            reason = f"cannot be read: {_OBJECT.sub('', str(exc)) or 'its bytes end too early'}"
            stream.seek(begin)
            try:
                row = BadRow(reason, read(stream, bare, None, handle_unicode_errors="replace"))
            except Exception:  # noqa: BLE001 - the same
                lost = block.count - number
                yield BadRow(f"{reason}; {lost:,} rows from here are not read", {}, lost)
                return
        left = len(block.data) - stream.tell()
        if left and number == block.count - 1:
            # A further row would shift the numbers of the rows after it, by which a run resumes.
            reason = f"its block is damaged: {left:,} bytes follow its last record"
            row = BadRow(reason, row.row if isinstance(row, BadRow) else row)
        yield row


def _record_reader(*, recursive: bool) -> Callable[..., Any]:
    """Return fastavro's reader of one record.

    Recursive schemas get its Python version, because the compiled one crashes the process on deep nesting.
    """
    import fastavro

    if not recursive:
        return fastavro.schemaless_reader
    from fastavro import _read_py  # pyright: ignore[reportPrivateUsage]

    return _read_py.schemaless_reader


def _head(schema: Schema) -> bytes:
    """Return the header of an uncompressed container."""
    import msgspec

    about = {b"avro.schema": msgspec.json.encode(schema), b"avro.codec": b"null"}
    parts = [b"Obj\x01", number_bytes(len(about))]
    for name, value in about.items():
        parts += [number_bytes(len(name)), name, number_bytes(len(value)), value]
    return b"".join((*parts, b"\x00", _SYNC))


def _framed(block: AvroBlock) -> tuple[bytes, ...]:
    return number_bytes(block.count), number_bytes(len(block.data)), block.data, _SYNC


def _without_logical_types(schema: Schema) -> Schema:
    if isinstance(schema, list):
        return [_without_logical_types(kind) for kind in schema]
    if isinstance(schema, dict):
        return {
            name: value if name == "default" else _without_logical_types(value)
            for name, value in schema.items()
            if name != "logicalType"
        }
    return schema


class _TypeSizes:
    """The minimum encoded sizes of a schema's types, in bytes.

    Attributes:
        endless: the schema has lists of items that take no bytes.
        recursive: a record can contain a record of its own type.
    """

    def __init__(self, schema: Schema) -> None:
        self.endless = self.recursive = False
        self._named: dict[str, int] = {}
        self._open: set[str] = set()
        self.least(schema)

    def least(self, schema: Schema, space: str = "") -> int:
        """Return the minimum encoded size of a value in bytes."""
        if isinstance(schema, list):
            for kind in schema:
                self.least(kind, space)
            return 1
        if isinstance(schema, str):
            name = schema if "." in schema or not space else f"{space}.{schema}"
            for known in (name, schema):
                if known in self._open:
                    self.recursive = True
                    return 1
                if known in self._named:
                    return self._named[known]
            return 0 if schema == "null" else 1
        kind = schema.get("type")
        if isinstance(kind, dict | list):
            return self.least(kind, space)
        if kind in ("array", "map"):
            if self.least(schema["items" if kind == "array" else "values"], space) == 0 and kind == "array":
                self.endless = True
            return 1
        space = schema.get("namespace", space) or ""
        full = str(schema.get("name", ""))
        full = full if "." in full or not space else f"{space}.{full}"
        if kind in ("record", "error"):
            self._open.add(full)
            inner = full.rpartition(".")[0]
            size = sum([self.least(field["type"], inner) for field in schema.get("fields", ())])
            self._open.discard(full)
            self._named[full] = size
            return size
        if kind in ("fixed", "enum"):
            self._named[full] = int(schema.get("size", 1))
            return self._named[full]
        return self.least(kind, space) if isinstance(kind, str) else 1


def _is_plain(kind: Schema) -> bool:
    """Return whether a type is primitive without a logical type, or a union of one with null."""
    if isinstance(kind, list):
        return len(kind) == 2 and "null" in kind and any(isinstance(one, str) and one in _PLAIN for one in kind)
    return isinstance(kind, str) and kind in _PLAIN
