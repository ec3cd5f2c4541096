"""Bounded runs of apps with windows: which inputs have an end that windows wait for, and what was late."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, cast

from ...agents.app import App
from ...agents.engine.committed_offsets import read_channel_states
from ...agents.engine.protocols import topics_read
from ...agents.event_time.channel import Channel
from ...agents.runtime import runtime_of
from ...agents.tables.agent_window_table import AgentWindowTable
from ...agents.tables.window_content import inputs_without_end
from ...agents.tables.window_table import WindowTable
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.consumer_groups import ConsumerGroups
from ...topics.dead_letter import LATE_SUFFIX, Origin, read_headers
from ...topics.errors import Usage
from ...topics.headers import headers_of
from ...topics.partition_reader import read_to_end
from ..time_rows import read_time_rows
from .failure_counts import ProducedRanges, includes
from .inputs_with_timers import refuse_timers, topics_with_timers

__all__ = [
    "LateRecordCounts",
    "held_jumps",
    "late_records",
    "refuse_open_windows",
    "refuse_windows",
    "time_rows",
    "topics_with_end",
    "windowed_topics",
]


class LateRecordCounts(NamedTuple):
    """The late records of an app.

    Attributes:
        late: (table, topic with its late records) -> number of them; 0 for tables whose late records are dropped, with
            a topic of None.
        closed: how many of them were on time in their own partition, and came after their window had closed.
    """

    late: dict[tuple[str, str | None], int]
    closed: int = 0


def windowed_topics(app: App) -> dict[str, str]:
    """Return topic in Kafka -> name of a table with windows of its records, of flows."""
    return {table.spec.source: table.name for table in _tables(app) if not isinstance(table, AgentWindowTable)}


def topics_with_end(app: App) -> set[str]:
    """Return the topics in Kafka whose end windows or timers wait for: those of flows with windows and of agents with
    timers, and all that agents read if there are windowed tables, because which agent writes to them is not known
    before it does."""
    topics = {*windowed_topics(app), *topics_with_timers(app)}
    if _agents_tables(app):
        topics |= {name for agent in app.agents.values() for name in topics_read(agent)}
    return topics


def _tables(app: App) -> list[WindowTable]:
    return [table for table in runtime_of(app).tables if isinstance(table, WindowTable)]


def _agents_tables(app: App) -> list[AgentWindowTable]:
    return [table for table in _tables(app) if isinstance(table, AgentWindowTable)]


def refuse_windows(app: App, inputs: Collection[str], *, into_live: bool = False) -> None:
    """Refuse a run whose windows would not close; timers likewise.

    Args:
        inputs: the topics that the run has inputs for.
        into_live: the run goes into live topics, whose windows close as time goes on.

    Raises:
        Usage: there is such a table.
    """
    refuse_timers(app, inputs, into_live=into_live)
    if into_live:
        return
    for topic, table in sorted(windowed_topics(app).items()):
        if topic not in inputs:
            raise Usage(
                f"the windows of table {table} are of topic {topic}, which has no input in this run: they would never "
                "close",
                hint="windows of a topic that the app itself writes are not supported in bounded runs yet; otherwise "
                "--input TOPIC=PATH",
            )


def refuse_open_windows(app: App, rows: Iterable[tuple[AgentWindowTable, bytes | None]]) -> None:
    """Refuse the result of a run in which windows did not close.

    Args:
        rows: tables, each with the time row of a partition.

    Raises:
        Usage: there are such windows.
    """
    for table, row in rows:
        for agent, topic in inputs_without_end(row):
            short = topic.removeprefix(f"{runtime_of(app).conf.id}-")
            raise Usage(
                f"table {table.name}: windows did not close, because agent {agent} reads topic {short}, which has no "
                "input in this run",
                hint="windows of a topic that the app itself writes are not supported in bounded runs yet; otherwise "
                "--input TOPIC=PATH",
            )


def time_rows(cluster: Cluster, app: App) -> Iterator[tuple[AgentWindowTable, bytes]]:
    """Yield the tables whose windows agents close, each with the time row of each of its partitions (blocking)."""
    tables = {table.changelog_name: table for table in _agents_tables(app) if table.on_close is not None}
    yield from ((tables[at.topic], row) for at, row in read_time_rows(cluster, list(tables)).items())


def late_records(cluster: Cluster, app: App, ranges: ProducedRanges | None = None) -> LateRecordCounts:
    """Count the late records of each table with windows, by the headers of the records (blocking).

    Args:
        ranges: count only records within these offsets of their topics; None counts all.
    """
    found: dict[tuple[str, str | None], int] = dict.fromkeys(_late_topics(app), 0)
    closed, topics = 0, {topic for _, topic in found if topic is not None}
    if not topics:
        return LateRecordCounts(found)
    admin = Admin(cluster)
    there = admin.partitions(topics)
    for topic, count in there.items():
        begins, ends = admin.spans((topic, partition) for partition in range(count))
        for run in read_to_end(cluster, begins, ends):
            for message in run.messages:
                _, facts = read_headers(headers_of(message))
                at = facts.get("operator", ""), topic
                if at in found and (ranges is None or includes(ranges, Origin.parsed(facts.get("source", "")))):
                    found[at] += 1
                    closed += facts.get("reason") == "closed"
    return LateRecordCounts(found, closed)


def held_jumps(cluster: Cluster, group: str, topics: Collection[str]) -> int:
    """Return how many records of topics were so far ahead that they moved no time, by the group's offsets (blocking).

    If several tables have windows of a topic, each has the same records; they count once.
    """
    counts = Admin(cluster).partitions(topics)
    found = 0
    for _, metadata in ConsumerGroups(cluster).offsets(group, counts).values():
        states: list[object] = []
        for state in read_channel_states(metadata).values():
            times = cast("dict[str, Any]", state).get("times", {}) if isinstance(state, dict) else {"": state}
            states += times.values()
        found += max((Channel(None, state).held_jumps for state in states), default=0)
    return found


def _late_topics(app: App) -> Iterator[tuple[str, str | None]]:
    """Yield the tables with windows, each with the topics that may have its late records."""
    read = {name for agent in app.agents.values() for name in topics_read(agent)}
    for table in _tables(app):
        if isinstance(table, AgentWindowTable):
            yield from ((table.name, f"{topic}{LATE_SUFFIX}") for topic in read)
        else:
            yield table.name, table.spec.late_topic
