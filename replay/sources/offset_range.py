"""Parses and resolves the range of a topic that is read: `--from` and `--until`.

earliest     the first record in Kafka     latest      the end of the topic at this moment
12345        an offset in each partition   2013-01-01  the first record at or after a time (ISO 8601)
90s 15m 6h 7d                              this long ago
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition
from .time_parser import parse_time_ms

__all__ = ["OffsetBound", "OffsetRange", "resolve_offset_range"]

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_HINT = "earliest, latest, an offset, a time such as 2013-01-01T10:00:00Z, or an age: 90s, 15m, 6h, 7d"


@dataclass(frozen=True, slots=True)
class OffsetBound:
    """One end of an offset range.

    Attributes:
        number: the offset, or milliseconds since 1970 (`time`), or milliseconds before now (`ago`).
    """

    kind: Literal["earliest", "latest", "offset", "time", "ago"]
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> OffsetBound:
        """Parse the text of an option.

        >>> OffsetBound.parse("6h")
        OffsetBound(kind='ago', number=21600000)

        Raises:
            Usage: the text is none of the forms above.
        """
        if text in ("earliest", "latest"):
            return cls("earliest" if text == "earliest" else "latest")
        if text.isascii() and text.isdigit():
            return cls("offset", int(text))
        if found := re.fullmatch(r"(\d{1,9})([smhd])(?: ago)?", text):
            return cls("ago", int(found[1]) * _UNITS_MS[found[2]])
        try:
            return cls("time", parse_time_ms(text))
        except ValueError:
            raise Usage(f"{text}: not a position in a topic", hint=_HINT) from None

    def time_ms(self, now_ms: int) -> int | None:
        """Return the time that is meant, in milliseconds since 1970; None if it is not given by a time."""
        if self.kind == "ago":
            return max(0, now_ms - self.number)
        return self.number if self.kind == "time" else None


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Offsets by partition: `begins` of the first record, `ends` of the record after the last, `last_ends` of the end
    of the partition."""

    begins: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]
    last_ends: dict[TopicPartition, int]


def resolve_offset_range(
    cluster: Cluster, partitions: Iterable[TopicPartition], begin: OffsetBound, until: OffsetBound, now_ms: int
) -> OffsetRange:
    """Look up the offsets (blocking; a bound that is a time may read records, see `_first_since`).

    Raises:
        Usage: the first offset is no longer in the topic.
    """
    wanted, admin = list(partitions), Admin(cluster)
    firsts, lasts = admin.spans(wanted)

    def find(bound: OffsetBound) -> dict[TopicPartition, int]:
        if bound.kind == "earliest":
            return firsts
        if bound.kind == "latest":
            return lasts
        if bound.kind == "offset":
            return {at: min(bound.number, lasts[at]) for at in wanted}
        time_ms = bound.time_ms(now_ms)
        assert time_ms is not None
        candidates = admin.since(wanted, time_ms)
        return {at: _first_since(cluster, at, candidates[at], lasts[at], time_ms) for at in wanted}

    begins, ends = find(begin), find(until)
    for at, offset in begins.items():
        if offset < firsts[at]:
            raise Usage(
                f"{at[0]}[{at[1]}] begins at offset {firsts[at]:,}: earlier records were deleted",
                hint="--from earliest reads the remaining records",
            )
    return OffsetRange(begins, {at: max(end, begins[at]) for at, end in ends.items()}, lasts)


def _first_since(cluster: Cluster, at: TopicPartition, candidate: int, end: int, time_ms: int) -> int:
    """Return the offset of the first record at or after a time.

    Kafka's index finds a candidate, which may be a transaction marker instead of a record. A marker carries the time at
    which it was written: in a replay of 2013 each marker is later than all records.
    """
    for run in read_to_end(cluster, {at: candidate}, {at: end}):
        for message in run.messages:
            if message.timestamp()[1] >= time_ms:
                return message.offset()
    return end
