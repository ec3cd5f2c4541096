"""The timers of an agent: `app.at(…)`, one row for each timer that has not fired.

Format, in the store as in the changelog:

| key | value |
| --- | --- |
| `[key, name]` | `{"due": milliseconds since 1970, "payload": …}`, with `"late": true` for a timer that will not fire |

Setting, cancelling and firing a timer are writes of the table. So they are committed, rolled back and restored as those
of every table, together with what the record or the timer's handler has done.

A timer will not fire if the handler of another one has set it at the end of the input of a bounded run, for a time
behind that input: timers that set themselves again would fire without end.

Which timer is due next is kept in memory (`event_time/timer_queue.py`), 150 bytes each, and read from the store after a
restore.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import msgspec

from ...topics.errors import BadRecord
from ...topics.serde import Codec
from ..event_time.channel import END_MS
from ..event_time.timer_queue import Entry, TimerQueue
from .absent import ABSENT
from .open_partition import OpenPartition
from .partition_state import PartitionState
from .store import Changes, Store
from .stored_content import StoredContent
from .table import Table

__all__ = ["OpenTimers", "StoredTimer", "TimerTable", "open_timers", "queues"]


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


class TimerContent(StoredContent):
    """The content of a partition, with the order in which its timers are due.

    Attributes:
        queue: that order; None if it has to be read.
        latest_ms: timers that are set for later do not fire: the input has ended.
    """

    __slots__ = ("latest_ms", "queue")

    def __init__(self, store: Store, keys: Codec, values: Codec, *, table: str) -> None:
        super().__init__(store, keys, values, table=table)
        self.queue: TimerQueue | None = None
        self.latest_ms = END_MS

    def entries(self) -> set[Entry]:
        """Return the timers of the store, and of the epoch that is being committed."""
        found = set[Entry]()
        for pairs in (self.store.items(), self.items()):
            for key, value in pairs:
                row = _read_row(value)
                if not row.late:
                    found.add((row.due, key))
        return found

    def freeze(self, changes: Changes) -> None:
        super().freeze(changes)
        if self.queue is not None:
            self.queue.freeze()

    def apply(self, position: int) -> None:
        super().apply(position)
        if self.queue is not None:
            self.queue.commit()

    def drop(self) -> bool:
        if self.queue is not None:
            self.queue.drop()
        return super().drop()

    def forget_reads(self) -> None:
        self.queue = None


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

    def new_partition(self, state: PartitionState) -> OpenPartition[Any, Any]:
        """Return a partition as agents see it."""
        return OpenTimers(self, state)

    def _make_state(self, store: Store) -> PartitionState:
        return PartitionState(TimerContent(store, self.key_codec, self.value_codec, table=self.name), self.value_codec)


def open_timers(table: TimerTable) -> OpenTimers:
    """Return the partition of the running agent's record."""
    return cast(OpenTimers, table.opened_to_write())


def queues(table: TimerTable) -> dict[int, TimerQueue]:
    """Return partition -> the order of its timers, of this worker's partitions where it was read."""
    contents = ((number, cast(TimerContent, state.content)) for number, state in table.states.items())
    return {number: content.queue for number, content in contents if content.queue is not None}
