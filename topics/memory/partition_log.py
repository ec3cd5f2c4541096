"""The log of a partition: records, transaction markers, and what readers may see of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

__all__ = ["CREATE_TIME", "LOG_APPEND_TIME", "Headers", "PartitionLog", "Record", "TransactionMark"]

CREATE_TIME = 1
LOG_APPEND_TIME = 2

# The size of a record in the log without key, value and headers, about that of Kafka's own format.
_RECORD_BYTES = 8

# A name that is not UTF-8, which producers in C or Go write, has surrogates in place of its bytes (`surrogateescape`).
Headers = Sequence[tuple[str, bytes | None]]

_offset_of = attrgetter("offset")


class TransactionMark:
    """The outcome of a transaction, shared by its records."""

    __slots__ = ("aborted", "ended_ms", "open")

    def __init__(self) -> None:
        self.open = True
        self.aborted = False
        self.ended_ms = 0


class Record(NamedTuple):
    """A record of a log, or a transaction marker, which no reader gets.

    Attributes:
        appended_ms: when it was appended, by the broker's clock.
        transaction: the transaction that it is part of; None outside of any.
    """

    offset: int
    timestamp_ms: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    transaction: TransactionMark | None
    is_marker: bool
    appended_ms: int

    @property
    def size_bytes(self) -> int:
        """About how many bytes it takes in a log."""
        headers = sum(len(name) + len(value or b"") + 2 for name, value in self.headers or ())
        return _RECORD_BYTES + len(self.key or b"") + len(self.value or b"") + headers


class PartitionLog:
    """The records of one partition, in the order of their offsets, which compaction may leave gaps in.

    Attributes:
        topic, partition: whose log it is.
        start: the offset of the first record that may be read: the low watermark.
        end: the offset of the next record: the high watermark.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition
        self.records: list[Record] = []
        self.start = self.end = 0
        self._dense = True  # no gap: an offset tells the place in the list
        # Open transaction -> offset of its first record here.
        self._open: dict[TransactionMark, int] = {}

    @property
    def last_stable(self) -> int:
        """The offset up to which read_committed readers get records: that of the first open transaction, or the end."""
        return min(self._open.values()) if self._open else self.end

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None,
        timestamp_ms: int,
        timestamp_type: int,
        now_ms: int,
        transaction: TransactionMark | None,
    ) -> int:
        """Append a record and return its offset."""
        offset = self.end
        self.records.append(
            Record(offset, timestamp_ms, timestamp_type, key, value, headers, transaction, False, now_ms)
        )
        self.end = offset + 1
        if transaction is not None and transaction not in self._open:
            self._open[transaction] = offset
        return offset

    def open_for(self, transaction: TransactionMark) -> None:
        """Make the partition part of a transaction before its first record, as a broker does when it is added."""
        self._open.setdefault(transaction, self.end)

    def end_transaction(self, transaction: TransactionMark, now_ms: int) -> None:
        """Append the marker of a transaction that has ended; its records are visible, or never will be."""
        self._open.pop(transaction, None)
        self.records.append(Record(self.end, now_ms, CREATE_TIME, None, None, None, transaction, True, now_ms))
        self.end += 1

    def read(self, position: int, most: int, *, committed: bool) -> tuple[list[Record], int]:
        """Return up to `most` visible records from a position on, and the position behind all that was looked at."""
        records, stop = self.records, self.last_stable if committed else self.end
        place, found = self._place(position), list[Record]()
        if self._dense and committed and not self._open and self.end - position <= most:
            rest = records[place:]
            if all(record.transaction is None for record in rest):
                return rest, max(position, self.end)
        for index in range(place, len(records)):
            record = records[index]
            if record.offset >= stop:
                break
            if len(found) == most:
                return found, record.offset
            if record.is_marker or (committed and record.transaction is not None and record.transaction.aborted):
                continue
            found.append(record)
        return found, max(position, stop)

    def _place(self, offset: int) -> int:
        if not self.records:
            return 0
        if self._dense:
            return max(0, offset - self.records[0].offset)
        return bisect_left(self.records, offset, key=_offset_of)

    def since(self, time_ms: int, *, committed: bool) -> Record | None:
        """Return the first record or marker with this timestamp or a later one; None if there is none."""
        stop = self.last_stable if committed else self.end
        for record in self.records[self._place(self.start) :]:
            if record.timestamp_ms >= time_ms and record.offset < stop:
                return record
        return None

    def newest(self) -> Record | None:
        """Return the record with the largest timestamp, the first of several; None in an empty log."""
        return max(self.records, key=lambda record: record.timestamp_ms, default=None)

    def delete_before(self, offset: int) -> None:
        """Delete the records before an offset; it becomes the low watermark."""
        self.start = max(self.start, offset)
        del self.records[: self._place(self.start)]

    def compact(self, now_ms: int, *, lag_ms: int, delete_retention_ms: int) -> None:
        """Keep the last record of each key, as the log cleaner does.

        Records of open transactions and those behind them stay. Aborted records go. A tombstone stays as the last
        record of its key for `delete_retention_ms` after it was appended.

        Args:
            lag_ms: records that were appended less than this ago stay.
        """
        stop = min(self.last_stable, self._first_young(now_ms - lag_ms))
        last: dict[bytes, int] = {}
        for record in self.records:
            if record.offset < stop and self._counts(record) and record.key is not None:
                last[record.key] = record.offset
        kept: list[Record] = []
        for record in self.records:
            if record.offset >= stop:
                kept.append(record)
            elif record.is_marker or not self._counts(record):
                continue
            elif (record.key is not None and last[record.key] == record.offset) and (
                record.value is not None or now_ms - record.appended_ms < delete_retention_ms
            ):
                kept.append(record)
        if len(kept) < len(self.records):
            self.records, self._dense = kept, False

    def _first_young(self, before_ms: int) -> int:
        return next((record.offset for record in self.records if record.appended_ms > before_ms), self.end)

    @staticmethod
    def _counts(record: Record) -> bool:
        return not (record.is_marker or (record.transaction is not None and record.transaction.aborted))

    def retain(self, now_ms: int, *, retention_ms: int, retention_bytes: int) -> None:
        """Delete records that are older than the retention time, and the oldest of a log that is too large.

        Args:
            retention_ms, retention_bytes: -1 for no limit.
        """
        keep_from = self.start
        if retention_ms >= 0:
            for record in self.records:
                if record.timestamp_ms >= now_ms - retention_ms:
                    break
                keep_from = record.offset + 1
        if retention_bytes >= 0:
            size = 0
            for record in reversed(self.records):
                size += record.size_bytes
                if size > retention_bytes:
                    keep_from = max(keep_from, record.offset + 1)
                    break
        self.delete_before(min(keep_from, self.last_stable))
