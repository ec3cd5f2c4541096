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
    names: dict[str, str] = {}  # topic -> name of its group
    members: dict[str, list[str]] = {}
    numbers = set(tables.values())
    for stream in joined:
        topics = [topic for topic in dict.fromkeys(stream) if topic in counts]
        others = [topic for topic in topics if counts[topic] not in numbers]
        for topic in topics:
            if counts[topic] in numbers:
                name = f"tables-{counts[topic]}"
                if names.setdefault(topic, name) == name and topic not in members.setdefault(name, []):
                    members[name].append(topic)
        known = dict.fromkeys(names[topic] for topic in others if topic in names)
        united = [*dict.fromkeys([*(topic for name in known for topic in members.pop(name)), *others])]
        if united:
            members[united[0]] = united
            names |= dict.fromkeys(united, united[0])
    made: dict[str, TaskGroup] = {}
    for name, topics in members.items():
        most = max(counts[topic] for topic in topics)
        own = [table for table, count in tables.items() if name == f"tables-{count}"]
        title = name if own else "+".join(sorted(topics))
        made |= dict.fromkeys(topics, TaskGroup(title, tuple(sorted(topics)), tuple(own), most))
    return made
