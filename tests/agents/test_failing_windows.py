"""Windows whose function fails: `on_window_close` of tables that agents write, and what is behind `final()` and
`updates()` of flows. Each is rolled back alone, is closed, and goes to the failure policy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anabranch
import msgspec
import pytest
from anabranch import Count, Tumbling, World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.replay.cli.dlq import show_letters, show_republication
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter, DeadLetterRecord
from anabranch.replay.dead_letters.republisher import Republisher
from anabranch.replay.runs.failure_counts import dead_letters, is_within
from anabranch.replay.testing.simulation import Simulation
from anabranch.topics.errors import Stop
from anabranch.topics.private_fields import NOTHING
from anabranch.topics.private_texts import HIDDEN
from anabranch.topics.topic_partition import TopicPartition
from page_views import View, add, app_with, send, windows


def failing(app: anabranch.App, slow: bool, fails: set[int], calls: list[int]) -> Any:
    """Windows that are told with the number of records when they close, and counted; some of them fail at it."""
    closed = app.Table("closed", default=int)

    async def report(key: Any, value: int) -> None:
        closed["windows"] += 1
        calls.append(int(key[1][0]))
        await app.topic("out").send(key=key[0], value=[key[1][0], value])
        if slow:
            await asyncio.sleep(0.1)
        if key[1][0] in fails:
            raise ValueError("no such printer")

    return app.Table("by-page", default=int, on_window_close=report).tumbling(10, 10).relative_to_field(View.at)


each_commit = pytest.mark.parametrize("settle_each", [False, True], ids=["one-epoch", "a-commit-each"])


@each_commit
@pytest.mark.parametrize("slow", [False, True], ids=["at-once", "after-waiting"])
def test_a_window_whose_function_fails_is_rolled_back_alone_and_is_a_dead_letter(settle_each: bool, slow: bool) -> None:
    fails, calls = {10}, list[int]()
    app, _ = app_with(lambda app: failing(app, slow, fails, calls), add)
    with World(app) as world:
        for at in (1, 2, 11, 12, 13, 21, 30, 31):
            world.send("views", {"page": "a", "at": at}, key="a")
            if settle_each:
                world.settle()
        world.settle()
        assert world.topic("out").values == [[0, 2], [20, 1]]
        assert world.table("closed") == {"windows": 2}
        (letter,) = world.dead_letters("views")
        assert (letter.reason, letter.agent, letter.raw_value) == (
            "window",
            "count",
            b'{"key":"a","start":10000,"end":20000,"value":3}',
        )
        assert (letter.key, letter.facts["operator"]) == (b"a", "by-page")
        assert letter.facts["window"] == "1970-01-01T00:00:10.000Z/1970-01-01T00:00:20.000Z"
        assert "no such printer" in letter.error
        assert letter.facts["retry-topic"] == "w-count-windows-retry"
        assert calls.count(10) == 1
        fails.clear()
        world.worker().kill()
        world.worker().start()
        send(world, 41)
        assert world.topic("out").values == [[0, 2], [20, 1], [30, 2]], "it is closed, and not told again"
        assert len(world.dead_letters("views")) == 1


@each_commit
def test_a_window_and_a_record_that_fail_in_one_epoch_are_told_apart(settle_each: bool) -> None:
    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] += view.n
        if view.n == 13:
            raise ValueError("unlucky")

    app, _ = app_with(lambda app: failing(app, False, {0, 20}, []), work)
    with World(app) as world:
        for at, n in ((1, 1), (2, 13), (11, 1), (12, 13), (21, 1), (22, 1), (33, 13), (41, 1)):
            world.send("views", {"page": "a", "at": at, "n": n}, key="a")
            if settle_each:
                world.settle()
        world.settle()
        assert world.topic("out").values == [[10, 1]]
        assert world.table("closed") == {"windows": 1}
        letters = [
            (letter.reason, msgspec.json.decode(letter.raw_value or b"")) for letter in world.dead_letters("views")
        ]
        assert [(reason, value.get("n", value.get("start"))) for reason, value in letters] == [
            ("agent", 13),
            ("window", 0),
            ("agent", 13),
            ("window", 20_000),
            ("agent", 13),
        ]


@pytest.mark.parametrize("policy", ["skip", "fail", anabranch.Retry(times=3, then="dead_letter")], ids=str)
def test_the_policy_of_the_agent_holds_for_windows(policy: Any) -> None:
    fails, calls = {10}, list[int]()
    app, _ = app_with(lambda app: failing(app, False, fails, calls), add, agent={"on_failure": policy})
    with World(app) as world:
        if policy == "fail":
            with pytest.raises(Stop, match=r"failed at window 1970-01-01T00:00:10.000Z/.* of table by-page: .*printer"):
                send(world, 1, 11, 21, 31)
            fails.clear()
            world.worker().start()
            world.settle()
            assert world.topic("out").values == [[0, 1], [10, 1]]
            return
        send(world, 1, 11, 21, 31)
        assert world.topic("out").values == [[0, 1], [20, 1]]
        letters = world.dead_letters("views") if policy != "skip" else []
        assert (len(letters), calls.count(10)) == (0 if policy == "skip" else 1, 1)
        status = runtime_of(world.worker().app).status
        assert (status.skipped_total, status.dead_letters_total) == ((1, 0) if policy == "skip" else (0, 1))


def test_a_window_that_fails_in_silence_is_a_dead_letter() -> None:
    fails, calls = {0}, list[int]()
    app, _ = app_with(lambda app: failing(app, False, fails, calls), add, idle_after="1m")
    with World(app) as world:
        send(world, 1, 2)
        world.advance("5m")
        world.settle()
        assert [letter.reason for letter in world.dead_letters("views")] == ["window"]
        assert world.topic("out").values == []
        assert calls == [0]


def test_what_a_window_s_function_writes_that_cannot_be_kept_fails_the_window() -> None:
    def declare(app: anabranch.App) -> Any:
        kept = app.Table("kept")

        def note(key: Any, value: int) -> None:
            kept[key[0]] = object() if key[1][0] == 10 else value

        return app.Table("by-page", default=int, on_window_close=note).tumbling(10, 10).relative_to_field(View.at)

    app, _ = app_with(declare, add)
    with World(app) as world:
        send(world, 1, 2, 11, 21, 22, 31)
        assert world.table("kept") == {"a": 2}
        assert [letter.reason for letter in world.dead_letters("views")] == ["window"]


def test_private_keys_and_fields_of_a_window_that_fails_are_not_shown() -> None:
    def declare(app: anabranch.App) -> Any:
        def report(key: Any, value: Any) -> None:
            raise ValueError(key)

        table = app.Table("by-page", default=dict, private=["$key", "email"], on_window_close=report)
        return table.tumbling(10, expires=10).relative_to_field(View.at)

    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] = {"email": "ann@example.org", "n": 1}

    app, _ = app_with(declare, work)
    with World(app) as world:
        send(world, 1, 31, page="bob@example.org")
        (letter,) = world.dead_letters("views")
        record = DeadLetterRecord("views.dlq", 0, 0, 0, letter.key, letter.raw_value, (), letter.facts)
        shown = str(record.described())
    assert "example.org" not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize("topic_bytes", [20_000, 2_000_000])
def test_a_window_that_is_larger_than_its_dead_letter_may_be_is_named(topic_bytes: int) -> None:
    def declare(app: anabranch.App) -> Any:
        def report(key: Any, value: Any) -> None:
            raise ValueError("no such printer")

        table = app.Table("by-page", default=list, on_window_close=report)
        return table.tumbling(10, 10).relative_to_field(View.at)

    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] = [random.Random(1).randbytes(100_000).hex()]

    app, _ = app_with(declare, work, config={"max.message.bytes": topic_bytes})
    with World(app) as world:
        send(world, 1, 31, 32)
        (letter,) = world.dead_letters("views")
        large = topic_bytes > 1_000_000
        assert sorted(letter.value) == (["end", "key", "start", "value"] if large else ["end", "key", "start"])
        assert windows(world)[30, 40], "the worker goes on"


async def test_a_window_of_a_flow_is_listed_and_goes_to_no_other_topic(lab: Any, broker: Any, capsys: Any) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))
    lab.produce(topic, [("a", {"page": "a", "at": at}) for at in (1, 2, 31)])
    sales = app.topic(topic, time="at", time_unit="s", grace=0, idle_after=None)
    final = sales.window(Tumbling("10s")).aggregate("by-page", n=Count()).final()
    final.map(lambda window: window["n"] / 0).to(lab.fresh("told"))
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 1, "a dead letter")
    letters = Republisher(broker, f"{topic}.dlq", to=topic, runs_topic=lab.fresh("runs"))
    show_letters(letters.read(DeadLetterFilter()), most=5, as_json=False, raw=False, private=NOTHING)
    shown = capsys.readouterr().out
    assert "window 1970-01-01T00:00:00.000Z/1970-01-01T00:00:10.000Z of table by-page" in shown
    assert '{"key":"a","start":0,"end":10000,"n":2}' in shown
    for report in letters.preview(DeadLetterFilter()), letters.republish(DeadLetterFilter()):
        assert (report.sent, report.windows, report.without_record) == (0, 1, 0)
    show_republication(report, dry_run=False)
    assert "1 window not re-published: a window returns only to its agent" in capsys.readouterr().out


RUN = """
import anabranch
from page_views import View
app = anabranch.App("w", topic_partitions=2)

def report(key, value):
    if key[0] == "b":
        raise ValueError("no such printer")

views = app.Table("by-page", default=int, on_window_close=report).tumbling(10, 10).relative_to_field(View.at)

@app.agent(app.topic("views", value_type=View))
async def count(stream):
    async for view in stream.group_by(View.page):
        views[view.page] += 1

sales = app.topic("sales", time="at", time_unit="s", grace=0)
windows = sales.key_by("user").window(anabranch.Tumbling("10s")).aggregate("by-user", n=anabranch.Count())
windows.final().map(lambda window: window["key"] / 2).to("finals")
"""


def test_a_bounded_run_whose_windows_fail_counts_them_in_the_dead_letters_of_its_inputs(tmp_path: Path) -> None:
    program, views, sales = tmp_path / "app.py", tmp_path / "views.jsonl", tmp_path / "sales.jsonl"
    program.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{RUN}")
    views.write_text("".join(f'{{"page": "{page}", "at": {at}, "id": {at}}}\n' for page in "abc" for at in (1, 12)))
    sales.write_text('{"user": "ann", "at": 1, "id": 1}\n{"user": "bob", "at": 2, "id": 2}\n')
    with World(str(program)) as world:
        result = world.run({"views": views, "sales": sales}, key="id")
        letters = [(topic, letter) for topic, found in result.dead_letters.items() for letter in found]
        with world.environment.entered():
            cluster = world.environment.kafka.cluster()
            (app,) = {letter.facts["app"] for _, letter in letters}
            failed = dead_letters(cluster, app, {letter.facts["topic"] for _, letter in letters})
    assert sorted((topic, letter.reason, letter.value["key"]) for topic, letter in letters) == [
        ("sales", "window", "ann"),
        ("sales", "window", "bob"),
        ("views", "window", "b"),
        ("views", "window", "b"),
    ]
    assert sorted(each.count for each in failed) == [2, 2]


def test_a_run_into_live_topics_counts_the_windows_that_closed_behind_its_records() -> None:
    def letter(offset: int, reason: str) -> DeadLetterRecord:
        facts = {"reason": reason, "source": f"views[0]@{offset}", "topic": "views"}
        return DeadLetterRecord("views.dlq", 0, 0, 0, None, None, [], facts)

    ranges = {TopicPartition("views", 0): (5, 8)}
    assert [offset for offset in range(4, 11) if is_within(letter(offset, "window"), ranges)] == [5, 6, 7, 8]
    assert not is_within(letter(6, "line"), ranges)


# Flows --------------------------------------------------------------------------------------------------------------

by_key_or_not = pytest.mark.parametrize("by_key", [False, True], ids=["in-place", "by-key"])


def flow_app(by_key: bool, on_failure: Any = "dead_letter", updates: bool = False) -> Callable[[], anabranch.App]:
    """Counts sales by user in windows of 10 seconds; what is behind final() or updates() fails for user `bad`."""

    def fragile(window: dict[str, Any]) -> Any:
        if window["key"] == "bad":
            raise ValueError("no such printer")
        return object() if window["key"] == "odd" else window

    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1, settings=EngineSettings(epoch_s=0))
        sales = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        flow: Any = sales.flow(on_failure=on_failure)
        windowed = (flow.key_by("user") if by_key else flow).window(Tumbling("10s")).aggregate("by-user", n=Count())
        (windowed.updates("2s") if updates else windowed.final()).map(fragile).to("told")
        windowed.final().to("finals")
        return app

    return app


def sell(world: World, at: int, *users: str) -> None:
    for user in users:
        world.send("sales", {"user": user, "at": at}, key=user)
    world.settle()


@by_key_or_not
def test_a_window_that_a_flow_cannot_send_is_a_dead_letter_and_the_others_are_sent(by_key: bool) -> None:
    with World(flow_app(by_key)) as world:
        sell(world, 1, "ann", "bad", "odd", "zoe")
        sell(world, 11, "ann")
        world.advance("10s")
        sell(world, 21, "bad")
        sell(world, 31, "zoe")
        world.advance("10s")
        told = [window["key"] for window in world.topic("told").values]
        assert told == ["ann", "zoe", "ann"]
        assert [window["key"] for window in world.topic("finals").values] == told, "nothing of a window, or all"
        letters = {(letter.value["key"], letter.value["start"]): letter for letter in world.dead_letters("sales")}
        assert sorted(letters) == [("bad", 0), ("bad", 20_000), ("odd", 0)]
        letter = letters["bad", 0]
        assert letter.value == {"key": "bad", "start": 0, "end": 10_000, "n": 1}
        assert (letter.key, letter.reason, letter.facts["operator"]) == (b"bad", "window", "by-user")
        assert "no such printer" in letter.error
        world.worker().kill()
        world.worker().start()
        sell(world, 41, "ann")
        world.advance("10s")
        assert len(world.dead_letters("sales")) == 3
        assert [window["key"] for window in world.topic("told").values] == [*told, "zoe"]


@by_key_or_not
def test_a_window_whose_record_its_topic_refuses_is_a_dead_letter(by_key: bool) -> None:
    def swollen(window: dict[str, Any]) -> dict[str, Any]:
        return {**window, "text": random.Random(1).randbytes(100_000).hex() if window["key"] == "bad" else ""}

    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        sales = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=1)
        flow: Any = sales.key_by("user") if by_key else sales.flow()
        windowed = flow.window(Tumbling("10s")).aggregate("by-user", n=Count())
        windowed.final().map(swollen).to(app.topic("told", config={"max.message.bytes": 20_000}))
        return app

    with World(app) as world:
        sell(world, 1, "ann", "bad", "zoe")
        sell(world, 11, "ann")
        world.advance("10s")
        sell(world, 21, "ann")
        world.advance("10s")
        assert [window["key"] for window in world.topic("told").values] == ["ann", "zoe", "ann"]
        assert [letter.value["key"] for letter in world.dead_letters("sales")] == ["bad"]


def test_a_record_that_closes_windows_and_cannot_be_kept_is_the_one_that_fails() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("windows", topic_partitions=1)
        sales = app.topic("sales", time="at", time_unit="s", grace="5s", idle_after=None, partitions=1)
        sums: Any = sales.flow().map(lambda sale: sale["n"]).window(Tumbling("10s"))
        sums.reduce(lambda a, b: object() if b == 13 else a + b, "sums").final().to("told")
        return app

    with World(app) as world:
        for at, n in ((11, 1), (21, 1), (25, 13), (26, 1), (45, 1)):
            world.send("sales", {"at": at, "n": n}, key="k")
        world.settle()
        assert [(window["start"], window["value"]) for window in world.topic("told").values] == [
            (10_000, 1),
            (20_000, 2),
        ]
        assert [(letter.reason, letter.value["n"]) for letter in world.dead_letters("sales")] == [("agent", 13)]


@by_key_or_not
def test_a_flow_that_skips_failures_skips_windows(by_key: bool) -> None:
    with World(flow_app(by_key, "skip")) as world:
        sell(world, 1, "ann", "bad", "zoe")
        sell(world, 11, "ann")
        world.advance("10s")
        assert [window["key"] for window in world.topic("told").values] == ["ann", "zoe"]
        assert runtime_of(world.worker().app).status.skipped_total == 1


@by_key_or_not
def test_an_update_that_fails_is_a_dead_letter_and_the_others_go_on(by_key: bool) -> None:
    with World(flow_app(by_key, updates=True)) as world:
        for _ in range(12):
            sell(world, 1, "ann", "bad", "zoe")
            world.advance("1s")  # faster than updates, so that commits come between their failure and the next ones
        assert world.dead_letters("sales"), "in time"
        world.advance("5s")
        counts: dict[str, int] = {}
        for window in world.topic("told").values:
            counts[window["key"]] = window["n"]
        assert counts == {"ann": 12, "zoe": 12}
        assert {letter.value["key"] for letter in world.dead_letters("sales")} == {"bad"}
        assert world.table("by-user")["bad", 0, 10_000]["n"] == 12


@by_key_or_not
def test_with_faults_each_window_is_told_or_a_dead_letter_once(by_key: bool) -> None:
    users = ["ann", "bad", "odd", "zoe", "eve"]
    records = [(user, {"user": user, "at": at}) for at in range(1, 60, 4) for user in users]
    simulation = Simulation(
        flow_app(by_key), inputs={"sales": records}, seeds=6, faults="kill,abort,lost-answer,rebalance"
    )
    assert simulation.same_as_without_faults().worlds


@pytest.mark.parametrize("slow", [False, True], ids=["at-once", "after-waiting"])
def test_with_faults_each_window_of_a_table_is_told_or_a_dead_letter_once(slow: bool) -> None:
    records = [(page, {"page": page, "at": at}) for at in range(1, 60, 3) for page in "abc"]

    def app() -> anabranch.App:
        return app_with(lambda app: failing(app, slow, {10, 30}, []), add, partitions=2)[0]()

    simulation = Simulation(app, inputs={"views": records}, seeds=6, faults="kill,abort,lost-answer,rebalance")
    assert simulation.same_as_without_faults().worlds
    with World(app) as world:
        for key, value in records:
            world.send("views", value, key=key)
        world.settle()
        letters = {(letter.value["key"], letter.value["start"] // 1000) for letter in world.dead_letters("views")}
        told = {(record.key.decode(), int(record.value[0])) for record in world.topic("out").records}
        assert letters == {(page, start) for page in "abc" for start in (10, 30)}
        assert told == {(page, start) for page in "abc" for start in (0, 20, 40)}
