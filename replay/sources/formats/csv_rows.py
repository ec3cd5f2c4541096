"""CSV taken apart by the rules of quotes, row by row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import NamedTuple

from ....topics.errors import Usage
from ..format import Format
from ..source_record import BadLine
from .lines import MAX_LINE_BYTES, clean

__all__ = ["CsvRow", "CsvRows", "read_header", "read_rows"]


class CsvRow(NamedTuple):
    """A row's cells, and the numbers of its first and its last line; no cells where the line is blank."""

    cells: list[str]
    first: int
    last: int


class CsvRows(NamedTuple):
    """Rows, lines that are none, and how many lines were used."""

    rows: list[CsvRow]
    bad: list[BadLine]
    used: int


def read_rows(lines: Sequence[bytes], first: int, *, source: str, format: Format, final: bool) -> CsvRows:
    """Rows of lines, which have no ends. Cells are as large as a line may be.

    A quote that is not closed makes its line bad, and reading goes on with the next one.

    Args:
        first: number of the first line.
        final: nothing follows. Otherwise a row that is not complete is left, with its lines.
    """
    good, numbers, bad = clean(lines, first, source=source, encoding=format.encoding, keep_cr=bool(format.quote))
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
    # The reader's limit is one for all of the process.
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        begin = _read_quoted(texts, numbers, rows, bad, source=source, format=format, final=final)
    finally:
        csv.field_size_limit(before)
    used = len(lines) if begin >= len(texts) else numbers[begin] - first
    # A line behind those that were used is looked at again, and would be counted twice.
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
    """The names in a CSV file's first row that is not blank, and how many lines lie before the second.

    Returns:
        None where the row is not complete in `lines`, or all are blank.

    Raises:
        BadLine: it cannot be read.
        Usage: a name stands twice.
    """
    found = read_rows(lines, 1, source=source, format=format, final=final)
    first = next((row for row in found.rows if row.cells), None)
    for line in sorted(found.bad, key=lambda line: line.line):
        if first is None or line.line <= first.last:
            if line.reason == "a carriage return inside of a row":
                reason = "its lines end with a carriage return alone; with \\n they can be read: tr '\\r' '\\n'"
                raise BadLine(source, line.line, reason, line.value)
            raise line
    if first is None:
        return None
    columns = tuple(first.cells)
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        where = " and ".join(str(number) for number, name in enumerate(columns, 1) if name == twice)
        raise Usage(
            f"{source}: columns {where} of the header are both called {twice!r}"
            if twice
            else f"{source}: columns {where} of the header have no name, and only one may have none",
            hint="give them names in the file's first line; --columns names those of a file without such a line",
        )
    return columns, first.last
