"""A dumb twin of windows: what they hold, close and refuse, from the logs of all partitions at once.

It has dicts and sorted lists, and nothing of batches, epochs, watermark messages, columns or tables. Times are
milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import anabranch
from anabranch.agents.event_time.windows import Windows

__all__ = ["Kind", "Result", "Sale", "closed_by", "computed", "stream_times"]

Row = tuple[str, int, int]


class Sale(NamedTuple):
    """A record. Without a time, or with a price that is no number, it is not counted."""

    at: int | None
    user: str
    price: int | str


@dataclass(frozen=True)
class Kind:
    """A kind of windows, `tumbling`, `hopping`, `cumulating` or `sessions`, with its size or gap, and its step."""

    name: str
    size: int
    step: int = 0

    @property
    def windows(self) -> Windows:
        """The declaration."""
        size, step = self.size / 1000, self.step / 1000
        if self.name == "tumbling":
            return anabranch.Tumbling(size)
        if self.name == "sessions":
            return anabranch.Sessions(size)
        return (anabranch.Hopping if self.name == "hopping" else anabranch.Cumulating)(size, step)

    def of(self, at: int) -> list[tuple[int, int]]:
        """Return all windows that hold a time, by trying every start around it."""
        if self.name == "hopping":
            starts = [start for start in range(at - self.size, at + 1) if start % self.step == 0]
            return [(start, start + self.size) for start in starts if start <= at < start + self.size]
        start = at - at % self.size
        if self.name == "tumbling":
            return [(start, start + self.size)]
        ends = range(start + self.step, start + self.size + 1, self.step)
        return [(start, end) for end in ends if at < end]

    def horizon(self, at: int) -> int:
        """Return the last time at which a record still counts."""
        return at if self.name == "sessions" else min(end for _, end in self.of(at)) - 1

    def closes_after(self, end: int) -> int:
        """Return the time beyond which a window with this end is closed."""
        return end - 1 + (self.size if self.name == "sessions" else 0)


class Result(NamedTuple):
    """Windows, late records and watermarks that follow from logs.

    Attributes:
        rows: the table: key, start, end -> count and sum.
        late: (partition, place in its log) of the late records.
        watermarks: of each partition, behind its last record; None where nothing is known.
    """

    rows: dict[Row, tuple[int, int]]
    late: list[tuple[int, int]]
    watermarks: list[int | None]


def stream_times(times: Iterable[int | None], max_jump: int | None) -> list[int | None]:
    """Return stream time in front of each record and behind the last one; a record without a time moves nothing."""
    now: int | None = None
    ahead: int | None = None  # the record before, if it was too far ahead
    seen: list[int | None] = [None]
    for at in times:
        if at is None:
            pass
        elif max_jump is None or (now is not None and at <= now + max_jump):
            now, ahead = at if now is None else max(now, at), None
        elif ahead is None:
            ahead = at
        else:
            lower, higher = sorted((ahead, at))
            now = lower if now is None else max(now, lower)
            near = higher <= now + max_jump
            now, ahead = (max(now, higher), None) if near else (now, higher)
        seen.append(now)
    return seen


def computed(logs: Sequence[Sequence[Sale]], kind: Kind, grace: int, max_jump: int | None) -> Result:
    """Return the result of logs, one of each partition."""
    counted: list[Sale] = []
    late: list[tuple[int, int]] = []
    watermarks: list[int | None] = []
    for partition, log in enumerate(logs):
        before = stream_times([sale.at for sale in log], max_jump)
        for place, sale in enumerate(log):
            now = before[place]
            if sale.at is None or isinstance(sale.price, str):
                continue
            if now is not None and now - grace > kind.horizon(sale.at):
                late.append((partition, place))
            else:
                counted.append(sale)
        watermarks.append(None if before[-1] is None else before[-1] - grace)
    rows = _sessions(counted, kind.size) if kind.name == "sessions" else _windows(counted, kind)
    return Result({row: (len(prices), sum(prices)) for row, prices in rows.items()}, late, watermarks)


def _windows(sales: Iterable[Sale], kind: Kind) -> dict[Row, list[Any]]:
    rows: dict[Row, list[Any]] = {}
    for sale in sales:
        for start, end in kind.of(sale.at or 0):
            rows.setdefault((sale.user, start, end), []).append(sale.price)
    return rows


def _sessions(sales: Iterable[Sale], gap: int) -> dict[Row, list[Any]]:
    rows: dict[Row, list[Any]] = {}
    open_: dict[str, tuple[int, int, list[Any]]] = {}
    for sale in sorted(sales, key=lambda sale: sale.at or 0):
        at = sale.at or 0
        first, last, prices = open_.get(sale.user, (at, at, []))
        if at - last > gap:
            rows[sale.user, first, last + 1] = prices
            first, prices = at, []
        open_[sale.user] = first, at, [*prices, sale.price]
    return rows | {(user, first, last + 1): prices for user, (first, last, prices) in open_.items()}


def closed_by(result: Result, kind: Kind, watermark: int | None) -> list[Row]:
    """Return the windows that a watermark has closed, in the order in which they close; None: the input has ended."""
    closed = [row for row in result.rows if watermark is None or kind.closes_after(row[2]) < watermark]
    return sorted(closed, key=lambda row: (row[2], row[0], row[1]))
