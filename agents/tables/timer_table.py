"""The timers of an agent: `app.at(…)`, one row for each timer that has not fired.

Format, in the store as in the changelog:

| key | value |
| --- | --- |
| `[key, name]` | `{"due": milliseconds since 1970, "payload": …}`, with `"late": true` for a timer that will not fire |

Setting, cancelling and firing a timer are writes of the table. So they are committed, rolled back and restored as those
of every table, together with what the record or the timer's handler has done.

Behind `group_by`, and of an agent of several topics, there is also a row with the time that the timers go by, under
`STREAM_TIME`: `{"sources": the state of a TimeKeeper, "last": the last stream time before an end}`.

A timer will not fire if the handler of another one has set it at the end of the input of a bounded run, for a time
behind that input: timers that set themselves again would fire without end.

Which timer is due next is kept in memory (`event_time/timer_queue.py`), 150 bytes each, and read from the store after a
restore.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import msgspec

from ...topics.errors import BadRecord
from ...topics.serde import Codec
from ..event_time.channel import END_MS, NEVER_MS
from ..event_time.time_keeper import TimeKeeper
from ..event_time.timer_queue import Entry, TimerQueue
from .absent import ABSENT
from .held_values import HeldValues
from .open_partition import OpenPartition
from .partition_state import PartitionState
from .store import Changes, Store
from .stored_content import StoredContent
from .stream_time import STREAM_TIME
from .table import Table

__all__ = [
    "OpenTimers",
    "SourceTimes",
    "StoredTimer",
    "TimerTable",
    "open_timers",
    "queues",
    "source_times",
    "source_times_of",
]


class StoredTimer(NamedTuple):
    """A timer, as the table holds it.

    Attributes:
        due_ms: when it is due, in milliseconds of event time.
        key: its key, as it was read back from its bytes.
        payload: the value in the table, which its receiver must not change.
        kept: the bytes of key and name; empty for a timer that is not in the table.
    """

    due_ms: int
    key: Any
    name: str
    payload: Any
    kept: bytes = b""


class _Row(msgspec.Struct):
    due: int
    late: bool = False


_PLAIN = frozenset({str, int})

_read_row = msgspec.json.Decoder(_Row).decode


class SourceTimes:
    """Stream time where records of several source partitions meet.

    Attributes:
        keeper: stream time of each, as was heard behind `group_by`, and the least of them.
        last_ms: the greatest stream time of a source partition before its end; NEVER_MS if there is none.
    """

    __slots__ = ("keeper", "last_ms")

    def __init__(self, row: bytes | None = None) -> None:
        made = None if row is None else msgspec.json.decode(row, type=dict[str, Any])
        self.keeper = TimeKeeper(None if made is None else made["sources"])
        self.last_ms: int = NEVER_MS if made is None else made["last"]

    def note(self, time_ms: int) -> None:
        """Take a stream time into account that may be the last one."""
        if self.last_ms < time_ms < END_MS:
            self.last_ms = time_ms

    @property
    def row(self) -> bytes | None:
        """The row that it is made again from; None if nothing is known."""
        if not self.keeper.of and self.last_ms == NEVER_MS:
            return None
        return msgspec.json.encode({"sources": self.keeper.state, "last": self.last_ms})


def _timers(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Return the pairs of a partition without the row with the time."""
    return (pair for pair in pairs if pair[0] != STREAM_TIME)


class TimerContent(StoredContent):
    """The content of a partition, with the order in which its timers are due.

    Attributes:
        queue: that order; None if it has to be read.
        latest_ms: timers that are set for later do not fire: the input has ended.
    """

    __slots__ = ("_row", "_sources", "latest_ms", "queue")

    def __init__(self, store: Store, keys: Codec, values: Codec, *, table: str) -> None:
        super().__init__(store, keys, values, table=table)
        self.queue: TimerQueue | None = None
        self.latest_ms = END_MS
        self._sources: SourceTimes | None = None
        self._row: bytes | None = None  # as it is written

    @property
    def sources(self) -> SourceTimes:
        """The time that timers behind `group_by`, or of several topics, go by."""
        if self._sources is None:
            self._row = self.get(STREAM_TIME)
            self._sources = SourceTimes(self._row)
        return self._sources

    def check(self) -> None:
        row = self.store.get(STREAM_TIME)
        if row is None or not row.startswith(b'{"sources"'):
            super().check()

    def entries(self) -> set[Entry]:
        """Return the timers of the store, and of the epoch that is being committed."""
        found = set[Entry]()
        for pairs in (_timers(self.store.items()), self.items()):
            for key, value in pairs:
                row = _read_row(value)
                if not row.late:
                    found.add((row.due, key))
        return found

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        return _timers(super().items())

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        return self.decoded_items(_timers(self.store.items()))

    def approximate_count(self) -> int:
        return max(0, super().approximate_count() - (self.store.get(STREAM_TIME) is not None))

    @property
    def is_due(self) -> bool:
        return self._sources is not None and self._sources.row != self._row

    def encode(self, epoch: dict[object, Any], held: HeldValues, *, deletes: bool) -> Changes:
        changes = super().encode(epoch, held, deletes=deletes)
        if not self.is_due:
            return changes
        row = self.sources.row
        return Changes([*changes.keys, STREAM_TIME], [*changes.values, row], deletes=changes.deletes)

    def freeze(self, changes: Changes) -> None:
        super().freeze(changes)
        if self._sources is not None:
            self._row = self._sources.row
        if self.queue is not None:
            self.queue.freeze()

    def apply(self, position: int) -> None:
        super().apply(position)
        if self.queue is not None:
            self.queue.commit()

    def drop(self) -> bool:
        if self.queue is not None:
            self.queue.drop()
        self._sources, self.latest_ms = None, END_MS
        return super().drop()

    def forget_reads(self) -> None:
        self.queue = self._sources = None


class OpenTimers(OpenPartition[Any, Any]):
    """One partition of the timers as an agent sees it."""

    __slots__ = ("_content",)

    def __init__(self, table: TimerTable, state: PartitionState) -> None:
        super().__init__(table, state)
        self._content = cast(TimerContent, state.content)

    @property
    def queue(self) -> TimerQueue:
        """The order in which timers are due."""
        content, queue = self._content, self._content.queue
        if queue is None or queue.is_overgrown:
            # Also what the epoch and the writes hide, because a rollback may bring it back.
            uncommitted = [*self.state.epoch.items(), *self.writes.items()]
            of_epoch = ((value["due"], self._kept(key)) for key, value in uncommitted if _fires(value))
            queue = content.queue = TimerQueue({*content.entries(), *of_epoch})
        return queue

    def _kept(self, row: object) -> bytes:
        return self.table.key_codec.keep(row)

    def set(self, key: object, name: str, due_ms: int, payload: object) -> None:
        """Set a timer; one of the same key and name is replaced.

        Raises:
            BadRecord: key or payload would not be read back unchanged.
        """
        codec = self.table.value_codec
        value: dict[str, Any] = {"due": due_ms, "payload": payload}
        if due_ms > self._content.latest_ms:
            value["late"] = True
        kept = self._kept((key, name))
        row = (key, name) if type(key) in _PLAIN else self.table.key_codec.decode(kept)
        try:
            value = codec.decode(codec.keep(value))
        except BadRecord as exc:
            raise BadRecord(f"timer {name}: its payload cannot be kept: {exc}", hint="a payload is JSON") from exc
        queue = self.queue  # which may be read now, without this timer
        self.put({row: value})
        if _fires(value):
            queue.add(due_ms, kept)

    def cancel(self, key: object, name: str) -> bool:
        """Remove a timer; return whether there was one."""
        row = self.table.key_codec.decode(self._kept((key, name)))
        found = self.has(row)
        if found:
            self.delete(row)
        return found

    @property
    def first(self) -> StoredTimer | None:
        """The timer that is due next; None if there is none."""
        queue = self.queue
        while (entry := queue.first) is not None:
            due_ms, kept = entry
            row = self.table.key_codec.decode(kept)
            value = self.find(row)
            if value is not ABSENT and value["due"] == due_ms and _fires(value):
                return StoredTimer(due_ms, row[0], row[1], value["payload"], kept)
            queue.take()
        return None

    def remove(self, timer: StoredTimer) -> None:
        """Remove the timer that is due next, because it fires."""
        queue = self.queue
        if queue.first == (timer.due_ms, timer.kept):
            queue.take()
        self.delete((timer.key, timer.name))

    def end_at(self, latest_ms: int) -> None:
        """Note that the input has ended: timers that are set from now on fire only if they are due by then."""
        self._content.latest_ms = latest_ms

    # The engine's side ----------------------------------------------------------------------------------------------

    def move_to_epoch(self) -> None:
        if self._content.queue is not None:
            self._content.queue.savepoint()
        super().move_to_epoch()

    def discard(self) -> None:
        super().discard()
        if self._content.queue is not None:
            self._content.queue.undo()


def _fires(value: Any) -> bool:
    return value is not ABSENT and not value.get("late")


class TimerTable(Table[Any, Any]):
    """The timers of an agent."""

    is_result = False
    keeps_stream_time = True

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the timers of a partition."""
        return dict(_timers(data.items()))

    def new_partition(self, state: PartitionState) -> OpenPartition[Any, Any]:
        """Return a partition as agents see it."""
        return OpenTimers(self, state)

    def _make_state(self, store: Store) -> PartitionState:
        return PartitionState(TimerContent(store, self.key_codec, self.value_codec, table=self.name), self.value_codec)


def open_timers(table: TimerTable) -> OpenTimers:
    """Return the partition of the running agent's record."""
    return cast(OpenTimers, table.opened_to_write())


def source_times_of(table: TimerTable, partition: int) -> SourceTimes:
    """Return the time that timers behind `group_by`, or of several topics, go by in a partition of this worker."""
    state = table.states.get(partition)
    return SourceTimes() if state is None else cast(TimerContent, state.content).sources


def source_times(row: bytes) -> SourceTimes | None:
    """Return what the row with the time of a partition says; None if it is of another table."""
    return SourceTimes(row) if row.startswith(b'{"sources"') else None


def queues(table: TimerTable) -> dict[int, TimerQueue]:
    """Return partition -> the order of its timers, of this worker's partitions where it was read."""
    contents = ((number, cast(TimerContent, state.content)) for number, state in table.states.items())
    return {number: content.queue for number, content in contents if content.queue is not None}
