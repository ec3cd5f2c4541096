"""The windowed table as a program uses it: `views = app.Table("views", default=int).tumbling(600, expires=86400)`.

`views[key]` stands for all windows of a key (`WindowSet`). Writing goes to the windows of the record that the agent
processes, reading takes one of them: `views[key].value()`.

Values that are read are the reader's own: a list that is changed in place changes nothing, until it is assigned.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, Generic, cast

from ...topics.durations import Duration, duration_ms
from ...topics.errors import Usage
from ...topics.topic_partition import TopicPartition
from ..event_time.channel import FOREVER_MS, NEVER_MS
from ..event_time.windows import Pane, Windows
from .absent import ABSENT, Absent
from .agent_window_table import AgentWindowTable, CloseCallback
from .open_partition import K, V
from .open_windows import WindowKey
from .relative_time import NOW, STREAM, RecordAtHand, RelativeTime, field_time, time_of
from .table_errors import not_writable
from .value_cache import own_copy
from .window_content import WindowContent, WindowSpec, committed_now_ms
from .window_table import window_partition

__all__ = ["WindowSet", "WindowWrapper", "WindowedView", "windowed"]


class _EventRecord:
    """An event of Faust's that a program names, as `RecordAtHand`."""

    def __init__(self, event: Any) -> None:
        self.event, self.value = event, event.value

    @property
    def stream_ms(self) -> int:
        return round(self.event.message.timestamp * 1000)


class WindowWrapper(Generic[K, V]):
    """A windowed table.

    Args:
        table: the table; its keys are (key, start, end), with times in milliseconds.
        time: the time that reading and writing go by; None: that of the table.
    """

    def __init__(self, table: AgentWindowTable[V], time: RelativeTime | None = None) -> None:
        self.table, self._time = table, time

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name

    @property
    def time(self) -> RelativeTime:
        """The time that reading goes by."""
        return self.table.time if self._time is None else self._time

    # Which time -----------------------------------------------------------------------------------------------------

    def relative_to_field(self, field: object) -> WindowWrapper[K, V]:
        """Go by a field of the values, a time: a number in seconds, a datetime or ISO 8601 text; without a zone in UTC.

        The first time of records that a program gives is the one by which its agents write to the table.

        Raises:
            Usage: it is no field.
        """
        return self._relative(field_time(field))

    def relative_to_stream(self) -> WindowWrapper[K, V]:
        """Go by the event time of the record's topic: its `time=`, else the timestamp in Kafka. This is the default."""
        return self._relative(STREAM)

    def relative_to_now(self) -> WindowWrapper[K, V]:
        """Return the table for reading at the time of its partition: stream time as of the last record."""
        return self._relative(NOW)

    def relative_to(self, time: object) -> WindowWrapper[K, V]:
        """Go by a field, by a function of the event, or by one moment: a datetime, or seconds since 1970.

        Raises:
            Usage: it is none of these.
        """
        return self._relative(time_of(time))

    def _relative(self, time: RelativeTime) -> WindowWrapper[K, V]:
        table = self.table
        if time.is_of_records and not (table.is_time_given or table.is_read):
            table.time, table.is_time_given = time, True
        return WindowWrapper(table, time)

    # A mapping of keys to their windows -----------------------------------------------------------------------------

    def __getitem__(self, key: K) -> WindowSet[K, V]:
        return WindowSet(self, key)

    def __setitem__(self, key: K, value: object) -> None:
        if not isinstance(value, WindowSet):  # `table[key] += 1` has written already
            self.write(key, lambda _: cast("V", value))

    def __delitem__(self, key: K) -> None:
        """Delete the windows of the record that the agent processes.

        Raises:
            KeyError: there is none of them.
        """
        rows = self._rows_to_write(key)
        partition, _ = window_partition(self.table)
        present = [row for row in rows if partition.has(row)]
        if rows and not present:
            raise KeyError(key)
        for row in present:
            partition.delete(row)

    def __contains__(self, key: object) -> bool:
        return self._find(cast("K", key), self._at_ms(self.time, None)) is not ABSENT

    def __iter__(self) -> Iterator[K]:
        return iter(dict.fromkeys(row[0] for row in self._rows()))

    def __len__(self) -> int:
        return len({row[0] for row in self._rows()})

    def _rows(self) -> list[WindowKey]:
        """Return the windows that the table holds: in an agent those of its partition, else those of this worker."""
        rows = list(self.table.keys())
        if self.table.writer() is None:
            return rows
        _, content = window_partition(self.table)
        return [row for row in rows if not content.is_expired(row)]

    def keys(self) -> WindowedView[K]:
        """Return the keys that have the window of a time."""
        return WindowedView(self, lambda key, _: key)

    def values(self, event: object = None) -> WindowedView[V]:
        """Return the values in the window of a time."""
        return WindowedView(self, lambda _, value: value, event)

    def items(self, event: object = None) -> WindowedView[tuple[K, V]]:
        """Return pairs of key and value in the window of a time."""
        return WindowedView(self, lambda key, value: (key, value), event)

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, key: K, time: RelativeTime, event: object = None, back_ms: int = 0) -> V:
        """Return the value of a key in the latest window that holds a time; the default where it has none.

        Args:
            event: the record whose time it is; None: the one that the agent processes.
            back_ms: how much earlier, in milliseconds.

        Raises:
            KeyError: the key has no such window, and the table no default.
            BadRecord: the record has no such time.
            Usage: no agent runs, so there is no record.
        """
        value = self._find(key, self._at_ms(time, event), back_ms)
        if value is not ABSENT:
            return value
        if self.table.default is None:
            raise KeyError(key)
        return self.table.default()

    def _at_ms(self, time: RelativeTime, event: object) -> int | None:
        """Return a time in milliseconds; None: that of each partition."""
        if time.kind == "fixed":
            return time.of
        writer = self.table.writer()
        if time.kind == "now":
            if writer is None:
                return None
            _, content = window_partition(self.table)
            return content.now_ms if content.now_ms > NEVER_MS else self.table.time.of_record(writer.record)
        if event is not None:
            return time.of_record(_EventRecord(event))
        if writer is None:
            raise Usage(
                f"table {self.name}: there is no record outside of agents whose time could choose a window",
                hint=f"{self.name}[key].now(), or relative_to_now(), goes by the time of the partition",
            )
        return time.of_record(writer.record)

    def _find(self, key: K, at_ms: int | None, back_ms: int = 0) -> V | Absent:
        if self.table.writer() is not None:
            assert at_ms is not None
            row = self._row(key, at_ms - back_ms)
            partition, content = window_partition(self.table)
            return ABSENT if content.is_expired(row) else own_copy(partition.find(row))
        for state in self.table.visible_states():
            content = cast(WindowContent, state.content)
            known_ms = committed_now_ms(content.store) if at_ms is None else at_ms
            value = ABSENT if known_ms == NEVER_MS else content.committed(self._row(key, known_ms - back_ms))
            if value is not ABSENT:
                return value
        return ABSENT

    def _row(self, key: K, at_ms: int) -> WindowKey:
        windows = self.table.spec.windows
        return (key, *windows.of_pane(windows.pane(at_ms))[-1])

    def found_in(self, time: RelativeTime, event: object, back_ms: int = 0) -> Iterator[tuple[K, V]]:
        """Yield the keys that have the window of a time, with their values."""
        at_ms = self._at_ms(time, event)
        for key in self:
            value = self._find(key, at_ms, back_ms)
            if value is not ABSENT:
                yield key, value

    # Writing --------------------------------------------------------------------------------------------------------

    def write(self, key: K, change: Callable[[V | Absent], V], event: object = None) -> None:
        """Write to all windows of the record that the agent processes; a record that is late writes nothing.

        Args:
            change: makes the new value of the old one, `ABSENT` where there is none.
            event: that record, where the program names it.

        Raises:
            BadRecord: no agent runs, or the record has no time.
            Usage: the agent cannot write to the table, or not by this time.
        """
        rows = self._rows_to_write(key, event)
        if not rows:
            return
        partition, content = window_partition(self.table)
        changed = [change(own_copy(partition.find(row))) for row in rows]
        for row, value in zip(rows, changed, strict=True):
            partition.write(row, value)
            content.open.add(row)

    def _rows_to_write(self, key: K, event: object = None) -> list[WindowKey]:
        table, time = self.table, self.time
        writer = table.writer()
        if writer is None:
            raise not_writable(table)
        if not time.is_of_records:
            raise Usage(
                f"table {table.name}, {time}, can only be read: it is written at the time of the records, so that a "
                "replay counts each where the live stream did",
                hint="write to it without relative_to_now() or relative_to(a time)",
            )
        if time != table.time:
            raise Usage(
                f"table {table.name} is written {table.time}, so it can only be read {time}",
                hint="the first relative_to_field, relative_to_stream or relative_to(function) of a program says by "
                "which time a table is written",
            )
        if event is not None and not _is_at_hand(event, writer.record):
            raise Usage(
                f"table {table.name}: an agent writes to the windows of its own record, not of another event",
                hint=f"{table.name}[key][event] is for reading",
            )
        pane = writer.pane(table)
        return [] if pane is None else [(key, *span) for span in table.spec.windows.of_pane(pane)]

    def __repr__(self) -> str:
        return f"<windows of table {self.name}: {self.table.spec.windows}, {self.time}>"


def _is_at_hand(event: Any, record: RecordAtHand) -> bool:
    def place(event: Any) -> tuple[TopicPartition, int]:
        message = event.message
        return TopicPartition(message.topic, message.partition), message.offset

    return place(event) == place(record.event)


class WindowSet(Generic[K, V]):
    """The windows of one key: `views[key]`.

    Args:
        event: the record whose time chooses the windows; None: the one that the agent processes.
    """

    def __init__(self, wrapper: WindowWrapper[K, V], key: K, event: object = None) -> None:
        self.wrapper, self.key, self.event = wrapper, key, event

    def value(self, event: object = None) -> V:
        """Return the value at the record's time, by the table's `relative_to_…`; see `WindowWrapper.read`."""
        return self.wrapper.read(self.key, self.wrapper.time, event or self.event)

    def current(self, event: object = None) -> V:
        """Return the value at the record's time, by its topic: `time=`, else the timestamp in Kafka."""
        return self.wrapper.read(self.key, STREAM, event or self.event)

    def now(self) -> V:
        """Return the value at the time of the partition: stream time as of the last record, in a replay as live."""
        return self.wrapper.read(self.key, NOW)

    def delta(self, d: Duration, event: object = None) -> V:
        """Return the value so much before the record's time, by the table's `relative_to_…`.

        Args:
            d: seconds, a timedelta, or text such as `1h`.
        """
        back_ms = duration_ms(d, "delta")
        return self.wrapper.read(self.key, self.wrapper.time, event or self.event, back_ms)

    def apply(self, op: Callable[[Any, Any], Any], value: Any, event: object = None) -> WindowSet[K, V]:
        """Write `op(old, value)` to all windows of the record; see `WindowWrapper.write`.

        Raises:
            KeyError: a window has no value, and the table no default.
        """
        default = self.wrapper.table.default

        def changed(old: V | Absent) -> V:
            if old is ABSENT:
                if default is None:
                    raise KeyError(self.key)
                old = default()
            return op(old, value)

        self.wrapper.write(self.key, changed, event or self.event)
        return self

    def __getitem__(self, of: Any) -> Any:
        """Return the windows of another event, or the value of the window (start, end), in seconds since 1970."""
        if hasattr(of, "message"):
            return WindowSet(self.wrapper, self.key, of)
        start, end = (round(seconds * 1000) for seconds in cast("Pane", of))
        return self.wrapper.table[self.key, start, end]

    def __setitem__(self, of: Any, value: object) -> None:
        raise self._not_by_window("written")

    def __delitem__(self, of: Any) -> None:
        raise self._not_by_window("deleted")

    def _not_by_window(self, what: str) -> Usage:
        return Usage(
            f"table {self.wrapper.name}: a window is {what} by the records that belong to it, not by its start and end",
            hint=f"{self.wrapper.name}[key] = value writes to all windows of the record",
        )

    def __iadd__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.add, other)

    def __isub__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.sub, other)

    def __imul__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.mul, other)

    def __itruediv__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.truediv, other)

    def __ifloordiv__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.floordiv, other)

    def __imod__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.mod, other)

    def __ipow__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.pow, other)

    def __ilshift__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.lshift, other)

    def __irshift__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.rshift, other)

    def __iand__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.and_, other)

    def __ixor__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.xor, other)

    def __ior__(self, other: Any) -> WindowSet[K, V]:
        return self.apply(operator.or_, other)

    def __repr__(self) -> str:
        return f"<windows of {self.key!r} in table {self.wrapper.name}>"


class WindowedView(Generic[V]):
    """Keys, values or items of the window of a time: by itself at the table's time, else by `now()` and others."""

    def __init__(self, wrapper: WindowWrapper[Any, Any], take: Callable[[Any, Any], V], event: object = None) -> None:
        self._wrapper, self._take, self._event = wrapper, take, event

    def __iter__(self) -> Iterator[V]:
        return self._found(self._wrapper.time, self._event)

    def _found(self, time: RelativeTime, event: object, back_ms: int = 0) -> Iterator[V]:
        return (self._take(key, value) for key, value in self._wrapper.found_in(time, event, back_ms))

    def now(self) -> Iterator[V]:
        """Yield them at the time of the partition."""
        return self._found(NOW, None)

    def current(self, event: object = None) -> Iterator[V]:
        """Yield them at the record's time, by its topic."""
        return self._found(STREAM, event or self._event)

    def delta(self, d: Duration, event: object = None) -> Iterator[V]:
        """Yield them so much before the record's time."""
        return self._found(self._wrapper.time, event or self._event, duration_ms(d, "delta"))


def windowed(
    name: str,
    windows: Windows,
    size_ms: int,
    expires_ms: int | None,
    *,
    on_close: CloseCallback | None,
    is_input: Callable[[str, str], bool],
    keeps_all: bool,
    waits_for_end: bool,
    **options: Any,
) -> WindowWrapper[Any, Any]:
    """Return a windowed table.

    Args:
        size_ms: how long each window is.
        expires_ms: see `Table.tumbling`.
        is_input: see `WindowSpec`.
        keeps_all: closed windows do not expire.
        waits_for_end: windows close at the end of the input only.
        options: see `AgentWindowTable` and `Table`.

    Raises:
        Usage: the options do not go together.
    """
    key_type = options.pop("key_type", None)
    if on_close is not None and expires_ms is None:
        raise Usage(
            f"table {name}: on_window_close without expires: its windows never close",
            hint="tumbling(size, expires=…): a window closes when records that late may no longer come",
        )
    grace_ms = FOREVER_MS if waits_for_end else max(0, (expires_ms or 0) - size_ms)
    keep_ms = None if keeps_all else expires_ms
    spec = WindowSpec(windows, grace_ms, keep_ms, key_type, closes=expires_ms is not None, is_input=is_input)
    return WindowWrapper(AgentWindowTable(name, spec=spec, on_close=on_close, **options))
