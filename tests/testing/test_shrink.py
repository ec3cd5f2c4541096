"""The shrinker finds the fewest faults that still make a world fail, in a bounded number of worlds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from anabranch.replay.testing.shrink import shrink


@pytest.mark.parametrize("needed", [set[int](), {0}, {9}, {3, 4}, {0, 9}, {1, 5, 8}])
def test_what_is_needed_is_left_in_its_order(needed: set[int]) -> None:
    assert shrink(list(range(10)), lambda some: needed <= set(some)) == sorted(needed)


def test_whatever_is_needed_of_six_no_single_fault_can_be_removed_from_the_result() -> None:
    for count in range(7):
        for needed in combinations(range(6), count):
            assert shrink(list(range(6)), lambda some, needed=needed: set(needed) <= set(some)) == list(needed)


def test_faults_of_which_any_two_are_enough() -> None:
    assert len(shrink(list(range(8)), lambda some: len(some) >= 2)) == 2


def test_the_number_of_worlds_is_bounded() -> None:
    runs = 0

    def fails(some: Sequence[int]) -> bool:
        nonlocal runs
        runs += 1
        return len(some) >= 40

    assert len(shrink(list(range(100)), fails, most_runs=7)) < 100
    assert runs == 7
