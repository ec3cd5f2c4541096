"""`ColumnBatch`: records that stay in Arrow columns as long as no single record is needed.

It is a sequence of records all the same, built on first access, so code that knows nothing of columns can take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, overload

from ...topics.arrow_numpy import as_arrow
from ...topics.errors import BadRecord
from ...topics.packed import Packed, arrow, is_packed, packed_rows, row_values
from ...topics.partitioners import key_bytes
from ...topics.producer import Headers
from .source_record import BadLine, SourceRecord, zero_time_error

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = ["TEXT", "ColumnBatch", "leading_run", "to_columns", "unpack_records"]

TEXT = "value"
"""Name of the only column of rows whose values are text."""


class ColumnBatch(Sequence[SourceRecord]):
    """The rows of one Arrow batch. A slice of it is a `ColumnBatch` too.

    Args:
        batch: the values: the fields of JSON objects in order, or one column of text.
        kind: which of the two, see `packed.pack`.
        key: name of the field that is the key, if the key is a field unchanged.
        keys: otherwise the keys, as text, integers or bytes; None if the rows have no keys.
        times: timestamps in ms since 1970 as int64, 0 for none; None if no row has one.
        partitions: the rows' own partitions as int64, -1 for none; None if no row has one.
        headers: the rows' own headers; None if no row has any.
    """

    def __init__(
        self,
        batch: pyarrow.RecordBatch,
        *,
        kind: Literal["json", "text"] = "json",
        key: str | None = None,
        keys: pyarrow.Array | None = None,
        times: numpy.ndarray | None = None,
        partitions: numpy.ndarray | None = None,
        headers: list[Headers | None] | None = None,
    ) -> None:
        self.batch, self.key = batch, key
        self.kind: Literal["json", "text"] = kind
        self.keys = batch[key] if key is not None else keys
        self.times, self.partitions, self.headers = times, partitions, headers

    @classmethod
    def of(cls, records: Sequence[SourceRecord]) -> ColumnBatch:
        """Turn records into rows of text, byte for byte.

        Raises:
            ValueError: a record has headers or no value, which rows cannot hold.
        """
        if isinstance(records, ColumnBatch):
            if records.headers is not None and any(records.headers):
                raise ValueError("a record with headers")
            return records
        pyarrow = arrow()
        keys, values, times, headers, partitions = zip(*records, strict=True)
        if any(headers) or None in values:
            raise ValueError("a record with headers" if any(headers) else "a record without a value")
        column = pyarrow.array(values, pyarrow.binary())
        if b"".join(values).isascii() or _is_text(values):
            column = column.cast(pyarrow.string())
        own = to_columns(keys, times, partitions)
        return cls(pyarrow.record_batch([column], [TEXT]), kind="text", keys=own[0], times=own[1], partitions=own[2])

    @classmethod
    def unpacked(
        cls, value: bytes, timestamp_ms: int, partition: int | None = None, claimed: int | None = None
    ) -> ColumnBatch:
        """Read the rows of a packed batch.

        Args:
            timestamp_ms: timestamp of the record that holds the batch, for rows without their own.
            partition: the partition that the rows keep; None leaves the choice to their keys.
            claimed: number of rows according to the record's header; None if it says nothing.

        Raises:
            BadRecord: the batch is damaged.
        """
        import numpy

        packed = Packed(value, timestamp_ms)
        if claimed not in (None, packed.rows):
            raise BadRecord(f"a packed batch of {packed.rows:,} rows with another count in its header")
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
            return self._records[index]
        first, end, step = index.indices(len(self))
        if step != 1:
            raise ValueError("columns are cut in one piece")
        headers = None if self.headers is None else self.headers[first:end]
        return self._changed(lambda column: column[first:end], self.batch.slice(first, max(0, end - first)), headers)

    def __iter__(self) -> Iterator[SourceRecord]:
        return iter(self._records)

    def take(self, order: numpy.ndarray) -> ColumnBatch:
        """Return the rows with these numbers, in this order."""
        numbers = as_arrow(order)
        return self._changed(
            lambda column: column[order] if isinstance(column, type(order)) else column.take(numbers),
            self.batch.take(numbers),
            None if self.headers is None else [self.headers[number] for number in order.tolist()],
        )

    def _changed(
        self, change: Callable[[Any], Any], batch: pyarrow.RecordBatch, headers: list[Headers | None] | None
    ) -> ColumnBatch:
        own = None if self.key is not None or self.keys is None else change(self.keys)
        times, partitions = (None if column is None else change(column) for column in (self.times, self.partitions))
        return ColumnBatch(
            batch, kind=self.kind, key=self.key, keys=own, times=times, partitions=partitions, headers=headers
        )

    @cached_property
    def _records(self) -> list[SourceRecord]:
        keys = repeat(None) if self.keys is None else key_bytes(self.keys).to_pylist()
        times = repeat(0) if self.times is None else self.times.tolist()
        partitions = repeat(None)
        if self.partitions is not None:
            partitions = [None if partition < 0 else partition for partition in self.partitions.tolist()]
        headers = repeat(None) if self.headers is None else self.headers
        return list(zip(keys, row_values(self.batch, self.kind), times, headers, partitions, strict=False))


def to_columns(
    keys: Sequence[bytes | None], times: Sequence[int], partitions: Sequence[int | None]
) -> tuple[pyarrow.Array | None, numpy.ndarray | None, numpy.ndarray | None]:
    """Return keys, times and partitions in the form that `ColumnBatch` takes."""
    import numpy

    pyarrow = arrow()
    return (
        None if keys.count(None) == len(keys) else pyarrow.array(keys, pyarrow.binary()),
        numpy.array(times, numpy.int64) if any(times) else None,
        None
        if partitions.count(None) == len(partitions)
        else numpy.array([-1 if partition is None else partition for partition in partitions], numpy.int64),
    )


def leading_run(headers: Sequence[Headers | None]) -> int:
    """Return how many of these records go into one batch: a packed one alone, others up to the next packed one."""
    for number, own in enumerate(headers):
        if own and is_packed(own):
            return number or 1
    return len(headers)


def unpack_records(
    records: Sequence[SourceRecord], source: str, offset: int, bad: list[BadLine]
) -> Sequence[SourceRecord]:
    """Return the rows of a run of records (see `leading_run`) that is one packed record; other runs unchanged.

    Args:
        source, offset: position of the first record; a damaged batch is appended to `bad` under this position.

    Raises:
        Stop: a row's time is exactly 0 ms.
    """
    if len(records) != 1 or not is_packed(records[0][3]):
        return records
    _, value, timestamp_ms, _, partition = records[0]
    try:
        rows = ColumnBatch.unpacked(value or b"", timestamp_ms, partition, packed_rows(records[0][3]))
    except BadRecord as exc:
        bad.append(BadLine(source, offset, str(exc), value or b""))
        return ()
    assert rows.times is not None
    if not rows.times.all():
        raise zero_time_error(f"{source}:{offset}, row {rows.times.tolist().index(0)} of a packed batch")
    return rows


def _is_text(values: Sequence[bytes | None]) -> bool:
    try:
        for value in values:
            (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
