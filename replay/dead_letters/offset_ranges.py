"""Which letters were put back: ranges of offsets of their topic, `{"partition:begin": end}` as a run keeps them."""

from __future__ import annotations

from bisect import bisect_left

from ..sources.source import SourcePosition

__all__ = ["Ranges"]


class Ranges:
    """Offsets by partition, as ranges that do not touch.

    >>> ranges = Ranges({"0:5": 9})
    >>> ranges.add(0, 9, 12)
    >>> ranges.add(0, 20, 21)
    >>> ranges.position(), (0, 11) in ranges, (0, 12) in ranges
    ({'0:5': 12, '0:20': 21}, True, False)
    """

    def __init__(self, position: SourcePosition | None = None) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for name, end in (position or {}).items():
            partition, _, begin = name.partition(":")
            self._ranges.setdefault(int(partition), []).append((int(begin), end))
        for ranges in self._ranges.values():
            ranges.sort()

    def __contains__(self, at: tuple[int, int]) -> bool:
        partition, offset = at
        ranges = self._ranges.get(partition, [])
        i = bisect_left(ranges, (offset + 1,)) - 1
        return i >= 0 and offset < ranges[i][1]

    def __len__(self) -> int:
        return sum(map(len, self._ranges.values()))

    def add(self, partition: int, begin: int, end: int) -> None:
        """Add a range; those that it touches become one with it."""
        ranges = self._ranges.setdefault(partition, [])
        i = bisect_left(ranges, (begin,))
        if i and ranges[i - 1][1] >= begin:
            i -= 1
        until = i
        while until < len(ranges) and ranges[until][0] <= end:
            begin, end = min(begin, ranges[until][0]), max(end, ranges[until][1])
            until += 1
        ranges[i:until] = [(begin, end)]

    def position(self) -> SourcePosition:
        """As a run keeps it."""
        return {f"{partition}:{begin}": end for partition, ranges in self._ranges.items() for begin, end in ranges}
