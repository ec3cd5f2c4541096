"""The result of one run of a contender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Contender", "Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One run, its result found right.

    Attributes:
        rate: rows or records a second.
        seconds: what `rate` was taken over: on a topic from the first record until all are committed, on a file from
            the start of the process to its end.
        cpu_s, peak_bytes: of the whole process and all it has started, from start to end.
    """

    rate: float
    seconds: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is measured.

    Attributes:
        key: in options and files; name: in tables and charts; settings: what was set, for the docs and the file.
        ours: it is anabranch.
    """

    key: str
    name: str
    settings: str
    ours: bool = False


def median(figures: Sequence[Figure]) -> Figure:
    """The run with the middle rate; of two the slower."""
    return sorted(figures, key=lambda figure: figure.rate)[(len(figures) - 1) // 2]
