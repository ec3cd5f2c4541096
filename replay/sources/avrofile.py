"""Avro container files: block by block, rows as JSON objects."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from ...topics.errors import Usage
from .avroblocks import Decode, decode_slowly, decoder
from .format import Format
from .item import NO_LIMIT
from .lines import BATCH_LINES
from .member import Member
from .opening import Opened, open_member
from .rowfile import Row, RowFile, Rows, items_of, shape_of
from .source import Position

__all__ = ["open_avro"]

_WORTH_BYTES = 1024 * 1024

# What fastavro stumbles over in a damaged file depends on where the damage is.
_DAMAGE: tuple[type[BaseException], ...] = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def open_avro(
    member: Member,
    format: Format,
    position: Position | None = None,
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
    DAMAGE: tuple[type[BaseException], ...] = _DAMAGE

    def __init__(self, member: Member, format: Format, batch_rows: int, max_bytes: int) -> None:
        self._member, self._format = member, format
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        try:
            import fastavro
        except ImportError:
            raise Usage(
                f"{self._member.name}: fastavro is not installed", hint="pip install 'anabranch[avro]'"
            ) from None
        try:
            blocks: Any = fastavro.block_reader(opened.stream)  # pyright: ignore[reportArgumentType]
        except _DAMAGE as exc:
            raise OSError(f"not an Avro file ({exc})") from exc
        schema: Any = blocks.writer_schema
        columns = tuple(field["name"] for field in schema["fields"]) if isinstance(schema, dict) else ()
        if not columns:
            raise OSError("its schema is not that of records")
        shape, fields = shape_of(self._format, self._member.name, columns, self._member.fields)
        # Small files are not worth the time that it takes to load what is faster.
        decode = decoder(schema) if self._member.size_bytes >= _WORTH_BYTES else decode_slowly
        return self._batches(blocks, first, decode, shape, fields)

    def _batches(self, blocks: Any, first: int, decode: Decode, shape: Any, fields: Any) -> Iterator[Rows]:
        found = self._rows(blocks, first, decode)
        for row in found:
            yield items_of(chain((row,), islice(found, self._batch_rows - 1)), shape, fields, self._max_bytes)

    def _rows(self, blocks: Any, first: int, decode: Decode) -> Iterator[Row]:
        skip, count, waiting = first, 0, list[Any]()
        damage: BaseException | None = None
        while damage is None:
            try:
                block = next(blocks, None)
            except _DAMAGE as exc:
                # What stands before it is read, then it is told.
                block, damage = None, exc
            if block is not None:
                if not waiting and skip >= block.num_records:
                    skip -= block.num_records
                    continue
                waiting.append(block)
                count += block.num_records
                if count < self._batch_rows:
                    continue
            yield from islice(decode(waiting), skip, None)
            skip, count, waiting = 0, 0, []
            if block is None:
                break
        if damage is not None:
            raise damage
