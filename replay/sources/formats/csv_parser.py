"""Reads CSV: the header, rows of cells, and records as JSON objects.

All rows take one way from cells to records: cells become columns of the types that the source has (see `csv_types`),
and records are made from the columns. Two ways lead to cells, and give the same text: `CsvColumns` takes blocks of
plain rows at once, and `read_rows` takes all others row by row.

`CsvColumns` takes a tenth of the time, by leaving the rows to pyarrow. It reads a column as integers directly if the
column held integers before, and then checks the result by its length: a number that was not written as JSON writes it
(`007`, `+7`, `-0`, ` 7`) took more bytes, or fewer.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ....topics.arrow_numpy import as_numpy
from ....topics.errors import Usage
from ....topics.packed import RESERVED, arrow, arrow_compute
from ..column_mapping import ColumnMapping
from ..field_mapping import FieldMapping
from ..format import Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord
from .csv_types import CsvKind, convert_cells, with_nulls
from .line_buffer import (
    MAX_LINE_BYTES,
    NO_FIELDS,
    BlockParser,
    LineBlock,
    Parsed,
    count_byte,
    decode_lines,
    is_utf8,
    keeps_ascii,
)

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = [
    "CsvColumns",
    "CsvParser",
    "CsvRow",
    "CsvRows",
    "check_header",
    "csv_kinds",
    "read_header",
    "read_rows",
    "repeats_header",
]


class CsvRow(NamedTuple):
    """A row's cells, and the numbers of its first and its last line; no cells where the line is blank."""

    cells: list[str]
    first: int
    last: int


class CsvRows(NamedTuple):
    """Rows, lines that are not rows, and the number of lines used."""

    rows: list[CsvRow]
    bad: list[BadLine]
    used: int


def read_rows(lines: Sequence[bytes], first: int, *, source: str, format: Format, final: bool) -> CsvRows:
    """Split lines (without line ends) into rows by the rules of quotes. A cell can be as large as a line.

    A quote that is not closed makes its line bad; reading continues with the next line.

    Args:
        first: number of the first line.
        final: no lines follow. Otherwise the lines of an incomplete row are left unused.
    """
    good, numbers, bad = decode_lines(lines, first, source=source, encoding=format.encoding, keep_cr=bool(format.quote))
    rows: list[CsvRow] = []
    texts = [line.decode() for line in good]
    if not format.quote or format.quote.encode() not in b"".join(good):
        delimiter = format.delimiter or ","
        texts = [text.removesuffix("\r") for text in texts]
        for text, number in zip(texts, numbers, strict=True):
            if "\r" in text:
                bad.append(BadLine(source, number, "a carriage return inside of a row", text.encode()))
            else:
                rows.append(CsvRow(text.split(delimiter) if text else [], number, number))
        return CsvRows(rows, bad, len(lines))
    # The limit of the `csv` module is global to the process.
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        begin = _read_quoted(texts, numbers, rows, bad, source=source, format=format, final=final)
    finally:
        csv.field_size_limit(before)
    used = len(lines) if begin >= len(texts) else numbers[begin] - first
    # Lines after the used ones are read again, so their errors would be counted twice.
    return CsvRows(rows, [line for line in bad if line.line < first + used], used)


def _read_quoted(
    texts: list[str],
    numbers: Sequence[int],
    rows: list[CsvRow],
    bad: list[BadLine],
    *,
    source: str,
    format: Format,
    final: bool,
) -> int:
    begin = 0
    while begin < len(texts):
        start = begin
        reader = csv.reader(
            (texts[number] + "\n" for number in range(start, len(texts))),
            delimiter=format.delimiter or ",",
            quotechar=format.quote,
            strict=True,
        )
        try:
            for row in reader:
                end = start + reader.line_num
                rows.append(CsvRow(row, numbers[begin], numbers[end - 1]))
                begin = end
        except csv.Error as exc:
            unclosed = "unexpected end of data" in str(exc)
            if unclosed and not final:
                break
            reason = "a quote is not closed" if unclosed or "field limit" in str(exc) else str(exc)
            if "new-line character" in reason:
                reason = "a carriage return inside of a row"
            bad.append(BadLine(source, numbers[begin], reason, texts[begin].removesuffix("\r").encode()))
            begin += 1
    return begin


def read_header(
    lines: Sequence[bytes], *, source: str, format: Format, final: bool
) -> tuple[tuple[str, ...], int] | None:
    """Read the header: the column names in a CSV file's first row that is not blank.

    Returns:
        The names, and the number of lines up to the end of the header; None if it is incomplete or all lines are blank.

    Raises:
        BadLine: the header cannot be read.
        Usage: a name occurs twice.
    """
    found = read_rows(lines, 1, source=source, format=format, final=final)
    first = next((row for row in found.rows if row.cells), None)
    for line in sorted(found.bad, key=lambda line: line.line):
        if first is None or line.line <= first.last:
            if line.reason == "a carriage return inside of a row":
                reason = "its lines end with a carriage return alone; convert them: tr '\\r' '\\n'"
                raise BadLine(source, line.line, reason, line.value)
            raise line
    if first is None:
        return None
    columns = tuple(first.cells)
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        numbers = " and ".join(str(number) for number, name in enumerate(columns, 1) if name == twice)
        raise Usage(
            f"{source}: columns {numbers} of the header have the same name {twice!r}"
            if twice
            else f"{source}: columns {numbers} of the header have no name; only one column may have none",
            hint="name them in the first line of the file; --columns is for files without a header line",
        )
    return columns, first.last


_DELIMITERS = {";": "';'", "\t": "$'\\t'", "|": "'|'", ",": "','"}


def check_header(
    columns: Sequence[str], lines: Sequence[bytes], *, source: str, format: Format, final: bool, given: bool
) -> None:
    """Refuse a header that is not one, or that another delimiter than the default splits into more columns.

    Otherwise the whole row would become the only field of each record. It is no mistake if the rows fit the header, and
    do not with the other delimiter; nor are commas in a file `.tsv` with tabs.

    Args:
        lines: the lines from the first one on, with a few rows.
        final: no lines follow.
        given: the user names the delimiter.

    Raises:
        Usage: the header is refused.
    """
    delimiter = format.delimiter or ","
    if len(columns) <= 2 and columns[0].startswith("sep=") and len(columns[0] + delimiter.join(columns[1:])) <= 5:
        raise Usage(
            f"{source}: the first line, sep=, is for spreadsheets and is not a header",
            hint="remove it: tail -n +2 FILE; --delimiter C names the delimiter",
        )
    if given or (delimiter == "\t" and len(columns) > 1):
        return
    for other in [other for other in _DELIMITERS if other != delimiter and any(other in name for name in columns)]:
        own, split = (
            {
                row.first: len(row.cells)
                for row in read_rows(lines, 1, source=source, format=replace(format, delimiter=which), final=final).rows
                if row.cells
            }
            for which in (delimiter, other)
        )
        header, *rows = own
        more = split.get(header, 0)
        right = all(own[row] == len(columns) for row in rows) and all(split.get(row) != more for row in rows)
        if more > len(columns) and not (rows and right):
            raise Usage(
                f"{source}: the header has more columns if {_DELIMITERS[other]} is the delimiter: "
                f"{delimiter.join(columns)!r:.200}",
                hint=f"--delimiter {_DELIMITERS[other]}, or --delimiter {_DELIMITERS[delimiter]} if it is not",
            )


_MARK = "\ufeff"
_HEADER_AGAIN = "the header again: the file consists of several; --on-bad-line skip leaves such lines out"


def _first(name: str) -> list[str]:
    """Return how the first cell of a header that occurs again may look: quotes behind a mark are part of the cell."""
    return [name, _MARK + name, f'{_MARK}"{name}"']


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdigit()


def repeats_header(cells: Sequence[str], columns: Sequence[str]) -> bool:
    """Return whether a row is the header again, as in a file that several files were joined to.

    One column is not enough to tell, and numbers may be a row.
    """
    return (
        len(columns) > 1
        and cells[-1] == columns[-1]
        and list(cells[1:]) == list(columns[1:])
        and cells[0] in _first(columns[0])
        and not all(map(_is_number, columns))
    )


_BOM = b"\xef\xbb\xbf"
# An integer has at most 18 digits; see `csv_types`.
_LARGEST = 10**18


class CsvColumns:
    """Splits blocks of plain rows into columns: text, or 64-bit integers if all cells of a column are integers.

    Args:
        kinds: types of the columns.
    """

    def __init__(self, format: Format, names: Sequence[str], kinds: Sequence[CsvKind]) -> None:
        self._format, self._names = format, tuple(names)
        # If an integer can mean null, cells are compared with the nulls before any is read as a number.
        odd = any(null.lstrip("-").isdigit() for null in format.nulls)
        self._numbers = frozenset(
            number for number, kind in enumerate(kinds) if kind.type == "int" and not kind.declared and not odd
        )
        # Columns that are read as integers directly, because the block before held integers.
        self._whole = self._numbers

    def __call__(self, block: LineBlock) -> list[pyarrow.Array]:
        """Return the cells of all rows, a column each.

        Raises:
            ValueError: the rows are not one line each, or one is blank or has another number of cells.
        """
        data = block.data
        if data.startswith(_BOM):
            raise ValueError("a byte order mark that pyarrow would remove")
        if not keeps_ascii(self._format.encoding):
            raise ValueError("an encoding whose escapes may go on in the next line")
        if not data.isascii():
            # Decoding the block equals decoding its lines: a line end is one byte in these encodings.
            data = data.decode(self._format.encoding).encode() if not is_utf8(self._format.encoding) else data
            data.decode()
        if not data.endswith(b"\n"):
            data += b"\n"
        returns = count_byte(data, b"\r")
        if returns and not (returns == data.count(b"\r\n") == count_byte(data, b"\n")):
            raise ValueError("lines that end in different ways")
        quotes = _checked_quotes(data, self._format)
        if self._whole:
            try:
                cells = self._read(data, len(block), quotes)
                self._check_integers(cells, returns + quotes, len(data))
                return cells
            except ValueError:
                self._whole = frozenset()
        cells = self._read(data, len(block), quotes)
        self._whole = frozenset(number for number in self._numbers if _begins_whole(cells[number]))
        return cells

    def _read(self, data: bytes, rows: int, quotes: int) -> list[pyarrow.Array]:
        pyarrow = arrow()
        import pyarrow.csv as reader

        # Columns are named by number, because pyarrow would rename an empty name.
        kinds = {
            str(number): pyarrow.int64() if number in self._whole else pyarrow.string()
            for number in range(len(self._names))
        }
        found = reader.read_csv(
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

    def _check_integers(self, cells: Sequence[pyarrow.Array], more: int, size: int) -> None:
        """Check that the integers were written as JSON writes them.

        Args:
            more: number of bytes that are neither in cells nor between them.
            size: number of bytes in the block.

        Raises:
            ValueError: one was not.
        """
        written = len(cells[0]) * len(cells) + more
        for number, column in enumerate(cells):
            written += _written(column) if number in self._whole else _bytes(column)
        if written != size:
            raise ValueError("numbers that are written otherwise")


def _ends(column: pyarrow.Array) -> numpy.ndarray:
    import numpy

    ends = column.buffers()[1]
    return numpy.frombuffer(ends, numpy.int32)[column.offset : column.offset + len(column) + 1]


def _bytes(column: pyarrow.Array) -> int:
    ends = _ends(column)
    return int(ends[-1] - ends[0])


def _longest(column: pyarrow.Array) -> int:
    import numpy

    return int(numpy.diff(_ends(column)).max())


def _begins_whole(column: pyarrow.Array) -> bool:
    """Return whether the first cells are integers, so that the next block is worth the attempt."""
    cells: list[str] = column.slice(0, 8).to_pylist()
    return all(cell.removeprefix("-").isdigit() for cell in cells)


def _written(column: pyarrow.Array) -> int:
    """Return how many bytes integers take as JSON writes them.

    Raises:
        ValueError: one has more digits than an integer may have.
    """
    import numpy

    numbers = as_numpy(column)
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
    """Return the number of quotes, after checking that each begins or ends a cell.

    Raises:
        ValueError: a quote is inside a cell, or a cell contains a line end.
    """
    quote = format.quote.encode()
    if not quote or quote not in data:
        return 0
    import numpy

    count = data.count(quote)
    bytes_ = numpy.frombuffer(b"\n%b\n" % data, numpy.uint8)
    at = numpy.flatnonzero(bytes_ == ord(format.quote))
    if count % 2:
        raise ValueError("a quote that is not closed")
    opening, closing = at[0::2], at[1::2]
    before, behind = bytes_[opening - 1], bytes_[closing + 1]
    delimiter = ord(format.delimiter or ",")
    lines = numpy.flatnonzero(bytes_ == 10)
    if not (
        ((before == delimiter) | (before == 10)).all()
        and ((behind == delimiter) | (behind == 10) | (behind == 13)).all()
        and (numpy.searchsorted(lines, opening) == numpy.searchsorted(lines, closing)).all()
    ):
        raise ValueError("a quote inside of a cell")
    return count


def csv_kinds(format: Format, columns: Sequence[str], *, source: str) -> list[CsvKind]:
    """Return the types of a file's columns: declared, else inferred from the whole source, else text.

    Raises:
        Usage: a type is declared for a column that does not exist.
    """
    declared, inferred = dict(format.types), dict(format.inferred)
    by_topic = dict(format.declared)
    for name in declared.keys() - set(columns):
        raise Usage(f"{source}: --types {name}: no such column", hint=f"columns: {', '.join(columns)}")
    kinds: list[CsvKind] = []
    for name in columns:
        if name not in declared and name in by_topic and not format.as_text:
            kind = by_topic[name]
            kinds.append(CsvKind(kind.removesuffix("?"), declared=not kind.endswith("?")))  # pyright: ignore[reportArgumentType]
        elif name in declared or format.as_text:
            kinds.append(CsvKind(declared.get(name, "text"), declared=True))  # pyright: ignore[reportArgumentType]
        else:
            kinds.append(CsvKind(inferred.get(name) or "text", declared=False))  # pyright: ignore[reportArgumentType]
    return kinds


class CsvParser:
    """A `LineParser` for blocks of CSV. Blank lines are not rows.

    Quoted cells may contain delimiters and line ends. A row with a quote that is not closed, or with a number of cells
    that differs from the number of columns, is bad; reading continues with the line after its first.

    Args:
        columns: names of the columns, from the header or from the user.
        fields: constant fields that each row has in addition, from folder names; a column of that name takes
            precedence.
        columnar: return records as a `ColumnBatch`.
        header: the columns are those of a header in the file; a row that repeats it is bad.

    Raises:
        Usage: a requested column does not exist, or a column has a name that packed batches reserve.
    """

    def __init__(
        self,
        source: str,
        format: Format,
        columns: tuple[str, ...],
        *,
        fields: Mapping[str, str | int | None] = NO_FIELDS,
        max_bytes: int = NO_LIMIT,
        columnar: bool = False,
        header: bool = False,
    ) -> None:
        for name in RESERVED.intersection((*columns, *fields)) if columnar else ():
            raise Usage(f"{source}: a packed batch cannot hold a field {name}", hint="without --pack it can")
        own = {name: value for name, value in fields.items() if name not in columns}
        self._source, self._format, self._names, self._columnar = source, format, columns, columnar
        self._mapping = FieldMapping(format, source, (*columns, *own))
        self._kinds = csv_kinds(format, columns, source=source)
        self._nulls = frozenset(format.nulls)
        self._header = columns if header and repeats_header(columns, columns) else ()
        self._plain_rows = CsvColumns(format, columns, self._kinds)
        self._column_mapping = ColumnMapping(self._mapping, own, max_bytes)
        self._blocks = BlockParser(self._lines, self._rows)

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse lines as a block of plain rows, else in pieces, else row by row; see `LineParser`."""
        block = (
            lines if isinstance(lines, LineBlock) else LineBlock(b"".join(line + b"\n" for line in lines), len(lines))
        )
        return self._blocks.parse(block, first, final=final)

    def _lines(self, block: LineBlock, first: int) -> Parsed:
        """Parse a block in which each line is a row.

        Raises:
            ValueError: a line is not.
        """
        cells = self._plain_rows(block)
        records, bad = self._to_records(cells)
        lines = block.lines() if bad else []
        return Parsed(
            records,
            [BadLine(self._source, first + row, reason, lines[row].removesuffix(b"\r")) for row, reason in bad.items()],
            0,
            len(block),
        )

    def _rows(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse lines row by row, by the rules of quotes."""
        found = read_rows(lines, first, source=self._source, format=self._format, final=final)
        bad, width = found.bad, len(self._names)
        rows, blank = list[CsvRow](), 0
        for row in found.rows:
            if not row.cells or (width == 1 and row.first == row.last and not lines[row.first - first].strip(b"\r")):
                blank += 1
            elif len(row.cells) != width:
                bad.append(self._bad(row, f"{len(row.cells)} cells, but {width} columns", lines, first))
            else:
                rows.append(row)
        records: Sequence[SourceRecord] = ()
        if rows:
            text = arrow().string()
            columns = [arrow().array(cells, text) for cells in zip(*(row.cells for row in rows), strict=True)]
            records, reasons = self._to_records(columns)
            bad += [self._bad(rows[row], reason, lines, first) for row, reason in reasons.items()]
        return Parsed(records, bad, blank, found.used)

    def _bad(self, row: CsvRow, reason: str, lines: Sequence[bytes], first: int) -> BadLine:
        whole = b"\n".join(lines[row.first - first : row.last - first + 1])
        return BadLine(self._source, row.first, reason, whole.removesuffix(b"\r"))

    def _to_records(self, cells: Sequence[pyarrow.Array]) -> tuple[Sequence[SourceRecord], dict[int, str]]:
        """Turn cells into records; return them and the reason for each bad row."""
        pyarrow = arrow()
        reasons = dict.fromkeys(self._header_rows(cells), _HEADER_AGAIN)
        columns: list[pyarrow.Array] = []
        for name, column, kind in zip(self._names, cells, self._kinds, strict=True):
            if pyarrow.types.is_int64(column.type):
                columns.append(column)
                continue
            found = convert_cells(name, column, kind, self._nulls)
            columns.append(found.values)
            for row, reason in found.bad.items():
                reasons.setdefault(row, reason)
        batch = pyarrow.record_batch(columns, list(self._names))
        written = self._raw_columns(cells)
        numbers = range(batch.num_rows)
        if reasons:
            numbers = [row for row in numbers if row not in reasons]
            if not numbers:
                return (), reasons
            kept = pyarrow.array(numbers, pyarrow.int64())
            batch = batch.take(kept)
            written = {name: column.take(kept) for name, column in written.items()}
        made = self._column_mapping(batch, written)
        if made.bad and (time := self._mapping.time_field) in self._names and time not in written:
            # What is said of a time is the same whether its block was read as numbers or as text.
            number = batch[time].cast(pyarrow.string())
            made = self._column_mapping(batch, {**written, time: number})
        reasons.update((numbers[row], reason) for row, reason in made.bad.items())
        return (made.columns if self._columnar else list(made.columns)), reasons

    def _header_rows(self, cells: Sequence[pyarrow.Array]) -> list[int]:
        """Return the rows that repeat the header."""
        if not self._header:
            return []
        compute = arrow_compute()
        # Columns of numbers are not compared: their names are numbers in a row that repeats the header.
        number = max(at for at, name in enumerate(self._header) if not _is_number(name))
        column, name = cells[number], self._header[number]
        if not arrow().types.is_string(column.type):
            return []
        # In other columns than the first it is only the name, which is compared in a third of the time.
        same = compute.equal(column, name) if number else compute.is_in(column, value_set=arrow().array(_first(name)))
        rows = compute.indices_nonzero(same).to_pylist()
        return [row for row in rows if repeats_header([str(column[row]) for column in cells], self._header)]

    def _raw_columns(self, cells: Sequence[pyarrow.Array]) -> dict[str, pyarrow.Array]:
        """Keys and times as they are written, where their column does not hold them so."""
        found: dict[str, pyarrow.Array] = {}
        for name in (self._mapping.key_field, self._mapping.time_field):
            if name is not None and name in self._names:
                number = self._names.index(name)
                kind = self._kinds[number]
                if kind.type != "text" and not arrow().types.is_int64(cells[number].type):
                    found[name] = with_nulls(cells[number], self._nulls)
        return found
