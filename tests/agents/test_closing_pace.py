"""How long windows may be closed in one epoch: adapted to how long its commits take."""

from __future__ import annotations

import pytest
from anabranch.agents.flows.closing_pace import ClosingPace


def commits(pace: ClosingPace, epochs: int, per_second_s: float, first: int = 0) -> list[float]:
    """Close windows all the time; return how long commits take that take so long for each second of closing."""
    took_s, commit_s = list[float](), 0.0
    for epoch in range(first, first + epochs):
        spent_s = 0.0
        while (step_s := pace.step_s(epoch, commit_s)) > 0:
            pace.spend(step_s)
            spent_s += step_s
        assert spent_s > 0, "some windows close in each epoch"
        commit_s = 0.05 + spent_s * per_second_s
        took_s.append(commit_s)
    return took_s


@pytest.mark.parametrize("per_second_s", [0.1, 1.0, 3.0, 20.0])
def test_commits_soon_take_no_longer_than_others_should_wait(per_second_s: float) -> None:
    took_s = commits(ClosingPace(), 40, per_second_s)
    assert max(took_s[10:]) <= 0.85


def test_as_many_windows_close_as_commits_allow() -> None:
    pace = ClosingPace()
    commits(pace, 40, 0.1)
    assert pace.most_s == 1.0
    commits(pace, 40, 20.0, first=40)
    assert 0.005 <= pace.most_s < 0.05
    commits(pace, 40, 0.1, first=80)
    assert pace.most_s == 1.0


def test_slow_commits_of_others_do_not_slow_down_windows_of_which_few_close() -> None:
    pace = ClosingPace()
    for epoch in range(20):
        assert pace.step_s(epoch, 5.0) == 0.05
        pace.spend(0.001)
    assert pace.most_s == 0.25
