"""Tables whose keys have a time-to-live in event time: `app.Table("seen", ttl=timedelta(hours=1))`.

For the laws and the format see `stamped.py`. Such a table asks for the time of the record at hand whenever an agent
touches a key, so it does without the C speed of other tables; those pay nothing for it. An agent has to take its
records one by one (or with `take`): a batch has no time of its own, and where it ends is chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from mode import want_seconds

from ...topics.errors import BadRecord, Usage
from .global_table import GlobalTable
from .partition_state import ABSENT, EVENT_TIME, IMMUTABLE, PartitionState
from .store import Store
from .table import ClosedTable, PrivateTable, Table
from .ttl_state import TtlState, unexpired, value_of
from .uncommitted_writes import K, V

__all__ = ["TtlTable", "new_table"]


class TtlTable(PrivateTable[K, V]):
    """A table with a time-to-live, while it is open.

    Args:
        ttl_ms: how long a key is there after its last write.
        clock: timestamp of the record at hand, in ms; -1 where there is none.
    """

    ttl_ms: int

    def __init__(self, name: str, *, ttl_ms: int, clock: Callable[[], int], **options: Any) -> None:
        self.ttl_ms, self._clock = ttl_ms, clock
        super().__init__(name, **options)
        self.watched = True  # by methods of its own, from the beginning

    # The engine's side ----------------------------------------------------------------------------------------------

    def _new_state(self, store: Store) -> PartitionState:
        return TtlState(store, self.key_codec, self.value_codec, sets=self.sets, table=self.name, ttl_ms=self.ttl_ms)

    def leave(self) -> None:
        """As in any table; the time moves on as well."""
        state = cast("TtlState | None", self._state)
        if state is not None and state.now_ms > state.event_ms:
            state.event_ms = state.now_ms
            self._writers.add(self._topic)
        super().leave()

    def discard_overlay(self) -> None:
        """As in any table."""
        super().discard_overlay()
        if self._state is not None:
            cast(TtlState, self._state).undo()

    def value_bytes(self, stored: bytes) -> bytes:
        """Without the time."""
        return value_of(stored)

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """As in any table."""
        return unexpired(data, self.ttl_ms)

    # The agent's side -----------------------------------------------------------------------------------------------

    def _advance(self) -> TtlState:
        state = cast(TtlState, self._need_state())
        state.advance(self._clock())
        return state

    def _settle(self, key: Any) -> TtlState:
        """Before a key is touched: time moves on to the record at hand, and the key may be gone then."""
        state = self._advance()
        value = dict.get(self, key, ABSENT)
        fresh = value is not ABSENT
        if not fresh and key not in self._deleted:
            value = state.epoch.get(key, ABSENT)
        if value is not ABSENT and type(value) not in IMMUTABLE:
            state.note(key, value, fresh=fresh)
        written_ms = state.time_of(key)
        if written_ms is not None and state.is_expired(written_ms, state.now_ms):
            self._delete(key)
            state.fresh[key] = None
        return state

    def __getitem__(self, key: Any) -> Any:
        state = self._settle(key)
        value = dict.__getitem__(self, key)
        if type(value) not in IMMUTABLE:
            state.hand(key, value)
            self._handed.append((self, state, key, value))
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        if key == EVENT_TIME:
            raise BadRecord(f"table {self.name}: {EVENT_TIME!r} cannot be a key of a table with a time-to-live")
        state = self._advance()
        dict.__setitem__(self, key, value)
        state.fresh[key] = state.now_ms
        if type(value) not in IMMUTABLE:
            self._note(key, value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        cast(TtlState, self._state).fresh[key] = None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict.update."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def put(self, changes: dict[Any, Any]) -> None:
        """As in any table."""
        state = self._advance()
        dict.update(self, changes)
        state.fresh |= dict.fromkeys(changes, state.now_ms)

    def take_back(self, state: PartitionState, key: Any, value: Any) -> None:
        """As in any table; what the record has changed was written at its time."""
        stamped = cast(TtlState, state)
        fresh = state is self._state and dict.get(self, key, ABSENT) is value
        if fresh or state.epoch.get(key, ABSENT) is value:
            stamped.note(key, value, fresh=fresh)
        super().take_back(state, key, value)
        stamped.handed.pop((key, id(value)), None)

    def _find(self, key: Any) -> Any:
        self._settle(key)
        return super()._find(key)

    def _merged(self) -> dict[Any, Any]:
        state = self._advance()
        seen = dict(state.items_at(state.now_ms))
        for key in {*state.epoch, *self._deleted, *(key for key, _ in self.fresh())}:
            value = self._find(key)
            if value is ABSENT:
                seen.pop(key, None)
            else:
                seen[key] = value
        return seen


class _ClosedExpiringTable(ClosedTable, TtlTable):
    """A table with a time-to-live, seen from outside an agent: as committed, at the committed event time."""


TtlTable.opened = TtlTable.private = TtlTable
TtlTable.closed = _ClosedExpiringTable


def new_table(name: str, ttl: Any, clock: Callable[[], int], *, everywhere: bool = False, **options: Any) -> Table:
    """A table, with a time-to-live (seconds, or a timedelta) unless that is None; or a GlobalTable.

    Raises:
        Usage: it is no time.
    """
    if everywhere:
        if ttl is not None:
            raise Usage(f"table {name}: ttl={ttl!r} in a GlobalTable: not supported", hint="use a Table")
        if options.get("local"):
            raise Usage(f"table {name}: local=True in a GlobalTable: not supported", hint="use a Table")
        return GlobalTable(name, **options)
    if ttl is None:
        return Table(name, **options)
    ttl_ms = round(want_seconds(ttl) * 1000)
    if ttl_ms <= 0:
        raise Usage(f"table {name}: ttl={ttl!r}", hint="seconds, or a timedelta, and more than none")
    return TtlTable(name, ttl_ms=ttl_ms, clock=clock, **options)
