"""Windows whose `on_window_close` has failed, and that `dlq replay` lets be told again, each once."""

from __future__ import annotations

from typing import Any

import anabranch
import faust
import pytest
from anabranch import World
from anabranch.agents.engine import replayed_dead_letters
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.agents.window_teller import can_be_told_again
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republication, Republisher
from page_views import View
from replayed_letters import replay_letters, replay_letters_and_kill_worker


class Seen(faust.Record):
    views: int


FAILS: set[int] = set()


def app_of(how: str = "plain", *, commit_beside: bool = False, table_name: str = "by-page") -> anabranch.App:
    """Windows of 10 s that are told with their count; those that begin at one of `FAILS` fail at it."""
    app = anabranch.App("w", topic_partitions=2, settings=EngineSettings(commit_beside=commit_beside))
    views = app.topic("views", value_type=View, idle_after=None, partitions=2)
    told = app.Table("told", default=int)

    async def report(key: Any, value: Any) -> None:
        page, (start, _) = key
        told[page] += value.views if how == "record" else value
        await app.topic("out").send(key=page, value=[page, start, value.views if how == "record" else value])
        if int(start) in FAILS:
            raise ValueError("no such printer")

    options: dict[str, Any] = {"value_type": Seen} if how == "record" else {"default": int}
    table = app.Table(table_name, on_window_close=report, **options)
    by_page = table.tumbling(10, expires=10).relative_to_field(View.at)

    @app.agent(views, name="count")
    async def count(stream: Any) -> None:
        async for view in stream.group_by(View.page) if how == "group_by" else stream:
            if how == "record":
                before = by_page[view.page].value().views if view.page in by_page else 0
                by_page[view.page] = Seen(views=view.n + before)
            else:
                by_page[view.page] += view.n

    return app


def send(world: World, *times: int, partitions: tuple[int, ...] = (0, 1)) -> None:
    for at in times:
        for partition in partitions:
            world.send("views", {"page": "ab"[partition], "at": at}, key="ab"[partition], partition=partition)
    world.settle()


def replay(world: World, **chosen: Any) -> Republication:
    return replay_letters(world, "views", **chosen)


@pytest.fixture(autouse=True)
def fails() -> set[int]:
    FAILS.clear()
    FAILS.add(10)
    return FAILS


@pytest.mark.parametrize("how", ["plain", "group_by", "record"])
def test_a_window_that_has_failed_is_told_again_with_its_final_value(how: str, fails: set[int]) -> None:
    with World(lambda: app_of(how)) as world:
        send(world, 1, 2, 11, 12, 13, 21, 31, 99, 100)  # the window at 10 is gone from the table: it is kept for 10 s
        assert len(world.dead_letters("views")) == 2
        before = len(world.topic("out").values)
        assert not any(start == 10 for _, start, _ in world.topic("out").values)
        world.worker().kill()
        fails.clear()
        world.worker().start()
        world.settle()
        assert replay(world).sent == 2
        again = world.topic("out").values[before:]
        assert sorted(again) == [["a", 10, 3], ["b", 10, 3]]
        records = world.topic("out").records[before:]
        assert {record.timestamp_ms for record in records} == {19_999}
        assert world.table("told") == {"a": 8, "b": 8}
        assert len(world.dead_letters("views")) == 2
        assert replay(world).sent == 0, "each once"
        assert len(world.topic("out").values) == before + 2
        send(world, 120, 121)
        assert len(world.topic("out").values) > before + 2, "the worker goes on"


def test_a_window_that_fails_again_has_a_new_dead_letter_and_leaves_nothing(fails: set[int]) -> None:
    with World(app_of) as world:
        send(world, 1, 11, 31, 32, partitions=(0,))
        assert [letter.reason for letter in world.dead_letters("views")] == ["window"]
        out = world.topic("out").values
        assert replay(world).sent == 1
        assert world.topic("out").values == out
        first, second = world.dead_letters("views")
        assert first.raw_value == second.raw_value
        assert first.facts["source"] == second.facts["source"]
        send(world, 51, 52, partitions=(0,))  # records go on behind it
        fails.clear()
        assert replay(world).sent == 1
        assert [value for value in world.topic("out").values if value[1] == 10] == [["a", 10, 1]]
        assert world.table("told")["a"] == sum(value[2] for value in world.topic("out").values)


@pytest.mark.parametrize("beside", [None, "count-windows"])
def test_a_window_that_the_program_does_not_know_waits_for_one_that_does(fails: set[int], beside: str | None) -> None:
    names = ["by-page"]

    def make() -> anabranch.App:
        app = app_of(table_name=names[0])
        if beside is not None:

            @app.agent(app.topic("clicks", partitions=2), name=beside)
            async def clicked(stream: Any) -> None:
                async for _ in stream:
                    pass

        return app

    topic = "w-count-windows-retry" if beside is None else "w-count-fired-windows-retry"
    with World(make) as world:
        send(world, 1, 11, 31, 32, partitions=(0,))
        fails.clear()
        names[0] = "renamed"
        assert replay(world).to == {topic: 1}
        assert [letter.reason for letter in world.dead_letters("views")] == ["window", "decode"]
        with world.environment.entered():
            elsewhere = Republisher(world.environment.kafka.cluster(), "views.dlq", to="clicks")
            assert elsewhere.preview(DeadLetterFilter()).windows == 2
        names[0] = "by-page"
        assert replay(world).to == {topic: 1}, "the agent must not take it for a record"
        assert len(world.dead_letters("views")) == 2
        assert [value for value in world.topic("out").values if value[1] == 10] == [["a", 10, 1]]


def test_a_worker_that_is_killed_at_any_moment_tells_a_window_once(fails: set[int]) -> None:
    for step in range(6):
        fails.add(10)
        with World(lambda: app_of(commit_beside=True)) as world:
            send(world, 1, 11, 12, 31, 32)
            fails.clear()
            assert replay_letters_and_kill_worker(world, "views", after_s=step).sent == 2
            assert sorted(page for page, start, _ in world.topic("out").values if start == 10) == ["a", "b"]
            assert world.table("told") == {"a": 3, "b": 3}


def test_only_windows_go_back_whose_dead_letter_says_all(fails: set[int]) -> None:
    app = anabranch.App("w")
    table: Any = app.Table("any", on_window_close=print).tumbling(10, expires=10)
    own = next(each for each in runtime_of(app).tables if each.name == "any")
    assert can_be_told_again(own, ("a", 0, 10_000), {"n": [1, 2.5, None]})
    assert can_be_told_again(own, (("a", 1), 0, 10_000), "x")
    assert not can_be_told_again(own, ("a", 0, 10_000), object())
    assert table is not None


def test_records_of_an_agent_whose_name_ends_in_windows_return_to_it(fails: set[int]) -> None:
    def make() -> anabranch.App:
        app = app_of()
        clicks, got = app.topic("clicks", partitions=2), app.Table("got", default=int)

        @app.agent(clicks, name="count-windows")
        async def count(stream: Any) -> None:
            async for click in stream:
                if fails:
                    raise ValueError("no such printer")
                got["n"] += click

        return app

    with World(make) as world:
        send(world, 1, 11, 31, 32, partitions=(0,))
        world.send("clicks", 5, key="k")
        world.settle()
        fails.clear()
        with world.environment.entered():
            cluster = world.environment.kafka.cluster()
            assert Republisher(cluster, "clicks.dlq").republish(DeadLetterFilter()).sent == 1
        assert replay(world).sent == 1
        assert world.table("got") == {"n": 5}
        assert ["a", 10, 1] in world.topic("out").values
        assert [len(world.dead_letters(topic)) for topic in ("clicks", "views")] == [1, 1]


def test_windows_do_not_go_to_another_topic(fails: set[int]) -> None:
    with World(app_of) as world:
        send(world, 1, 11, 31, 32, partitions=(0,))
        report = replay(world, to="views")
        assert (report.sent, report.windows) == (0, 1)


async def test_running_workers_tell_it_again_without_a_restart(
    lab: Any, broker: Any, drain: Any, fails: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replayed_dead_letters, "LOOK_S", 0.05)
    topic, told, app = lab.topic(2), lab.topic(1), lab.app(lab.fresh("app"))

    async def report(key: Any, value: int) -> None:
        await app.topic(told).send(key=key[0], value=[int(key[1][0]), value])
        if int(key[1][0]) in fails:
            raise ValueError("no such printer")

    by_page = app.Table("by-page", default=int, on_window_close=report).tumbling(10, 10).relative_to_field(View.at)

    @app.agent(app.topic(topic, value_type=View, idle_after=None), name="count")
    async def count(stream: Any) -> None:
        async for view in stream:
            by_page[view.page] += 1

    lab.produce(topic, [("a", {"page": "a", "at": at}) for at in (1, 11, 12, 31)])
    async with lab.running(app):
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 1, "a dead letter")
        republisher = Republisher(broker, f"{topic}.dlq", runs_topic=lab.fresh("runs"))
        assert republisher.republish(DeadLetterFilter()).sent == 1
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 2, "another dead letter")
        fails.clear()
        assert republisher.republish(DeadLetterFilter()).sent == 1
        await lab.until(lambda: len(drain(told)) == 2, "the window")
    assert [message.value() for message in drain(told)] == [b"[0,1]", b"[10,2]"]


def test_an_agent_of_several_topics_has_windows_late_records_and_windows_that_are_told_again(fails: set[int]) -> None:
    def make() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        both = app.topic("visits", "views", value_type=View, idle_after=None, partitions=1)

        async def report(key: Any, value: int) -> None:
            if int(key[1][0]) in fails:
                raise ValueError("no such printer")
            await app.topic("out").send(value=[key[0], key[1][0], value])

        table = app.Table("by-page", default=int, on_window_close=report).tumbling(10, expires=10)
        by_page = table.relative_to_field(View.at)

        @app.agent(both, name="count")
        async def count(stream: Any) -> None:
            async for view in stream:
                if view.n < 0:
                    raise ValueError("negative")
                by_page[view.page] += view.n

        return app

    with World(make) as world:
        for at in (1, 11, 12, 31, 3):
            for topic in ("visits", "views"):
                world.send(topic, {"page": "a", "at": at, "n": -1 if at == 12 else 1}, key="a")
                world.settle()
        assert world.topic("out").values == [["a", 0, 2]]
        assert [[view["at"] for view in world.topic(f"{topic}.late").values] for topic in ("visits", "views")] == [
            [3],
            [3],
        ]
        fails.clear()
        with world.environment.entered():
            cluster = world.environment.kafka.cluster()
            letters = [name for name in world.environment.kafka.topics if name.endswith(".dlq")]
            sent = [Republisher(cluster, name).republish(DeadLetterFilter()) for name in letters]
        assert sum(report.sent for report in sent) == 3, "a window, and two records"
        world.worker().kill()
        world.worker().start()
        world.settle()
        assert world.topic("out").values == [["a", 0, 2], ["a", 10, 2]]


def test_a_record_that_is_replayed_may_be_the_first_one_that_the_agent_counts(fails: set[int]) -> None:
    def make() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        views = app.topic("views", value_type=View, idle_after=None, partitions=1)
        by_page = app.Table("by-page", default=int).tumbling(10, expires=10).relative_to_field(View.at)

        @app.agent(views, name="count")
        async def count(stream: Any) -> None:
            async for view in stream:
                if fails:
                    raise ValueError("not yet")
                by_page[view.page] += view.n

        return app

    with World(make) as world:
        send(world, 1, partitions=(0,))
        fails.clear()
        replay(world)
        assert len(world.dead_letters("views")) == 1
        send(world, 2, partitions=(0,))
        assert world.table("by-page") == {("a", 0, 10_000): 2}
