"""Behaviours of windows: what goes in, what closes, and what is late. Times are in seconds.

Each behaviour has a topic of its own, `<stem>-<number>`, with one partition. One app reads all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import anabranch
from anabranch import Cumulating, Hopping, Sessions, Sum, Tumbling
from anabranch.agents.event_time.windows import Windows

__all__ = ["BEHAVIOURS", "Behaviour", "app_of", "closed_windows", "records_of"]

Row = tuple[str, float, float, int]


@dataclass(frozen=True)
class Behaviour:
    """One behaviour.

    Attributes:
        name: says what it shows; part of the topic's name.
        windows: the kind of windows.
        grace: in seconds.
        records: (time, value) of key `a`, or (time, value, key).
        closed: key, start, end and sum of the windows, in the order in which they close.
        closed_after: how many of them have closed after each record.
        late: times of the late records.
        max_jump: see `topic`.
    """

    name: str
    windows: Windows
    grace: float
    records: tuple[tuple[Any, ...], ...]
    closed: tuple[Row, ...]
    closed_after: tuple[int, ...]
    late: tuple[float, ...] = ()
    max_jump: str | None = None

    @property
    def before_end(self) -> int:
        """Return how many windows close before the end of the input."""
        return self.closed_after[-1]


def _counted(*times: float) -> tuple[tuple[float, int], ...]:
    return tuple((time, 1) for time in times)


_TEN, _MINUTE = Tumbling("10s"), 60
_BIDS = tuple((minute * _MINUTE, price) for minute, price in ((5, 4), (7, 2), (9, 5), (11, 3), (13, 1), (17, 6)))


def _minutes(*rows: tuple[int, int, int]) -> tuple[Row, ...]:
    return tuple(("a", start * _MINUTE, end * _MINUTE, total) for start, end, total in rows)


BEHAVIOURS = (
    Behaviour(
        "closes-at-the-first-record-beyond",
        _TEN,
        0,
        _counted(1, 5, 12),
        (("a", 0, 10, 2), ("a", 10, 20, 1)),
        closed_after=(0, 0, 1),
    ),
    Behaviour(
        "the-end-belongs-to-the-next",
        _TEN,
        0,
        _counted(9.999, 10),
        (("a", 0, 10, 1), ("a", 10, 20, 1)),
        closed_after=(0, 1),
    ),
    Behaviour("before-1970-rounds-down", _TEN, 0, _counted(-1), (("a", -10, 0, 1),), closed_after=(0,)),
    Behaviour(
        "grace-keeps-open",
        _TEN,
        5,
        _counted(1, 12, 3, 14.999, 15),
        (("a", 0, 10, 2), ("a", 10, 20, 3)),
        closed_after=(0, 0, 0, 0, 1),
    ),
    Behaviour(
        "behind-the-watermark-is-late",
        _TEN,
        5,
        _counted(1, 15, 3),
        (("a", 0, 10, 1), ("a", 10, 20, 1)),
        closed_after=(0, 1, 1),
        late=(3,),
    ),
    Behaviour("as-old-as-the-newest", _TEN, 0, _counted(5, 5), (("a", 0, 10, 2),), closed_after=(0, 0)),
    Behaviour("older-in-an-open-window", _TEN, 0, _counted(5, 4), (("a", 0, 10, 2),), closed_after=(0, 0)),
    Behaviour(
        "tumbling", Tumbling("10m"), 0, _BIDS, _minutes((0, 10, 11), (10, 20, 10)), closed_after=(0, 0, 0, 1, 1, 1)
    ),
    Behaviour(
        "hopping",
        Hopping("10m", "5m"),
        0,
        _BIDS,
        _minutes((0, 10, 11), (5, 15, 15), (10, 20, 10), (15, 25, 6)),
        closed_after=(0, 0, 0, 1, 1, 2),
    ),
    Behaviour(
        "cumulating",
        Cumulating("10m", "2m"),
        0,
        _BIDS,
        _minutes((0, 6, 4), (0, 8, 6), (0, 10, 11), (10, 12, 3), (10, 14, 4), (10, 16, 4), (10, 18, 10), (10, 20, 10)),
        closed_after=(0, 1, 2, 3, 4, 6),
    ),
    Behaviour(
        "late-for-the-first-is-late-for-all",
        Hopping("10s", "5s"),
        0,
        _counted(7, 12, 4),
        (("a", 0, 10, 1), ("a", 5, 15, 2), ("a", 10, 20, 1)),
        closed_after=(0, 1, 1),
        late=(4,),
    ),
    Behaviour(
        "exactly-a-gap-apart",
        Sessions("10s"),
        0,
        _counted(0, 10, 21),
        (("a", 0, 10.001, 2), ("a", 21, 21.001, 1)),
        closed_after=(0, 0, 1),
    ),
    Behaviour(
        "bridged-sessions", Sessions("10s"), 20, _counted(0, 15, 8), (("a", 0, 15.001, 3),), closed_after=(0, 0, 0)
    ),
    Behaviour(
        "never-two-overlapping-sessions",
        Sessions("5s"),
        0,
        ((0, 1), (6, 1, "b"), (3, 1)),
        (("a", 0, 0.001, 1), ("b", 6, 6.001, 1)),
        closed_after=(0, 1, 1),
        late=(3,),
    ),
    Behaviour(
        "one-bad-clock",
        _TEN,
        0,
        _counted(0, 10, 20, 1_000_000_000, 30, 40),
        tuple(("a", start, start + 10, 1) for start in (0, 10, 20, 30, 40, 1_000_000_000)),
        closed_after=(0, 1, 2, 2, 3, 4),
        max_jump="60s",
    ),
    Behaviour(
        "a-gap-in-the-data",
        _TEN,
        0,
        _counted(0, 10, 5_000, 5_010),
        tuple(("a", start, start + 10, 1) for start in (0, 10, 5_000, 5_010)),
        closed_after=(0, 1, 1, 3),
        max_jump="60s",
    ),
    Behaviour(
        "two-jumps-then-what-was-before",
        _TEN,
        0,
        _counted(0, 10, 5_000, 5_010, 20, 30),
        tuple(("a", start, start + 10, 1) for start in (0, 10, 5_000, 5_010)),
        closed_after=(0, 1, 1, 3, 3, 3),
        late=(20, 30),
        max_jump="60s",
    ),
    Behaviour(
        "days-of-23-and-25-hours",
        Tumbling("1d", zone="Europe/Berlin"),
        0,
        # 2026-03-29 and 2026-10-25 at noon, each with its first and its last second.
        _counted(1_774_738_800, 1_774_821_599, 1_774_821_600, 1_792_879_200, 1_792_969_199, 1_792_969_200),
        (
            ("a", 1_774_738_800, 1_774_821_600, 2),
            ("a", 1_774_821_600, 1_774_908_000, 1),
            ("a", 1_792_879_200, 1_792_969_200, 2),
            ("a", 1_792_969_200, 1_793_055_600, 1),
        ),
        closed_after=(0, 0, 1, 2, 2, 3),
    ),
)


def app_of(name: str, topics: Mapping[str, str], *, by_key: bool, app: anabranch.App | None = None) -> anabranch.App:
    """Return an app with a window table for each behaviour.

    Args:
        topics: name of a behaviour -> its topic. Closed windows go to `<topic>.closed`.
    """
    app = app or anabranch.App(name)
    for number, behaviour in enumerate(BEHAVIOURS):
        topic = topics[behaviour.name]
        records = app.topic(
            topic,
            time="at",
            time_unit="s",
            grace=behaviour.grace,
            max_jump=behaviour.max_jump,
            idle_after=None,
            partitions=1,
        )
        keyed = records.key_by("key") if by_key else records.flow()
        table = keyed.window(behaviour.windows).aggregate(f"table-{number}", total=Sum("price"))
        table.final().to(app.topic(f"{topic}.closed", partitions=1))
    return app


def records_of(behaviour: Behaviour) -> list[dict[str, Any]]:
    """Return the values of the records; `key` is the key."""
    return [{"at": time, "price": price, "key": key[0] if key else "a"} for time, price, *key in behaviour.records]


def closed_windows(values: Iterable[dict[str, Any]]) -> list[Row]:
    """Return the closed windows as `Behaviour.closed` has them."""
    return [(value["key"], value["start"] / 1000, value["end"] / 1000, value["total"]) for value in values]
