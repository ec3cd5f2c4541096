"""The rows of a packed batch as records, created on access, with the interface of `confluent_kafka.Message`.

All rows of a message have the offset of the message; `row` is the number of the row in the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, overload

from ...topics.errors import BadRecord
from ...topics.headers import headers_of
from ...topics.packed import LEAST_BYTES, Packed, PackedLimits, is_packed, limits, packed_rows

__all__ = ["Package", "Row", "Rows", "rows_of"]


class Package:
    """The message of a packed batch; it is opened on the first access to its content.

    Attributes:
        claimed: number of rows according to its header; 1 if that number is refused.
    """

    __slots__ = ("_damage", "_limits", "_opened", "_stamp", "claimed", "message", "offset", "partition", "topic")

    def __init__(self, topic: str, partition: int, message: Any, most: PackedLimits) -> None:
        self.topic, self.partition, self.offset = topic, partition, message.offset()
        self.message = message
        self._limits = most
        self.claimed = packed_rows(headers_of(message), most.rows)
        self._stamp: tuple[int, int] = message.timestamp()
        self._opened: Packed | None = None
        self._damage: BadRecord | None = None

    def open(self) -> Packed:
        """Return the decoded content.

        Raises:
            BadRecord: the message is damaged.
        """
        if self._opened is None:
            if self._damage is not None:
                raise self._damage
            try:
                opened = Packed(self.message.value(), self._stamp[1], self._limits)
                if opened.rows != self.claimed:
                    count = (dict(headers_of(self.message) or ())["rows"] or b"")[:40].decode(errors="backslashreplace")
                    raise BadRecord(f"a packed batch of {opened.rows:,} rows whose header says {count}")
            except BadRecord as exc:
                self._damage = exc
                raise
            self._opened = opened
        return self._opened

    @property
    def damage(self) -> BadRecord | None:
        """The error because of which the message cannot be opened, or None."""
        try:
            self.open()
        except BadRecord as exc:
            return exc
        return None

    def close(self) -> None:
        """Release the decoded content; the message can be opened again."""
        self._opened = None

    def stamp_of(self, row: int) -> tuple[int, int]:
        """Return the timestamp of a row in the form of librdkafka: timestamp type and milliseconds."""
        return self._stamp[0], self.open().times_ms()[row]


class Row(NamedTuple):
    """One row of a packed batch as a record."""

    package: Package
    row: int

    def topic(self) -> str:
        """Return the topic of the message."""
        return self.package.topic

    def partition(self) -> int:
        """Return the partition of the message."""
        return self.package.partition

    def offset(self) -> int:
        """Return the offset of the message, which all of its rows share."""
        return self.package.offset

    def key(self) -> bytes | None:
        """Return the key of the row."""
        return self.package.open().keys()[self.row]

    def value(self) -> bytes:
        """Return the value of the row."""
        return self.package.open().values()[self.row]

    def timestamp(self) -> tuple[int, int]:
        """Return the timestamp type and the milliseconds of the row, or those of the message if the row has no time."""
        return self.package.stamp_of(self.row)

    def headers(self) -> None:
        """Return None: rows have no headers."""


class Rows(Sequence[Row]):
    """Some or all rows of one message, in order.

    Attributes:
        numbers: the numbers of the rows in the message.
        begun: whether rows before these were split off, so that these are not the whole message.
    """

    __slots__ = ("begun", "numbers", "package")

    def __init__(self, package: Package, numbers: Sequence[int], *, begun: bool = False) -> None:
        self.package, self.numbers, self.begun = package, numbers, begun

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Row]:
        return map(tuple.__new__, repeat(Row), zip(repeat(self.package), self.numbers))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Rows(self.package, self.numbers[index], begun=self.begun or bool(index.start))
        return Row(self.package, self.numbers[index])

    def since(self, row: Row) -> Rows:
        """Return this row and the rows after it."""
        return self[self.numbers.index(row.row) :]

    def only(self, numbers: Sequence[int]) -> Rows:
        """Return the rows with these numbers."""
        return Rows(self.package, numbers, begun=self.begun)

    @property
    def whole(self) -> bool:
        """True if these are all rows of the message."""
        return len(self.numbers) == self.package.open().rows

    def picked(self, of_all: list[Any]) -> list[Any]:
        """Return the items of these rows from a list with one item for each row of the message."""
        return of_all if self.whole else [of_all[number] for number in self.numbers]

    def columns(self) -> Any:
        """Return the fields of the values as a pyarrow.RecordBatch; a view if the rows are contiguous."""
        return self._taken(self.package.open().batch)

    def key_column(self) -> Any:
        """Return the keys as a pyarrow.Array of strings, integers or bytes; None if the message has no keys."""
        keys = self.package.open().key_array
        return None if keys is None else self._taken(keys)

    def _taken(self, of_all: Any) -> Any:
        if self.whole:
            return of_all
        if isinstance(self.numbers, range):
            return of_all.slice(self.numbers.start, len(self.numbers))
        return of_all.take(self.numbers)


def rows_of(topic: str, partition: int, message: Any, most: PackedLimits | None = None) -> Rows | None:
    """Return the rows of a message, or None if it is a plain record.

    Args:
        most: size limits for opening the packed batch; None: `limits()`.
    """
    if len(message) < LEAST_BYTES or not is_packed(headers_of(message)):
        return None
    package = Package(topic, partition, message, most or limits())
    return Rows(package, range(package.claimed))
