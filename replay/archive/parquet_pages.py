"""Checks the page headers of a Parquet file before pyarrow reads it.

The footer of a file says how many bytes a column chunk has when it is decompressed, and `parquet_format.py` bounds
that. But each page has a header of its own, and pyarrow allocates what that one claims: a header of a few bytes can
claim 2 GB. So the claims of a chunk's pages must not exceed what the footer says of the chunk.

Headers are structs in Thrift's compact protocol: fields 1 (type), 2 (uncompressed size), 3 (compressed size), and
others that are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

__all__ = ["check_pages"]

_HEADER_BYTES = 64 * 1024
_MAX_DEPTH = 16
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 0, 1, 2, 3, 7, 8, 12
_VARINTS = (4, 5, 6)


def check_pages(file: IO[bytes], metadata: FileMetaData) -> None:
    """Check all pages; the file's position is as before.

    Raises:
        ValueError: a page header cannot be read, or claims more than its column chunk.
    """
    before = file.tell()
    try:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                _check_chunk(file, column)
    finally:
        file.seek(before)


def _check_chunk(file: IO[bytes], column: Any) -> None:
    begins = [column.data_page_offset, column.dictionary_page_offset]
    at = min(offset for offset in begins if offset)
    end, left = at + column.total_compressed_size, column.total_uncompressed_size
    while at < end:
        file.seek(at)
        header = _Header(file.read(min(_HEADER_BYTES, end - at)))
        fields = header.sizes()
        uncompressed, compressed = fields.get(2, -1), fields.get(3, -1)
        left -= uncompressed
        if uncompressed < 0 or compressed < 0 or left < 0:
            raise ValueError(f"a page of column {column.path_in_schema} claims more bytes than its column chunk has")
        at += header.at + compressed


class _Header:
    """A struct in the compact protocol, at the beginning of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def sizes(self) -> dict[int, int]:
        """Return the struct's numbers by field, and move behind it.

        Raises:
            ValueError: it is not a struct.
        """
        found: dict[int, int] = {}
        try:
            for field, kind in self._fields():
                if kind in _VARINTS:
                    found[field] = self._integer()
                else:
                    self._skip(kind, 0)
        except IndexError:
            raise ValueError("a damaged page header") from None
        return found

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while (byte := self._byte()) & 15 != _STOP:
            delta = byte >> 4
            field = field + delta if delta else self._integer()
            yield field, byte & 15

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("a damaged page header")
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self._byte()
        elif kind in _VARINTS:
            self._varint()
        elif kind == _DOUBLE:
            self._move(8)
        elif kind == _BINARY:
            self._move(self._varint())
        elif kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        else:  # pages have no lists, sets or maps
            raise ValueError("a damaged page header")

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _move(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise IndexError

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a damaged page header")
