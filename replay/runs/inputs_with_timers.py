"""Bounded runs of apps with timers: which inputs have an end that these wait for, and what did not fire."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, cast

from ...agents.agent import Agent
from ...agents.app import App
from ...agents.engine.protocols import topics_read
from ...agents.tables.stream_time import STREAM_TIME
from ...agents.tables.timer_table import source_times
from ...agents.timers import Timers
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ..table_reader import TableReader

__all__ = ["TimersLeft", "refuse_timers", "timers_left", "topics_with_timers"]


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


class TimersLeft(NamedTuple):
    """How many timers have not fired in a bounded run, and why another run may give others.

    Attributes:
        unfired: agent -> number of its timers that have not fired: timers have set them behind the end.
        reasons: a sentence for each agent whose timers may see other records if these arrive in another order: they are
            behind `group_by` of several partitions.
    """

    unfired: dict[str, int]
    reasons: list[str]


def timers_left(cluster: Cluster, app: App, *, may_be_new: bool = False) -> TimersLeft:
    """Return what the tables of an app's timers say after a bounded run (blocking).

    Args:
        may_be_new: a table without a changelog has no timers, as in `TableReader`.
    """
    found = TimersLeft({}, [])
    for agent, timers in sorted(_timers(app).items()):
        partitions = TableReader(cluster, timers.table, may_be_new=may_be_new).read_raw()
        found.unfired[agent] = sum(len(timers.table.content(rows)) for rows in partitions)
        times = (source_times(rows[STREAM_TIME]) for rows in partitions if STREAM_TIME in rows)
        if any(each is not None and each.keeper.of > 1 for each in times):
            found.reasons.append(
                f"agent {agent} has timers behind group_by of several partitions: one may be read far ahead of the "
                "others, and timers then see much later records; --key instead of group_by gives one result"
            )
    return found
