"""Times and durations as text for people."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["format_duration_ms", "format_local_time", "format_time"]

_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999


def format_time(time_ms: int) -> str:
    """Format a time, given in milliseconds since 1970, in UTC. Milliseconds are shown unless they are zero.

    A record in Kafka can have any time, say one in microseconds. Times outside the years 1 to 9999 are numbers.

    >>> format_time(1357034400000)
    '2013-01-01T10:00:00Z'
    >>> format_time(1357034400000000)
    '1357034400000000 ms'
    """
    if not _FIRST_MS <= time_ms <= _LAST_MS:
        return f"{time_ms} ms"
    time = datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)
    return time.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds") + "Z"


def format_local_time(time_ms: int) -> str:
    """Format a time, given in milliseconds since 1970, to the second in this machine's time zone."""
    return datetime.fromtimestamp(time_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_duration_ms(duration_ms: float) -> str:
    """Format a duration in the unit that suits its size.

    >>> [format_duration_ms(ms) for ms in (1_500, 90_000, 5_400_000, 3 * 86_400_000)]
    ['1.5 s', '90.0 s', '90.0 min', '72.0 h']
    """
    for unit, size, limit in (("ms", 1, 1_000), ("s", 1_000, 120_000), ("min", 60_000, 7_200_000)):
        if duration_ms < limit:
            return f"{duration_ms:.0f} ms" if unit == "ms" else f"{duration_ms / size:,.1f} {unit}"
    if duration_ms < 4 * 86_400_000:
        return f"{duration_ms / 3_600_000:,.1f} h"
    return f"{duration_ms / 86_400_000:,.1f} days"
