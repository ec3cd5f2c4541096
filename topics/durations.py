"""Durations as programs write them: `"5m"`, `"1h30m"`, a `timedelta`, or a number of seconds."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta

from .errors import Usage

__all__ = ["Duration", "duration_ms", "duration_s", "duration_text", "interval_s"]

Duration = float | timedelta | str
"""Seconds, a `timedelta`, or text such as `90s`, `1h`, `2d`, `1h30m`, `250ms`."""

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)\s*")
_SHOWN = ("w", "d", "h", "m", "s", "ms")
# As many milliseconds as a 64-bit time can count without coming near its limits.
_MOST_MS = 2**53


def duration_s(duration: Duration) -> float:
    """Return a duration in seconds; negative if its text begins with `-`.

    Raises:
        Usage: it is text of another form, or no number.

    >>> [duration_s(one) for one in ("1h30m", "90s", "250ms", 5, timedelta(minutes=2), "1w")]
    [5400.0, 90.0, 0.25, 5.0, 120.0, 604800.0]
    """
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, str):
        text = duration.strip()
        parts = _PART.findall(text)
        if not parts or _PART.sub("", text.removeprefix("-")):
            raise Usage(f"{duration!r} is no duration", hint="for example 90s, 1h, 2d or 1h30m")
        return sum(float(number) * _UNITS_MS[unit] for number, unit in parts) / (-1000 if text[0] == "-" else 1000)
    if type(duration) not in (int, float):
        raise Usage(f"{duration!r} is no duration", hint='for example "90s", a timedelta, or a number of seconds')
    return float(duration)


def duration_ms(duration: Duration, what: str, *, zero: bool = True) -> int:
    """Return a duration in whole milliseconds.

    Args:
        what: names the duration in errors, such as `grace`.
        zero: whether it may be zero.

    Raises:
        Usage: it is no duration, negative, not a whole number of milliseconds, or too long.

    >>> duration_ms("1h30m", "grace"), duration_ms(0.25, "grace")
    (5400000, 250)
    """
    seconds = duration_s(duration)
    ms = round(seconds * 1000) if abs(seconds) < _MOST_MS else -1
    if not 0 <= ms < _MOST_MS or (ms == 0 and not zero) or abs(ms - seconds * 1000) > 1e-6 * max(1, ms):
        least = "" if zero else "positive "
        raise Usage(
            f"{what}={duration!r}: expected a {least}number of whole milliseconds", hint="for example 30s or 1h"
        )
    return ms


def interval_s(interval: Duration, what: str) -> float:
    """Return a duration that Faust takes, too, in seconds; text may also be a number of seconds, as it is there.

    Faust's rates, such as `6/m`, are refused: as a duration, Faust takes this one for a tenth of a second.

    Args:
        what: names the duration in errors, such as `within`.

    Raises:
        Usage: it is no duration, negative or infinite.

    >>> interval_s("5m", "within"), interval_s("5", "within"), interval_s(timedelta(hours=1), "ttl")
    (300.0, 5.0, 3600.0)
    """
    seconds = float("nan")
    with suppress(TypeError, ValueError, Usage):
        seconds = interval.total_seconds() if isinstance(interval, timedelta) else float(interval)
    if seconds != seconds and isinstance(interval, str):
        with suppress(Usage):
            seconds = duration_s(interval)
    if not 0 <= seconds < float("inf"):
        raise Usage(f"{what}={interval!r} is no duration", hint='for example 60, "90s", "1h30m", or a timedelta')
    return seconds


def duration_text(ms: int) -> str:
    """Return a duration as text that `duration_ms` reads.

    >>> duration_text(5_400_000), duration_text(1_500), duration_text(0)
    ('1h30m', '1s500ms', '0s')
    """
    text = ""
    for unit in _SHOWN:
        number, ms = divmod(ms, _UNITS_MS[unit])
        text += f"{number}{unit}" if number else ""
    return text or "0s"
