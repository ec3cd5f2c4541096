"""The event time of a record: its timestamp in Kafka, or a field of its value.

Times are whole milliseconds since 1970, UTC, rounded down, also before 1970. A time must lie between the years 1900 and
2200: what is outside is taken for a mistake, such as milliseconds where seconds are declared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import floor, isfinite
from typing import Any, Literal, get_args

from ...topics.durations import Duration, duration_ms
from ...topics.errors import Usage

__all__ = [
    "DEFAULT_IDLE",
    "DEFAULT_JUMP",
    "EARLIEST_MS",
    "LATEST_MS",
    "LIKE_SECONDS",
    "PER_MS",
    "EventTime",
    "TimeUnit",
    "Timing",
    "moment",
    "time_ms",
]

TimeUnit = Literal["s", "ms", "us", "ns"]
"""The unit of times that are numbers."""

EARLIEST_MS = -2_208_988_800_000
"""The start of the year 1900."""
LATEST_MS = 7_258_118_400_000
"""The start of the year 2200."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

PER_MS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
"""Unit -> by what a number is multiplied, and then divided, to be milliseconds."""

LIKE_SECONDS = range(1_000_000_000, 10_000_000_000)
"""Numbers whose unit must be declared: in seconds the years 2001 to 2286, in milliseconds January to April 1970."""

_SECONDS_HINT = 'is the field in seconds? time_unit="s"; time_unit="ms" accepts times of January to April 1970'


@dataclass(frozen=True)
class EventTime:
    """The declaration of the event time of a topic's records.

    Attributes:
        of: a field's name, an expression or a function of the value; None: the record's timestamp in Kafka.
        unit: the unit of times that are numbers; None: milliseconds, where numbers that look like seconds are refused.

    Raises:
        Usage: the unit does not exist, or nothing has it.
    """

    of: str | Callable[..., Any] | None = None
    unit: TimeUnit | None = None

    def __post_init__(self) -> None:
        if self.of is not None and not isinstance(self.of, str) and not callable(self.of):
            raise Usage(f"time={self.of!r}", hint="a field's name, an expression or a function of the value")
        if self.unit is not None and self.unit not in get_args(TimeUnit):
            raise Usage(f"time_unit={self.unit!r}", hint=f"one of {', '.join(get_args(TimeUnit))}")
        if self.unit is not None and self.of is None:
            raise Usage("time_unit without time", hint='name the field: time="at", time_unit="s"')

    def reader(self, field: Callable[[str], Callable[..., Any]]) -> Callable[[Any, Any], int]:
        """Return a function of a record's value and message that returns its event time in milliseconds.

        It raises ValueError or TypeError for records without a time, and whatever the user's function raises.

        Args:
            field: returns a function that takes a field of this name out of a value.
        """
        if self.of is None:
            return lambda _, message: _kafka_ms(message.timestamp()[1])
        unit = self.unit
        taken = field(self.of) if isinstance(self.of, str) else self.of
        return lambda value, _: time_ms(taken(value), unit)

    def batch_reader(
        self, field: Callable[[str], Callable[..., Any]]
    ) -> Callable[[Sequence[Any], Sequence[Any]], list[int]]:
        """Return a function of the values and messages of many records; see `reader`."""
        read, unit = self.reader(field), self.unit
        if self.of is None:
            return lambda _, messages: (
                _checked([message.timestamp()[1] for message in messages], "ms", 0)
                or list(map(read, messages, messages))
            )
        if not isinstance(self.of, str) or PER_MS[unit or "ms"] != (1, 1):
            # Not `map`: a StopIteration of the user's function would end it, and leave values without a time.
            return lambda values, messages: [read(*pair) for pair in zip(values, messages, strict=True)]
        taken = field(self.of)
        return lambda values, messages: _checked(list(map(taken, values)), unit) or list(map(read, values, messages))


def _checked(numbers: list[Any], unit: TimeUnit | None, least_ms: int = EARLIEST_MS) -> list[int] | None:
    """Return values that are milliseconds all of them; None if one of them has to be looked at alone."""
    if set(map(type, numbers)) != {int}:
        return None
    least, most = min(numbers), max(numbers)
    if least < least_ms or most >= LATEST_MS:
        return None
    return numbers if unit is not None or most < LIKE_SECONDS.start or least >= LIKE_SECONDS.stop else None


DEFAULT_JUMP = "1h"
"""How far a record may be ahead of stream time without a second one that confirms it; see `channel`."""


DEFAULT_IDLE = "1m"
"""How long a partition has no record until it is idle; see `channel`."""


@dataclass(frozen=True)
class Timing:
    """The declaration of event time and of how orderly records come.

    Attributes:
        time: the event time of a record.
        given_grace_ms: how far watermarks are behind stream time, in ms; None: not declared.
        max_jump_ms: the jump guard in ms; None: no guard. See `channel`.
        idle_after_ms: how long a partition of a live topic has no record until it is idle; None: it never is.
    """

    time: EventTime = EventTime()
    given_grace_ms: int | None = None
    max_jump_ms: int | None = duration_ms(DEFAULT_JUMP, "max_jump")
    idle_after_ms: int | None = duration_ms(DEFAULT_IDLE, "idle_after")

    @classmethod
    def of(
        cls,
        time: str | Callable[..., Any] | None,
        unit: TimeUnit | None,
        grace: Duration | None,
        max_jump: Duration | None,
        idle_after: Duration | None,
    ) -> Timing:
        """Return what a program declares.

        Raises:
            Usage: an argument is not supported.
        """
        return cls(
            EventTime(time, unit),
            None if grace is None else duration_ms(grace, "grace"),
            None if max_jump is None else duration_ms(max_jump, "max_jump", zero=False),
            None if idle_after is None else duration_ms(idle_after, "idle_after", zero=False),
        )

    @property
    def grace_ms(self) -> int:
        """The declared grace in ms."""
        assert self.given_grace_ms is not None
        return self.given_grace_ms

    @property
    def is_declared(self) -> bool:
        """True if the program declares anything of it."""
        # `of` may be an expression, whose `==` makes another expression.
        return self.time.of is not None or self != _UNDECLARED


_UNDECLARED = Timing()


def _kafka_ms(timestamp_ms: int) -> int:
    if timestamp_ms < 0:
        raise ValueError("the record has no timestamp")
    return _within(timestamp_ms, timestamp_ms)


def time_ms(value: object, unit: TimeUnit | None = None) -> int:
    """Return a time in milliseconds since 1970, rounded down.

    Args:
        value: a number in `unit`, a datetime with a zone, or such a datetime as ISO 8601 text.
        unit: see `EventTime`.

    Raises:
        ValueError: it is no time, it names no zone, or it lies outside of the years 1900 to 2200.

    >>> time_ms(1500), time_ms(-1.5), time_ms("2026-01-31T12:00:00Z"), time_ms(1_769_860_800, "s")
    (1500, -2, 1769860800000, 1769860800000)
    """
    if type(value) is int or (isinstance(value, int) and not isinstance(value, bool)):
        by, per = PER_MS[unit or "ms"]
        ms = value * by // per
        if unit is None and ms in LIKE_SECONDS:
            raise ValueError(f"time {value} is {_shown(ms)} if it is in milliseconds: {_SECONDS_HINT}")
        return _within(ms, value)
    if isinstance(value, float):
        by, per = PER_MS[unit or "ms"]
        if not isfinite(value * by):
            raise ValueError(f"{value} is no time")
        ms = floor(value * by / per)
        if unit is None and ms in LIKE_SECONDS:
            raise ValueError(f"time {value} is {_shown(ms)} if it is in milliseconds: {_SECONDS_HINT}")
        return _within(ms, value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no time: expected ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} names no time zone: which zone? Z at its end means UTC")
        return _within((value - _EPOCH) // _MS, value)
    if value is None:
        raise ValueError("the record has no time")
    raise ValueError(f"a {type(value).__qualname__} is no time")


def _within(ms: int, value: object) -> int:
    if not EARLIEST_MS <= ms < LATEST_MS:
        raise ValueError(f"time {value} is not between the years 1900 and 2200: is it in the declared unit?")
    return ms


def _shown(ms: int) -> str:
    return moment(ms).isoformat(timespec="seconds")


def moment(ms: int) -> datetime:
    """Return a time in milliseconds since 1970 as a datetime in UTC."""
    return _EPOCH + ms * _MS
