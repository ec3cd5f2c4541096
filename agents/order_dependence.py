"""Finds the reasons why the result of a bounded run may depend on the order in which agents see its records.

Flows reduce records by functions that are associative and commutative, and windows decide by the logs alone which
records are late. So their result is the same for any order in which no record is late. Agents that are functions of the
program see the records of a partition one after the other, so their result may depend on that order; it is the same for
the same log. Where records of several logs meet, their order depends on what is fetched and committed first.

What the program computes elsewhere is not known here: functions with side effects, variables of the program, clocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from .engine.protocols import topics_read
from .tables.global_table import GlobalTable

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["OrderDependence", "has_float_sum", "order_dependence"]


class OrderDependence(NamedTuple):
    """The agents, and the reasons, for which another order of records may give another result.

    Attributes:
        agents: agents that are functions of the program: the order within partitions may matter to them.
        reasons: why the order of records of several logs may matter, as sentences.
    """

    agents: list[str]
    reasons: list[str]


def order_dependence(
    runtime: Runtime, phases: Mapping[str, Collection[int]], aligned: Collection[str] = ()
) -> OrderDependence:
    """Return what the result of a run of an app depends on.

    Args:
        phases: input topic -> the phases of the run in which it has an input.
        aligned: input topics that are aligned by event time with all others of their phase.
    """
    own = [agent for agent in runtime.app.agents.values() if agent.name not in runtime.flow_agents]
    read = {agent.name: topics_read(agent) for agent in own}
    reasons: list[str] = []
    if own and any(True for _ in runtime.tables):
        reasons = [*_of_tables(runtime), *_of_topics(runtime, read, phases, aligned)]
    return OrderDependence(sorted(read), sorted(reasons))


def _of_tables(runtime: Runtime) -> Iterator[str]:
    for table in runtime.tables:
        if isinstance(table, GlobalTable):
            yield f"GlobalTable {table.name}: what agents find in it depends on commits"
    for flow in runtime.flows:
        if flow.repartition is not None:
            yield f"{flow.target} is filled behind key_by: what agents find in it depends on commits"


def _of_topics(
    runtime: Runtime,
    read: Mapping[str, Collection[str]],
    phases: Mapping[str, Collection[int]],
    aligned: Collection[str],
) -> Iterator[str]:
    short = runtime.name_in_program
    filled = [flow.source for flow in runtime.flows if flow.repartition is None and flow.target.startswith("table ")]
    together: dict[int, set[str]] = {}
    for agent, topics in [*read.items(), ("", filled)]:
        for topic in topics:
            if topic in phases:
                for phase in () if topic in aligned else phases[topic]:
                    together.setdefault(phase, set()).add(topic)
            elif agent:
                yield (
                    f"agent {agent} reads {short(topic)}, which the app writes: records of several partitions meet "
                    "there in the order of commits"
                )
    for topics in together.values():
        if len(topics) > 1:
            yield (
                f"{', '.join(sorted(map(short, topics)))} are read in no particular order: --time aligns them, --then "
                "separates them"
            )


def has_float_sum(value: object, sums: Collection[str]) -> bool:
    """Return whether a value of a flow's table holds a sum of floats.

    Args:
        sums: the fields that are sums; an empty name stands for the value itself. See `FlowDescription`.

    >>> has_float_sum({"spent": 1.5}, ["spent"]), has_float_sum({"mean": 1.5, "_mean": [3, 2]}, ["mean"])
    (True, False)
    """
    for name in sums:
        state = value
        if name and isinstance(value, dict):
            state = value.get(f"_{name}", value.get(name))  # pyright: ignore[reportUnknownMemberType]
        parts: Collection[object] = state if isinstance(state, list | tuple) else (state,)  # pyright: ignore[reportUnknownVariableType]
        if any(isinstance(part, float) for part in parts):
            return True
    return False
