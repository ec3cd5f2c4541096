"""Runs all contenders in each turn, in rotating order.

A machine that gets slower meanwhile, or a broker that gets faster, is so for all of them alike, and nobody always runs
first or after the same one's leavings. Ratios are those of one turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from .contender_result import Contender, Figure

__all__ = ["rotated", "take_turns"]


class Named(Protocol):
    """Anybody who can be measured."""

    @property
    def who(self) -> Contender: ...


T = TypeVar("T", bound=Named)


def rotated(contenders: Sequence[T], turn: int) -> list[T]:
    """The order of this turn."""
    first = turn % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def take_turns(
    contenders: Sequence[T], turns: int, run: Callable[[T], Figure], tell: Callable[[str], None]
) -> dict[str, list[Figure]]:
    """Figures by key, one a turn; told is each run, and how long the rest will take, about."""
    found: dict[str, list[Figure]] = {contender.who.key: [] for contender in contenders}
    took_s: dict[str, float] = {}
    for turn in range(turns):
        for contender in rotated(contenders, turn):
            who, began_s = contender.who, time.monotonic()
            figure = run(contender)
            found[who.key].append(figure)
            took_s[who.key] = time.monotonic() - began_s
            left_s = sum(seconds * (turns - len(found[key])) for key, seconds in took_s.items())
            left = f"   {left_s / 60:.1f} min left, about" if turn and left_s else ""
            tell(f"{turn + 1}/{turns} {who.name:<38}{figure.rate:>12,.0f}/s {figure.seconds:>7.1f} s{left}")
    return found
