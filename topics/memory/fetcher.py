"""The fetches of a consumer: its assigned partitions, their positions, and the records behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, OFFSET_STORED, KafkaError, Message

from .failure import Refused
from .memory_message import MemoryMessage
from .offsets import Partition

if TYPE_CHECKING:
    from .memory_kafka import MemoryKafka
    from .partition_log import PartitionLog, Record

__all__ = ["Fetcher"]

_EARLIEST = ("earliest", "smallest", "beginning")
_LATEST = ("latest", "largest", "end")
_RESETS = (*_EARLIEST, *_LATEST, "error")


class _Assigned:
    """An assigned partition.

    Attributes:
        start: where the assignment begins: an offset, or one of librdkafka's logical offsets.
        position: the offset to read next, or one of librdkafka's logical offsets.
        consumed: the offset behind the last record that the application got, or behind markers and aborted records
            that follow it.
        ended_at: the position at which the end was last reported.
        low, high: the watermarks at the last fetch.
        failed: the error that was reported last: each is reported once.
        halted: nothing is read until the partition is assigned again or `seek` moves it.
    """

    __slots__ = ("consumed", "ended_at", "failed", "halted", "high", "low", "position", "start")

    def __init__(self, position: int) -> None:
        self.start = self.position = position
        self.consumed = OFFSET_INVALID
        self.ended_at = -1
        self.low = self.high = OFFSET_INVALID
        self.failed = 0
        self.halted = False


class Fetcher:
    """Reads assigned partitions in turn.

    Args:
        group: whose committed offsets are the positions of partitions that are assigned without one.
        reset: `auto.offset.reset`.
        committed: whether only committed records are read.
        eof: whether the ends of partitions are reported.
    """

    def __init__(self, kafka: MemoryKafka, group: str, reset: str, *, committed: bool, eof: bool) -> None:
        self._kafka, self._group, self._reset = kafka, group, reset
        self._committed, self._eof = committed, eof
        self.assigned: dict[Partition, _Assigned] = {}
        self.paused: set[Partition] = set()
        self._turn = 0

    def assign(self, starts: Iterable[tuple[str, int, int]]) -> None:
        """Read these partitions and no others, from these offsets."""
        self.assigned = {(topic, partition): _Assigned(offset) for topic, partition, offset in starts}

    def add(self, starts: Iterable[tuple[str, int, int]]) -> None:
        """Read these partitions as well."""
        for topic, partition, offset in starts:
            self.assigned[topic, partition] = _Assigned(offset)

    def remove(self, partitions: Iterable[Partition]) -> None:
        """Read these partitions no longer."""
        for at in partitions:
            self.assigned.pop(at, None)

    def seek(self, at: Partition, offset: int) -> None:
        """Read a partition from another offset on."""
        found = self.assigned[at]
        found.position, found.ended_at, found.halted = offset, -1, False

    def starts(self) -> list[tuple[str, int, int]]:
        """Return the assigned partitions, and where their assignment begins."""
        return [(topic, partition, found.start) for (topic, partition), found in self.assigned.items()]

    def position(self, at: Partition) -> int:
        """Return the offset behind what the application has read; negative before the first record or marker."""
        found = self.assigned.get(at)
        return OFFSET_INVALID if found is None else found.consumed

    def watermarks(self, at: Partition) -> tuple[int, int]:
        """Return where the partition began and ended at its last fetch; negative before the first."""
        found = self.assigned.get(at)
        return (OFFSET_INVALID, OFFSET_INVALID) if found is None else (found.low, found.high)

    def fetch(self, most: int) -> list[Message]:
        """Return up to `most` records and events (the lock is held)."""
        messages: list[Message] = []
        every = list(self.assigned.items())
        if len(every) > 1:
            self._turn = (self._turn + 1) % len(every)
            every = every[self._turn :] + every[: self._turn]
        for at, assigned in every:
            if at in self.paused or assigned.halted:
                continue
            self._read(at, assigned, most - len(messages), messages)
            if len(messages) >= most:
                break
        return messages

    def _read(self, at: Partition, assigned: _Assigned, most: int, into: list[Message]) -> None:
        try:
            log = self._kafka.log(*at)
        except Refused as exc:
            if assigned.failed != exc.code:
                assigned.failed = exc.code
                into.append(_event(at, assigned.position, exc.error))
            return
        assigned.failed = 0
        if assigned.position < 0 and not self._resolve(at, assigned, log, into):
            return
        assigned.low, assigned.high = log.start, log.end
        if not log.start <= assigned.position <= log.end and not self._out_of_range(at, assigned, log, into):
            return
        records, after = log.read(assigned.position, most, committed=self._committed)
        if after > assigned.position:
            assigned.position = assigned.consumed = after
        if records:
            topic, partition = at
            into += [_message(topic, partition, record) for record in records]
        end = log.last_stable if self._committed else log.end
        if self._eof and after >= end and assigned.ended_at != after and len(records) < most:
            assigned.ended_at = after
            into.append(_event(at, after, KafkaError(KafkaError._PARTITION_EOF)))  # pyright: ignore[reportPrivateUsage]

    def _resolve(self, at: Partition, assigned: _Assigned, log: PartitionLog, into: list[Message]) -> bool:
        """Find the offset that a logical one stands for; return whether there is one."""
        end = log.last_stable if self._committed else log.end
        if assigned.position == OFFSET_BEGINNING:
            assigned.position = log.start
        elif assigned.position == OFFSET_END:
            assigned.position = end
        elif assigned.position in (OFFSET_STORED, OFFSET_INVALID):
            offsets = self._kafka.offsets(self._group)
            if offsets.is_pending(at):
                return False
            found = offsets.committed.get(at)
            if found is None:
                return self._start_again(at, assigned, log, into, "no previously committed offset available")
            assigned.position = found.offset
        else:
            assigned.position = max(log.start, end + assigned.position - -2000)  # rd_kafka_offset_tail
        return True

    def _out_of_range(self, at: Partition, assigned: _Assigned, log: PartitionLog, into: list[Message]) -> bool:
        text = "fetch failed due to requested offset not available on the broker"
        return self._start_again(at, assigned, log, into, f"{text}: Broker: Offset out of range")

    def _start_again(
        self, at: Partition, assigned: _Assigned, log: PartitionLog, into: list[Message], why: str
    ) -> bool:
        if self._reset in _EARLIEST:
            assigned.position = log.start
        elif self._reset in _LATEST:
            assigned.position = log.last_stable if self._committed else log.end
        else:
            assigned.halted = True
            error = KafkaError(KafkaError._AUTO_OFFSET_RESET, why)  # pyright: ignore[reportPrivateUsage]
            into.append(_event(at, assigned.position, error))
            return False
        return True


def _message(topic: str, partition: int, record: Record) -> Message:
    offset, timestamp_ms, timestamp_type, key, value, headers, _, _, _ = record
    return MemoryMessage(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=list(headers) if headers else None,
        timestamp=(timestamp_type, timestamp_ms),
        leader_epoch=0,
    )


def _event(at: Partition, offset: int, error: KafkaError) -> Message:
    return Message(topic=at[0], partition=at[1], offset=offset, error=error, timestamp=(0, 0))
