"""Task groups: the topics whose partitions of one number are processed together, by one worker.

A table has a partition for each partition of the topics from which agents write to it. Which agents do is not known
before they run, so all topics with as many partitions as a table belong to one group with it, named by that number:
`tables-4`. Other topics are joined if one agent reads them as one stream (`app.topic("a", "b")`), and each group is
named by its topics. So an app may read topics of 4 and of 12 partitions: these are two groups, and a partition of a
table is on the worker that has the partition of this number of its own group's topics, and on no other.

A topic stays in its group while the worker runs, even if partitions are added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["TaskGroup", "TaskId", "task_groups"]


class TaskId(NamedTuple):
    """A task: all partitions of one number of the topics and tables of a group."""

    group: str
    partition: int

    def __str__(self) -> str:
        return f"{self.group}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Topics that are processed together, and the tables of their agents.

    Attributes:
        topics: their names, sorted.
        tables: names of the tables.
        partitions: the largest number of partitions of the topics.
    """

    name: str
    topics: tuple[str, ...]
    tables: tuple[str, ...]
    partitions: int


def task_groups(
    joined: Iterable[Sequence[str]], counts: Mapping[str, int], tables: Mapping[str, int]
) -> dict[str, TaskGroup]:
    """Return topic -> its group.

    Args:
        joined: the topics of each stream; topics that are not in `counts` are left out.
        counts: topic -> number of its partitions.
        tables: table -> number of its partitions.
    """
    of_tables: dict[int, set[str]] = {number: set() for number in tables.values()}
    together: dict[str, set[str]] = {}  # topic -> all topics of its group, itself included
    for stream in joined:
        others: set[str] = set()
        for topic in stream:
            if topic in counts:
                of_tables.get(counts[topic], others).add(topic)
        united = others.union(*(together[topic] for topic in others if topic in together))
        together |= dict.fromkeys(united, united)
    for topics in of_tables.values():
        together |= dict.fromkeys(topics, topics)
    made: dict[str, TaskGroup] = {}
    for topic, topics in together.items():
        own = tuple(table for table, count in tables.items() if count == counts[topic])
        name = f"tables-{counts[topic]}" if own else "+".join(sorted(topics))
        made[topic] = TaskGroup(name, tuple(sorted(topics)), own, max(counts[each] for each in topics))
    return made
