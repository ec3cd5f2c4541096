"""Durations and times as tests write them."""

from __future__ import annotations

from datetime import UTC, datetime

from ...topics.durations import Duration, duration_s
from ...topics.errors import Usage
from ..sources.time_parser import parse_time_ms

__all__ = ["Duration", "Time", "seconds_of", "time_ms_of"]

Time = datetime | float | str
"""A `datetime`, seconds since 1970, or ISO 8601 text; times without a zone are UTC."""

_YEAR_10000_S = datetime(9999, 12, 31, tzinfo=UTC).timestamp() + 86400


def seconds_of(duration: Duration) -> float:
    """Return a duration in seconds.

    Raises:
        Usage: it is negative, or text of another form.

    >>> [seconds_of(one) for one in ("1h30m", "90s", "250ms", 5)]
    [5400.0, 90.0, 0.25, 5.0]
    """
    seconds = duration_s(duration)
    if not 0 <= seconds < float("inf"):
        raise Usage(f"time cannot move by {duration!r}: it only moves forward")
    return seconds


def time_ms_of(time: Time) -> int:
    """Return a time in milliseconds since 1970.

    Raises:
        Usage: it is text that is no time, or a number beyond the year 9999, as milliseconds are.

    >>> time_ms_of("2026-01-01T10:00Z"), time_ms_of(1_000_000_000.5)
    (1767261600000, 1000000000500)
    """
    if isinstance(time, datetime):
        return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(time, str):
        try:
            return parse_time_ms(time)
        except ValueError as exc:
            raise Usage(f"{time!r} is no time: {exc}", hint="for example 2026-01-31T10:00:00Z") from None
    if time >= _YEAR_10000_S:
        raise Usage(f"{time!r} is no time: it is later than the year 9999", hint="numbers are seconds since 1970")
    return round(time * 1000)
