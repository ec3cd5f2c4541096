"""Minimal plain and packed records for tests of the record queue."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow
from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.topics.packed import PackedRecord, pack, rows_of
from anabranch.topics.topic_partition import TopicPartition

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


class Fake:
    """A message that has only an offset, which is all that a queue uses."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def offset(self) -> int:
        return self._offset

    def __repr__(self) -> str:
        return f"@{self._offset}"


@cache
def packed_record(rows: int) -> PackedRecord:
    return pack(pyarrow.record_batch({"n": range(rows)}))


class FakePacked(Fake):
    """A packed message that has only a value, headers and a timestamp, which is all that its rows use."""

    def __init__(self, offset: int, rows: int) -> None:
        super().__init__(offset)
        record = packed_record(rows)
        self.value, self.headers = lambda: record.value, lambda: record.headers

    def __len__(self) -> int:
        return len(self.value())

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


def packed(offset: int, rows: int, at: TopicPartition = P0) -> QueuedBatch:
    return QueuedBatch(at, rows_of(*at, FakePacked(offset, rows)), offset + 1)


def place(message: Any) -> tuple[int, int]:
    return message.offset(), getattr(message, "row", 0)


def batch(*offsets: int, at: TopicPartition = P0, end: int | None = None) -> QueuedBatch:
    return QueuedBatch(at, [Fake(offset) for offset in offsets], (offsets[-1] + 1) if end is None else end)


def offsets(taken: QueuedBatch | None) -> list[int]:
    assert taken is not None
    return [message.offset() for message in taken.messages]
