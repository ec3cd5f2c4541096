"""Records of Avro blocks as rows. A value that cannot be had makes its own row bad, and the ones behind it are found.

Blocks are decoded as a whole: by polars where the fields are plain, three times as fast, else by fastavro. Only where
that fails is each record decoded by itself, and one that fails again without the meanings of its types (a date in the
year 60000 is a number without them), so that the next one is found.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .avro_blocks import Block, number_bytes

__all__ = ["BadRow", "Decode", "decoder"]

Row = Mapping[str, Any]

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
