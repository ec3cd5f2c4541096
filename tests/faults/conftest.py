"""Fixtures for rounds of faults, on a broker of their own because they kill it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the bank is a program beside this file, not part of the package

from fault_runner import FaultRunner, Report
from scenario import Scenario


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRunner]:
    """A runner with a broker that can be killed."""
    with FaultRunner(tmp_path_factory.mktemp("faults")) as runner:
        yield runner


@pytest.fixture
def play(runner: FaultRunner) -> Callable[[Scenario], Report]:
    """Run a scenario and assert that the auditor finds no difference."""

    def run(scenario: Scenario) -> Report:
        report = runner.run(scenario)
        assert not report.wrong, str(report)
        return report

    return run
