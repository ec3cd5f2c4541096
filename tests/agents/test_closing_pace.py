"""How long windows may be closed in one epoch: adapted to how long its commits take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anabranch
import pytest
from anabranch import Count, Tumbling, World
from anabranch.agents.flows.closing_pace import ClosingPace
from anabranch.agents.tables import open_windows
from anabranch.agents.tables.open_windows import OpenWindows, WindowKey
from anabranch.topics import clock


def commits(pace: ClosingPace, epochs: int, per_second_s: float, first: int = 0, least_s: float = 0.05) -> list[float]:
    """Close windows all the time; return how long commits take that take so long for each second of closing."""
    took_s, commit_s = list[float](), 0.0
    for epoch in range(first, first + epochs):
        spent_s = 0.0
        while (step_s := pace.step_s(epoch, commit_s)) > 0:
            pace.spend(step_s)
            spent_s += step_s
        assert spent_s > 0, "some windows close in each epoch"
        commit_s = least_s + spent_s * per_second_s
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


def test_after_some_slow_commits_as_many_windows_close_as_before() -> None:
    pace = ClosingPace()
    commits(pace, 10, 1.0, least_s=1.5)
    assert pace.most_s == 0.1
    commits(pace, 40, 0.1, first=10, least_s=0.25)
    assert pace.most_s == 1.0


@pytest.mark.parametrize("least_s", [0.45, 0.7, 3.0])
def test_where_commits_are_slow_anyway_windows_close_nevertheless(least_s: float) -> None:
    pace = ClosingPace()
    took_s = commits(pace, 100, 1.0, least_s=least_s)
    assert sum(took_s) - 100 * least_s >= 8, "seconds of closing"
    assert max(took_s[10:]) <= least_s + 0.2


def test_slow_commits_of_others_do_not_slow_down_windows_of_which_few_close() -> None:
    pace = ClosingPace()
    for epoch in range(20):
        assert pace.step_s(epoch, 5.0) == 0.05
        pace.spend(0.001)
    assert pace.most_s == 0.25


@pytest.mark.parametrize("by_key", [False, True], ids=["in-place", "by-key"])
@pytest.mark.parametrize("slow", ["filter", "sort"])
def test_windows_of_which_nothing_is_sent_do_not_wait_for_an_epoch_that_never_ends(
    by_key: bool, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sort = OpenWindows._sort_some  # pyright: ignore[reportPrivateUsage]

    def is_wanted(window: dict[str, Any]) -> bool:
        clock.sleep(0.003 if slow == "filter" else 0)
        seen.append(window["key"])
        return False

    def slowly_sorted(windows: OpenWindows, unsorted: Iterator[WindowKey]) -> bool:
        clock.sleep(0.3 if slow == "sort" else 0)
        return sort(windows, unsorted)

    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        sales: Any = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        flow = sales.key_by("user") if by_key else sales
        flow.window(Tumbling("10s")).aggregate("by-user", n=Count()).final().filter(is_wanted).to("wanted")
        return app

    monkeypatch.setattr(open_windows, "_SORTED", 50)
    monkeypatch.setattr(OpenWindows, "_sort_some", slowly_sorted)
    with World(app) as world:
        for number in range(500):
            world.send("sales", {"user": f"u{number}", "at": 1}, key=f"u{number}")
        for at in (12, 13):
            world.send("sales", {"user": "u0", "at": at}, key="u0")
        world.settle(within="20s")
    assert len(set(seen)) == len(seen) == 500
