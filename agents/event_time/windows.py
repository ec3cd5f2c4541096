"""Windows: which spans of time a record counts in.

    Tumbling("5m")                  one after the other
    Tumbling("1d", zone="Europe/Berlin")   days, weeks (1w), months (1mo), years (1y) of a time zone
    Hopping("1h", step="5m")        of one hour, one begins every five minutes
    Cumulating("1d", step="1h")     from midnight to one, to two, to three …
    Sessions("30m")                 of records of one key that are at most half an hour apart

A window is a half-open span `[start, end)`: a record at its end belongs to the next one. Windows begin at whole
multiples of their step since 1970, in UTC, plus `offset`. The end of a session is 1 ms after its last record.

Windows are made of *panes*, the spans between two borders of windows: all times of a pane belong to the same windows. A
record is reduced into its pane, and panes into windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import gcd
from typing import Any, NamedTuple

from ...topics.durations import Duration, duration_ms, duration_text
from ...topics.errors import Usage
from .calendar_windows import CALENDAR_UNITS, Calendar, zone_of
from .event_time import moment

__all__ = ["Cumulating", "Grid", "Hopping", "Pane", "SameWindows", "Sessions", "Tumbling", "Window", "Windows"]

_DAY_MS = 86_400_000

# A record counts in as many windows, and each of them is a row of the table.
_MOST_WINDOWS = 1_000

Pane = tuple[int, int]
"""The start and the end of a pane in milliseconds; the end is excluded."""


@dataclass(frozen=True)
class Grid:
    """Borders at whole multiples of a step, plus an offset, in milliseconds."""

    step_ms: int
    offset_ms: int

    def floor(self, time_ms: int) -> int:
        """Return the last border that is not later than a time."""
        return time_ms - (time_ms - self.offset_ms) % self.step_ms


class Window(NamedTuple):
    """A window as programs see it.

    Attributes:
        start: its first instant, in UTC.
        end: the first instant after it; of a session, one millisecond after its last record.
    """

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start_ms: int, end_ms: int) -> Window:
        """Return the window between two times in milliseconds."""
        return cls(moment(start_ms), moment(end_ms))

    @property
    def start_ms(self) -> int:
        """`start` in milliseconds since 1970."""
        return round(self.start.timestamp() * 1000)

    @property
    def end_ms(self) -> int:
        """`end` in milliseconds since 1970."""
        return round(self.end.timestamp() * 1000)


class Windows:
    """Base class of the kinds of windows.

    Attributes:
        gap_ms: of sessions: how far apart their records may be; None for windows that do not depend on the records.
    """

    gap_ms: int | None = None

    @property
    def grid(self) -> Grid | None:
        """The borders of panes, where all panes have one length; None where they do not."""
        return None

    def pane(self, time_ms: int) -> Pane:
        """Return the pane that holds a time. A session's first pane is its record."""
        raise NotImplementedError

    def of_pane(self, pane: Pane) -> list[Pane]:
        """Return the windows that a pane is part of, as spans, the first one to end first."""
        raise NotImplementedError

    def holding(self, time_ms: int) -> list[Pane]:
        """Return the windows that hold a time, as spans, the first one to end first."""
        return self.of_pane(self.pane(time_ms))

    def horizon_ms(self, pane: Pane) -> int:
        """Return the last millisecond at which a record of a pane still matters to a window that is open.

        A record whose watermark is beyond it is late: it counts in none of its windows.
        """
        raise NotImplementedError

    def closes_after_ms(self, end_ms: int) -> int:
        """Return the time after which a window with this end is complete: when the watermark is beyond it."""
        return end_ms - 1 if self.gap_ms is None else end_ms - 1 + self.gap_ms

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and sizes, as JSON: a table that was made with others cannot go on with these."""
        raise NotImplementedError

    def __str__(self) -> str:
        kind, *more = self.identity.values()
        return f"{kind}({', '.join(str(part) for part in more if part is not None)})"


def _anchored(offset: Duration, step_ms: int) -> int:
    """Return an offset, which is less than the distance of two windows.

    Raises:
        Usage: it is not.
    """
    offset_ms = duration_ms(offset, "offset")
    if offset_ms >= step_ms:
        raise Usage(
            f"offset={offset!r}: windows begin every {duration_text(step_ms)}, so an offset is less than that",
            hint="leave out the whole windows of the offset",
        )
    return offset_ms


class Tumbling(Windows):
    """Windows of one size, one after the other.

    Args:
        size: how long each is; with a zone, one of `1d`, `1w`, `1mo`, `1y`.
        zone: name of a time zone; see `calendar_windows`. `1mo` and `1y` need one.
        offset: how much later than whole multiples of `size` since 1970 windows begin; with a zone, on the local clock.

    Raises:
        Usage: an argument is not supported.
    """

    def __init__(self, size: Duration, *, zone: str | None = None, offset: Duration = 0) -> None:
        self._calendar: Calendar | None = None
        if zone is None:
            if size in ("1mo", "1y"):
                raise Usage(f"Tumbling({size!r}) without a zone", hint=f'Tumbling({size!r}, zone="UTC")')
            self._size_ms = duration_ms(size, "size", zero=False)
            self._offset_ms = _anchored(offset, self._size_ms)
        else:
            if size not in CALENDAR_UNITS:
                raise Usage(
                    f"Tumbling({size!r}, zone={zone!r}): the size is one of {', '.join(CALENDAR_UNITS)}",
                    hint="windows of a zone follow its calendar; leave out the zone for windows of a fixed length",
                )
            self._size_ms, self._offset_ms = 0, _anchored(offset, _DAY_MS)
            self._calendar = Calendar(str(size), zone_of(zone), self._offset_ms)
        self._unit, self._zone = size if zone else None, zone

    @property
    def grid(self) -> Grid | None:
        return None if self._calendar is not None else Grid(self._size_ms, self._offset_ms)

    def pane(self, time_ms: int) -> Pane:
        if self._calendar is not None:
            return self._calendar.span(time_ms)
        start = time_ms - (time_ms - self._offset_ms) % self._size_ms
        return start, start + self._size_ms

    def of_pane(self, pane: Pane) -> list[Pane]:
        return [pane]

    def horizon_ms(self, pane: Pane) -> int:
        return pane[1] - 1

    @property
    def identity(self) -> dict[str, Any]:
        size = self._unit or duration_text(self._size_ms)
        return {"kind": "Tumbling", "size": size, "zone": self._zone, "offset_ms": self._offset_ms or None}


def _refuse_many(windows: int, what: str) -> None:
    if windows > _MOST_WINDOWS:
        raise Usage(
            f"{what}: each record would count in {windows:,} windows, more than {_MOST_WINDOWS:,}",
            hint="a longer step",
        )


class Hopping(Windows):
    """Windows of one size of which one begins at every step, so that they overlap.

    Args:
        size: how long each is.
        step: how long after one window the next one begins; at most `size`.
        offset: how much later than whole multiples of `step` since 1970 windows begin.

    Raises:
        Usage: an argument is not supported, or a record would count in more than 1,000 windows.
    """

    def __init__(self, size: Duration, step: Duration, *, offset: Duration = 0) -> None:
        self._size_ms, step_ms = duration_ms(size, "size", zero=False), duration_ms(step, "step", zero=False)
        if step_ms > self._size_ms:
            raise Usage(
                f"Hopping({size!r}, {step!r}): records between two windows would count in none", hint="step ≤ size"
            )
        _refuse_many(-(-self._size_ms // step_ms), f"Hopping({size!r}, {step!r})")
        self._starts = Grid(step_ms, _anchored(offset, step_ms))
        self._panes = Grid(gcd(self._size_ms, step_ms), self._starts.offset_ms % gcd(self._size_ms, step_ms))

    @property
    def grid(self) -> Grid:
        return self._panes

    def pane(self, time_ms: int) -> Pane:
        start = self._panes.floor(time_ms)
        return start, start + self._panes.step_ms

    def of_pane(self, pane: Pane) -> list[Pane]:
        last, size = self._starts.floor(pane[0]), self._size_ms
        first = last - (last + size - 1 - pane[0]) // self._starts.step_ms * self._starts.step_ms
        return [(start, start + size) for start in range(first, last + 1, self._starts.step_ms)]

    def horizon_ms(self, pane: Pane) -> int:
        return self.of_pane(pane)[0][1] - 1

    @property
    def identity(self) -> dict[str, Any]:
        size, step, offset_ms = self._size_ms, self._starts.step_ms, self._starts.offset_ms
        return {
            "kind": "Hopping",
            "size": duration_text(size),
            "step": duration_text(step),
            "offset_ms": offset_ms or None,
        }


class Cumulating(Windows):
    """Windows that begin together and end one step after the other, until the size is reached.

    Args:
        size: how long the longest is.
        step: how much longer each is than the one before; a whole part of `size`.
        offset: how much later than whole multiples of `size` since 1970 windows begin.

    Raises:
        Usage: an argument is not supported, or a record would count in more than 1,000 windows.
    """

    def __init__(self, size: Duration, step: Duration, *, offset: Duration = 0) -> None:
        size_ms, step_ms = duration_ms(size, "size", zero=False), duration_ms(step, "step", zero=False)
        if size_ms % step_ms:
            raise Usage(f"Cumulating({size!r}, {step!r}): the size is no whole number of steps", hint="another step")
        _refuse_many(size_ms // step_ms, f"Cumulating({size!r}, {step!r})")
        offset_ms = _anchored(offset, size_ms)
        self._starts, self._panes = Grid(size_ms, offset_ms), Grid(step_ms, offset_ms % step_ms)

    @property
    def grid(self) -> Grid:
        return self._panes

    def pane(self, time_ms: int) -> Pane:
        start = self._panes.floor(time_ms)
        return start, start + self._panes.step_ms

    def of_pane(self, pane: Pane) -> list[Pane]:
        start = self._starts.floor(pane[0])
        return [(start, end) for end in range(pane[1], start + self._starts.step_ms + 1, self._panes.step_ms)]

    def horizon_ms(self, pane: Pane) -> int:
        return pane[1] - 1

    @property
    def identity(self) -> dict[str, Any]:
        size, step, offset_ms = self._starts.step_ms, self._panes.step_ms, self._starts.offset_ms
        return {
            "kind": "Cumulating",
            "size": duration_text(size),
            "step": duration_text(step),
            "offset_ms": offset_ms or None,
        }


class Sessions(Windows):
    """Sessions of each key: records that are at most `gap` apart belong to one.

    Whether a record is late is decided by its own time. Otherwise records in time could meet a session that has closed
    already, and one session would be told in two overlapping parts.

    Args:
        gap: the longest time between two records of a session; a record exactly so much later belongs to it.

    Raises:
        Usage: the gap is no positive duration.
    """

    def __init__(self, gap: Duration) -> None:
        self.gap_ms = duration_ms(gap, "gap", zero=False)

    def pane(self, time_ms: int) -> Pane:
        return time_ms, time_ms + 1

    def of_pane(self, pane: Pane) -> list[Pane]:
        return [pane]

    def horizon_ms(self, pane: Pane) -> int:
        return pane[0]

    @property
    def identity(self) -> dict[str, Any]:
        assert self.gap_ms is not None
        return {"kind": "Sessions", "gap": duration_text(self.gap_ms)}


class SameWindows(Windows):
    """The windows of another table, whose closed windows are reduced again: those of one span of time together.

    A pane is one of these windows.

    Args:
        of: the windows of the other table; no sessions, whose spans are those of their keys.
    """

    def __init__(self, of: Windows) -> None:
        self._of = of._of if isinstance(of, SameWindows) else of

    def pane(self, time_ms: int) -> Pane:
        """Return the pane of the other table that holds a time: between its borders, no window begins or ends."""
        return self._of.pane(time_ms)

    def of_pane(self, pane: Pane) -> list[Pane]:
        return [pane]

    def holding(self, time_ms: int) -> list[Pane]:
        return self._of.holding(time_ms)

    def horizon_ms(self, pane: Pane) -> int:
        return pane[1] - 1

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "SameWindows", "of": str(self._of)}
