"""Days, weeks, months and years of a time zone, as spans of time.

A calendar window begins at the first instant of its first day in the zone, plus an offset on the local clock. So a day
has 23 or 25 hours where clocks are changed, and begins later where its midnight does not exist.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ...topics.errors import Usage

__all__ = ["CALENDAR_UNITS", "Calendar", "zone_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_DAY = timedelta(days=1)


def _week(day: date) -> date:
    return day - timedelta(days=day.weekday())


# Of each unit: the first day of the span that holds a day, and the first day of the next span.
_SPANS: dict[str, tuple[Callable[[date], date], Callable[[date], date]]] = {
    "1d": (lambda day: day, lambda first: first + _DAY),
    "1w": (_week, lambda first: first + 7 * _DAY),
    "1mo": (lambda day: day.replace(day=1), lambda first: (first + 31 * _DAY).replace(day=1)),
    "1y": (lambda day: day.replace(month=1, day=1), lambda first: first.replace(year=first.year + 1)),
}

CALENDAR_UNITS = tuple(_SPANS)


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its name.

    Raises:
        Usage: there is no such zone on this machine.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Usage(f"zone={name!r}: no such time zone", hint="a name such as Europe/Berlin or UTC") from None


class Calendar:
    """Spans of a calendar unit in a time zone.

    Args:
        unit: one of `CALENDAR_UNITS`. Weeks begin on Monday.
        offset_ms: how long after midnight on the local clock a span begins, less than a day.
    """

    def __init__(self, unit: str, zone: ZoneInfo, offset_ms: int = 0) -> None:
        self._first, self._next = _SPANS[unit]
        self._zone, self._offset = zone, timedelta(milliseconds=offset_ms)
        self._clock = (datetime.min + self._offset).time()
        self._last = (0, 0)

    def span(self, time_ms: int) -> tuple[int, int]:
        """Return the start and the end of the span that holds a time, in milliseconds; the end is excluded."""
        start, end = self._last
        if start <= time_ms < end:
            return self._last
        local = (_EPOCH + time_ms * _MS).astimezone(self._zone).replace(tzinfo=None)
        first = self._first((local - self._offset).date())
        # The date on the local clock may be off by one span where clocks are changed at the border.
        while (start := self._instant(first)) > time_ms:
            first = self._first(first - _DAY)
        while (end := self._instant(after := self._next(first))) <= time_ms:
            first, start = after, end
        self._last = start, end
        return start, end

    def _instant(self, day: date) -> int:
        """Return when the first instant of a day is, offset included: of two equal local times the earlier one; where
        the local time does not exist, the moment at which clocks are put forward."""
        first = datetime.combine(day, self._clock, self._zone)
        second = first.replace(fold=1)
        instant, early = (first - _EPOCH) // _MS, (second - _EPOCH) // _MS
        if early >= instant:
            return instant
        # The local time does not exist: `instant` is by the offset before the change, `early` by the one after it.
        after = second.utcoffset()

        def is_changed(ms: int) -> bool:
            return (_EPOCH + ms * _MS).astimezone(self._zone).utcoffset() == after

        return early + 1 + bisect_left(range(early + 1, instant), True, key=is_changed)
