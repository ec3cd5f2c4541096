"""Histograms of durations, with buckets as in Prometheus."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["Histogram"]

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts durations by size.

    Attributes:
        counts: number of durations in each bucket; the last one has no upper bound.
        sum_s: sum of the durations in seconds.

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
        """Number of durations."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Count a duration in seconds."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound in seconds, number of durations up to it) for each bucket, as Prometheus counts them."""
        below, found = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, below))
        return found
