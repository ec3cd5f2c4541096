"""Histograms of durations, as Prometheus counts them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

__all__ = ["Histogram"]

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Durations by size.

    >>> commits = Histogram()
    >>> commits.observe(0.003)
    >>> commits.count, commits.sum_s
    (1, 0.003)
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def lines(self, name: str) -> Iterable[str]:
        """As Prometheus has them: each bucket counts all that are not larger."""
        below = 0
        for bound_s, count in zip((*BUCKETS_S, float("inf")), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{"+Inf" if bound_s == float("inf") else bound_s}"}} {below}'
        yield f"{name}_sum {self.sum_s!r}"
        yield f"{name}_count {below}"
