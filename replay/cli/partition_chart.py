"""How evenly records lie over partitions, or would lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...topics.errors import Usage
from ...topics.partitioners import Plan
from ..sources.source import Replayable

__all__ = ["Spread", "sample_keys"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Records by partition.

    >>> Spread((30, 10)).skew
    1.5
    """

    counts: tuple[int, ...]

    @classmethod
    def of(cls, keys: Sequence[bytes], plan: Plan) -> Spread:
        """Of keys, under a plan."""
        counts = [0] * plan.partitions
        for place in plan.places(keys):
            counts[place] += 1
        return cls(tuple(counts))

    @property
    def skew(self) -> float:
        """What the fullest partition has, as a multiple of an even share: 1 is even."""
        total = sum(self.counts)
        return max(self.counts) * len(self.counts) / total if total else 1.0


def sample_keys(history: Replayable, most: int) -> list[bytes]:
    """Keys of the first records of a history, those without one left out.

    Raises:
        Usage: no record has a key.
    """
    source, keys = history.open(None), list[bytes]()
    try:
        while len(keys) < most and not source.ended:
            items = source.next_batch().items
            if not items and source.ask_again_s:
                break
            keys += [item[0] for item in items if item[0] is not None]
    finally:
        source.close()
    if not keys:
        raise Usage("the sample has no keys", hint="--key FIELD says which field is the key")
    return keys[:most]
