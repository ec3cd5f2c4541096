"""Reads a history plain and packed, to compare both."""

from __future__ import annotations

from anabranch.replay.pipeline.packing import PackingSource
from anabranch.replay.sources.column_batch import ColumnBatch
from anabranch.replay.sources.file_history import FileHistory
from anabranch.topics.partitioners import HashPartitioner
from line_files import Reading

Record = tuple[bytes | None, bytes | None, int]
Told = list[tuple[int, str, bytes]]
MOST = 1_000_000


def plain_records(history: FileHistory, batch_lines: int = 5_000) -> tuple[list[Record], Told, int]:
    """Records in order, bad lines and how many are blank."""
    reading = Reading(history.with_max_record_bytes(MOST).open(batch_lines=batch_lines))
    records: list[Record] = [item[:3] for item in reading.rest()]
    reading.source.close()
    return records, told(reading), reading.blank


def packed_records(history: FileHistory) -> tuple[list[Record], Told, int]:
    """The same of the rows of the messages that are sent; of one partition, so that they are in order, too."""
    source = history.with_max_record_bytes(MOST).columnar().open()
    reading = Reading(PackingSource(source, HashPartitioner(1), "lz4", max_bytes=MOST, sent=0))
    records: list[Record] = []
    for message in reading.rest():
        records += [item[:3] for item in ColumnBatch.unpacked(message[1] or b"", 0)]
    source.close()
    return records, told(reading), reading.blank


def told(reading: Reading) -> Told:
    return sorted((line.line, line.reason, line.value) for line in reading.bad)


def both(history: FileHistory) -> tuple[list[Record], Told]:
    """What a history holds, which is the same plain, packed, and in batches of any size."""
    plain = plain_records(history)
    assert packed_records(history) == plain
    for size in (1, 2, 7):
        assert plain_records(history, size) == plain
    return plain[:2]
