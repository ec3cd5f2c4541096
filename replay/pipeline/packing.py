"""Packs records into batches for `--pack`: rows are split by partition and sent, many as one message.

Rows that a source provides as columns are split as columns. Other records become rows of text, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ...topics.arrow_numpy import as_arrow
from ...topics.errors import Stop, Usage
from ...topics.packed import KEY, MAX_ROWS, TIME, PackedLimits, arrow, exceeded_by, pack
from ...topics.partitioners import Partitioner
from ..sources.column_batch import ColumnBatch
from ..sources.source import Replayable, Source, SourceBatch
from ..sources.source_record import BadLine, SourceRecord
from .partitioning import column_partitions

if TYPE_CHECKING:
    import pyarrow

__all__ = ["GATHERED_ROWS", "Compression", "PackingSource", "check_packable"]

Compression = Literal["lz4", "zstd"]

# Larger messages are not faster, and a batch that an agent receives at once should not be the largest that fits.
_TARGET_BYTES = 900_000

# What readers accept unless their limits are raised.
_READER_LIMITS = PackedLimits()

GATHERED_ROWS = 65_536
_GATHERED_BYTES = 8 * 1024 * 1024


class PackingSource:
    """A source whose records are packed batches, each for one partition. Positions are those of the wrapped source.

    Args:
        max_bytes: upper bound of a message.
        sent: rows that the run has produced before; rows without a key go round-robin, as plain records do.
        gathered_rows: how many records that do not come as columns are packed at once; fewer if none follow.
        on_rows: called with the rows as the wrapped source provides them.

    Attributes:
        source: the wrapped source.
    """

    def __init__(
        self,
        source: Source,
        partitioner: Partitioner,
        compression: Compression,
        *,
        max_bytes: int,
        sent: int,
        gathered_rows: int = GATHERED_ROWS,
        on_rows: Callable[[Sequence[SourceRecord]], None] | None = None,
    ) -> None:
        self.begins = self._after = source.begins
        self.source, self._partitioner = source, partitioner
        self._compression: Compression = compression
        self._on_rows = on_rows
        self._max_bytes, self._sent = max_bytes, sent
        self._gathered_rows = gathered_rows
        self._pause = False
        self._target_bytes = min(_TARGET_BYTES, max_bytes)
        # Bytes of a message for each byte of its columns, as of the last message.
        self._ratio = 1.0

    @property
    def poll_again_s(self) -> float:
        """Seconds to wait after an empty batch; see `Source`."""
        return self.source.poll_again_s

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return self.source.ended

    @property
    def done_bytes(self) -> int:
        """Bytes read so far; see `Source`."""
        return self.source.done_bytes

    def next_batch(self) -> SourceBatch:
        """Return the next packed batches; see `Source`.

        Raises:
            Usage: a record cannot be a row.
        """
        if self._pause:
            self._pause = False
            return SourceBatch((), self._after)
        # A source provides a few thousand records at a time; packed by partition these would be small messages.
        rows: list[SourceRecord] = []
        columns: Sequence[SourceRecord] = ()
        bad: list[BadLine] = []
        size_bytes = blank = 0
        while len(rows) < self._gathered_rows and size_bytes < _GATHERED_BYTES and not columns:
            batch = self.source.next_batch()
            records, self._after = batch.records, batch.after
            if self._on_rows is not None:
                self._on_rows(records)
            bad += batch.bad
            blank += batch.blank
            if isinstance(records, ColumnBatch):
                columns = records
                continue
            rows += records
            size_bytes += sum(len(record[1] or b"") for record in records)
            if not records or self.source.ended:
                # The next batch is empty, so that these records are committed now: a socket may be idle for long.
                self._pause = bool(rows) and not self.source.ended
                break
        packed = [message for some in (rows, columns) if some for message in self._packed(some)]
        return SourceBatch(packed, self._after, bad, blank)

    def close(self) -> None:
        """Close the wrapped source."""
        self.source.close()

    def _packed(self, records: Sequence[SourceRecord]) -> Iterator[SourceRecord]:
        import numpy

        try:
            columns = ColumnBatch.of(records)
        except ValueError as exc:
            raise Usage(f"--pack: rows of a packed batch have a value and no headers, but this is {exc}") from None
        partitions = column_partitions(columns, self._partitioner, self._sent)
        self._sent += len(columns)
        # A stable sort of small integers is a radix sort, which needs no comparisons.
        small = partitions.astype(numpy.uint16 if self._partitioner.partitions < 2**16 else numpy.int64)
        ordered = columns.take(numpy.argsort(small, kind="stable"))
        counts = numpy.bincount(small, minlength=self._partitioner.partitions)
        begin = 0
        for partition, count in enumerate(counts.tolist()):
            if count:
                yield from self._messages(ordered[begin : begin + count], partition)
            begin += count

    def _messages(self, columns: ColumnBatch, partition: int) -> Iterator[SourceRecord]:
        whole, time = _with_keys_and_times(columns)
        rows = len(columns)
        parts = max(
            -(-rows // MAX_ROWS),
            int(whole.nbytes * self._ratio / self._target_bytes) + 1,
            whole.nbytes // _READER_LIMITS.size_bytes + 1,
        )
        max_rows = -(-rows // parts)
        begin = 0
        while begin < rows:
            piece = whole.slice(begin, max_rows)
            key = columns.key if columns.key is not None else KEY if columns.keys is not None else None
            made = pack(piece, key=key, time=time, value=columns.kind, compression=self._compression)
            exceeded = exceeded_by(made.value, _READER_LIMITS)
            if exceeded in ("columns", "depth"):
                # As text a row is one column of no depth.
                yield from self._messages(ColumnBatch.of(list(columns[begin:])), partition)
                return
            count = piece.num_rows
            if (len(made.value) > self._target_bytes or exceeded) and count > 1:
                max_rows = -(-count // 2)
                continue
            if exceeded:
                raise Stop(
                    f"a row of {piece.nbytes:,} bytes; readers of packed batches accept {_READER_LIMITS.size_bytes:,}",
                    hint="it can be sent without --pack, if the topic accepts it",
                )
            if len(made.value) > self._max_bytes:
                raise Stop(
                    f"a row of {len(made.value):,} bytes; the limit of a message is {self._max_bytes:,}",
                    hint="-X message.max.bytes=… here, and max.message.bytes of the topic",
                )
            self._ratio = len(made.value) / max(1, piece.nbytes)
            begin += count
            yield (None, made.value, made.timestamp_ms, made.headers, partition)


def _with_keys_and_times(columns: ColumnBatch) -> tuple[pyarrow.RecordBatch, str | None]:
    """Return the rows with columns for their keys and times, and the name of the column that holds the times."""
    batch, time = columns.batch, None
    if columns.key is None and columns.keys is not None:
        batch = batch.append_column(KEY, columns.keys)
    if columns.times is not None:
        pyarrow = arrow()
        # 0 stands for no time: the row gets the time of its message.
        none = columns.times == 0
        times = pyarrow.array(columns.times, mask=none) if none.any() else as_arrow(columns.times)
        batch = batch.append_column(TIME, times)
        time = TIME
    return batch, time


def check_packable(history: Replayable) -> None:
    """Refuse a history whose records cannot be rows of packed batches.

    Raises:
        Usage: names the option.
    """
    arrow()
    if history.format.headers:
        raise Usage(
            f"--pack and --header {history.format.headers[0][0]}=…: rows of a packed batch have no headers",
            hint="omit --pack, or read the field from the row in the agent",
        )
