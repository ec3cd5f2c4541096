"""How fast records are replayed: at a multiple of event time, or at a number of records per second.

A pace starts with the first record of a start (or of a round of a loop): a replay that was stopped for a night resumes
at its pace and does not catch up on the night. Within a start, `speed` catches up on any delay and reports it; `rate`
is a limit, so it catches up on a second at most.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...topics.clock import Clock
from ...topics.errors import Usage
from ..sources.source import SourceBatch, SourcePosition
from ..sources.source_record import BadLine, SourceRecord
from .cursor import Cursor, Open
from .out_of_order import running_max_times

__all__ = ["Pace", "PacedSource"]

# Due records are released at this interval, because each release becomes a transaction.
TICK_S = 0.1
# How much a rate catches up, after the broker was unreachable or the machine asleep.
MAX_CATCH_UP_S = 1.0

_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Limits of the pace; without any, records are replayed as fast as possible. If both are given, both hold.

    Attributes:
        speed: seconds of event time per second.
        rate: records per second.
    """

    speed: float | None = None
    rate: float | None = None

    @classmethod
    def parse(cls, speed: str | None, rate: str | None) -> Pace:
        """Parse a speed such as `60x` or `0.5x`, and a rate such as `5000`, `5000/s`, `100/min` or `20/h`.

        >>> Pace.parse("60x", "120/min")
        Pace(speed=60.0, rate=2.0)

        Raises:
            Usage: one has another form, or is zero.
        """
        return cls(speed=_parsed_speed(speed), rate=_parsed_rate(rate))

    def __bool__(self) -> bool:
        return self.speed is not None or self.rate is not None


def _parsed_speed(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text)
    if found is None or not float(found[1]):
        raise Usage(f"--speed {text}: expected a number, for example 60x for a minute per second")
    return float(found[1])


def _parsed_rate(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|min|h))?", text)
    if found is None or not float(found[1]):
        raise Usage(f"--rate {text}: expected records per second, for example 5000/s", hint="also /min and /h")
    return float(found[1]) / _UNITS_S[found[2] or "s"]


class PacedSource:
    """A source that holds records back until they are due. Position: `cut`, that of a cursor in the wrapped source.

    Args:
        round_of: returns the round of a loop that the wrapped source's last batch belongs to.

    Attributes:
        lag_s: by how much the last records were behind their speed. A rate is a limit, and has no lag.
    """

    def __init__(
        self,
        open_at: Open,
        pace: Pace,
        clock: Clock,
        position: SourcePosition | None = None,
        *,
        round_of: Callable[[], int] = lambda: 0,
    ) -> None:
        self.poll_again_s = 0.0
        self.lag_s = 0.0
        self._pace, self._clock, self._round_of = pace, clock, round_of
        self._cursor = Cursor(open_at, position["cut"] if position else None)
        self.begins: SourcePosition = {"cut": self._cursor.snapshot()}
        self._times: list[int] = []
        self._max_time = 0
        self._round = 0
        # The event time at which the pace started, the clock's time at which it did, and the records released since.
        self._begun_ms: int | None = None
        self._speed_begun_s = 0.0
        self._rate_begun_s: float | None = None
        self._released = 0
        self._not_before_s = 0.0

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return self._cursor.used_up and self._cursor.last

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, including records that are held back; see `Source`."""
        return self._cursor.source.done_bytes

    def next_batch(self) -> SourceBatch:
        """Return the records that are due; see `Source`."""
        bad, blank = self._fill() if self._cursor.used_up and not self._cursor.last else ((), 0)
        records = self._due()
        return SourceBatch(records, {"cut": self._cursor.snapshot()}, bad, blank)

    def _due(self) -> Sequence[SourceRecord]:
        cursor, now_s = self._cursor, self._clock.now_s()
        self.poll_again_s = 0.0
        if cursor.used_up:
            self.poll_again_s = 0.0 if cursor.last else cursor.source.poll_again_s
            return []
        if now_s < self._not_before_s:
            self.poll_again_s = self._not_before_s - now_s
            return []
        count = min(self._due_by_rate(now_s), self._due_by_speed(now_s))
        if count <= 0:
            self.poll_again_s = max(TICK_S, self._next_s() - now_s)
            return []
        records = cursor.records[cursor.taken : cursor.taken + count]
        cursor.taken += count
        self._released += count
        if not cursor.used_up:
            self._not_before_s = now_s + TICK_S
        return records

    def close(self) -> None:
        """Close the wrapped source."""
        self._cursor.close()

    def _fill(self) -> tuple[Sequence[BadLine], int]:
        cursor = self._cursor
        bad_and_blank = cursor.fill()
        if self._round_of() != self._round:
            self._round = self._round_of()
            self._max_time, self._begun_ms = 0, None
        if self._pace.speed is not None and cursor.records:
            self._times = running_max_times(cursor.records, self._max_time)
            self._max_time = self._times[-1]
        return bad_and_blank

    def _due_by_rate(self, now_s: float) -> int:
        waiting = len(self._cursor.records) - self._cursor.taken
        rate = self._pace.rate
        if rate is None:
            return waiting
        if self._rate_begun_s is None:
            self._rate_begun_s, self._released = now_s, 0
        due = int((now_s - self._rate_begun_s) * rate) - self._released
        limit = max(1, int(MAX_CATCH_UP_S * rate))
        if due > limit:
            self._rate_begun_s += (due - limit) / rate
        return min(due, limit, waiting)

    def _due_by_speed(self, now_s: float) -> int:
        cursor = self._cursor
        speed = self._pace.speed
        if speed is None:
            return len(cursor.records) - cursor.taken
        if self._begun_ms is None:
            self._begun_ms, self._speed_begun_s = self._times[cursor.taken], now_s
        reached_ms = self._begun_ms + (now_s - self._speed_begun_s) * 1000 * speed
        self.lag_s = max(0.0, (reached_ms - self._times[cursor.taken]) / 1000 / speed - TICK_S)
        return bisect_right(self._times, reached_ms, cursor.taken) - cursor.taken

    def _next_s(self) -> float:
        """Return when the next record is due, on the clock."""
        found = 0.0
        if self._pace.rate is not None and self._rate_begun_s is not None:
            found = self._rate_begun_s + (self._released + 1) / self._pace.rate
        if self._pace.speed is not None and self._begun_ms is not None:
            ahead_ms = self._times[self._cursor.taken] - self._begun_ms
            found = max(found, self._speed_begun_s + ahead_ms / 1000 / self._pace.speed)
        return found
