"""Records that fail, and the results expected of the other records."""

from __future__ import annotations

BAD = -1


class Boom(Exception):
    """What agents raise here."""


def with_bad(count: int, *bad: int) -> list[int]:
    """0 … count-1, those at `bad` places replaced by bad ones."""
    return [BAD if i in bad else i for i in range(count)]


def good_sum(values: list[int]) -> int:
    return sum(value for value in values if value != BAD)
