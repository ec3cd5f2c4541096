"""The rows of a packed batch as records: each quacks like a confluent_kafka.Message, and is made when it is looked at.

All rows of a message have its offset; beside it, `row` says which it is.
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
    """A packed message; opened when somebody looks into it.

    Attributes:
        claimed: how many rows its header says there are, 1 where it says something that is not taken.
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
        """What is in it.

        Raises:
            BadRecord: it is damaged.
        """
        if self._opened is None:
            if self._damage is not None:
                raise self._damage
            try:
                opened = Packed(self.message.value(), self._stamp[1], self._limits)
                if opened.rows != self.claimed:
                    said = (dict(headers_of(self.message) or ())["rows"] or b"")[:40].decode(errors="backslashreplace")
                    raise BadRecord(f"a packed batch of {opened.rows:,} rows whose header says {said}")
            except BadRecord as exc:
                self._damage = exc
                raise
            self._opened = opened
        return self._opened

    @property
    def damage(self) -> BadRecord | None:
        """Why it cannot be opened, if so."""
        try:
            self.open()
        except BadRecord as exc:
            return exc
        return None

    def close(self) -> None:
        """Forget what was made of its bytes; it may be opened again."""
        self._opened = None

    def stamp_of(self, row: int) -> tuple[int, int]:
        """A row's timestamp as librdkafka has it: its type, and milliseconds."""
        return self._stamp[0], self.open().times_ms()[row]


class Row(NamedTuple):
    """One row of a packed message, as a record."""

    package: Package
    row: int

    def topic(self) -> str:
        """As the message's."""
        return self.package.topic

    def partition(self) -> int:
        """As the message's."""
        return self.package.partition

    def offset(self) -> int:
        """The message's; all of its rows share it."""
        return self.package.offset

    def key(self) -> bytes | None:
        """The row's own."""
        return self.package.open().keys()[self.row]

    def value(self) -> bytes:
        """The row's own."""
        return self.package.open().values()[self.row]

    def timestamp(self) -> tuple[int, int]:
        """Type and milliseconds of the row's time, the message's where it has none."""
        return self.package.stamp_of(self.row)

    def headers(self) -> None:
        """Rows have none."""


class Rows(Sequence[Row]):
    """Rows of one message, in order.

    Attributes:
        numbers: which.
        begun: whether others of the message come before them, so that it is not whole any more.
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
        """This row and what follows it."""
        return self[self.numbers.index(row.row) :]

    def only(self, numbers: Sequence[int]) -> Rows:
        """Some of them."""
        return Rows(self.package, numbers, begun=self.begun)

    @property
    def whole(self) -> bool:
        """Whether they are all rows of the message."""
        return len(self.numbers) == self.package.open().rows

    def picked(self, of_all: list[Any]) -> list[Any]:
        """What belongs to these rows, of a list that has something for each row of the message."""
        return of_all if self.whole else [of_all[number] for number in self.numbers]

    def columns(self) -> Any:
        """The fields of their values, as a pyarrow.RecordBatch; a view where they are next to each other."""
        return self._taken(self.package.open().batch)

    def key_column(self) -> Any:
        """Their keys, as a pyarrow.Array of text, whole numbers or bytes; None where the message has none."""
        keys = self.package.open().key_array
        return None if keys is None else self._taken(keys)

    def _taken(self, of_all: Any) -> Any:
        if self.whole:
            return of_all
        if isinstance(self.numbers, range):
            return of_all.slice(self.numbers.start, len(self.numbers))
        return of_all.take(self.numbers)


def rows_of(topic: str, partition: int, message: Any, most: PackedLimits | None = None) -> Rows | None:
    """The rows of a message, None if it is a plain one.

    Args:
        most: the largest batch that is opened; None for `limits()`.
    """
    if len(message) < LEAST_BYTES or not is_packed(headers_of(message)):
        return None
    package = Package(topic, partition, message, most or limits())
    return Rows(package, range(package.claimed))
