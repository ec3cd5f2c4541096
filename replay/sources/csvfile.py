"""CSV as records: each row becomes a JSON object.

What makes it fast: cells repeat, so a column remembers what each text is as JSON, and whole numbers are it already.
Rows without a quote need no CSV reader.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import contains
from typing import Any

import msgspec

from ...topics.errors import Usage
from ...topics.producer import Headers
from .format import Format
from .item import NO_LIMIT, BadLine, Item, check_sizes
from .lines import NO_FIELDS, Parsed, clean
from .shape import Shape

__all__ = ["CsvParser", "read_header"]

# Whole numbers beyond 18 digits might not fit 64 bits, and leading zeros mean text (a ZIP code, an account).
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)((?:\.\d+)?(?:[eE][+-]?\d+)?)", re.ASCII)
_INT_DIGITS = 18
_INT = re.compile(r"[-+]?\d{1,60}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_OF_NUMBERS = re.compile(r"[-+.eE\d]+")
# What JSON writes in another way inside of a text.
_ESCAPED = bytes(range(32)) + b'"\\'
_BOOLS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), b"true"),
    **dict.fromkeys(("false", "f", "no", "n", "0"), b"false"),
}
_CACHED = 16_384
_CACHED_CELL_CHARS = 64


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
    good, numbers, bad = clean(lines, 1, source=source, encoding=format.encoding, keep_cr=bool(format.quote))
    rows, bad_rows, _ = _rows([line.decode() for line in good], numbers, source=source, format=format, final=final)
    first = next(((row, last) for row, _, last in rows if row), None)
    for found in (*bad, *bad_rows):
        if first is None or found.line <= first[1]:
            raise found
    if first is None:
        return None
    columns = tuple(first[0])
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise Usage(f"{source}: column {twice!r} stands twice in the header", hint="--columns gives names of your own")
    return columns, first[1]


class CsvParser:
    """Rows of a CSV file as JSON objects, cells as numbers, nulls and text. Blank lines are no rows.

    Quoted cells may hold delimiters and line ends. A row with a quote that is not closed, or with another number of
    cells than columns, is bad; reading goes on with the line after its first.

    Args:
        columns: names, from the header or from the user.
        fields: what each row has beside its cells, because of the folder the file lies in; a column of that name wins.

    Raises:
        Usage: a column that is asked for is not among them.
    """

    def __init__(
        self,
        source: str,
        format: Format,
        columns: tuple[str, ...],
        *,
        fields: Mapping[str, Any] = NO_FIELDS,
        max_bytes: int = NO_LIMIT,
    ) -> None:
        self._source = source
        self._format = format
        self._delimiter = format.delimiter or ","
        self._max_bytes = max_bytes
        self._width = len(columns)
        self._fields = {name: value for name, value in fields.items() if name not in columns}
        self._shape = Shape(format, source, (*columns, *self._fields))
        types = dict(format.types)
        for name in types.keys() - set(columns):
            raise Usage(f"{source}: --types {name}: no such column", hint=f"columns: {', '.join(columns)}")
        nulls = frozenset() if format.as_text else frozenset(format.nulls)
        self._nulls = nulls
        self._columns = [
            _Column(name, nulls, types.get(name, "text" if format.as_text else "auto")) for name in columns
        ]
        names = [msgspec.json.encode(name).decode() + ":" for name in columns]
        self._between = ["{" + names[0], *("," + name for name in names[1:])]
        more = [f",{_json(name)}:{_json(value)}" for name, value in self._fields.items()]
        self._end = "".join(more) + "}"
        self._key = _index(columns, self._shape.key_field)
        self._time = _index(columns, self._shape.time_field)
        self._plain = self._shape.plain and self._shape.fields.isdisjoint(self._fields)
        self._cells = [(name, i, self._columns[i]) for i, name in enumerate(columns) if name in self._shape.fields]

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        used = len(lines)
        quote = self._format.quote
        good, numbers, bad = clean(
            lines, first, source=self._source, encoding=self._format.encoding, keep_cr=bool(quote)
        )
        text = b"\n".join(good).decode()
        quoted = bool(quote) and quote in text
        if not quoted and "\r" in text:
            good = [line.removesuffix(b"\r") for line in good]
            text = b"\n".join(good).decode()
        # The reader's limit on cells is kept on both ways, so that where a batch is cut changes nothing.
        most = csv.field_size_limit()
        if quoted or "\r" in text or (len(text) > most and max(map(len, good)) > most):
            found, bad_rows, taken = _rows(
                text.split("\n") if good else [], numbers, source=self._source, format=self._format, final=final
            )
            bad += bad_rows
            if taken < len(good):
                used = numbers[taken] - first
            rows = [row for row, _, _ in found]
            numbers = [number for _, number, _ in found]
        else:
            try:
                return Parsed(self._items(self._columns_of(text)), bad, 0, used)
            except ValueError:
                rows = [line.split(self._delimiter) if line else [] for line in text.split("\n")] if good else []
        if [] not in rows:
            try:
                return Parsed(self._items(list(zip(*rows, strict=True))), bad, 0, used)
            except ValueError:
                pass  # something in them is wrong: look at each
        return self._one_by_one(rows, numbers, bad, used, lines, first)

    def _columns_of(self, text: str) -> list[list[str]]:
        """Cells by column, without a list of each row's: that is half the cost."""
        delimiter, width = self._delimiter, self._width
        # A line's end becomes a cell of its own, which has to stand behind each `width` others.
        cells = text.replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)
        ends = cells[width :: width + 1]
        if (len(cells) + 1) % (width + 1) or ends.count("\n") < len(ends) or (width == 1 and "" in cells):
            raise ValueError
        return [cells[number :: width + 1] for number in range(width)]

    def _items(self, columns: Sequence[Sequence[str]]) -> list[Item]:
        if len(columns) != self._width:
            if not columns:
                return []
            raise ValueError
        around = [made.around(cells) for made, cells in zip(self._columns, columns, strict=True)]
        # Of each row: what stands before a cell, the cell, and so on; all rows are joined at once.
        row: list[str] = []
        for between, before, after in zip(self._between, ("", *around), around, strict=False):
            row += [f"{before or ''}{between}{after or ''}", ""]
        row.append(f"{around[-1] or ''}{self._end}\n")
        pieces = row * len(columns[0])
        for number, (made, cells, mark) in enumerate(zip(self._columns, columns, around, strict=True)):
            written = cells if mark is not None else list(map(made.__getitem__, cells))
            pieces[2 * number + 1 :: len(row)] = written
        joined = "".join(pieces).encode()
        values = joined.split(b"\n")  # JSON holds no line's end
        values.pop()
        if len(joined) > self._max_bytes:
            check_sizes(values, self._max_bytes)
        keys: Iterable[bytes | None] = repeat(None)
        times: Iterable[int] = repeat(0)
        if self._key is not None:
            cells = columns[self._key]
            keys = map(str.encode, cells)
            if around[self._key] is None and not self._nulls.isdisjoint(cells):
                keys = [None if cell in self._nulls else cell.encode() for cell in cells]
        if not self._plain:
            shaped = [self._shaped(row) for row in zip(*columns, strict=True)]
            own = [made[0] for made in shaped] if self._key is None else keys
            return [(key, value, *made[1:]) for key, value, made in zip(own, values, shaped, strict=True)]
        if self._time is not None:
            times = self._shape.stamps.many(columns[self._time])
        return list(zip(keys, values, times, repeat(None), repeat(None)))

    def _shaped(self, row: tuple[str, ...]) -> tuple[bytes | None, int, Headers | None, int | None]:
        record = {name: column.meant(row[i]) for name, i, column in self._cells}
        return self._shape({**record, **self._fields})

    def _one_by_one(
        self,
        rows: list[list[str]],
        numbers: Sequence[int],
        bad: list[BadLine],
        used: int,
        lines: Sequence[bytes],
        first: int,
    ) -> Parsed:
        items: list[Item] = []
        blank = 0
        for number, row in zip(numbers, rows, strict=True):
            if not row:
                blank += 1
                continue
            try:
                items.extend(self._items([(cell,) for cell in row]))
            except ValueError as exc:
                reason = str(exc) or f"{len(row)} cells, but {self._width} columns"
                bad.append(BadLine(self._source, number, reason, lines[number - first]))
        return Parsed(items, bad, blank, used)


def _no_numbers(cells: Sequence[str]) -> bool:
    """Whether it can be seen at once that none of these is one."""
    if min(cells) >= ":":  # what numbers begin with comes before it
        return True
    # Something that no number has, and all of them: the T of times, a letter that names begin with.
    mark = _OF_NUMBERS.sub("", cells[0])[:1]
    return mark != "" and all(map(contains, cells, repeat(mark)))


class _Column(dict[str, str]):
    """A cell's text, to what it is as JSON, for those of which it can't be told at once."""

    def __init__(self, name: str, nulls: frozenset[str], kind: str) -> None:
        super().__init__()
        self._name = name
        self._nulls = nulls
        self._kind = kind
        self._meant: dict[str, Any] = {}
        # Numbers stand in JSON as they stand in the file, unless one of them means null.
        self._as_is = kind in ("auto", "int") and not any(null.isdigit() for null in nulls)

    def around(self, cells: Sequence[str]) -> str | None:
        """What makes each of the cells JSON when it stands on both sides of it: nothing, or quotes. None where that
        differs, or a cell has to be written in another way; such cells are looked up in this, one by one.
        """
        data = "".join(cells).encode()
        if self._as_is and cells[0].isdigit():
            # The smallest text begins with the smallest first character: none is empty, and none begins with 0.
            if data.isdigit() and min(cells) >= "1" and max(map(len, cells)) <= _INT_DIGITS:
                return ""
            return None
        if self._kind not in ("auto", "text") or not self._nulls.isdisjoint(cells):
            return None
        if len(data.translate(None, _ESCAPED)) < len(data):
            return None
        return '"' if self._kind == "text" or _no_numbers(cells) else None

    def __missing__(self, cell: str) -> str:
        piece = self._value(cell).decode()
        if len(cell) <= _CACHED_CELL_CHARS:
            if len(self) >= _CACHED:
                self.clear()
            self[cell] = piece
        return piece

    def meant(self, cell: str) -> Any:
        """What the cell is, for expressions."""
        if cell not in self._meant:
            if len(self._meant) >= _CACHED:
                self._meant.clear()
            self._meant[cell] = msgspec.json.decode(self._value(cell))
        return self._meant[cell]

    def _value(self, cell: str) -> bytes:
        if cell in self._nulls:
            return b"null"
        if self._kind not in ("auto", "text"):
            return self._typed(cell)
        number = None if self._kind == "text" else _NUMBER.fullmatch(cell)
        if number:
            if not number[1]:
                if len(cell.lstrip("-")) <= _INT_DIGITS:
                    return cell.encode()
            elif math.isfinite(value := float(cell)):
                return msgspec.json.encode(value)
        return msgspec.json.encode(cell)

    def _typed(self, cell: str) -> bytes:
        written = cell.strip()
        if self._kind == "bool" and written.lower() in _BOOLS:
            return _BOOLS[written.lower()]
        if self._kind == "int" and _INT.fullmatch(written):
            return b"%d" % int(written)
        if self._kind == "float" and _FLOAT.fullmatch(written) and math.isfinite(value := float(written)):
            return msgspec.json.encode(value)
        raise ValueError(f"column {self._name}: not of type {self._kind}: {cell!r:.60}")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _index(columns: tuple[str, ...], name: str | None) -> int | None:
    return columns.index(name) if name in columns else None


def _rows(
    lines: list[str], numbers: Sequence[int], *, source: str, format: Format, final: bool
) -> tuple[list[tuple[list[str], int, int]], list[BadLine], int]:
    """Read by the rules of quotes: rows, each with the numbers of its first and last line; bad ones; lines used."""
    rows: list[tuple[list[str], int, int]] = []
    bad: list[BadLine] = []
    begin = 0
    while begin < len(lines):
        start = begin
        reader = csv.reader(
            (line + "\n" for line in lines[start:]),
            delimiter=format.delimiter or ",",
            quotechar=format.quote or None,
            quoting=csv.QUOTE_MINIMAL if format.quote else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            for row in reader:
                end = start + reader.line_num
                rows.append((row, numbers[begin], numbers[end - 1]))
                begin = end
        except csv.Error as exc:
            unclosed = "unexpected end of data" in str(exc)
            if unclosed and not final:
                break
            reason = "a quote is not closed" if unclosed else str(exc)
            if "field limit" in reason:
                reason = f"a cell of more than {csv.field_size_limit():,} characters: is a quote not closed?"
            bad.append(BadLine(source, numbers[begin], reason, lines[begin].encode()))
            begin += 1
    return rows, bad, begin
