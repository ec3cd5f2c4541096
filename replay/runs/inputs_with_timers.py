"""Bounded runs of apps with timers: which inputs have an end that these wait for, and what did not fire."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from ...agents.agent import Agent
from ...agents.app import App
from ...agents.engine.protocols import topics_read
from ...agents.tables.stream_time import STREAM_TIME
from ...agents.tables.timer_table import source_times
from ...agents.timers import Timers
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.partition_reader import read_to_end
from ..table_reader import Snapshot, TableReader

__all__ = ["order_of_timers", "refuse_timers", "topics_with_timers", "unfired_timers"]


def _timers(app: App) -> dict[str, Timers]:
    """Return agent -> its timers."""
    agents = cast("Mapping[str, Agent]", app.agents)
    return {agent.name: agent.timers for agent in agents.values() if agent.timers is not None}


def topics_with_timers(app: App) -> dict[str, str]:
    """Return topic in Kafka -> an agent of it that has timers."""
    return {topic: agent for agent, timers in _timers(app).items() for topic in topics_read(timers.agent)}


def refuse_timers(app: App, inputs: Collection[str], *, into_live: bool = False) -> None:
    """Refuse a run in which timers would not fire, or would all fire at once.

    Args:
        inputs: the topics that the run has inputs for.

    Raises:
        Usage: an agent has timers.
    """
    for topic, agent in sorted(topics_with_timers(app).items()):
        if into_live and topic in inputs:
            raise Usage(
                f"--into-live with timers of agent {agent}: history is behind the live topic's watermark, so they "
                "would fire at once",
                hint="a run of its own, without --into-live, has the timers of the history",
            )
        if not into_live and topic not in inputs:
            raise Usage(
                f"the timers of agent {agent} go by topic {topic}, which has no input in this run: some would wait",
                hint="timers of a topic that the app itself writes are not supported in bounded runs yet; otherwise "
                "--input TOPIC=PATH",
            )


def unfired_timers(cluster: Cluster, app: App, known: Mapping[str, Snapshot]) -> dict[str, int]:
    """Return agent -> number of its timers that have not fired: timers have set them behind the end (blocking).

    Args:
        known: the tables that have been read already, by their names.
    """
    tables = {agent: timers.table for agent, timers in _timers(app).items()}
    return {
        agent: len(known[table.name] if table.name in known else TableReader(cluster, table).read())
        for agent, table in tables.items()
    }


def order_of_timers(cluster: Cluster, app: App) -> list[str]:
    """Return why what timers have seen may depend on the order of arrival: those behind `group_by` of several
    partitions (blocking)."""
    tables = {timers.table.changelog_name: agent for agent, timers in _timers(app).items()}
    admin, found = Admin(cluster), set[str]()
    counts = admin.partitions(tables) if tables else {}
    for run in read_to_end(cluster, *admin.spans((name, n) for name, count in counts.items() for n in range(count))):
        for message in run.messages:
            value = message.value()
            if message.key() == STREAM_TIME and value is not None:
                times = source_times(value)
                if times is not None and times.keeper.of > 1:
                    found.add(tables[run.at.topic])
    return [
        f"agent {agent} has timers behind group_by of several partitions: one may be read far ahead of the others, and "
        "timers then see much later records; --key instead of group_by gives one result"
        for agent in sorted(found)
    ]
