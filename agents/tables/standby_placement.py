"""Who keeps warm copies of whose partitions.

librdkafka has no assignor of our own, so nobody can be told: every worker computes it, from what the broker says of the
group. A copy is worth most where the partition will go: with the range assignor, which gives members in their order
blocks of neighbouring partitions, that is known. So the first copy of a partition is kept by who inherits it when
its owner goes, the next ones by who gets it when another member goes (blocks move then, too), then by the members that
follow its owner in order.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["copies_of", "heirs"]


def heirs(owners: Mapping[int, str], ordered: list[str]) -> dict[int, list[str]]:
    """Partition number -> the other members, best first.

    Args:
        ordered: all members, in the order of the assignor.
    """
    numbers = sorted(owners)
    without = {gone: _ranges(numbers, [name for name in ordered if name != gone]) for gone in ordered}
    found: dict[int, list[str]] = {}
    for number, owner in owners.items():
        at = ordered.index(owner)
        following = ordered[at + 1 :] + ordered[:at]
        wanted = [without[owner].get(number), *(without[gone].get(number) for gone in following), *following]
        found[number] = list(dict.fromkeys(name for name in wanted if name is not None and name != owner))
    return found


def copies_of(me: str, assigned: Mapping[str, set[int]], replicas: int) -> set[int]:
    """Numbers of the partitions of which `me` keeps copies.

    Args:
        assigned: member -> numbers of its partitions, members in the order of the assignor.
    """
    owners = {number: name for name, numbers in assigned.items() for number in numbers}
    return {n for n, names in heirs(owners, list(assigned)).items() if me in names[:replicas]} - assigned.get(me, set())


def _ranges(numbers: list[int], members: list[str]) -> dict[int, str]:
    """What the range assignor would do: blocks as equal as can be, the larger ones first."""
    if not members:
        return {}
    size, larger = divmod(len(numbers), len(members))
    blocks = [name for i, name in enumerate(members) for _ in range(size + (i < larger))]
    return dict(zip(numbers, blocks, strict=True))
