"""Packs the inputs of a simulated world, as `anabranch replay --pack` packs the lines of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...topics.partitioners import HashPartitioner
from ..pipeline.packing import PackingSource
from ..sources.column_batch import ColumnBatch, to_columns
from ..sources.field_mapping import FieldMapping
from ..sources.format import Format
from ..sources.formats.json_lines import JsonColumns
from ..sources.formats.line_buffer import LineBlock
from ..sources.source import SourceBatch, SourcePosition
from ..sources.source_record import NO_LIMIT, SourceRecord
from ..target_topic import TargetTopic

if TYPE_CHECKING:
    import pyarrow

__all__ = ["InputPacker"]


class InputPacker:
    """Packs the records of one topic, part by part.

    Records that columns give back byte for byte become rows of columns, the others rows of text.

    Raises:
        Usage: the topic is compacted.
    """

    def __init__(self, target: TargetTopic, partitions: int) -> None:
        target.check_packed()
        self._target, self._partitioner = target, HashPartitioner(partitions)
        self._sent = 0

    def packed(self, records: Sequence[SourceRecord]) -> Iterator[SourceRecord]:
        """Yield packed batches that hold these records, each for one partition; a record needs a value."""
        source = PackingSource(
            _Part(records), self._partitioner, "lz4", max_bytes=self._target.max_bytes, sent=self._sent
        )
        while not source.ended:
            yield from source.next_batch().records
        self._sent += len(records)


class _Part:
    """A source of records, as columns where that is possible."""

    poll_again_s = 0.0
    done_bytes = 0

    def __init__(self, records: Sequence[SourceRecord]) -> None:
        self.begins: SourcePosition = {}
        self._batches = list(_columns(records))

    @property
    def ended(self) -> bool:
        return not self._batches

    def next_batch(self) -> SourceBatch:
        return SourceBatch(self._batches.pop(0), self.begins)

    def close(self) -> None:
        pass


def _columns(records: Sequence[SourceRecord]) -> Iterator[Sequence[SourceRecord]]:
    """Split records into runs: each as columns, or one record that cannot be columns.

    The run is halved until that is so, since one record with other fields makes all of its run text.
    """
    keys, values, times, _, partitions = zip(*records, strict=True)
    try:
        batch = _batch(values)
    except ValueError:
        if len(records) == 1:
            yield records
            return
        middle = len(records) // 2
        yield from _columns(records[:middle])
        yield from _columns(records[middle:])
        return
    own = to_columns(keys, times, partitions)
    yield ColumnBatch(batch, keys=own[0], times=own[1], partitions=own[2])


def _batch(values: Sequence[bytes]) -> pyarrow.RecordBatch:
    """Return the fields of JSON objects as columns.

    Raises:
        ValueError: columns do not give the values back byte for byte.
    """
    if any(b"\n" in value or not value for value in values):
        raise ValueError("values that are no lines")
    form = Format()
    read = JsonColumns(form, FieldMapping(form, "inputs"), NO_LIMIT)
    return read(LineBlock(b"".join(value + b"\n" for value in values), len(values))).batch
