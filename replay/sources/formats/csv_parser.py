"""CSV as records: each row becomes a JSON object.

There is one way from cells to records, and all rows go it: cells become columns under the types that the source has
(see `csvtypes`), and records are made of the columns. Two ways lead to cells, `csvcolumns` for blocks of plain rows and
`csvrows` for all others; both give the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....topics.errors import Usage
from ....topics.packed import RESERVED, arrow
from ..field_mapping import FieldMapping
from ..format import Format
from ..mapped_columns import Shaping
from ..source_record import NO_LIMIT, BadLine, SourceRecord
from .csv_columns import CsvColumns
from .csv_rows import CsvRow, read_rows
from .csv_types import CsvKind, typed, without
from .line_blocks import Block
from .lines import NO_FIELDS, Parsed

__all__ = ["CsvParser", "csv_kinds"]

# Where a block is not plain rows, it is tried with so many lines at a time: those that are not go row by row.
_PIECE_LINES = 5_000


def csv_kinds(format: Format, columns: Sequence[str], *, source: str) -> list[CsvKind]:
    """The types of a file's columns: declared, else guessed for the whole source, else text.

    Raises:
        Usage: one is declared for a column that does not exist.
    """
    declared, guessed = dict(format.types), dict(format.guessed)
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
            kinds.append(CsvKind(guessed.get(name) or "text", declared=False))  # pyright: ignore[reportArgumentType]
    return kinds


class CsvParser:
    """A `LineParser` of blocks of CSV. Blank lines are no rows.

    Quoted cells may hold delimiters and line ends. A row with a quote that is not closed, or with another number of
    cells than columns, is bad; reading goes on with the line after its first.

    Args:
        columns: names, from the header or from the user.
        fields: what each row has beside its cells, because of the folder the file lies in; a column of that name wins.
        by_column: give columns, see `Columns`.

    Raises:
        Usage: a column that is asked for is not among them, or has a name that packed batches use for themselves.
    """

    def __init__(
        self,
        source: str,
        format: Format,
        columns: tuple[str, ...],
        *,
        fields: Mapping[str, Any] = NO_FIELDS,
        max_bytes: int = NO_LIMIT,
        by_column: bool = False,
    ) -> None:
        for name in RESERVED.intersection((*columns, *fields)) if by_column else ():
            raise Usage(f"{source}: a packed batch cannot hold a field {name}", hint="without --pack it can")
        own = {name: value for name, value in fields.items() if name not in columns}
        self._source, self._format, self._names, self._by_column = source, format, columns, by_column
        self._shape = FieldMapping(format, source, (*columns, *own))
        self._kinds = csv_kinds(format, columns, source=source)
        self._nulls = frozenset(format.nulls)
        self._quick = CsvColumns(format, columns, self._kinds)
        self._shaping = Shaping(self._shape, own, max_bytes)
        # So many lines of the block at hand are tried in pieces, because all of it was in vain.
        self._in_pieces = 0

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        block = lines if isinstance(lines, Block) else Block(b"".join(line + b"\n" for line in lines), len(lines))
        if not self._in_pieces:
            try:
                return self._lines(block, first)
            except ValueError:
                self._in_pieces = len(block)
        wanted = _PIECE_LINES
        while True:
            piece = block.head(wanted)
            try:
                parsed = self._lines(piece, first)
            except ValueError:
                parsed = self._rows(piece, first, final=final and len(piece) == len(block))
            if parsed.used or len(piece) == len(block):
                break
            wanted *= 2
        self._in_pieces = max(0, self._in_pieces - parsed.used)
        return parsed

    def _lines(self, block: Block, first: int) -> Parsed:
        """Each line is a row.

        Raises:
            ValueError: one is none.
        """
        cells = self._quick(block)
        items, bad = self._made(cells)
        lines = block.lines() if bad else []
        return Parsed(
            items,
            [BadLine(self._source, first + row, reason, lines[row].removesuffix(b"\r")) for row, reason in bad.items()],
            0,
            len(block),
        )

    def _rows(self, block: Block, first: int, *, final: bool) -> Parsed:
        """By the rules of quotes."""
        lines = block.lines()
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
        items: Sequence[SourceRecord] = ()
        if rows:
            text = arrow().string()
            columns = [arrow().array(cells, text) for cells in zip(*(row.cells for row in rows), strict=True)]
            items, reasons = self._made(columns)
            bad += [self._bad(rows[row], reason, lines, first) for row, reason in reasons.items()]
        return Parsed(items, bad, blank, found.used)

    def _bad(self, row: CsvRow, reason: str, lines: Sequence[bytes], first: int) -> BadLine:
        whole = b"\n".join(lines[row.first - first : row.last - first + 1])
        return BadLine(self._source, row.first, reason, whole.removesuffix(b"\r"))

    def _made(self, cells: Sequence[Any]) -> tuple[Sequence[SourceRecord], dict[int, str]]:
        """Records of cells, and which rows are bad, with the reason."""
        pyarrow = arrow()
        reasons: dict[int, str] = {}
        columns: list[Any] = []
        for name, column, kind in zip(self._names, cells, self._kinds, strict=True):
            if pyarrow.types.is_int64(column.type):
                columns.append(column)
                continue
            found = typed(name, column, kind, self._nulls)
            columns.append(found.values)
            for row, reason in found.bad.items():
                reasons.setdefault(row, reason)
        batch = pyarrow.record_batch(columns, list(self._names))
        written = self._written(cells)
        numbers = range(batch.num_rows)
        if reasons:
            numbers = [row for row in numbers if row not in reasons]
            if not numbers:
                return (), reasons
            kept = pyarrow.array(numbers, pyarrow.int64())
            batch = batch.take(kept)
            written = {name: column.take(kept) for name, column in written.items()}
        made = self._shaping(batch, written)
        if made.bad and (time := self._shape.time_field) in self._names and time not in written:
            # What is said of a time is the same whether its block was read as numbers or as text.
            number = batch[time].cast(pyarrow.string())
            made = self._shaping(batch, {**written, time: number})
        reasons.update((numbers[row], reason) for row, reason in made.bad.items())
        return (made.columns if self._by_column else list(made.columns)), reasons

    def _written(self, cells: Sequence[Any]) -> dict[str, Any]:
        """Keys and times as they are written, where their column does not hold them so."""
        found: dict[str, Any] = {}
        for name in (self._shape.key_field, self._shape.time_field):
            if name is not None and name in self._names:
                number = self._names.index(name)
                kind = self._kinds[number]
                if kind.type != "text" and not arrow().types.is_int64(cells[number].type):
                    found[name] = without(cells[number], self._nulls)
        return found
