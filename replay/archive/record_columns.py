"""`RecordColumns`: the fields of archived records, column by column.

key, value   bytes or null
headers      names and values (bytes or null), in order, names may repeat; null if there are none
topic, partition, offset
timestamp    milliseconds since 1970
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import cast

from ...topics.headers import copied_headers
from ...topics.message import Message
from ...topics.producer import Headers as SourceHeaders
from ..sources.source_record import SourceRecord

__all__ = ["COLUMNS", "Change", "Content", "Headers", "RecordColumns"]

COLUMNS = {
    "key": "binary",
    "value": "binary",
    "headers": "list<name: string, value: binary>",
    "topic": "string",
    "partition": "int32",
    "offset": "int64",
    "timestamp": "timestamp(ms, UTC)",
}

Headers = list[tuple[str, bytes | None]]
Content = tuple[bytes | None, bytes | None, SourceHeaders | None]
Change = Callable[[int, bytes | None, bytes | None, SourceHeaders | None], Content]


class RecordColumns:
    """Records of one partition, column by column, because archives store them so."""

    __slots__ = ("headers", "keys", "offsets", "size_bytes", "times", "values")

    def __init__(self) -> None:
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.headers: list[Headers | None] = []
        self.offsets: list[int] = []
        self.times: list[int] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, messages: Sequence[Message], change: Change | None = None) -> None:
        """Add consumed messages, as `change` makes them of offset, key, value and headers."""
        keys = [message.key() for message in messages]
        values = [message.value() for message in messages]
        headers = copied_headers(messages)
        offsets = cast(list[int], [message.offset() for message in messages])
        if change is not None:
            changed = [change(*record) for record in zip(offsets, keys, values, headers, strict=True)]
            keys, values, headers = map(list, zip(*changed, strict=True)) if changed else ([], [], [])
        self.keys += keys
        self.values += values
        self.headers += cast(list[Headers | None], headers)
        self.offsets += offsets
        self.times += [message.timestamp()[1] for message in messages]
        self.size_bytes += sum(map(len, filter(None, keys))) + sum(map(len, filter(None, values)))

    def drop_below(self, offset: int) -> None:
        """Remove the records before an offset."""
        first = bisect_left(self.offsets, offset)
        for column in (self.keys, self.values, self.headers, self.offsets, self.times):
            del column[:first]

    def cut(self, count: int) -> RecordColumns:
        """Remove the first `count` records and return them."""
        found = RecordColumns()
        for name in ("keys", "values", "headers", "offsets", "times"):
            column = getattr(self, name)
            setattr(found, name, column[:count])
            del column[:count]
        return found

    def to_records(self, partition: int | None) -> list[SourceRecord]:
        """Return them as records to be sent, to this partition (None: by their keys)."""
        headers = cast(list[SourceHeaders | None], self.headers)
        return list(zip(self.keys, self.values, self.times, headers, [partition] * len(self), strict=True))
