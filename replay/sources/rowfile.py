"""Files of rows, not lines: what Parquet and Avro share. The position is the number of the next row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import msgspec

from ...topics.undoing import on_failure
from .expression import as_bytes
from .format import Format
from .item import BadLine, Item, check_sizes
from .member import Member
from .opening import UNREADABLE, Opened, why
from .shape import Shape
from .source import Batch, Position

__all__ = ["Row", "RowFile", "RowReader", "Rows", "items_of", "shape_of"]

Row = Mapping[str, Any]
_ENCODER = msgspec.json.Encoder()


class Rows(NamedTuple):
    """Some rows that became records, and those that could not: (index among them, reason, row)."""

    count: int
    items: Sequence[Item]
    bad: list[tuple[int, str, Row]]


class RowReader(Protocol):
    """Reads a kind of file.

    Attributes:
        DAMAGE: what it raises where the file is damaged.
    """

    DAMAGE: tuple[type[BaseException], ...]

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        """Read from the row numbered `first`, from 0, in bounded batches; what is wrong from the start is told now."""
        ...


class RowFile:
    """One file of rows as a source. A file that cannot be read on is bad from there: it ends with a bad line.

    Args:
        open: opens the file.
    """

    ask_again_s = 0.0

    def __init__(
        self, member: Member, open: Callable[[Member], Opened], reader: RowReader, position: Position | None
    ) -> None:
        self._member = member
        self._damage = (*UNREADABLE, *reader.DAMAGE)
        self._row = position["row"] if position else 0
        self.begins: Position = {"row": self._row}
        self._rows: Iterator[Rows] = iter(())
        self._next: Rows | None = None
        self._looked = False
        self._broken: BadLine | None = None
        self._opened: Opened | None = None
        with on_failure(self.close):
            try:
                self._opened = open(member)
                self._rows = reader(self._opened, self._row)
            except UNREADABLE as exc:
                self._breaks(why(exc))

    @property
    def ended(self) -> bool:
        """See `Source`."""
        # A last batch that is known to be the last saves the run a transaction of its own for its end.
        self._look_ahead()
        return self._next is None and self._broken is None

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        whole = self._member.size_bytes
        return whole if self.ended or self._opened is None else min(self._opened.done_bytes(), whole)

    def next_batch(self) -> Batch:
        """See `Source`."""
        self._look_ahead()
        rows = self._next
        if rows is None:
            broken, self._broken = self._broken, None
            return Batch((), {"row": self._row}, () if broken is None else (broken,))
        name = self._member.name
        bad = [BadLine(name, self._row + at + 1, reason, msgspec.json.encode(row)) for at, reason, row in rows.bad]
        self._row += rows.count
        self._looked = False
        return Batch(rows.items, {"row": self._row}, bad)

    def close(self) -> None:
        """See `Source`."""
        if self._opened is not None:
            self._opened.close()

    def _look_ahead(self) -> None:
        if self._looked:
            return
        self._looked = True
        self._next = None
        try:
            self._next = next(self._rows, None)
        except self._damage as exc:
            self._breaks(why(exc))

    def _breaks(self, reason: str) -> None:
        reason = f"{reason}; the rest of the file is not read"
        self._broken = BadLine(self._member.name, self._row + 1, reason, b"")


def items_of(rows: Iterable[Row], shape: Shape, fields: Row, max_bytes: int) -> Rows:
    """Rows as JSON objects, one by one.

    Args:
        fields: what each has beside its own.
    """
    rows = list(rows)
    if shape.plain and shape.fields.isdisjoint(fields):
        try:
            return Rows(len(rows), _items_at_once(rows, shape, fields, max_bytes), [])
        except (ValueError, TypeError, LookupError):
            pass  # something in them is wrong: look at each
    items: list[Item] = []
    bad: list[tuple[int, str, Row]] = []
    at = -1
    for at, row in enumerate(rows):
        record = {**row, **fields} if fields else row
        try:
            key, time_ms, headers, partition = shape(record)
            value = msgspec.json.encode(record)
            check_sizes((value,), max_bytes)
            items.append((key, value, time_ms, headers, partition))
        except (ValueError, TypeError) as exc:
            bad.append((at, str(exc), {name: _said(cell) for name, cell in record.items()}))
    return Rows(at + 1, items, bad)


def _items_at_once(rows: list[Row], shape: Shape, fields: Row, max_bytes: int) -> list[Item]:
    records = [{**row, **fields} for row in rows] if fields else rows
    # JSON holds no line's end, so what is one stands between two records.
    values = _ENCODER.encode_lines(records).split(b"\n")[:-1]
    check_sizes(values, max_bytes)
    keys: Any = repeat(None)
    times: Any = repeat(0)
    if shape.key_field is not None:
        column = [row[shape.key_field] for row in rows]
        try:
            keys = list(map(str.encode, column))
        except TypeError:  # some are no text
            keys = map(as_bytes, column)
    if shape.time_field is not None:
        times = shape.stamps.many([row[shape.time_field] for row in rows])
    return list(zip(keys, values, times, repeat(None), repeat(None)))


def _said(cell: Any) -> Any:
    try:
        msgspec.json.encode(cell)
    except (ValueError, TypeError):
        return str(cell)
    return cell


def shape_of(format: Format, source: str, columns: Sequence[str], fields: Row) -> tuple[Shape, Row]:
    """What is asked of a file with these columns; and the fields it has beside them."""
    own = {name: value for name, value in fields.items() if name not in columns}
    return Shape(format, source, (*columns, *own)), own
