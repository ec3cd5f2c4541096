"""Shrinks the faults of a world that fails: to the fewest that still make it fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["shrink"]

T = TypeVar("T")

MOST_RUNS = 60


def shrink(faults: Sequence[T], fails: Callable[[Sequence[T]], bool], *, most_runs: int = MOST_RUNS) -> list[T]:
    """Return a part of `faults` with which a world still fails: first halves are removed, then single faults.

    Args:
        faults: the faults with which a world fails.
        fails: runs a world with some of the faults, in their order, and returns whether it fails.
        most_runs: how many worlds are run at most; the shortest list found until then is returned.

    >>> shrink([1, 2, 3, 4, 5, 6], lambda some: 2 in some and 5 in some)
    [2, 5]
    """
    kept, left = list(faults), most_runs
    size = max(1, len(kept) // 2)
    while kept:
        start, removed = 0, False
        while start < len(kept):
            if left <= 0:
                return kept
            fewer = kept[:start] + kept[start + size :]
            left -= 1
            if fails(fewer):
                kept, removed = fewer, True
            else:
                start += size
        if size == 1 and not removed:
            break
        size = max(1, size // 2) if size > 1 else 1
    return kept
