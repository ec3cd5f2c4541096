"""Simulations find engines that are broken on purpose. `tests/faults/worlds.py` looks for all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from world_programs import PROGRAMS

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from broken_engines import BROKEN_ENGINES  # pyright: ignore[reportMissingImports]


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN_ENGINES) >= 41
    assert all(broken.broken.__name__ for broken in BROKEN_ENGINES.values())


@pytest.mark.parametrize(
    "name",
    [
        "outputs before offsets",
        "a rollback keeps the outbox",
        "a rollback drops what timers have sent",
        "ends of earlier transactions are forgotten",
        "dead letters outside of the transaction",
        "a revoke neither commits nor rolls back",
        "agent offsets are not skipped",
        "the changelog lacks a key",
    ],
)
def test_a_broken_engine_is_found_within_a_few_seeds(name: str) -> None:
    broken = BROKEN_ENGINES[name]
    made = PROGRAMS[broken.program].simulation(faults=broken.faults, seeds=20, ordered=())
    assert made.expectation.unstable == []
    with broken.broken():
        failures = made.run(most_failures=1, shrunk=False).failures
    assert failures
    assert made.expectation.differences(made.world(failures[0].seed).run()) == [], "the engine itself is not broken"
