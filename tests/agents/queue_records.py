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
    """As much of a message as a queue asks for."""

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
    """As much of a packed message as its rows ask for."""

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
