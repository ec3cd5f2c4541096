"""Kafka's range assignor: each topic's partitions in ranges, so that co-partitioned topics are assigned alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Subscriber", "assign_ranges", "assign_sticky_ranges"]


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


def assign_sticky_ranges(
    members: Sequence[Subscriber], counts: Mapping[str, int], current: Mapping[str, Sequence[tuple[str, int]]]
) -> dict[str, list[tuple[str, int]]]:
    """Return member id -> its partitions, in order, as the broker's range assignor: members keep what they may keep.

    Args:
        current: member id -> the partitions that it was last assigned.

    >>> assign_sticky_ranges([Subscriber("a", "a", ["t"]), Subscriber("b", "b", ["t"])], {"t": 2}, {"b": [("t", 0)]})
    {'a': [('t', 1)], 'b': [('t', 0)]}
    """
    ordered = sorted(members, key=lambda member: member.rank)
    assigned: dict[str, list[tuple[str, int]]] = {member.member_id: [] for member in ordered}
    for topic in sorted(counts):
        takers = [member.member_id for member in ordered if topic in member.topics]
        if not takers:
            continue
        least, more = divmod(counts[topic], len(takers))
        unfilled: list[tuple[str, int]] = []
        taken: set[int] = set()
        for member_id in takers:
            had = sorted(partition for name, partition in current.get(member_id, ()) if name == topic)
            extra = len(had) > least and more > 0
            more -= extra
            kept = had[: least + extra]
            taken.update(kept)
            assigned[member_id] += [(topic, partition) for partition in kept]
            if not extra:
                unfilled.append((member_id, least - len(kept)))
        free = [partition for partition in range(counts[topic]) if partition not in taken]
        for member_id, missing in unfilled:
            wanted = missing + (more > 0)
            more -= more > 0
            assigned[member_id] += [(topic, partition) for partition in free[:wanted]]
            del free[:wanted]
        for member_id in takers:
            assigned[member_id].sort()
    return assigned
