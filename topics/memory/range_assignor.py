"""Kafka's range assignor: each topic's partitions in ranges, so that co-partitioned topics are assigned alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Subscriber", "assign_ranges"]


class Subscriber(NamedTuple):
    """A member and what it subscribes to.

    Attributes:
        rank: what members are ordered by: the instance id of a static member, the member id of another.
    """

    rank: str
    member_id: str
    topics: Sequence[str]


def assign_ranges(members: Sequence[Subscriber], counts: Mapping[str, int]) -> dict[str, list[tuple[str, int]]]:
    """Return member id -> its partitions, in order.

    Args:
        counts: topic -> number of partitions; topics that do not exist are not named.

    >>> assign_ranges([Subscriber("b", "2", ["t"]), Subscriber("a", "1", ["t"])], {"t": 3})
    {'1': [('t', 0), ('t', 1)], '2': [('t', 2)]}
    """
    ordered = sorted(members, key=lambda member: member.rank)
    assigned: dict[str, list[tuple[str, int]]] = {member.member_id: [] for member in ordered}
    for topic in sorted(counts):
        takers = [member for member in ordered if topic in member.topics]
        if not takers:
            continue
        each, more = divmod(counts[topic], len(takers))
        begin = 0
        for place, member in enumerate(takers):
            end = begin + each + (place < more)
            assigned[member.member_id] += [(topic, partition) for partition in range(begin, end)]
            begin = end
    return assigned
