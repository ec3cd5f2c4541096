"""Rows that stay columns: what a source gives where nobody has to look at each record.

They are records nevertheless, made when somebody asks for one, so whoever knows nothing of columns can take them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any, Literal, overload

from ...topics.arrow_numpy import as_arrow
from ...topics.errors import BadRecord
from ...topics.packed import Packed, arrow, is_packed, packed_rows, row_values
from ...topics.partitioners import key_bytes
from ...topics.producer import Headers
from .source_record import BadLine, SourceRecord

__all__ = ["TEXT", "ColumnBatch", "apart", "as_columns", "rows_of"]

TEXT = "value"
"""Name of the one column of rows whose values are text."""


class ColumnBatch(Sequence[SourceRecord]):
    """Rows of one Arrow batch. `columns[2:5]` are columns, too.

    Args:
        batch: the values: fields of a JSON object in order, or one column of text.
        kind: which of the two, see `packed.pack`.
        key: name of the field that is the key, where it is one as it stands.
        keys: else the keys, as text, numbers or bytes; None where rows have none.
        times: ms since 1970 as int64, 0 for none; None where rows have none.
        partitions: the rows' own as int64, -1 for none; None where rows have none.
        headers: the rows' own; None where rows have none.
    """

    def __init__(
        self,
        batch: Any,
        *,
        kind: Literal["json", "text"] = "json",
        key: str | None = None,
        keys: Any = None,
        times: Any = None,
        partitions: Any = None,
        headers: list[Headers | None] | None = None,
    ) -> None:
        self.batch, self.key = batch, key
        self.kind: Literal["json", "text"] = kind
        self.keys = batch[key] if key is not None else keys
        self.times, self.partitions, self.headers = times, partitions, headers

    @classmethod
    def of(cls, items: Sequence[SourceRecord]) -> ColumnBatch:
        """Records as rows of text, byte for byte.

        Raises:
            ValueError: one has headers or no value, which rows do not.
        """
        if isinstance(items, ColumnBatch):
            if items.headers is not None and any(items.headers):
                raise ValueError("a record with headers")
            return items
        pyarrow = arrow()
        keys, values, times, headers, partitions = zip(*items, strict=True)
        if any(headers) or None in values:
            raise ValueError("a record with headers" if any(headers) else "a record without a value")
        column = pyarrow.array(values, pyarrow.binary())
        if b"".join(values).isascii() or _is_text(values):
            column = column.cast(pyarrow.string())
        own = as_columns(keys, times, partitions)
        return cls(pyarrow.record_batch([column], [TEXT]), kind="text", keys=own[0], times=own[1], partitions=own[2])

    @classmethod
    def unpacked(
        cls, value: bytes, timestamp_ms: int, partition: int | None = None, claimed: int | None = None
    ) -> ColumnBatch:
        """The rows of a packed batch.

        Args:
            timestamp_ms: the record's, for rows without times of their own.
            partition: where they stay; None leaves that to their keys.
            claimed: how many its header says there are, where that is to be compared.

        Raises:
            BadRecord: it is damaged.
        """
        numpy = _numpy()
        packed = Packed(value, timestamp_ms)
        if claimed not in (None, packed.rows):
            raise BadRecord(f"a packed batch of {packed.rows:,} rows whose header says something else")
        return cls(
            packed.batch,
            kind="text" if packed.kind == "text" else "json",
            key=packed.key_column if packed.key_column in packed.batch.schema.names else None,
            keys=packed.key_array,
            times=numpy.array(packed.times_ms(), numpy.int64),
            partitions=None if partition is None else numpy.full(packed.rows, partition, numpy.int64),
        )

    def __len__(self) -> int:
        return self.batch.num_rows

    @overload
    def __getitem__(self, index: int) -> SourceRecord: ...

    @overload
    def __getitem__(self, index: slice) -> ColumnBatch: ...

    def __getitem__(self, index: int | slice) -> SourceRecord | ColumnBatch:
        if isinstance(index, int):
            return self._items[index]
        first, end, step = index.indices(len(self))
        if step != 1:
            raise ValueError("columns are cut in one piece")
        headers = None if self.headers is None else self.headers[first:end]
        return self._changed(lambda column: column[first:end], self.batch.slice(first, max(0, end - first)), headers)

    def __iter__(self) -> Iterator[SourceRecord]:
        return iter(self._items)

    def take(self, order: Any) -> ColumnBatch:
        """Rows in another order, or fewer of them: their numbers, as NumPy has them."""
        numbers = as_arrow(order)
        return self._changed(
            lambda column: column[order] if isinstance(column, type(order)) else column.take(numbers),
            self.batch.take(numbers),
            None if self.headers is None else [self.headers[number] for number in order.tolist()],
        )

    def _changed(self, change: Any, batch: Any, headers: list[Headers | None] | None) -> ColumnBatch:
        own = None if self.key is not None or self.keys is None else change(self.keys)
        times, partitions = (None if column is None else change(column) for column in (self.times, self.partitions))
        return ColumnBatch(
            batch, kind=self.kind, key=self.key, keys=own, times=times, partitions=partitions, headers=headers
        )

    @cached_property
    def _items(self) -> list[SourceRecord]:
        keys: Any = repeat(None) if self.keys is None else key_bytes(self.keys).to_pylist()
        times: Any = repeat(0) if self.times is None else self.times.tolist()
        places: Any = repeat(None)
        if self.partitions is not None:
            places = [None if place < 0 else place for place in self.partitions.tolist()]
        headers: Any = repeat(None) if self.headers is None else self.headers
        return list(zip(keys, row_values(self.batch, self.kind), times, headers, places, strict=False))


def as_columns(
    keys: Sequence[bytes | None], times: Sequence[int], partitions: Sequence[int | None]
) -> tuple[Any, Any, Any]:
    """Rows' keys, times and partitions as `ColumnBatch` takes them."""
    pyarrow, numpy = arrow(), _numpy()
    return (
        None if keys.count(None) == len(keys) else pyarrow.array(keys, pyarrow.binary()),
        numpy.array(times, numpy.int64) if any(times) else None,
        None
        if partitions.count(None) == len(partitions)
        else numpy.array([-1 if place is None else place for place in partitions], numpy.int64),
    )


def apart(headers: Sequence[Headers | None]) -> int:
    """How many of some records are taken together: one that is packed alone, others up to the next that is."""
    for number, found in enumerate(headers):
        if found and is_packed(found):
            return number or 1
    return len(headers)


def rows_of(items: Sequence[SourceRecord], where: str, offset: int, bad: list[BadLine]) -> Sequence[SourceRecord]:
    """Records that are taken together: the rows, where it is one that is packed.

    Args:
        where, offset: of the first of them; one that is damaged is put into `bad` under them.
    """
    if len(items) != 1 or not is_packed(items[0][3]):
        return items
    _, value, timestamp_ms, _, partition = items[0]
    try:
        return ColumnBatch.unpacked(value or b"", timestamp_ms, partition, packed_rows(items[0][3]))
    except BadRecord as exc:
        bad.append(BadLine(where, offset, str(exc), value or b""))
        return ()


def _is_text(values: Sequence[bytes | None]) -> bool:
    try:
        for value in values:
            (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _numpy() -> Any:
    import numpy

    return numpy
