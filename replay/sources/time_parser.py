"""Times as files write them, in milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from ...topics.errors import Usage

__all__ = ["AT_ZERO", "LAST_MS", "TimeParser", "parse_time_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
LAST_MS = 253_402_300_799_999  # the end of the year 9999
AT_ZERO = "exactly 0 ms since 1970, which librdkafka takes for the present time"
_CACHED = 4_096

# The magnitude of a bare number tells its unit, for any time between March 1973 and the year 5138.
_UNITS = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (1e20, "ns"))
_PER_MS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_ABSURD = 1e20
_MOST_DIGITS = 40
_INT64 = 2**63


def parse_time_ms(written: object, how: str = "auto", zone: tzinfo = UTC) -> int:
    """A time as milliseconds since 1970.

    Text is ISO 8601, with `T` or a space, with or without a zone. A number, or text that is one, counts since 1970 in a
    unit told by its magnitude: below 1e11 seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds.
    What is finer than a millisecond is cut off, in a number with a fraction rounded.

    Args:
        how: `auto` as above, `iso`, `s`, `ms`, `us`, `ns`, or a pattern of `strptime` (`%d.%m.%Y %H:%M`).
        zone: of times without one.

    >>> parse_time_ms("2013-01-01T10:00:00Z")
    1357034400000
    >>> parse_time_ms("2013-01-01 10:00:00") == parse_time_ms(1357034400) == parse_time_ms("1357034400.0")
    True
    >>> parse_time_ms("01.01.2013 10:00", "%d.%m.%Y %H:%M")
    1357034400000

    Raises:
        ValueError: it is no time, or one that a record cannot carry: not after 1970 began (0 means "none" to Kafka),
            or after the year 9999.
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
    """`stamps[written]` is `parse_time_ms(written)`; neighbours repeat, so the last few thousand are remembered.

    Raises:
        Usage: there is no such format of times, or no such zone.
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
        """Whether times that name no zone are of UTC, and read as they are found."""
        return self._zone is UTC

    def __missing__(self, written: object) -> int:
        ms = self.parse(written)
        if len(self) >= _CACHED:
            self.clear()
        self[written] = ms
        return ms

    def many(self, written: Sequence[Any]) -> list[int]:
        """`[stamps[each] for each in written]`; whole numbers of one unit are done at once.

        Raises:
            ValueError: one of them is no time.
        """
        numbers = _whole_numbers(written)
        ratio = self._ratio(min(numbers), max(numbers)) if numbers else None
        if ratio is not None:
            times, by = ratio
            return numbers if times == by else [number * times // by for number in numbers]
        return [self[each] if isinstance(each, str) else self.parse(each) for each in written]

    def whole(self, numbers: Any, lowest: int, highest: int) -> Any:
        """`many` of a NumPy array of whole numbers, where all are of one unit; None where they are not."""
        ratio = self._ratio(lowest, highest)
        if ratio is None or highest * ratio[0] >= _INT64:
            return None
        return numbers if ratio[0] == ratio[1] else numbers * ratio[0] // ratio[1]

    def _ratio(self, lowest: int, highest: int) -> tuple[int, int] | None:
        """What makes milliseconds of numbers, times and by; None where they are not of one unit, or no times."""
        unit = self._how if self._how in _PER_MS else _unit(lowest) if self._how == "auto" else ""
        if unit and (self._how == unit or unit == _unit(highest)) and lowest > 0 and highest < _ABSURD:
            times, by = _PER_MS[unit]
            if lowest * times // by > 0 and highest * times // by <= LAST_MS:
                return times, by
        return None

    def local_ms(self, ms: int) -> int:
        """What the clocks of the zone that was asked for show, as milliseconds since 1970.

        Raises:
            ValueError: a record cannot carry it.
        """
        moment = datetime(1970, 1, 1) + timedelta(milliseconds=ms)
        return parse_time_ms(moment, "auto", self._zone)

    def parse(self, written: object) -> int:
        """What is done for a time that is not remembered."""
        return parse_time_ms(written, self._how, self._zone)


def _unit(number: int) -> str:
    return next((unit for below, unit in _UNITS if number < below), "")


def _whole_numbers(written: Sequence[Any]) -> list[int]:
    """All of them as numbers, where all are whole and not negative; otherwise none."""
    try:
        # Joining finds out whether all are text; bytes know only ASCII's digits; and what is empty is no int.
        if "".join(written).encode().isdigit() and max(map(len, written)) <= _MOST_DIGITS:
            return list(map(int, written))
    except TypeError:
        if set(map(type, written)) == {int}:
            return list(written)
    except ValueError:
        pass
    return []


def _number(written: str) -> int | float | None:
    # float() and int() take underscores, other scripts' digits and "nan", which no file of times means.
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
