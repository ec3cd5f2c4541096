"""CSV as columns: what `CsvParser` makes, without making each row.

`CsvParser` looks at each cell by itself: `7` is a number, `007` is text, and both may stand in one column. A column of
Arrow has one type. So columns are made of a block of rows only where all cells of each column come to one type, as they
do in most files; and it is made sure that they are the very values, not about those.

pyarrow takes rows apart. Whole numbers it reads at once where the column has been whole numbers before, and then what
has been read is proved by its length: a number that was written in another way than JSON writes it (`007`, `+7`, `-0`,
` 7`) was written with more bytes, or with fewer.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from ...topics.arrays import as_numpy
from ...topics.errors import Usage
from ...topics.packed import RESERVED, arrow
from .block import Block, counted
from .columns import Columns
from .format import Format
from .shape import Shape
from .shapedcolumns import shaped, stamped
from .textcolumns import checked_text

__all__ = ["CsvColumns"]

# As in `CsvParser`: beyond 18 digits it is text.
_LARGEST = 10**18
# JSON writes larger ones with an exponent, and not all writers of JSON write that the same way.
_PLAIN_FLOAT = 1e16

_WHOLE = r"^-?(?:0|[1-9][0-9]*)$"
_FRACTION = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)$"
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_DECLARED_FLOAT = r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_DECLARED_INT = r"^[-+]?[0-9]{1,18}$"
_TRUE, _FALSE = ["true", "t", "yes", "y", "1"], ["false", "f", "no", "n", "0"]


class CsvColumns:
    """See `MadeColumns`.

    Raises:
        Usage: a column has a name that packed batches use for themselves.
    """

    def __init__(
        self, source: str, format: Format, names: Sequence[str], fields: Mapping[str, Any], max_bytes: int
    ) -> None:
        for name in RESERVED.intersection((*names, *fields)):
            raise Usage(f"{source}: a packed batch cannot hold a field {name}", hint="--columns gives other names")
        self._format, self._names, self._max_bytes = format, tuple(names), max_bytes
        self._fields = {name: value for name, value in fields.items() if name not in names}
        self._shape = Shape(format, source, (*names, *self._fields))
        self._nulls = () if format.as_text else tuple(sorted(format.nulls))
        declared = dict(format.types)
        self._kinds = [declared.get(name, "text" if format.as_text else "auto") for name in names]
        # Columns that are read as whole numbers at once, because they have been that before.
        self._whole: frozenset[str] = frozenset()
        self._whole_at_once = not any(null.lstrip("-").isdigit() for null in self._nulls)

    def __call__(self, block: Block) -> Columns:
        """See `MadeColumns`."""
        data = block.data
        checked_text(data, self._format.encoding)
        returns = counted(data, b"\r")
        if returns and not (returns == data.count(b"\r\n") == counted(data, b"\n")):
            raise ValueError("lines that end in different ways")
        quotes = _checked_quotes(data, self._format)
        if self._whole:
            try:
                return self._made(self._read(block, quotes), returns + quotes, len(data))
            except ValueError:
                self._whole = frozenset()
        return self._made(self._read(block, quotes), returns + quotes, len(data))

    def _read(self, block: Block, quotes: int) -> Any:
        pyarrow = arrow()
        import pyarrow.csv as reader

        kinds = {name: pyarrow.int64() if name in self._whole else pyarrow.string() for name in self._names}
        found: Any = reader.read_csv(
            pyarrow.BufferReader(block.data),
            reader.ReadOptions(column_names=list(self._names), block_size=len(block.data) + 1, use_threads=False),
            reader.ParseOptions(
                delimiter=self._format.delimiter or ",",
                quote_char=self._format.quote if quotes else False,
                ignore_empty_lines=True,
            ),
            reader.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False, check_utf8=False),
        )
        batches = found.combine_chunks().to_batches()
        if found.num_rows != len(block) or len(batches) != 1:
            raise ValueError("blank lines, or rows that are not lines")
        return batches[0]

    def _made(self, cells: Any, more: int, size: int) -> Columns:
        """Columns of cells.

        Args:
            more: bytes of the block that are neither in cells nor between them.
            size: bytes of the block.
        """
        written = cells.num_rows * cells.num_columns + more
        largest, made, whole = 0, list[Any](), set[str]()
        for name, column, kind in zip(self._names, cells.columns, self._kinds, strict=True):
            if name in self._whole:
                written += _written(column)
                largest += 20
                whole.add(name)
                made.append(column)
                continue
            found = _Cells(column)
            written += found.bytes
            largest += 6 * found.longest
            made.append(found.typed(kind, self._nulls))
            if kind == "auto" and self._whole_at_once and _is_whole(made[-1]):
                whole.add(name)
        # The last line of a file may have no end.
        if self._whole and size not in (written, written - 1):
            raise ValueError("numbers that are written otherwise")
        if largest + sum(6 * len(name) + 4 for name in self._names) > self._max_bytes:
            raise ValueError("a row that may be too large")
        self._whole = frozenset(whole)
        return self._shaped(cells, made)

    def _shaped(self, cells: Any, made: list[Any]) -> Columns:
        pyarrow, shape = arrow(), self._shape
        columns = dict(zip(self._names, made, strict=True))
        for name, value in self._fields.items():
            columns[name] = pyarrow.array([value] * cells.num_rows)
        key, keys, times, partitions = None, None, None, None
        if not shape.plain or not shape.fields.isdisjoint(self._fields):
            keys, times, partitions = shaped(shape, columns, cells.num_rows)
        elif shape.time_field is not None:
            times = stamped(shape.stamps, cells[shape.time_field])
        if shape.key_field in self._names:
            kind = columns[shape.key_field].type
            auto = self._kinds[self._names.index(shape.key_field)] == "auto"
            if pyarrow.types.is_string(kind) or (auto and pyarrow.types.is_int64(kind)):
                key, keys = shape.key_field, None
            else:
                keys = _Cells(cells[shape.key_field]).without(self._nulls)
        batch = pyarrow.record_batch(list(columns.values()), list(columns))
        return Columns(batch, key=key, keys=keys, times=times, partitions=partitions)


class _Cells:
    """One column of cells, as text."""

    def __init__(self, column: Any) -> None:
        import numpy

        self._column = column
        _, ends, values = column.buffers()
        self._ends: Any = numpy.frombuffer(ends, numpy.int32)[column.offset : column.offset + len(column) + 1]
        self._values: Any = numpy.frombuffer(values, numpy.uint8) if values is not None else numpy.zeros(0, numpy.uint8)
        self._lengths: Any = numpy.diff(self._ends)
        self.bytes = int(self._ends[-1] - self._ends[0])
        self.longest = int(self._lengths.max())
        if self.longest > csv.field_size_limit():
            raise ValueError("a cell that is too large")

    def without(self, nulls: Sequence[str]) -> Any:
        """The cells as text; null where they mean that."""
        import numpy
        import polars

        if not numpy.isin(self._lengths, [len(null.encode()) for null in nulls]).any():
            return self._column
        text: Any = polars.from_arrow(self._column)
        mask = text.is_in(list(nulls))
        if not mask.any():
            return self._column
        return text.set(mask, None).to_arrow().cast(arrow().string())

    def typed(self, kind: str, nulls: Sequence[str]) -> Any:
        """What the cells are as JSON, where that is one type.

        Raises:
            ValueError: it is not, or a cell is not of the declared type.
        """
        import polars

        pyarrow = arrow()
        found = self.without(nulls)
        if kind == "text":
            return found
        if found.null_count == len(found):
            return pyarrow.nulls(len(found))
        if kind == "auto" and not self._begins_as_number():
            return found
        text: Any = polars.from_arrow(found)
        if kind == "auto":
            made = _whole(text)
            if made is None and text.str.contains(_FRACTION).all():
                made = _floats(text)
            if made is None and text.str.contains(_NUMBER).any():
                raise ValueError("numbers of two kinds, or numbers and text")
            return found if made is None else made.to_arrow()
        return _declared(kind, text.str.strip_chars()).to_arrow()

    def _begins_as_number(self) -> bool:
        """Whether any cell might be a number, going by its first character."""
        firsts = self._values[self._ends[:-1][self._lengths > 0]]
        return bool((((firsts >= 48) & (firsts <= 57)) | (firsts == 45)).any())


def _whole(text: Any) -> Any:
    """As whole numbers, where all are written as JSON writes them."""
    import polars

    numbers: Any = text.cast(polars.Int64, strict=False)
    if numbers.null_count() != text.null_count() or not (numbers.cast(polars.String) == text).all():
        return None
    return numbers if numbers.min() > -_LARGEST and numbers.max() < _LARGEST else None


def _floats(text: Any) -> Any:
    import polars

    numbers: Any = text.cast(polars.Float64, strict=False)
    if numbers.null_count() != text.null_count() or not numbers.abs().max() < _PLAIN_FLOAT:
        raise ValueError("numbers that JSON may be written in two ways for")
    return numbers


def _declared(kind: str, text: Any) -> Any:
    import polars

    if kind == "float" and text.str.contains(_DECLARED_FLOAT).all():
        return _floats(text)
    if kind == "int" and text.str.contains(_DECLARED_INT).all():
        numbers: Any = text.str.strip_prefix("+").cast(polars.Int64, strict=False)
        if numbers.null_count() == text.null_count():
            return numbers
    if kind == "bool":
        lower = text.str.to_lowercase()
        if lower.is_in([*_TRUE, *_FALSE, None]).all():
            return lower.is_in(_TRUE) if not text.null_count() else lower.is_in(_TRUE).set(text.is_null(), None)
    raise ValueError(f"cells that are not of type {kind}")


def _is_whole(column: Any) -> bool:
    return bool(arrow().types.is_int64(column.type)) and not column.null_count


def _written(column: Any) -> int:
    """Bytes that whole numbers take as JSON writes them; 1 more than there can be where they would be text.

    Raises:
        ValueError: one has so many digits that it is text.
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
