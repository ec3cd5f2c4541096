"""Blocks of CSV taken apart at once, where rows are lines: the cells that `csvrows` gives, in a tenth of the time.

pyarrow takes rows apart. Whole numbers it reads at once where the column has been whole numbers before, and then what
has been read is proved by its length: a number that was written in another way than JSON writes it (`007`, `+7`, `-0`,
` 7`) was written with more bytes, or with fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....topics.arrow_numpy import as_numpy
from ....topics.packed import arrow
from ..format import Format
from .csv_types import CsvKind
from .line_blocks import Block, counted
from .lines import MAX_LINE_BYTES, is_utf8

__all__ = ["CsvColumns"]

_BOM = b"\xef\xbb\xbf"
# Beyond 18 digits it is no whole number.
_LARGEST = 10**18


class CsvColumns:
    """Cells of blocks, a column each: text, or 64-bit numbers where all cells are such.

    Args:
        kinds: of the columns.
    """

    def __init__(self, format: Format, names: Sequence[str], kinds: Sequence[CsvKind]) -> None:
        self._format, self._names = format, tuple(names)
        # Where a whole number means null, none is taken for a number before that is known.
        odd = any(null.lstrip("-").isdigit() for null in format.nulls)
        self._numbers = frozenset(
            number for number, kind in enumerate(kinds) if kind.type == "int" and not kind.declared and not odd
        )
        # Columns that are read as whole numbers at once, because they have been that before.
        self._whole = self._numbers

    def __call__(self, block: Block) -> list[Any]:
        """The cells of all rows.

        Raises:
            ValueError: rows are not lines, or one is blank or has another number of cells.
        """
        data = block.data
        if data.startswith(_BOM):
            raise ValueError("what may be taken for a mark of the encoding")
        if not data.isascii():
            # Lines are decoded as they would be one by one: what is a line's end in these encodings is one byte.
            data = data.decode(self._format.encoding).encode() if not is_utf8(self._format.encoding) else data
            data.decode()
        if not data.endswith(b"\n"):
            data += b"\n"
        returns = counted(data, b"\r")
        if returns and not (returns == data.count(b"\r\n") == counted(data, b"\n")):
            raise ValueError("lines that end in different ways")
        quotes = _checked_quotes(data, self._format)
        if self._whole:
            try:
                cells = self._read(data, len(block), quotes)
                self._prove(cells, returns + quotes, len(data))
                return cells
            except ValueError:
                self._whole = frozenset()
        cells = self._read(data, len(block), quotes)
        self._whole = frozenset(number for number in self._numbers if _begins_whole(cells[number]))
        return cells

    def _read(self, data: bytes, rows: int, quotes: int) -> list[Any]:
        pyarrow = arrow()
        import pyarrow.csv as reader

        # Names are numbers here: one that is empty would be taken for another.
        kinds = {
            str(number): pyarrow.int64() if number in self._whole else pyarrow.string()
            for number in range(len(self._names))
        }
        found: Any = reader.read_csv(
            pyarrow.BufferReader(data),
            reader.ReadOptions(column_names=list(kinds), block_size=len(data) + 1, use_threads=False),
            reader.ParseOptions(
                delimiter=self._format.delimiter or ",",
                quote_char=self._format.quote if quotes else False,
                ignore_empty_lines=True,
            ),
            reader.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False, check_utf8=False),
        )
        batches = found.combine_chunks().to_batches()
        if found.num_rows != rows or len(batches) != 1:
            raise ValueError("blank lines, or rows that are not lines")
        columns = list(batches[0].columns)
        if any(_longest(column) > MAX_LINE_BYTES for column in columns if column.type == pyarrow.string()):
            raise ValueError("a cell that is too large")
        return columns

    def _prove(self, cells: Sequence[Any], more: int, size: int) -> None:
        """Make sure that numbers were written as JSON writes them.

        Args:
            more: bytes that are neither in cells nor between them.
            size: bytes in all.
        """
        written = len(cells[0]) * len(cells) + more
        for number, column in enumerate(cells):
            written += _written(column) if number in self._whole else _bytes(column)
        if written != size:
            raise ValueError("numbers that are written otherwise")


def _ends(column: Any) -> Any:
    import numpy

    ends = column.buffers()[1]
    return numpy.frombuffer(ends, numpy.int32)[column.offset : column.offset + len(column) + 1]


def _bytes(column: Any) -> int:
    ends: Any = _ends(column)
    return int(ends[-1] - ends[0])


def _longest(column: Any) -> int:
    import numpy

    return int(numpy.diff(_ends(column)).max())


def _begins_whole(column: Any) -> bool:
    """Whether the first cells are whole numbers, so that it is worth trying with the next block."""
    cells: list[str] = column.slice(0, 8).to_pylist()
    return all(cell.removeprefix("-").isdigit() for cell in cells)


def _written(column: Any) -> int:
    """Bytes that whole numbers take as JSON writes them; 1 more than there can be where they would be text.

    Raises:
        ValueError: one has more digits than a whole number has.
    """
    import numpy

    numbers: Any = as_numpy(column)
    low, high = int(numbers.min()), int(numbers.max())
    if not (low > -_LARGEST and high < _LARGEST):
        raise ValueError("more digits than a number has")
    size = len(numbers)
    if low < 0:
        size += int(numpy.count_nonzero(numbers < 0))
        numbers = numpy.abs(numbers)
    power, most = 10, max(high, -low)
    while power <= most:
        size += int(numpy.count_nonzero(numbers >= power))
        power *= 10
    return size


def _checked_quotes(data: bytes, format: Format) -> int:
    """How many quotes there are, each before or behind a cell.

    Raises:
        ValueError: one is inside of a cell, or a cell holds a line's end.
    """
    quote = format.quote.encode()
    if not quote or quote not in data:
        return 0
    import numpy

    count = data.count(quote)
    bytes_: Any = numpy.frombuffer(b"\n%b\n" % data, numpy.uint8)
    at: Any = numpy.flatnonzero(bytes_ == ord(format.quote))
    if count % 2:
        raise ValueError("a quote that is not closed")
    opening, closing = at[0::2], at[1::2]
    before, behind = bytes_[opening - 1], bytes_[closing + 1]
    delimiter = ord(format.delimiter or ",")
    lines: Any = numpy.flatnonzero(bytes_ == 10)
    if not (
        ((before == delimiter) | (before == 10)).all()
        and ((behind == delimiter) | (behind == 10) | (behind == 13)).all()
        and (numpy.searchsorted(lines, opening) == numpy.searchsorted(lines, closing)).all()
    ):
        raise ValueError("a quote inside of a cell")
    return count
