"""Closed windows of flows that could not be sent, and that `dlq replay` lets be sent again, each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anabranch
import msgspec
import pytest
from anabranch import Count, Mean, Sum, Tumbling, World
from anabranch.agents.engine.replayed_dead_letters import existing_retry_topics
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.flows.window_letters import is_whole, window_element
from anabranch.agents.runtime import runtime_of
from anabranch.replay.cli.dlq import show_republication
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterRecord
from anabranch.replay.testing.simulation import Simulation
from replayed_letters import replay_letters, replay_letters_and_kill_worker

FAILS: set[int] = set()


class Spent(msgspec.Struct):
    amount: float
    at: int = 0


@pytest.fixture(autouse=True)
def fails() -> set[int]:
    """Starts in seconds of windows that cannot be sent."""
    FAILS.clear()
    FAILS.add(10)
    return FAILS


def fragile(window: dict[str, Any]) -> dict[str, Any]:
    if window["start"] // 1000 in FAILS:
        raise ValueError("no such printer")
    return window


def app_of(
    by_key: bool, *, table: str = "by-user", final: bool = True, chain: bool = False, beside: bool = False
) -> Callable[[], anabranch.App]:
    """Sums of two partitions in windows of 10 s. A window that `told` does not get is not in `finals` either."""

    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=2, settings=EngineSettings(commit_beside=beside))
        sales = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=2)
        flow: Any = sales.key_by("user") if by_key else sales.flow()
        windowed = flow.window(Tumbling("10s"), keep="10s").aggregate(table, n=Sum("n"), mean=Mean("n"))
        if final:
            windowed.final().map(fragile).to("told")
            windowed.final().to("finals")
        if chain:
            windowed.final().key_by("end").aggregate("chained", total=Count()).final().to("totals")
        return app

    return app


def sell(world: World, *times: int) -> None:
    for at in times:
        for user in "ab":
            world.send("sales", {"user": user, "at": at, "n": at % 10}, key=user, partition="ab".index(user))
    world.settle()


by_key_or_not = pytest.mark.parametrize("by_key", [False, True], ids=["in-place", "by-key"])


@by_key_or_not
def test_a_window_of_a_flow_is_sent_again_as_it_would_have_been(by_key: bool, fails: set[int]) -> None:
    with World(app_of(by_key)) as world:
        sell(world, 1, 2, 11, 12, 13, 21, 31, 99, 100)  # the windows at 10 are gone from the table: it keeps 10 s
        assert {letter.facts["retry-topic"] for letter in world.dead_letters("sales")} == {"w-by-user-windows-retry"}
        before = {topic: len(world.topic(topic).records) for topic in ("told", "finals")}
        fails.clear()
        assert replay_letters(world, "sales").sent == 2
        for topic, count in before.items():
            again = world.topic(topic).records[count:]
            assert sorted((record.value["key"], record.value["n"], record.value["mean"]) for record in again) == [
                ("a", 6, 2.0),
                ("b", 6, 2.0),
            ]
            assert {(record.value["start"], record.timestamp_ms) for record in again} == {(10_000, 19_999)}
            assert {record.key for record in again} == {b"a", b"b"}
        assert replay_letters(world, "sales").sent == 0, "each once"
        assert len(world.topic("told").records) == before["told"] + 2
        sell(world, 120, 131)
        assert len(world.topic("told").records) > before["told"] + 2, "the worker goes on"
        assert len(world.dead_letters("sales")) == 2


@by_key_or_not
def test_one_that_fails_again_has_a_new_dead_letter_and_sends_nothing(by_key: bool, fails: set[int]) -> None:
    with World(app_of(by_key)) as world:
        sell(world, 1, 11, 31, 32)
        assert replay_letters(world, "sales").sent == 2
        letters = world.dead_letters("sales")
        assert [letter.reason for letter in letters] == 4 * ["window"]
        sources = [letter.facts["source"] for letter in letters]
        assert sorted(sources[:2]) == sorted(sources[2:])
        assert not [window for window in world.topic("finals").values if window["start"] == 10_000]
        sell(world, 51, 52)
        fails.clear()
        assert replay_letters(world, "sales").sent == 2
        assert sorted(w["key"] for w in world.topic("finals").values if w["start"] == 10_000) == ["a", "b"]


@pytest.mark.parametrize("after", [{"table": "renamed"}, {"final": False}], ids=["no-table", "no-final"])
def test_one_that_the_program_does_not_know_waits_for_a_program_that_does(
    after: dict[str, Any], fails: set[int]
) -> None:
    made = [app_of(True)]
    with World(lambda: made[0]()) as world:
        sell(world, 1, 11, 31, 32)
        fails.clear()
        made[0] = app_of(True, **after)
        assert replay_letters(world, "sales").sent == 2
        assert len(world.dead_letters("sales")) == 2, "nobody reads them"
        made[0] = app_of(True)
        world.worker().kill()
        world.worker().start()
        world.settle()
        assert sorted(w["key"] for w in world.topic("told").values if w["start"] == 10_000) == ["a", "b"]


def test_a_window_that_other_windows_are_made_of_stays_and_the_command_says_so(
    fails: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with World(app_of(True, chain=True)) as world:
        sell(world, 1, 11, 31, 32)
        assert ["retry-topic" in letter.facts for letter in world.dead_letters("sales")] == [False, False]
        report = replay_letters(world, "sales")
        assert (report.sent, report.windows) == (0, 2)
        show_republication(report, dry_run=False)
        assert "2 windows not re-published" in capsys.readouterr().out


def test_windows_do_not_go_to_another_topic(fails: set[int]) -> None:
    with World(app_of(True)) as world:
        sell(world, 1, 11, 31, 32)
        report = replay_letters(world, "sales", to="sales")
        assert (report.sent, report.windows) == (0, 2)


def test_an_update_that_fails_does_not_return_because_the_next_one_replaces_it() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        sales = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        windowed = sales.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count())
        windowed.updates("1s").map(fragile).to("told")
        return app

    FAILS.add(0)
    with World(app) as world:
        for _ in range(4):
            world.send("sales", {"user": "a", "at": 1}, key="a")
            world.advance("2s")
        assert world.dead_letters("sales")
        assert not [letter for letter in world.dead_letters("sales") if "retry-topic" in letter.facts]


@by_key_or_not
def test_a_worker_that_is_killed_at_any_moment_sends_a_window_once(by_key: bool, fails: set[int]) -> None:
    for step in range(6):
        fails.add(10)
        with World(app_of(by_key, beside=True)) as world:
            sell(world, 1, 11, 12, 31, 32)
            fails.clear()
            assert replay_letters_and_kill_worker(world, "sales", after_s=step).sent == 2
            for topic in ("told", "finals"):
                assert sorted(w["key"] for w in world.topic(topic).values if w["start"] == 10_000) == ["a", "b"]


def test_only_windows_go_back_whose_dead_letter_says_all() -> None:
    app = anabranch.App("w")
    sales = app.topic("sales", grace=0)
    windowed = sales.key_by("user").window(Tumbling("10s"))
    counts = windowed.aggregate("counts", n=Count(), mean=Mean("n")).table
    assert is_whole(counts, ("a", 0, 10_000), {"n": 1, "mean": 2.5, **dict.fromkeys(counts.state_fields, 5)})
    assert is_whole(counts, (("a", 1), 0, 10_000), {"n": 1, "mean": None})
    for value in (object(), float("nan"), (1, 2), b"x"):
        assert not is_whole(counts, ("a", 0, 10_000), {"n": value, "mean": 1})
    assert not is_whole(counts, ("a", 0, 10_000), {}), "as one whose fields were left out"
    assert not is_whole(counts, ("a", 0, 10_000), {"key": "b", "n": 1}), "the key of the window is not there"
    typed = app.topic("spent", value_type=Spent, grace=0).flow().window(Tumbling("10s"))
    spent: Any = typed.reduce(lambda a, b: Spent(a.amount + b.amount), "spent-by").table
    assert is_whole(spent, ("a", 0, 10_000), Spent(1.5))
    assert window_element(spent, ("a", 0, 10_000), Spent(1.5))["value"] == Spent(1.5)


def test_a_window_of_values_with_a_type_is_sent_again_with_them(fails: set[int]) -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        topic = app.topic("spent", value_type=Spent, time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        spent: Any = topic.flow()
        made = spent.window(Tumbling("10s")).reduce(lambda a, b: Spent(a.amount + b.amount, b.at), "spent-by")
        made.final().map(fragile).map(lambda window: window["value"].amount).to("told")
        return app

    with World(app) as world:
        for second in (11, 12, 31):
            world.send("spent", Spent(second / 2, second), key="a")
        world.settle()
        assert len(world.dead_letters("spent")) == 1
        fails.clear()
        assert replay_letters(world, "spent").sent == 1
        assert world.topic("told").values == [11.5]


@by_key_or_not
def test_with_faults_windows_that_fail_at_times_are_sent_or_dead_letters(by_key: bool) -> None:
    records = [(user, {"user": user, "at": at, "n": 1}) for at in range(1, 60, 4) for user in "ab"]
    simulation = Simulation(app_of(by_key), inputs={"sales": records}, seeds=4, faults="kill,abort,lost-answer")
    assert simulation.same_as_without_faults().worlds
    assert runtime_of(app_of(by_key)()).app_id == "w"


def test_a_run_waits_for_no_retry_topic_that_no_agent_reads_any_more() -> None:
    names = ["by-user-windows", "by-user-fired-windows", "count-windows", "count-fired-windows", "by-user", "other"]

    def read(app: anabranch.App) -> list[str]:
        found = existing_retry_topics(runtime_of(app), [*(f"w-{name}-retry" for name in names), "w-by-user-x"])
        return [topic.removeprefix("w-").removesuffix("-retry") for topic in found]

    assert read(app_of(True)()) == ["by-user-windows", "by-user"]
    assert read(app_of(True, final=False)()) == ["by-user"]
    assert read(app_of(True, final=False, chain=True)()) == ["by-user"]
    app = app_of(True, final=False)()
    pages: Any = app.Table("pages", default=int, on_window_close=print).tumbling(10, expires=10)

    async def count(stream: Any) -> None:
        async for view in stream:
            pages[view] += 1

    app.agent(app.topic("views"), name="count")(count)
    assert read(app) == ["count-windows", "by-user"]
    app.agent(app.topic("clicks"), name="by-user-windows")(count)
    assert read(app) == ["by-user-windows", "count-windows", "by-user"], "the first one is of an agent's records"


def test_a_letter_is_of_a_window_by_its_header_and_not_by_the_name_of_its_topic() -> None:
    def letter(headers: list[tuple[str, bytes]], **facts: str) -> DeadLetterRecord:
        facts |= {"app": "w", "agent": "count", "retry-topic": "w-count-windows-retry", "topic": "views"}
        return DeadLetterRecord("views.dlq", 0, 0, 0, None, None, [*headers], facts)

    assert letter([], reason="window").is_of_window
    assert letter([("anabranch-operator", b"by-page")], reason="decode").is_of_window
    assert not letter([], reason="agent").is_of_window, "an agent's record of another topic called windows"
    late = [("anabranch-reason", b"late"), ("anabranch-operator", b"by-page")]
    assert not letter(late, reason="agent").is_of_window
