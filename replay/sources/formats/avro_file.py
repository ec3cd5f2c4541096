"""Avro container files: block by block, rows as JSON objects.

A record is what Avro says it is, maps and unions too, which columns could not hold; so packed it travels as the very
bytes that it has plain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any

import msgspec

from ....topics.errors import Usage
from ..field_expression import as_bytes
from ..field_mapping import FieldMapping
from ..files.file_entry import FileEntry
from ..files.file_opening import UNREADABLE, Opened, open_member, why
from ..format import Format
from ..source import SourcePosition
from ..source_record import NO_LIMIT, SourceRecord, check_sizes
from .avro_blocks import Block, Container
from .avro_rows import BadRow, Decode, decoder
from .lines import BATCH_LINES
from .row_file import RowFile, Rows

__all__ = ["open_avro"]

_ENCODER = msgspec.json.Encoder()

Row = Mapping[str, Any]


def open_avro(
    member: FileEntry,
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
    return RowFile(member, open_member, _Avro(member, format, batch_rows, max_record_bytes), position)


class _Avro:
    def __init__(self, member: FileEntry, format: Format, batch_rows: int, max_bytes: int) -> None:
        self._member, self._format = member, format
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        try:
            import fastavro  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise Usage(
                f"{self._member.name}: fastavro is not installed", hint="pip install 'anabranch[avro]'"
            ) from None
        container = Container(opened.stream)
        schema = container.schema
        decode = decoder(schema, self._member.size_bytes)
        columns = tuple(field["name"] for field in schema["fields"])
        fields = {name: value for name, value in self._member.fields.items() if name not in columns}
        records = _Records(FieldMapping(self._format, self._member.name, (*columns, *fields)), fields, self._max_bytes)
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
