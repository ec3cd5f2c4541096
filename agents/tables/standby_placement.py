"""Which worker keeps standby copies of which partitions.

librdkafka has no custom assignors, so no member can assign standby copies: every worker computes them from the group's
assignment, as the broker reports it. A copy is most useful on the worker that will get the partition next. The range
assignor gives members, in their order, blocks of neighbouring partitions, so that worker is known: the first copy of a
partition is kept by the member that gets it when its owner leaves, the next ones by members that get it when another
member leaves (blocks move then, too), then by the members that follow its owner in order.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["standby_owners", "standby_partitions"]


def standby_owners(owners: Mapping[int, str], ordered: list[str]) -> dict[int, list[str]]:
    """Return partition number -> the other members, in the order in which they should keep a standby copy.

    Args:
        owners: partition number -> the member that has it.
        ordered: all members, in the order of the assignor.
    """
    numbers = sorted(owners)
    without = {left: _assign_ranges(numbers, [name for name in ordered if name != left]) for left in ordered}
    found: dict[int, list[str]] = {}
    for number, owner in owners.items():
        index = ordered.index(owner)
        following = ordered[index + 1 :] + ordered[:index]
        wanted = [without[owner].get(number), *(without[left].get(number) for left in following), *following]
        found[number] = list(dict.fromkeys(name for name in wanted if name is not None and name != owner))
    return found


def standby_partitions(member: str, assigned: Mapping[str, set[int]], replicas: int) -> set[int]:
    """Return the numbers of the partitions of which a member keeps standby copies.

    Args:
        assigned: member -> numbers of its partitions, members in the order of the assignor.
        replicas: number of standby copies of each partition.
    """
    owners = {number: name for name, numbers in assigned.items() for number in numbers}
    found = standby_owners(owners, list(assigned))
    return {n for n, names in found.items() if member in names[:replicas]} - assigned.get(member, set())


def _assign_ranges(numbers: list[int], members: list[str]) -> dict[int, str]:
    """Return the range assignor's result: blocks as equal as possible, the larger ones first."""
    if not members:
        return {}
    size, larger = divmod(len(numbers), len(members))
    blocks = [name for i, name in enumerate(members) for _ in range(size + (i < larger))]
    return dict(zip(numbers, blocks, strict=True))
