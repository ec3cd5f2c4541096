"""The end of the way where records travel packed: cut by the topic's partitioner, many of one partition as one message.

What comes as columns is cut as columns. Other records become rows of text, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from ...topics.arrow_numpy import as_arrow
from ...topics.errors import Stop, Usage
from ...topics.packed import KEY, MAX_ROWS, TIME, PackedLimits, arrow, exceeded_by, pack, packed_rows
from ...topics.partitioners import Partitioner, partitions_of_column
from ...topics.producer import Headers
from ..sources.column_batch import ColumnBatch
from ..sources.source import Batch, Replayable, Source
from ..sources.source_record import BadLine, SourceRecord

__all__ = ["GATHERED_ROWS", "Compression", "Packing", "check_packable", "rows_of"]

Compression = Literal["lz4", "zstd"]

# Larger ones are no faster, and what is handed to an agent at once should not be the largest that a topic takes.
_TARGET_BYTES = 900_000

# What readers take who have not raised their limits.
_READERS = PackedLimits()

GATHERED_ROWS = 65_536
_GATHERED_BYTES = 8 * 1024 * 1024


class Packing:
    """A source whose items are packed batches, each for one partition. Positions are the source's own.

    Args:
        partitioner: of the topic.
        max_bytes: no message is larger.
        sent: rows that the run has sent before; those without a key take turns, as plain records do.
        gathered_rows: as many of what comes record by record are cut at once; fewer where nothing more is at hand.
        look: is shown the rows, as the source gives them.

    Attributes:
        source: what is packed.
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
        look: Callable[[Sequence[SourceRecord]], None] | None = None,
    ) -> None:
        self.begins = self._after = source.begins
        self.source, self._partitioner = source, partitioner
        self._compression: Compression = compression
        self._look = look
        self._max_bytes, self._sent = max_bytes, sent
        self._gathered_rows = gathered_rows
        self._pause = False
        self._target_bytes = min(_TARGET_BYTES, max_bytes)
        # Bytes of a message for each byte of its columns, as of the last one.
        self._ratio = 1.0

    @property
    def poll_again_s(self) -> float:
        """See `Source`."""
        return self.source.poll_again_s

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self.source.ended

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self.source.done_bytes

    def next_batch(self) -> Batch:
        """See `Source`.

        Raises:
            Usage: a record cannot be a row.
        """
        if self._pause:
            self._pause = False
            return Batch((), self._after)
        # Records come a few thousand at a time; of that many for each partition messages would be small.
        rows: list[SourceRecord] = []
        columns: Sequence[SourceRecord] = ()
        bad: list[BadLine] = []
        size_bytes = blank = 0
        while len(rows) < self._gathered_rows and size_bytes < _GATHERED_BYTES and not columns:
            batch = self.source.next_batch()
            items, self._after = batch.records, batch.after
            if self._look is not None:
                self._look(items)
            bad += batch.bad
            blank += batch.blank
            if isinstance(items, ColumnBatch):
                columns = items
                continue
            rows += items
            size_bytes += sum(len(item[1] or b"") for item in items)
            if not items or self.source.ended:
                # That nothing comes for now is said when these are sent: a socket's lines are committed then.
                self._pause = bool(rows) and not self.source.ended
                break
        packed = [message for some in (rows, columns) if some for message in self._packed(some)]
        return Batch(packed, self._after, bad, blank)

    def close(self) -> None:
        """See `Source`."""
        self.source.close()

    def _packed(self, items: Sequence[SourceRecord]) -> Iterator[SourceRecord]:
        import numpy

        try:
            columns = ColumnBatch.of(items)
        except ValueError as exc:
            raise Usage(f"--pack: rows of a packed batch have a value and no headers; here is {exc}") from None
        places: Any = self._places(columns)
        self._sent += len(columns)
        # A stable sort of small numbers takes no comparing.
        places = places.astype(numpy.uint16 if self._partitioner.partitions < 2**16 else numpy.int64)
        ordered = columns.take(numpy.argsort(places, kind="stable"))
        counts: Any = numpy.bincount(places, minlength=self._partitioner.partitions)
        begin = 0
        for partition, count in enumerate(counts.tolist()):
            if count:
                yield from self._messages(ordered[begin : begin + count], partition)
            begin += count

    def _places(self, columns: ColumnBatch) -> Any:
        import numpy

        rows, partitions = len(columns), self._partitioner.partitions
        if columns.keys is None:
            places: Any = (self._sent + numpy.arange(rows)) % partitions
        else:
            places = partitions_of_column(self._partitioner, columns.keys)
            if columns.keys.null_count:
                places = numpy.where(places < 0, (self._sent + numpy.arange(rows)) % partitions, places)
        if columns.partitions is not None:
            places = numpy.where(columns.partitions < 0, places, columns.partitions)
            if int(places.max()) >= partitions:
                raise Stop(
                    f"a record is for partition {int(places.max())}, but the topic has {partitions}",
                    hint="make the topic with more partitions, or leave the choice to the key",
                )
        return places

    def _messages(self, columns: ColumnBatch, partition: int) -> Iterator[SourceRecord]:
        whole, time = _whole(columns)
        rows = len(columns)
        parts = max(
            -(-rows // MAX_ROWS),
            int(whole.nbytes * self._ratio / self._target_bytes) + 1,
            whole.nbytes // _READERS.size_bytes + 1,
        )
        most = -(-rows // parts)
        begin = 0
        while begin < rows:
            piece = whole.slice(begin, most)
            key = columns.key if columns.key is not None else KEY if columns.keys is not None else None
            made = pack(piece, key=key, time=time, value=columns.kind, compression=self._compression)
            beyond = exceeded_by(made.value, _READERS)
            if beyond in ("columns", "depth"):
                # As text, which each line was or would be, a row is one column.
                yield from self._messages(ColumnBatch.of(list(columns[begin:])), partition)
                return
            if (len(made.value) > self._target_bytes or beyond) and len(piece) > 1:
                most = -(-len(piece) // 2)
                continue
            if beyond:
                raise Stop(
                    f"a row of {piece.nbytes:,} bytes; readers of packed batches take {_READERS.size_bytes:,}",
                    hint="without --pack it can be sent, if the topic takes it",
                )
            if len(made.value) > self._max_bytes:
                raise Stop(
                    f"a row of {len(made.value):,} bytes; a message may have {self._max_bytes:,}",
                    hint="-X message.max.bytes=… here, and max.message.bytes of the topic",
                )
            self._ratio = len(made.value) / max(1, piece.nbytes)
            begin += len(piece)
            yield (None, made.value, made.timestamp_ms, made.headers, partition)


def _whole(columns: ColumnBatch) -> tuple[Any, str | None]:
    """Rows with their keys and times, and the name of the column with times."""
    batch, time = columns.batch, None
    if columns.key is None and columns.keys is not None:
        batch = batch.append_column(KEY, columns.keys)
    if columns.times is not None:
        pyarrow = arrow()
        # 0 is none: those get the time of their message.
        none = columns.times == 0
        times = pyarrow.array(columns.times, mask=none) if none.any() else as_arrow(columns.times)
        batch = batch.append_column(TIME, times)
        time = TIME
    return batch, time


def check_packable(history: Replayable) -> None:
    """Refuse what cannot travel packed.

    Raises:
        Usage: names the option.
    """
    arrow()
    if history.format.headers:
        raise Usage(
            f"--pack and --header {history.format.headers[0][0]}=…: rows of a packed batch have no headers",
            hint="without --pack they have; or agents take it from the row's own fields",
        )


def rows_of(headers: Sequence[Headers | None]) -> list[int] | None:
    """How many rows each item stands for, going by its headers; None where each is a record."""
    if headers.count(None) == len(headers):
        return None
    return [packed_rows(found) if found else 1 for found in headers]
