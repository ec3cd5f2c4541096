"""The agents that write windowed tables (Faust's), as readers of a topic for which records may be late.

What time it is for them is a part of the time row of each partition of the table: the stream time of its inputs, which
are agents with the topics that they read, and behind `group_by` also that of the source partitions. See
`agents/agent_windows.py`. A record is late if its own partition has passed its first window, or the table's has, which
is further ahead where a partition was idle.

The time of a record is read from its value as it comes: what processors of the stream would make of it is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from ..agents.agent import Agent
from ..agents.event import event_of_history
from ..agents.event_time.channel import END_MS, NEVER_MS, Channel
from ..agents.event_time.time_keeper import TimeKeeper, channel_name
from ..agents.flows.aggregates import getter
from ..agents.flows.operators import field_reader
from ..agents.forwarded_time import times_of
from ..agents.runtime import runtime_of
from ..agents.tables.agent_window_table import AgentWindowTable
from ..agents.topic import Topic
from ..topics import clock
from ..topics.cluster import Cluster
from ..topics.errors import BadRecord
from .late_reader import LateReader
from .sources.source_record import SourceRecord
from .time_rows import read_time_rows

if TYPE_CHECKING:
    from ..agents.app import App
    from ..topics.admin import Admin

__all__ = ["table_readers"]

_CHANGELOG = "-changelog"


class _TimeRow(msgspec.Struct):
    """The times in the time row of a partition, as `WindowContent` writes it; tables of flows have no inputs.

    Attributes:
        time: the state of the table's own `TimeKeeper`.
        inputs: for each agent, the topic that it reads, the topic's `max_jump` in ms, and the state of its `Channel`.
        heard: for each agent behind `group_by`, the topic that it reads, and the state of the `TimeKeeper` of its
            source partitions.
    """

    time: dict[str, Any]
    inputs: list[tuple[str, str, int | None, Any]] = []
    heard: list[tuple[str, str, Any]] = []


_read_row = msgspec.json.Decoder(_TimeRow).decode


def table_readers(
    cluster: Cluster,
    group: str,
    tables: Collection[str],
    topic: str,
    partitions: int,
    sources: Mapping[str, Mapping[int, Any]],
    app: App | None,
    admin: Admin,
) -> Iterator[LateReader]:
    """Yield the agents of a group that read a topic and write windowed tables of which windows close (blocking).

    Args:
        group: id of an app that has read the topic.
        tables: names of its tables.
        partitions: number of the topic's.
        sources: agent whose records `group_by` sends on -> partition -> its committed times, by their names.
        app: its program, if it is known.
    """
    known = None if app is None else {table.name: table for table in _closing(app)}
    names = {f"{group}-{name}{_CHANGELOG}": name for name in (tables if known is None else {*tables} & {*known})}
    rows: dict[str, dict[int, _TimeRow]] = defaultdict(dict)
    for at, row in read_time_rows(cluster, list(names), admin).items():
        rows[names[at.topic]][at.partition] = _read_row(row)
    for name, of_partitions in sorted(rows.items()):
        table = None if known is None else known[name]
        for agent, read in sorted({(agent, read) for row in of_partitions.values() for agent, read, *_ in row.inputs}):
            declared = None if app is None else _declared(app, agent)
            if app is not None and (declared is None or topic not in declared.topics):
                continue  # another agent's, or the program has changed since
            states = sources.get(agent, {})
            found = _times(of_partitions, agent, read, topic, partitions, states, app, table)
            if found is None or not found.times_ms:
                continue
            reader = LateReader(group, agent, f"table {name}", found.times_ms, everywhere=found.everywhere)
            if app is not None and table is not None and declared is not None:
                reader = _knowing(reader, app, table, declared, topic)
            yield reader


def _closing(app: App) -> list[AgentWindowTable[Any]]:
    tables = [table for table in runtime_of(app).tables if isinstance(table, AgentWindowTable)]
    return [table for table in tables if table.spec.closes]


def _declared(app: App, agent: str) -> Topic | None:
    found = cast("Agent | None", app.agents.get(agent))
    return found.channel if found is not None and isinstance(found.channel, Topic) else None


# Times --------------------------------------------------------------------------------------------------------------


class _Times(NamedTuple):
    """The stream times of an input by partition, and whether they hold for records of every partition, as
    `LateReader` has them."""

    times_ms: dict[int, int]
    everywhere: bool


def _times(
    rows: Mapping[int, _TimeRow],
    agent: str,
    read: str,
    topic: str,
    partitions: int,
    sources: Mapping[int, Any],
    app: App | None,
    table: AgentWindowTable[Any] | None,
) -> _Times | None:
    """Return the times that an input goes by; None if its records do not come from the topic, as far as is known.

    Args:
        read: the topic that the agent's stream reads, which may be one behind `group_by`.
    """
    of_tables = {
        number: max(Channel(None, state).time_ms, TimeKeeper(row.time).time_ms)
        for number, row in rows.items()
        for of, name, _, state in row.inputs
        if (of, name) == (agent, read)
    }
    if read == topic:
        return _Times(_valid(of_tables), everywhere=False)
    heard = [TimeKeeper(state) for row in rows.values() for of, name, state in row.heard if (of, name) == (agent, read)]
    if not heard:  # behind `through`, or two `group_by`: it is not known which partition a record comes to
        return None if app is None else _Times(_valid(of_tables), everywhere=True)
    name = None if app is None or table is None else times_of(_closing(app)).get(table.time)
    passed_ms = max((ms for ms in of_tables.values() if ms < END_MS), default=NEVER_MS)
    found: dict[int, int] = {}
    is_of_topic = app is not None
    for partition in range(partitions):
        channel = channel_name(topic, partition)
        times = [keeper.times_ms[channel] for keeper in heard if channel in keeper.times_ms]
        is_of_topic = is_of_topic or bool(times)
        if name is not None and name in sources.get(partition, {}):
            times.append(Channel(None, sources[partition][name]).time_ms)
        found[partition] = max([*times, passed_ms])
    return _Times(_valid(found), everywhere=False) if is_of_topic else None


def _valid(times_ms: Mapping[int, int]) -> dict[int, int]:
    return {partition: time_ms for partition, time_ms in times_ms.items() if NEVER_MS < time_ms < END_MS}


# Records ------------------------------------------------------------------------------------------------------------


def _knowing(reader: LateReader, app: App, table: AgentWindowTable[Any], declared: Topic, name: str) -> LateReader:
    """Return a reader that knows the time of a record, and its windows."""
    windows, time = table.spec.windows, table.time
    of_topic = declared.timing.time
    read = of_topic.reader(lambda name: getter(name, field_reader(declared.declared)))

    def time_of(record: SourceRecord) -> int | None:
        if record[1] is None and (time.kind != "stream" or of_topic.of is not None):
            return None
        try:
            return time.of_record(_Record(app, declared, name, record, read))
        except BadRecord:  # such a record goes to the failure policy, and moves no time
            return None

    return replace(
        reader,
        time_of=time_of,
        horizon_ms=lambda time_ms: windows.horizon_ms(windows.pane(time_ms)),
        grace_ms=table.spec.grace_ms,
    )


class _Record:
    """A record of a history, as windowed tables would see it: a `RecordAtHand`, and the message of it."""

    def __init__(
        self, app: App, topic: Topic, name: str, record: SourceRecord, read: Callable[[Any, Any], int]
    ) -> None:
        self._app, self._topic, self._name, self._record, self._read = app, topic, name, record, read

    @property
    def value(self) -> Any:
        data = self._record[1]
        return None if data is None else self._topic.decode_value(data)

    @property
    def stream_ms(self) -> int:
        return self._read(self.value, self)

    @property
    def event(self) -> Any:
        key, value, _, headers, _ = self._record
        _, timestamp_ms = self.timestamp()
        return event_of_history(
            self._app,
            self._topic,
            name=self._name,
            key=key,
            value=value,
            headers=headers,
            timestamp_ms=timestamp_ms,
        )

    def timestamp(self) -> tuple[int, int]:
        return 1, self._record[2] or clock.now_ms()
