"""Archive files as JSON Lines, compressed with Zstandard: an object a record, readable with `zstdcat`.

    {"topic":"orders","partition":3,"offset":12345,"timestamp":1357034400000,"key":"ann","value":"{\\"amount\\":3}"}

Key, value and the values of headers are text if they are UTF-8; otherwise they are base64 under `key64`, `value64`. A
field that is missing under both names is null. Headers are `[["name","value"]]`, and `["name",null,"base64"]` for other
bytes.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from types import ModuleType
from typing import IO, TYPE_CHECKING

import msgspec

from ...topics.errors import Usage
from ..sources.formats.line_buffer import MAX_LINE_BYTES
from .record_columns import Headers, RecordColumns

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["ENDING", "Writer", "read_jsonl"]

ENDING = ".jsonl.zst"
_LEVEL = 3
_CHUNK_BYTES = 1024 * 1024
# A record of 16 MB, written as escapes of six characters a byte.
_MAX_LINE_BYTES = 6 * MAX_LINE_BYTES


class _Line(msgspec.Struct, omit_defaults=True):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | None = None
    value: str | None = None
    key64: str | None = None
    value64: str | None = None
    headers: list[list[str | None]] | None = None


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise Usage("Zstandard needs an extra", hint="pip install zstandard") from None
    return zstandard


class Writer:
    """Writes one file.

    Args:
        file: open for writing; the caller closes it.
    """

    def __init__(self, file: SupportsWrite[bytes], topic: str, partition: int) -> None:
        self._stream = _zstandard().ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False)
        self._topic, self._partition = topic, partition
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: RecordColumns) -> None:
        """Write rows as lines."""
        topic, partition = self._topic, self._partition
        lines: list[_Line] = []
        columns = zip(rows.keys, rows.values, rows.headers, rows.offsets, rows.times, strict=True)
        for key, value, headers, offset, time in columns:
            key_text, key64 = _written(key)
            value_text, value64 = _written(value)
            cells = [_header_cells(name, header) for name, header in headers] if headers else None
            lines.append(_Line(topic, partition, offset, time, key_text, value_text, key64, value64, cells))
        self._stream.write(self._encoder.encode_lines(lines))

    def close(self) -> None:
        """Write the end of the compressed stream."""
        self._stream.close()


def read_jsonl(file: IO[bytes], batch_rows: int) -> Iterator[RecordColumns]:
    """Yield the rows of a file in order, in batches.

    Raises:
        OSError, ValueError: the file is damaged.
    """
    zstandard = _zstandard()
    decode = msgspec.json.Decoder(_Line).decode
    rows = RecordColumns()
    # The beginning of a line that continues in the next chunk.
    tail: list[bytes] = []
    tail_bytes = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False) as stream:
            while data := stream.read(_CHUNK_BYTES):
                begun, end, rest = data.rpartition(b"\n")
                if end:
                    for line in b"".join((*tail, begun)).split(b"\n"):
                        _add(rows, decode(line))
                        if len(rows) >= batch_rows:
                            yield rows
                            rows = RecordColumns()
                    tail, tail_bytes = [], 0
                tail.append(rest)
                tail_bytes += len(rest)
                if tail_bytes > _MAX_LINE_BYTES:
                    raise ValueError(f"a line is longer than {_MAX_LINE_BYTES:,} bytes")
    except zstandard.ZstdError as exc:
        raise OSError(str(exc)) from exc
    if tail_bytes:
        raise ValueError("it ends in the middle of a line")
    if rows:
        yield rows


def _add(rows: RecordColumns, line: _Line) -> None:
    rows.keys.append(_read(line.key, line.key64))
    rows.values.append(_read(line.value, line.value64))
    rows.headers.append(_headers(line.headers) if line.headers else None)
    rows.offsets.append(line.offset)
    rows.times.append(line.timestamp)


def _written(data: bytes | None) -> tuple[str | None, str | None]:
    if data is None:
        return None, None
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return None, b64encode(data).decode()


def _read(text: str | None, base64: str | None) -> bytes | None:
    if base64 is not None:
        return b64decode(base64)
    return None if text is None else text.encode()


def _header_cells(name: str, value: bytes | None) -> list[str | None]:
    text, base64 = _written(value)
    return [name, text] if base64 is None else [name, None, base64]


def _headers(cells: list[list[str | None]]) -> Headers:
    return [(name or "", _read(value, more[0] if more else None)) for name, value, *more in cells]
