"""Durations and times as tests write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ...topics.errors import Usage
from ..sources.time_parser import parse_time_ms

__all__ = ["Duration", "Time", "seconds_of", "time_ms_of"]

Duration = float | timedelta | str
"""Seconds, a `timedelta`, or text such as `90s`, `1h`, `2d`, `1h30m`."""

Time = datetime | float | str
"""A `datetime`, seconds since 1970, or ISO 8601 text; times without a zone are UTC."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_YEAR_10000_S = datetime(9999, 12, 31, tzinfo=UTC).timestamp() + 86400
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*")


def seconds_of(duration: Duration) -> float:
    """Return a duration in seconds.

    Raises:
        Usage: it is negative, or text of another form.

    >>> [seconds_of(one) for one in ("1h30m", "90s", "250ms", 5, timedelta(minutes=2))]
    [5400.0, 90.0, 0.25, 5.0, 120.0]
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        text = duration.strip()
        negative = text.startswith("-")
        parts = _PART.findall(text)
        if not parts or _PART.sub("", text.removeprefix("-")):
            raise Usage(f"{duration!r} is no duration", hint="for example 90s, 1h, 2d or 1h30m")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) * (-1 if negative else 1)
    else:
        seconds = float(duration)
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
