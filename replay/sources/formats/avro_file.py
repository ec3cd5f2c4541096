"""Avro container files: block by block, rows as JSON objects.

A record is what Avro says it is, maps and unions too, which columns could not hold; so packed it travels as the very
bytes that it has plain.


Records of Avro blocks as rows. A value that cannot be had makes its own row bad, and the ones behind it are found.

Blocks are decoded as a whole: by polars where the fields are plain, three times as fast, else by fastavro. Only where
that fails is each record decoded by itself, and one that fails again without the meanings of its types (a date in the
year 60000 is a number without them), so that the next one is found.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any

import msgspec

from ....topics.errors import Usage
from ..field_expression import as_bytes
from ..field_mapping import FieldMapping
from ..files.file_opening import UNREADABLE, FileEntry, Opened, open_entry, why
from ..format import Format
from ..source import SourcePosition
from ..source_record import NO_LIMIT, SourceRecord, check_sizes
from .avro_container import Block, Container, number_bytes
from .lines import BATCH_LINES
from .row_file import RowFile, Rows

__all__ = ["BadRow", "Decode", "decoder", "open_avro"]

_ENCODER = msgspec.json.Encoder()

Row = Mapping[str, Any]


def open_avro(
    entry: FileEntry,
    format: Format,
    position: SourcePosition | None = None,
    *,
    batch_rows: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
) -> RowFile:
    """An Avro file as a source. Memory is bounded by a block of the file and a batch of rows.

    Raises:
        Usage: fastavro is not installed, or a field that is asked for does not exist.
    """
    return RowFile(entry, open_entry, _Avro(entry, format, batch_rows, max_record_bytes), position)


class _Avro:
    def __init__(self, entry: FileEntry, format: Format, batch_rows: int, max_bytes: int) -> None:
        self._entry, self._format = entry, format
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        try:
            import fastavro  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise Usage(
                f"{self._entry.name}: fastavro is not installed", hint="pip install 'anabranch[avro]'"
            ) from None
        container = Container(opened.stream)
        schema = container.schema
        decode = decoder(schema, self._entry.size_bytes)
        columns = tuple(field["name"] for field in schema["fields"])
        fields = {name: value for name, value in self._entry.fields.items() if name not in columns}
        records = _Records(FieldMapping(self._format, self._entry.name, (*columns, *fields)), fields, self._max_bytes)
        return self._batches(container.blocks(), first, decode, records)

    def _batches(self, blocks: Iterator[Block], first: int, decode: Decode, records: _Records) -> Iterator[Rows]:
        skip, count, waiting = first, 0, list[Block]()
        damage: BaseException | None = None
        while True:
            try:
                block = next(blocks, None)
            except UNREADABLE as exc:
                # What stands before it is read, then it is told.
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
    """Rows of one file as records.

    Args:
        fields: what each has beside its own.
    """

    def __init__(self, shape: FieldMapping, fields: Row, max_bytes: int) -> None:
        self._shape, self._fields, self._max_bytes = shape, fields, max_bytes

    def batches(self, rows: Iterator[Row | BadRow], skip: int, most: int) -> Iterator[Rows]:
        """Rows as records, so many at a time, but for the first ones."""
        at = 0
        while piece := list(islice(rows, most)):
            counts = [row.lost if isinstance(row, BadRow) else 1 for row in piece]
            if at + sum(counts) <= skip:
                at += sum(counts)
                continue
            while at < skip:  # a row that stands for several was given as a whole
                at += counts.pop(0)
                piece = piece[1:]
            if piece:
                yield self._made(piece, sum(counts))

    def _made(self, rows: Sequence[Row | BadRow], count: int) -> Rows:
        good: list[Row] = [row for row in rows if not isinstance(row, BadRow)]
        if len(good) == len(rows) and self._shape.plain and self._shape.fields.isdisjoint(self._fields):
            try:
                return Rows(count, self._at_once(good), [])
            except (ValueError, TypeError, LookupError, RecursionError):
                pass  # something in them is wrong: look at each
        items: list[SourceRecord] = []
        bad: list[tuple[int, str, bytes]] = []
        for at, row in enumerate(rows):
            if isinstance(row, BadRow):
                bad.append((at, row.reason, b"" if row.lost > 1 else _said(row.row)))
                continue
            try:
                items.append(self._item({**row, **self._fields}))
            except (ValueError, TypeError, RecursionError) as exc:
                bad.append((at, str(exc), _said({**row, **self._fields})))
        return Rows(count, items, bad)

    def _item(self, record: Row) -> SourceRecord:
        key, time_ms, headers, partition = self._shape(record)
        value = msgspec.json.encode(record)
        check_sizes((value,), self._max_bytes)
        return key, value, time_ms, headers, partition

    def _at_once(self, rows: list[Row]) -> list[SourceRecord]:
        shape = self._shape
        records = [{**row, **self._fields} for row in rows] if self._fields else rows
        # JSON holds no line's end, so what is one stands between two records.
        values = _ENCODER.encode_lines(records).split(b"\n")[:-1]
        check_sizes(values, self._max_bytes)
        keys: Any = repeat(None)
        times: Any = repeat(0)
        if shape.key_field is not None:
            column = [row[shape.key_field] for row in rows]
            try:
                keys = list(map(str.encode, column))
            except TypeError:  # some are no text
                keys = map(as_bytes, column)
        if shape.time_field is not None:
            times = shape.stamps.many([row[shape.time_field] for row in rows])
        return list(zip(keys, values, times, repeat(None), repeat(None)))


def _said(record: Row) -> bytes:
    return msgspec.json.encode({name: _as_json(cell) for name, cell in record.items()})


def _as_json(cell: Any) -> Any:
    try:
        msgspec.json.encode(cell)
    except (ValueError, TypeError, RecursionError):
        return str(cell)[:10_000]
    return cell


_PLAIN = frozenset({"boolean", "int", "long", "float", "double", "string"})
_SYNC = b"anabranch's mark"
_WORTH_BYTES = 1024 * 1024
# A block of a few megabytes may be a hundred million small rows.
_AT_ONCE_ROWS = 20_000


# What stands in a message of fastavro and differs from one time to the next.
_OBJECT = re.compile(r" from <[^>]*>")


class BadRow:
    """A record that could not be read, or with `lost` more than one the rest of its block."""

    def __init__(self, reason: str, row: Row, lost: int = 1) -> None:
        self.reason, self.row, self.lost = reason, row, lost


Decode = Callable[[Sequence[Block]], Iterator[Row | BadRow]]


def decoder(schema: Any, file_bytes: int) -> Decode:
    """What decodes blocks of records of a schema.

    Raises:
        OSError: the schema is none, or none of records; or a few bytes of such a file could claim any number of values.
    """
    import fastavro

    if not isinstance(schema, dict) or schema.get("type") not in ("record", "error") or not schema.get("fields"):
        raise OSError("its schema is not that of records with fields")
    try:
        parsed: Any = fastavro.parse_schema(schema)
        bare: Any = fastavro.parse_schema(_without_meanings(schema))
    except Exception as exc:  # noqa: BLE001 - what fastavro says to a damaged schema
        raise OSError(f"its schema is damaged: {type(exc).__name__}: {exc}") from None
    kinds = _Kinds(schema)
    if kinds.least(schema) == 0 or kinds.endless:
        raise OSError("its schema has lists, or records, of what takes no bytes, so a few bytes could claim any number")
    read = _reading(recursive=kinds.recursive)
    head = _head(schema)
    # Small files are not worth the time that it takes to load what is faster.
    quick = file_bytes >= _WORTH_BYTES and all(_is_plain(field["type"]) for field in schema["fields"])

    def decode(blocks: Sequence[Block]) -> Iterator[Row | BadRow]:
        count = sum(block.count for block in blocks)
        data = b"".join((head, *(part for block in blocks for part in _framed(block))))
        if quick and (frame := _by_polars(data)) is not None and frame.height == count:
            return (row for piece in frame.iter_slices(_AT_ONCE_ROWS) for row in piece.to_dicts())
        if not kinds.recursive and count <= _AT_ONCE_ROWS:
            try:
                found: list[Any] = list(fastavro.reader(io.BytesIO(data)))
                if len(found) == count:
                    return iter(found)
            except Exception:  # noqa: BLE001, S110 - looked at record by record, below
                pass
        return (row for block in blocks for row in _one_by_one(block, parsed, bare, read))

    return decode


def _by_polars(data: bytes) -> Any:
    try:
        import polars
    except ImportError:
        return None
    try:
        return polars.read_avro(io.BytesIO(data))
    except (Exception, polars.exceptions.PanicException):  # noqa: BLE001 - then fastavro says what it is
        return None


def _one_by_one(block: Block, parsed: Any, bare: Any, read: Callable[..., Any]) -> Iterator[Row | BadRow]:
    stream = io.BytesIO(block.data)
    for number in range(block.count):
        begin = stream.tell()
        try:
            row = read(stream, parsed, None)
        except Exception as exc:  # noqa: BLE001 - what fastavro stumbles over depends on where the damage is
            reason = f"cannot be read: {_OBJECT.sub('', str(exc))}"
            stream.seek(begin)
            try:
                row = BadRow(reason, read(stream, bare, None, handle_unicode_errors="replace"))
            except Exception:  # noqa: BLE001 - likewise
                lost = block.count - number
                yield BadRow(f"{reason}; {lost:,} rows from here are not read", {}, lost)
                return
        yield row


def _reading(*, recursive: bool) -> Callable[..., Any]:
    """fastavro's reader of one record; the one in Python where records hold records of their own kind: the other takes
    the process down where they hold many."""
    import fastavro

    if not recursive:
        return fastavro.schemaless_reader
    from fastavro import _read_py  # pyright: ignore[reportPrivateUsage]

    return _read_py.schemaless_reader


def _head(schema: Any) -> bytes:
    """The beginning of a container that is not compressed."""
    import msgspec

    about = {b"avro.schema": msgspec.json.encode(schema), b"avro.codec": b"null"}
    parts = [b"Obj\x01", number_bytes(len(about))]
    for name, value in about.items():
        parts += [number_bytes(len(name)), name, number_bytes(len(value)), value]
    return b"".join((*parts, b"\x00", _SYNC))


def _framed(block: Block) -> tuple[bytes, ...]:
    return number_bytes(block.count), number_bytes(len(block.data)), block.data, _SYNC


def _without_meanings(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_meanings(kind) for kind in schema]
    if isinstance(schema, dict):
        return {
            name: value if name == "default" else _without_meanings(value)
            for name, value in schema.items()
            if name != "logicalType"
        }
    return schema


class _Kinds:
    """What a schema's types take at least, in bytes.

    Attributes:
        endless: it has lists of what takes none.
        recursive: a record may hold one of its own kind.
    """

    def __init__(self, schema: Any) -> None:
        self.endless = self.recursive = False
        self._named: dict[str, int] = {}
        self._open: set[str] = set()
        self.least(schema)

    def least(self, schema: Any, space: str = "") -> int:
        """How many bytes a value takes at least."""
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


def _is_plain(kind: Any) -> bool:
    """A type without a meaning beyond it, or null beside one."""
    if isinstance(kind, list):
        return len(kind) == 2 and "null" in kind and any(isinstance(one, str) and one in _PLAIN for one in kind)
    return isinstance(kind, str) and kind in _PLAIN
