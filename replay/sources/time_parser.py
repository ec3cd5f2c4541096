"""Parses the times that files write: ISO 8601, numbers since 1970, or a `strptime` pattern, into ms since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ...topics.errors import Usage

if TYPE_CHECKING:
    import numpy

__all__ = ["AT_ZERO", "LAST_MS", "TimeParser", "parse_time_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
LAST_MS = 253_402_300_799_999  # the end of the year 9999
AT_ZERO = "exactly 0 ms since 1970, which librdkafka replaces by the current time"
_CACHED = 4_096

# The unit of a bare number follows from its magnitude, for any time between March 1973 and the year 5138.
_UNITS = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (1e20, "ns"))
_PER_MS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_ABSURD = 1e20
_MOST_DIGITS = 40
_INT64 = 2**63


def parse_time_ms(written: object, how: str = "auto", zone: tzinfo = UTC) -> int:
    """Return a time as milliseconds since 1970.

    Text is ISO 8601, with `T` or a space, with or without a zone. A number, or text that is one, counts since 1970 in a
    unit that follows from its magnitude: below 1e11 seconds, below 1e14 milliseconds, below 1e17 microseconds, else
    nanoseconds. Digits below a millisecond are truncated; a number with a fraction is rounded.

    Args:
        how: `auto` as above, `iso`, `s`, `ms`, `us`, `ns`, or a pattern of `strptime` (`%d.%m.%Y %H:%M`).
        zone: zone of times that name none.

    >>> parse_time_ms("2013-01-01T10:00:00Z")
    1357034400000
    >>> parse_time_ms("2013-01-01 10:00:00") == parse_time_ms(1357034400) == parse_time_ms("1357034400.0")
    True
    >>> parse_time_ms("01.01.2013 10:00", "%d.%m.%Y %H:%M")
    1357034400000

    Raises:
        ValueError: it is not a time, or one that a record cannot carry: at or before the start of 1970 (0 means "none"
            to librdkafka), or after the year 9999.
    """
    if written is None:
        raise ValueError("no time")
    if "%" in how and isinstance(written, int):
        written = str(written)
    number: int | float | None = None
    if isinstance(written, str):
        number = None if "%" in how else _number(written)
    elif isinstance(written, int | float) and not isinstance(written, bool):
        number = written
    elif not isinstance(written, date):
        raise ValueError(f"not a time: {written!r:.60}")
    if isinstance(written, date):
        ms = _from_moment(written, zone)
    elif number is not None and how != "iso":
        ms = _from_number(number, how)
    elif how in _PER_MS:
        raise ValueError(f"not a number of {how}: {written!r:.60}")
    else:
        ms = _from_moment(_read(str(written), how), zone)
    if ms == 0:
        raise ValueError(f"{AT_ZERO}: {written!r:.60}")
    if not 0 < ms <= LAST_MS:
        raise ValueError(f"not between 1970 and 9999: {written!r:.60}")
    return ms


class TimeParser(dict[object, int]):
    """A cache of parsed times: `parser[written]` is `parse_time_ms(written)`.

    Neighbouring records often repeat a time, so the last few thousand are kept.

    Raises:
        Usage: the time format or the zone is unknown.
    """

    def __init__(self, how: str = "auto", zone: str = "UTC") -> None:
        super().__init__()
        self._how = how
        try:
            self._zone = UTC if zone == "UTC" else ZoneInfo(zone)
        except (ValueError, OSError, LookupError):
            raise Usage(f"--time-zone {zone}: unknown", hint="for example Europe/Berlin, America/New_York") from None
        if how not in ("auto", "iso", *_PER_MS):
            if "%" not in how:
                raise Usage(
                    f"--time-format {how}: unknown", hint="iso, s, ms, us, ns, or a pattern like %d.%m.%Y %H:%M"
                )
            try:
                datetime.strptime(datetime(2013, 1, 1, tzinfo=UTC).strftime(how), how)
            except ValueError as exc:
                raise Usage(f"--time-format {how}: {exc}", hint="for example %d.%m.%Y %H:%M:%S") from None

    @property
    def in_utc(self) -> bool:
        """True if times that name no zone are in UTC."""
        return self._zone is UTC

    def __missing__(self, written: object) -> int:
        ms = self.parse(written)
        if len(self) >= _CACHED:
            self.clear()
        self[written] = ms
        return ms

    def parse_all(self, written: Sequence[object]) -> list[int]:
        """Return `[parser[each] for each in written]`; integers of one unit are converted together.

        Raises:
            ValueError: one of them is not a time.
        """
        numbers = _as_integers(written)
        ratio = self._ratio(min(numbers), max(numbers)) if numbers else None
        if ratio is not None:
            times, by = ratio
            return numbers if times == by else [number * times // by for number in numbers]
        return [self[each] if isinstance(each, str) else self.parse(each) for each in written]

    def parse_integers(self, numbers: numpy.ndarray, lowest: int, highest: int) -> numpy.ndarray | None:
        """Return `parse_all` of an int64 array, given its extremes; None if the numbers are not all of one unit."""
        ratio = self._ratio(lowest, highest)
        if ratio is None or highest * ratio[0] >= _INT64:
            return None
        return numbers if ratio[0] == ratio[1] else numbers * ratio[0] // ratio[1]

    def _ratio(self, lowest: int, highest: int) -> tuple[int, int] | None:
        """Return factor and divisor that turn the numbers into ms; None if they differ in unit, or are not times."""
        unit = self._how if self._how in _PER_MS else _unit(lowest) if self._how == "auto" else ""
        if unit and (self._how == unit or unit == _unit(highest)) and lowest > 0 and highest < _ABSURD:
            times, by = _PER_MS[unit]
            if lowest * times // by > 0 and highest * times // by <= LAST_MS:
                return times, by
        return None

    def local_ms(self, ms: int) -> int:
        """Read `ms` as local time of the configured zone, and return that moment in ms since 1970.

        Raises:
            ValueError: a record cannot carry the result.
        """
        moment = datetime(1970, 1, 1) + timedelta(milliseconds=ms)
        return parse_time_ms(moment, "auto", self._zone)

    def parse(self, written: object) -> int:
        """Parse a time without looking into the cache."""
        return parse_time_ms(written, self._how, self._zone)


def _unit(number: int) -> str:
    return next((unit for below, unit in _UNITS if number < below), "")


def _as_integers(written: Sequence[Any]) -> list[int]:
    """Return all values as integers if each is a non-negative integer; otherwise an empty list."""
    try:
        # Joining checks that all are text; `isdigit` of bytes accepts ASCII digits only; int() refuses empty text.
        if "".join(written).encode().isdigit() and max(map(len, written)) <= _MOST_DIGITS:
            return list(map(int, written))
    except TypeError:
        if set(map(type, written)) == {int}:
            return list(written)
    except ValueError:
        pass
    return []


def _number(written: str) -> int | float | None:
    # float() and int() accept underscores, digits of other scripts and "nan", which no file of times means.
    if not written.isascii() or not written.lstrip("-").replace(".", "", 1).isdigit():
        return None
    if len(written) > _MOST_DIGITS:
        raise ValueError(f"not a time: {written!r:.60}")
    return float(written) if "." in written else int(written)


def _from_number(number: int | float, how: str) -> int:
    if how in _PER_MS:
        times, by = _PER_MS[how]
        if not abs(number) < _ABSURD:
            raise ValueError(f"not a time: {number!r:.60}")
        return number * times // by if isinstance(number, int) else round(number * times / by)
    for below, unit in _UNITS:
        if abs(number) < below:
            return _from_number(number, unit)
    raise ValueError(f"not a time: {number!r:.60}")


def _read(written: str, how: str) -> datetime:
    try:
        return datetime.strptime(written.strip(), how) if "%" in how else datetime.fromisoformat(written.strip())
    except ValueError:
        as_what = f" written as {how}" if "%" in how else ""
        raise ValueError(f"not a time{as_what}: {written!r:.60}") from None


def _from_moment(moment: date, zone: tzinfo) -> int:
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=zone)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        return (moment - _EPOCH) // _MILLISECOND
    except OverflowError:
        raise ValueError(f"not a time: {moment}") from None
