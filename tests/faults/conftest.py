"""Rounds of faults on a broker of their own, because they kill it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the bank is a program beside this file, not part of the package

from driver import Report, World
from plan import Plan


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A broker that may be killed."""
    with World(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def play(world: World) -> Callable[[Plan], Report]:
    """Play a round; everything must stand where the auditor says."""

    def run(plan: Plan) -> Report:
        report = world.run(plan)
        assert not report.wrong, str(report)
        return report

    return run
