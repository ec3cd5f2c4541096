"""Times and spans as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["shown_ms", "shown_time"]


def shown_time(time_ms: int) -> str:
    """A time since 1970, in UTC, without the milliseconds that are zero.

    >>> shown_time(1357034400000)
    '2013-01-01T10:00:00Z'
    """
    moment = datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds") + "Z"


def shown_ms(span_ms: float) -> str:
    """A span in the unit that suits it.

    >>> shown_ms(1_500), shown_ms(90_000), shown_ms(5_400_000), shown_ms(3 * 86_400_000)
    ('1.5 s', '90.0 s', '90.0 min', '72.0 h')
    """
    for unit, size, most in (("ms", 1, 1_000), ("s", 1_000, 120_000), ("min", 60_000, 7_200_000)):
        if span_ms < most:
            return f"{span_ms:.0f} ms" if unit == "ms" else f"{span_ms / size:,.1f} {unit}"
    if span_ms < 4 * 86_400_000:
        return f"{span_ms / 3_600_000:,.1f} h"
    return f"{span_ms / 86_400_000:,.1f} days"
