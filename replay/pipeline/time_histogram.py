"""How many records fall into which stretch of time, in a bounded number of stretches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["Histogram"]

MOST_BINS = 128


class Histogram:
    """Counts by stretches of equal width, which doubles whenever there would be more than `MOST_BINS` of them.

    >>> histogram = Histogram()
    >>> histogram.add([0, 1, 1, 1000])
    >>> histogram.width_ms, histogram.counts()
    (8, [(0, 3), (1000, 1)])
    """

    def __init__(self) -> None:
        self.width_ms = 1
        self._bins: Counter[int] = Counter()
        self._least = self._most = 0

    def add(self, times_ms: Sequence[int]) -> None:
        """Count times; an empty list is fine."""
        if not times_ms:
            return
        least, most = min(times_ms), max(times_ms)
        if self._bins:
            least, most = min(least, self._least), max(most, self._most)
        self._least, self._most = least, most
        while most // self.width_ms - least // self.width_ms >= MOST_BINS:
            self.width_ms *= 2
            halved: Counter[int] = Counter()
            for number, count in self._bins.items():
                halved[number // 2] += count
            self._bins = halved
        width_ms = self.width_ms
        self._bins.update([time // width_ms for time in times_ms])

    def counts(self) -> list[tuple[int, int]]:
        """Begin of each stretch that holds something, in milliseconds, and how many."""
        return [(number * self.width_ms, count) for number, count in sorted(self._bins.items())]

    @property
    def span_ms(self) -> tuple[int, int]:
        """The first and the last time."""
        return self._least, self._most
