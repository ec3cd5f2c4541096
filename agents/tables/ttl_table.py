"""Tables whose keys have a time-to-live in stream time: `app.Table("seen", ttl=timedelta(hours=1))`.

Such a table needs the timestamp of the current record whenever an agent touches a key, so it does without the C speed
of other tables; other tables pay nothing for it. Its agents must take records one by one (or with `take`): a batch has
no time of its own, and where it ends is arbitrary.

Format, in the store as in the changelog, so that restoring needs no knowledge of it:

| key | value |
| --- | --- |
| a table key | the event time of its last write, then the value |
| `STREAM_TIME` | the stream time of the partition |

Times are milliseconds since 1970, eight bytes, signed, big-endian.

Invariants.
- The stream time of a partition is the largest timestamp of the records during which an agent has read or written the
  table in this partition. It never decreases. A late record works at the stream time of the partition.
- A key exists while stream time is less than its last write + time-to-live. An expired key never returns.
- All of it is committed with the epoch, and a commit decides nothing: the same records in the same order give the same
  content wherever commits, failures and restarts fall. Outside of agents a table shows its content at the committed
  stream time.
- A value that was changed in place counts as written at the time of the record that it was given out for.
- Removing expired keys has no visible effect: a key is removed when it is touched, the others in bounded steps at
  commits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ...topics.durations import interval_s
from ...topics.errors import BadRecord, Usage
from ...topics.serde import check_declared
from .absent import ABSENT, Absent
from .global_table import GlobalTable
from .open_partition import K, OpenPartition, V
from .partition_state import PartitionState
from .store import Store
from .stream_time import STREAM_TIME
from .table import Table
from .ttl_content import NoCache, TtlContent, unexpired
from .value_cache import IMMUTABLE
from .write_times import value_of

__all__ = ["TtlTable", "new_table"]


class TtlTable(Table[K, V]):
    """A table with a time-to-live.

    Args:
        ttl_ms: how long a key exists after its last write, in ms of stream time.
        clock: returns the timestamp of the current record in ms; -1 if there is none.
    """

    ttl_ms: int
    keeps_stream_time = True

    def __init__(self, name: str, *, ttl_ms: int, clock: Callable[[], int], **options: Any) -> None:
        self.ttl_ms, self.clock = ttl_ms, clock
        super().__init__(name, **options)
        self.uncommitted.tracking = True

    def new_partition(self, state: PartitionState) -> OpenPartition[K, V]:
        """Return a partition as agents see it."""
        return _OpenTtlPartition(self, state)

    def _make_state(self, store: Store) -> PartitionState:
        content = TtlContent(store, self.key_codec, self.value_codec, table=self.name, ttl_ms=self.ttl_ms)
        return PartitionState(content, self.value_codec, sets=self.sets, cache=NoCache())

    def value_bytes(self, stored: bytes) -> bytes:
        """Return a stored value without its time."""
        return value_of(stored)

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the unexpired pairs of a partition, without times."""
        return unexpired(data, self.ttl_ms)


class _OpenTtlPartition(OpenPartition[K, V]):
    """A partition whose keys expire: each touch of a key advances stream time to the current record."""

    __slots__ = ("_clock", "_content")

    def __init__(self, table: TtlTable[K, V], state: PartitionState) -> None:
        super().__init__(table, state)
        self._clock, self._content = table.clock, cast("TtlContent", state.content)

    def _advance(self) -> None:
        self._content.advance(self._clock())

    def _expire(self, key: Any) -> None:
        """Advance stream time to the current record, and delete the key if it is expired then."""
        self._advance()
        value = self.writes.get(key, ABSENT)
        uncommitted = value is not ABSENT
        if not uncommitted and key not in self.deleted:
            value = self.state.epoch.get(key, ABSENT)
        if value is not ABSENT and type(value) not in IMMUTABLE:
            self._content.times.note_change(key, value, uncommitted=uncommitted)
        if self._content.is_expired_now(key, self.state.epoch):
            self.delete(key)

    # Reading --------------------------------------------------------------------------------------------------------

    def read_tracked(self, key: K) -> V:
        """Return what `[]` gives, and track it if it is mutable."""
        self._expire(key)
        value = self.writes[key]
        if type(value) not in IMMUTABLE:
            self._content.times.note_read(key, value, self._content.time.now_ms)
            self._all.tracked.append((self, key, value))
        return value

    def find(self, key: object) -> V | Absent:
        """Return a value; ABSENT if there is none, if it is expired, or if it is a default that was only read."""
        self._expire(key)
        return super().find(key)

    def get_many(self, keys: Sequence[K]) -> list[V | Absent]:
        """Return the value of each key, ABSENT where there is none."""
        return list(map(self.find, keys))

    def pairs(self) -> dict[K, V]:
        """Return all pairs that are not expired."""
        self._advance()
        merged: dict[Any, V] = dict(self._content.items_below_epoch())
        for key in dict.fromkeys([*self.state.epoch, *self.deleted, *self.writes]):
            value = self.find(key)
            if value is ABSENT:
                merged.pop(key, None)
            else:
                merged[key] = value
        return merged

    # Writing --------------------------------------------------------------------------------------------------------

    def write_tracked(self, key: K, value: V) -> None:
        """Write a value at the current stream time, and track it if it is mutable."""
        if key == STREAM_TIME:
            raise BadRecord(f"table {self.table.name}: {STREAM_TIME!r} cannot be a key of a table with a time-to-live")
        self._advance()
        self._content.times.uncommitted[key] = self._content.time.now_ms
        super().write_tracked(key, value)

    def delete(self, key: object) -> None:
        """Delete a key, which may be absent."""
        super().delete(key)
        self._content.times.uncommitted[key] = None

    def update(self, new: dict[K, V]) -> None:
        """Write many pairs."""
        for key, value in new.items():
            self.write_tracked(key, value)

    def put(self, changes: dict[K, V]) -> None:
        """Write values that no agent holds, such as the results of a flow."""
        self._advance()
        self.writes.update(changes)
        self._content.times.uncommitted |= dict.fromkeys(changes, self._content.time.now_ms)

    # The engine's side ----------------------------------------------------------------------------------------------

    def move_to_epoch(self) -> None:
        """Move the uncommitted writes, their times and the stream time into the epoch of the state."""
        if self._content.advance_epoch():
            self._all.writer_topics.add(self.topic)
        if self.writes or self.deleted:
            self._content.times.add_to_epoch(self.deleted)
        super().move_to_epoch()

    def discard(self) -> None:
        """Forget the writes since the last `move_to_epoch`, and the progress of stream time."""
        super().discard()
        self._content.discard_times()

    def detach(self, key: object, value: object) -> None:
        """Detach a value that an agent has held; if the record changed it, it was written at the record's time."""
        times = self._content.times
        uncommitted = self.writes.get(cast("K", key), ABSENT) is value
        if uncommitted or self.state.epoch.get(key, ABSENT) is value:
            times.note_change(key, value, uncommitted=uncommitted)
        super().detach(key, value)
        times.last_reads.pop((key, id(value)), None)


def new_table(name: str, ttl: Any, clock: Callable[[], int], *, is_global: bool = False, **options: Any) -> Table:
    """Return a table, a table with a time-to-live or a global table.

    Args:
        ttl: time-to-live as seconds or a timedelta; None if keys do not expire.
        clock: see `TtlTable`.
        is_global: whether every worker holds the whole table.
        options: see `Table`.

    Raises:
        Usage: the time-to-live is not a positive duration, the options do not go together, or no value of a type can
            be read.
    """
    check_declared(f"table {name}", key_type=options.get("key_type"), value_type=options.get("value_type"))
    if is_global:
        if ttl is not None:
            raise Usage(f"table {name}: ttl={ttl!r} in a GlobalTable: not supported", hint="use a Table")
        if options.get("local"):
            raise Usage(f"table {name}: local=True in a GlobalTable: not supported", hint="use a Table")
        return GlobalTable(name, **options)
    if ttl is None:
        return Table(name, **options)
    ttl_ms = round(interval_s(ttl, f"table {name}: ttl") * 1000)
    if ttl_ms <= 0:
        raise Usage(f"table {name}: ttl={ttl!r}", hint="for example 60, 90s, 1h30m, or a timedelta")
    return TtlTable(name, ttl_ms=ttl_ms, clock=clock, **options)
