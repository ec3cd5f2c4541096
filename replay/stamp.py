"""Times as files write them, in milliseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["Stamps", "parse_time_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999
_CACHED = 4_096

# The magnitude of a bare number tells its unit, for any time between March 1973 and the year 5138.
_UNITS = ((1e11, 1_000, 1), (1e14, 1, 1), (1e17, 1, 1_000), (1e20, 1, 1_000_000))


def parse_time_ms(written: object) -> int:
    """A time as milliseconds since 1970.

    Text is ISO 8601, with `T` or a space, with or without a zone (without one it is UTC). A number, or text that is
    one, counts since 1970 in a unit told by its magnitude: below 1e11 seconds, below 1e14 milliseconds, below 1e17
    microseconds, else nanoseconds. What is finer than a millisecond is cut off, in a number with a fraction rounded.

    >>> parse_time_ms("2013-01-01T10:00:00Z")
    1357034400000
    >>> parse_time_ms("2013-01-01 10:00:00") == parse_time_ms(1357034400) == parse_time_ms("1357034400.0")
    True

    Raises:
        ValueError: it is no time, or one that a record cannot carry: not after 1970 began (0 means "none" to Kafka),
            or after the year 9999.
    """
    if isinstance(written, str):
        number = _number(written)
        ms = _from_text(written) if number is None else _from_number(number)
    elif isinstance(written, int | float) and not isinstance(written, bool):
        ms = _from_number(written)
    elif written is None:
        raise ValueError("no time")
    else:
        raise ValueError(f"not a time: {written!r:.60}")
    if not 0 < ms <= _LAST_MS:
        raise ValueError(f"not between 1970 and 9999: {written!r:.60}")
    return ms


class Stamps(dict[object, int]):
    """`stamps[written]` is `parse_time_ms(written)`; neighbours repeat, so the last few thousand are remembered."""

    def __missing__(self, written: object) -> int:
        ms = self.parse(written)
        if len(self) >= _CACHED:
            self.clear()
        self[written] = ms
        return ms

    def parse(self, written: object) -> int:
        """What is done for a time that is not remembered."""
        return parse_time_ms(written)


def _number(written: str) -> int | float | None:
    # float() and int() take underscores, other scripts' digits and "nan", which no file of times means.
    if not written.isascii() or not written.lstrip("-").replace(".", "", 1).isdigit():
        return None
    return float(written) if "." in written else int(written)


def _from_number(number: int | float) -> int:
    for below, times, by in _UNITS:
        if abs(number) < below:
            return number * times // by if isinstance(number, int) else round(number * times / by)
    raise ValueError(f"not a time: {number!r:.60}")


def _from_text(written: str) -> int:
    try:
        moment = datetime.fromisoformat(written.strip())
    except ValueError:
        raise ValueError(f"not a time: {written!r:.60}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MILLISECOND
