"""The cache of decoded values of one table partition, bounded in bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import Any
from uuid import UUID

from .absent import ABSENT

__all__ = ["IMMUTABLE", "ValueCache", "own_copy"]

# Values of exactly these types can be shared between the cache and agents; all others are private copies.
IMMUTABLE = frozenset(
    {int, float, str, bytes, bool, type(None), datetime, date, time, timedelta, Decimal, UUID},
)

# Immutable types whose values are never large.
_SMALL = IMMUTABLE - {str, bytes}

# Memory of the cache of one partition. When it is exceeded, the cache is emptied; hot keys return with their next use.
CACHE_BYTES = 64 << 20
_ENTRY_BYTES = 256  # assumed size of a dict slot, a key and a number, until entries have been measured
_SLOT_BYTES = 104
_MEASURE_FIRST = 16  # measure after this many entries, then each time their number has doubled
_SMALL_BYTES = 64  # assumed for an object of the small types: a number has about 30, a Decimal 104
_SAMPLE = 1_000  # keys that are measured, evenly spread; measuring all of them took a tenth of a flow with many keys


def own_copy(value: Any) -> Any:
    """Return a value that its receiver may change; the value itself, or ABSENT, if it cannot be changed."""
    if value is ABSENT or type(value) in IMMUTABLE:
        return value
    if type(value) is dict and IMMUTABLE.issuperset(map(type, chain(value, value.values()))):
        return value.copy()  # as most aggregates are; a tenth of the time of a deep copy
    return deepcopy(value)


class ValueCache(dict[object, Any]):
    """Current immutable values by key, committed or not.

    The table that shows the partition sets `__missing__`, which reads a key that is not cached.
    """

    __slots__ = ("__missing__", "_entry_bytes", "_measure_at", "_text_bytes")
    __missing__: Callable[[Any], object]

    def __init__(self) -> None:
        super().__init__()
        self.empty()

    def empty(self) -> None:
        """Remove all values: there are too many, or the store was written by someone else (a restore)."""
        self.clear()
        self._entry_bytes, self._text_bytes, self._measure_at = _ENTRY_BYTES, 0, _MEASURE_FIRST

    def add(self, key: object, value: object) -> None:
        """Add one immutable value."""
        self[key] = value
        if type(value) not in _SMALL:
            self._text_bytes += sys.getsizeof(value)
        self._bound()

    def add_written(self, changes: dict[Any, object]) -> bool:
        """Add the immutable values among those that were written, and remove the others.

        Returns:
            Whether all values are immutable.
        """
        kinds = set(map(type, changes.values()))
        if kinds <= IMMUTABLE:
            self.update(changes)
            if not kinds <= _SMALL:
                self._text_bytes += sum(map(sys.getsizeof, changes.values()))
        else:
            for key, value in changes.items():
                if type(value) in IMMUTABLE:
                    self[key] = value
                    self._text_bytes += sys.getsizeof(value)
                else:
                    self.pop(key, None)
        self._bound()
        return kinds <= IMMUTABLE

    def _bound(self) -> None:
        """Keep the cache below `CACHE_BYTES`.

        An upper bound of its size is nearly free to compute; only when the bound is reached, the cache is measured.
        """
        entries = len(self)
        if entries * self._entry_bytes + self._text_bytes <= CACHE_BYTES and entries < self._measure_at:
            return
        values = self.values()  # all are measured: few of them may have most of the bytes
        are_small = _SMALL.issuperset(map(type, values))
        values_bytes = entries * _SMALL_BYTES if are_small else sum(map(sys.getsizeof, values))
        size = entries * _SLOT_BYTES + _bytes_of_keys(self) + values_bytes
        if size > CACHE_BYTES * 3 // 4:  # leaves room until the next time, because measuring costs as much as filling
            self.empty()
        else:
            self._entry_bytes, self._text_bytes, self._measure_at = size // max(entries, 1) + 1, 0, 2 * entries


def _bytes_of_keys(keys: Collection[object]) -> int:
    """Return the approximate memory of keys."""
    sample = list(map(sys.getsizeof, islice(keys, 0, None, 1 + len(keys) // _SAMPLE)))
    return sum(sample) * len(keys) // max(len(sample), 1)
