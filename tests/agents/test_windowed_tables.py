"""Windowed tables as programs use them: `app.Table(…).tumbling(…)`, `views[key] += 1`, `on_window_close`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anabranch
import faust
import msgspec
import pytest
from anabranch import World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import BadRecord, Stop, Usage
from anabranch.topics.private_texts import HIDDEN


class View(faust.Record, validation=False):
    page: str
    at: Any
    n: int = 1


class Click(msgspec.Struct):
    page: str
    at: float


Declare = Callable[[anabranch.App], Any]


def app_with(
    declare: Declare,
    work: Callable[[Any, Any, dict[str, Any]], Any],
    *,
    agent: dict[str, Any] | None = None,
    settings: EngineSettings | None = None,
    **topic: Any,
) -> tuple[Callable[[], anabranch.App], dict[str, Any]]:
    """Return what makes an app with one agent, which calls `work` for each view, and what the app consists of."""
    made: dict[str, Any] = {}

    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1, settings=settings)
        made.update(app=app, out=app.topic("out"), told=[])
        views = made["views"] = declare(app)
        source = app.topic("views", **{"value_type": View, "idle_after": None, **topic})

        async def count(stream: Any) -> None:
            async for view in stream:
                work(views, view, made)

        options: dict[str, Any] = agent or {}
        app.agent(source, name="count", **options)(count)
        return app

    return app, made


def add(views: Any, view: Any, made: Any) -> None:
    views[view.page] += view.n


def send(world: World, *times: Any, page: str = "a", **fields: Any) -> None:
    for at in times:
        world.send("views", {"page": page, "at": at, **fields}, key=page)
        world.settle()


def tumbling(size: float = 10, expires: Any = 10, default: Any = int, **options: Any) -> Declare:
    def declare(app: anabranch.App) -> Any:
        return app.Table("by-page", default=default, **options).tumbling(size, expires=expires)

    return lambda app: declare(app).relative_to_field(View.at)


def reporting(size: float = 10, expires: Any = 10, **options: Any) -> Declare:
    """Windows that are sent to the topic `out` when they close."""

    def declare(app: anabranch.App) -> Any:
        async def report(key: Any, value: Any) -> None:
            await app.topic("out").send(key=key[0], value=[key[0], list(key[1]), value])

        table = app.Table("by-page", default=int, on_window_close=report, **options)
        return table.tumbling(size, expires=expires).relative_to_field(View.at)

    return declare


def windows(world: World) -> dict[tuple[float, float], Any]:
    return {(start / 1000, end / 1000): value for (_, start, end), value in world.table("by-page").items()}


def test_a_window_holds_its_start_and_not_its_end_also_before_1970() -> None:
    app, _ = app_with(tumbling(expires=None), add)
    with World(app) as world:
        send(world, -1, 0, 9.999, 10)
        assert windows(world) == {(-10, 0): 1, (0, 10): 2, (10, 20): 1}


def test_the_time_of_a_topic_may_be_an_expression() -> None:
    def declare(app: anabranch.App) -> Any:
        return app.Table("by-page", default=int).tumbling(10, expires=10).relative_to_stream()

    app, _ = app_with(declare, add, time=anabranch.col("at"), time_unit="s")
    with World(app) as world:
        send(world, 1, 9, 11)
        assert windows(world) == {(0, 10): 2, (10, 20): 1}


def test_an_agent_may_read_several_topics_each_of_which_has_its_time() -> None:
    def make() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        out, made = app.topic("out"), app.topic("views", "clicks", value_type=View, idle_after=None)

        async def report(key: Any, value: int) -> None:
            await out.send(value=[key[1][0], value])

        table = app.Table("by-page", default=int, on_window_close=report).tumbling(10, expires=0.001)
        by_page = table.relative_to_field(View.at)

        @app.agent(made, name="count")
        async def count(stream: Any) -> None:
            async for view in stream:
                by_page[view.page] += view.n

        return app

    with World(make) as world:
        for topic, at in (("views", 1), ("clicks", 2), ("views", 12), ("views", 3), ("clicks", 4), ("clicks", 11)):
            world.send(topic, {"page": "a", "at": at}, key="a")
            world.settle()
        assert [late["at"] for late in world.topic("views.late").values] == [3]
        assert world.topic("out").values == [[0, 3]]


def test_a_record_counts_in_all_of_its_hopping_windows_or_in_none() -> None:
    app, _ = app_with(
        lambda app: app.Table("by-page", default=int).hopping(10, 5, expires=10).relative_to_field(View.at), add
    )
    with World(app) as world:
        send(world, 7, 12, 4)
        assert windows(world) == {(0, 10): 1, (5, 15): 2, (10, 20): 1}
        assert [late["at"] for late in world.topic("views.late").values] == [4]


def test_steps_may_be_parts_of_a_second() -> None:
    app, _ = app_with(
        lambda app: app.Table("by-page", default=int).hopping(1, 0.5, expires="1m").relative_to_field(View.at), add
    )
    with World(app) as world:
        send(world, 2.6)
        assert windows(world) == {(2, 3): 1, (2.5, 3.5): 1}


def test_a_late_record_is_kept_with_the_table_as_operator_and_a_record_as_old_as_the_newest_counts() -> None:
    app, _ = app_with(reporting(expires=15), add)
    with World(app) as world:
        send(world, 1, 12, 3, 14.999, 15, 15, 4)
        assert world.topic("out").values == [["a", [0, 10], 2]]
        late = world.topic("views.late")
        assert [value["at"] for value in late.values] == [4]
        headers = {name: value for record in late for name, value in dict(record.headers).items()}
        assert headers["anabranch-operator"] == b"by-page"
        assert headers["anabranch-window"] == b"1970-01-01T00:00:00.000Z/1970-01-01T00:00:10.000Z"
        assert windows(world) == {(0, 10): 2, (10, 20): 4}


def test_what_is_sent_when_a_window_closes_has_the_window_s_last_moment_as_its_time() -> None:
    app, _ = app_with(reporting(), add)
    with World(app) as world:
        send(world, 1, 2, 30, 31)
        assert [record.timestamp for record in world.topic("out")] == [datetime(1970, 1, 1, 0, 0, 9, 999000, UTC)]


def test_values_are_read_at_the_record_s_time_before_it_and_at_the_time_of_the_partition() -> None:
    def look(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] += 1
        of = views[view.page]
        made["told"].append((of.value(), of.now(), of.delta(10), of.delta(timedelta(seconds=20)), view.page in views))

    app, made = app_with(tumbling(expires="1h"), look)
    with World(app) as world:
        send(world, 1, 2, 11, 25, 3)
        assert made["told"] == [
            (1, 1, 0, 0, True),
            (2, 2, 0, 0, True),
            (1, 1, 2, 0, True),
            (1, 1, 1, 2, True),
            (3, 1, 0, 0, True),
        ]
        views = made["views"]
        assert views["a"].now() == 1  # outside of agents
        assert views.relative_to_now()["a"].value() == 1
        assert views.relative_to(15.0)["a"].value() == 1
        assert views.relative_to(datetime(1970, 1, 1, tzinfo=UTC))["a"].value() == 3
        assert views["a"][0, 10] == 3
        assert list(views.items().now()) == [("a", 1)]
        assert (list(views), len(views)) == (["a"], 1)
        with pytest.raises(Usage, match="no record outside of agents"):
            views["a"].value()
        with pytest.raises(BadRecord, match="outside of an agent"):
            views["a"] += 1


def test_windows_are_assigned_and_deleted_by_the_record_they_belong_to() -> None:
    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        if view.n == 0:
            del views[view.page]
        elif view.n < 0:
            views[view.page] -= 1
        else:
            views[view.page] = view.n

    app, _ = app_with(
        lambda app: app.Table("by-page", default=int).hopping(10, 5, expires="1h").relative_to_field(View.at), work
    )
    with World(app) as world:
        send(world, 7, n=5)
        send(world, 12, n=-1)
        assert windows(world) == {(0, 10): 5, (5, 15): 4, (10, 20): -1}
        send(world, 7, n=0)
        assert windows(world) == {(10, 20): -1}


def test_a_list_that_was_read_changes_the_table_when_it_is_assigned() -> None:
    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        values = views[view.page].value()
        values.append(view.n)
        if view.n < 3:
            views[view.page] = values
            views[view.page].value().append("changed in place")

    app, _ = app_with(tumbling(default=list, expires="1h"), work)
    with World(app) as world:
        for n in (1, 2, 3):
            send(world, n, n=n)
        assert windows(world) == {(0, 10): [1, 2]}


def test_values_may_hold_records_of_faust_models_without_a_declared_type() -> None:
    told: list[Any] = []

    def declare(app: anabranch.App) -> Any:
        def report(key: Any, value: list[View]) -> None:
            told.append((key, [view.n for view in value]))

        return app.Table("by-page", default=list, on_window_close=report).tumbling(10, 10).relative_to_field(View.at)

    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        values = views[view.page].value()
        values.append(view)
        views[view.page] = values

    app, _ = app_with(declare, work)
    with World(app) as world:
        send(world, 1, 2, n=7)
        world.worker().kill()
        world.worker().start()
        send(world, 3, 30, 31, n=8)
        assert told == [(("a", (0, 10)), [7, 7, 8])]
        shown = world.get("/tables/by-page/").json["pairs"]
        assert shown == [[["a", 30_000, 40_000], [{"page": "a", "at": at, "n": 8} for at in (30, 31)]]]


@pytest.mark.parametrize(
    ("at", "start"),
    [
        ("2026-01-31T12:00:05", 1769860800),
        ("2026-01-31T13:00:05+01:00", 1769860800),
        (1769860805, 1769860800),
        (1769860805.5, 1769860800),
    ],
)
def test_times_are_seconds_or_iso_8601_which_is_utc_without_a_zone(at: Any, start: int) -> None:
    app, _ = app_with(tumbling(), add)
    with World(app) as world:
        send(world, at)
        assert windows(world) == {(start, start + 10): 1}


def test_a_record_without_a_time_goes_to_the_failure_policy_if_it_is_written() -> None:
    app, _ = app_with(tumbling(), lambda views, view, made: add(views, view, made) if view.n else None)
    with World(app) as world:
        send(world, None, "soon", 1)
        send(world, None, n=0)
        assert windows(world) == {(0, 10): 1}
        assert len(world.dead_letters("views")) == 2


def test_the_time_of_the_topic_is_the_default_and_of_a_struct_a_field() -> None:
    app, _ = app_with(
        lambda app: app.Table("by-page", default=int).tumbling(10, expires=10),
        lambda views, view, made: views.__setitem__(view["page"], 1),
        value_type=None,
        time="at",
        time_unit="s",
    )
    with World(app) as world:
        send(world, 25)
        assert windows(world) == {(20, 30): 1}
    at: Any = Click.at
    app, _ = app_with(
        lambda app: app.Table("by-page", default=int).tumbling(10, expires=10).relative_to_field(at),
        lambda views, view, made: views.__setitem__(view.page, 1),
        value_type=Click,
    )
    with World(app) as world:
        send(world, 25)
        assert windows(world) == {(20, 30): 1}


def test_a_function_of_the_event_may_be_the_time() -> None:
    app, _ = app_with(
        lambda app: (
            app.Table("by-page", default=int).tumbling(10, expires=10).relative_to(lambda event: event.value.at + 5)
        ),
        add,
    )
    with World(app) as world:
        send(world, 25)
        assert windows(world) == {(30, 40): 1}


def test_windows_of_faust_s_own_classes() -> None:
    app, _ = app_with(
        lambda app: (
            app.Table("by-page", default=int)
            .using_window(faust.HoppingWindow(10, 5, expires=60), key_index=True)
            .relative_to_field(View.at)
        ),
        add,
    )
    with World(app) as world:
        send(world, 7)
        assert windows(world) == {(0, 10): 1, (5, 15): 1}


def refused(declare: Declare, work: Any = add, match: str = "", **options: Any) -> None:
    app, _ = app_with(declare, work, **options)
    with pytest.raises(Stop, match=match), World(app) as world:
        send(world, 1)


def test_what_cannot_be_right_is_refused_with_a_sentence() -> None:
    refused(lambda app: tumbling()(app).relative_to_now(), match="can only be read")
    refused(lambda app: tumbling()(app).relative_to_stream(), match="is written relative to View.at")
    refused(lambda app: tumbling()(app).relative_to(5.0), match="can only be read")
    refused(tumbling(), agent={"concurrency": 2}, match="concurrency > 1")
    refused(tumbling(expires=None, on_window_close=print), match="on_window_close without expires")
    refused(lambda app: app.Table("t", default=int, on_window_close=print), match="on_window_close without windows")
    refused(tumbling(ttl=5), match="cannot have windows")
    refused(lambda app: app.SetTable("t").tumbling(10), match="cannot have windows")
    refused(lambda app: app.Table("t").using_window(faust.SlidingWindow(1, 1, 5)), match="SlidingWindow")
    refused(lambda app: tumbling()(app).relative_to_field("at"), match="no field")
    refused(tumbling(), lambda views, view, made: views["a"].__setitem__((0, 10), 1), match="not by its start")


def test_an_agent_that_takes_several_records_cannot_write_windows() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        views = tumbling()(app)

        async def count(stream: Any) -> None:
            async for some in stream.take(2, within=1):
                views[some[0].page] += 1

        app.agent(app.topic("views", value_type=View), name="count")(count)
        return app

    with pytest.raises(Stop, match="takes several records"), World(app) as world:
        send(world, 1, 2)
        world.advance(5)


def test_without_expires_windows_do_not_close_and_no_record_is_late() -> None:
    app, _ = app_with(tumbling(expires=None), add)
    with World(app) as world:
        send(world, 1, 100_000, 100_001, 2)
        assert windows(world)[0, 10] == 2


def test_windows_close_in_silence_when_the_input_is_idle() -> None:
    app, _ = app_with(reporting(), add, idle_after="1m")
    with World(app) as world:
        send(world, 1, 2)
        world.advance("59s")
        assert not world.topic("out").values
        world.advance("15s")
        assert world.topic("out").values == [["a", [0, 10], 2]]
        send(world, 3)
        assert [value["at"] for value in world.topic("views.late").values] == [3]


def test_windows_behind_group_by_close_in_silence_and_a_partition_without_records_does_not_hold_them() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=3)
        app.topic("out")
        views = reporting()(app)

        async def count(stream: Any) -> None:
            async for view in stream.group_by(View.page):
                views[view.page] += 1

        app.agent(app.topic("views", value_type=View, idle_after="1m"), name="count")(count)
        return app

    with World(app, workers=2) as world:
        for key, at in (("x", 1), ("x", 2), ("y", 3), ("y", 4)):
            world.send("views", {"page": "a", "at": at}, key=key)
            world.settle()
        world.advance("50s")
        assert not world.topic("out").values
        world.advance("2m")
        assert world.topic("out").values == [["a", [0, 10], 4]]


def test_the_time_of_a_value_that_processors_make_moves_time_behind_group_by() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        app.topic("out")
        views = reporting()(app)

        def read(line: dict[str, str]) -> View:
            page, at = line["text"].split()
            return View(page, float(at))

        async def count(stream: Any) -> None:
            stream.add_processor(read)
            async for view in stream.group_by(View.page):
                views[view.page] += 1

        app.agent(app.topic("lines", idle_after=None), name="count")(count)
        return app

    with World(app) as world:
        for line in ("a 1", "a 2", "b 30", "b 31", "a 3"):
            world.send("lines", {"text": line}, key="k")
            world.settle()
        assert world.topic("out").values == [["a", [0, 10], 2]]
        assert len(world.topic("lines.late").values) == 1


def test_what_on_window_close_writes_in_silence_is_committed() -> None:
    def declare(app: anabranch.App) -> Any:
        closed = app.Table("closed", default=int)

        def note(key: Any, value: int) -> None:
            closed[key[0]] += value

        return app.Table("by-page", default=int, on_window_close=note).tumbling(10, 10).relative_to_field(View.at)

    app, _ = app_with(declare, add, idle_after="1m")
    with World(app) as world:
        send(world, 1, 2)
        world.advance("2m")
        assert world.table("closed") == {"a": 2}


def test_many_windows_close_in_several_epochs_and_each_once() -> None:
    epochs: set[int] = set()

    def declare(app: anabranch.App) -> Any:
        async def report(key: Any, value: Any) -> None:
            epochs.add(runtime_of(app).context.epoch.commits_total)
            await app.topic("out").send(key=key[0], value=[key[0], value])

        return app.Table("by-page", default=int, on_window_close=report).tumbling(10, 10).relative_to_field(View.at)

    app, _ = app_with(declare, add, settings=EngineSettings(max_outputs=7))
    with World(app) as world:
        for page in range(60):
            world.send("views", {"page": f"p{page}", "at": 1}, key="k")
        world.send("views", {"page": "p0", "at": 30}, key="k")
        world.send("views", {"page": "p0", "at": 31}, key="k")
        world.settle()
        assert sorted(value[0] for value in world.topic("out").values) == sorted(f"p{page}" for page in range(60))
        assert world.table("by-page")["p0", 30_000, 40_000] == 2
        assert len(epochs) > 60 / 8


def test_while_many_windows_close_the_engine_s_loop_has_its_turns() -> None:
    turns, seen = list[str](), list[int]()

    def declare(app: anabranch.App) -> Any:
        def report(key: Any, value: Any) -> None:
            del key, value
            if not seen:
                asyncio.get_running_loop().call_soon(turns.append, "a commit might be due")
            seen.append(len(turns))

        return app.Table("by-page", default=int, on_window_close=report).tumbling(10, 10).relative_to_field(View.at)

    app, _ = app_with(declare, add)
    with World(app) as world:
        for page in range(600):
            world.send("views", {"page": f"p{page}", "at": 1}, key="k")
        for at in (30, 31):
            world.send("views", {"page": "p0", "at": at}, key="k")
        world.settle()
    assert (len(seen), seen[0], seen[-1]) == (600, 0, 1)


@pytest.mark.parametrize("policy", ["dead_letter", "retry"])
def test_a_record_that_fails_closes_windows_once(policy: Any) -> None:
    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] += 1
        if view.n == 13:
            raise ValueError("unlucky")

    app, _ = app_with(reporting(), work, agent={"on_failure": policy})
    with World(app) as world:
        send(world, 1, 2)
        send(world, 30, 31, n=13)
        send(world, 32, 50, 51)
        world.advance("1m")
        assert world.topic("out").values == [["a", [0, 10], 2], ["a", [30, 40], 1]]
        assert len(world.dead_letters("views")) == 2


def test_a_late_record_that_fails_is_a_dead_letter_and_not_counted_as_late() -> None:
    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] += 1
        if view.n == 13:
            raise ValueError("unlucky")

    app, made = app_with(reporting(), work)
    with World(app) as world:
        send(world, 1, 2, 30, 31)
        send(world, 3, n=13)
        send(world, 4)
        assert [value["at"] for value in world.topic("views.late").values] == [4]
        assert [letter.value["at"] for letter in world.dead_letters("views")] == [3]
        assert runtime_of(made["app"]).status.late_total == {("by-page", "late"): 1}


def test_a_record_that_fails_after_the_agent_has_waited_moves_time() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        app.topic("out")
        views = reporting()(app)

        async def count(stream: Any) -> None:
            async for view in stream:
                await asyncio.sleep(0.01)
                views[view.page] += 1
                if view.n == 13:
                    raise ValueError("unlucky")

        app.agent(app.topic("views", value_type=View, idle_after=None), name="count")(count)
        return app

    with World(app) as world:
        send(world, 1, 2)
        send(world, 30, n=13)
        assert world.topic("out").values == [["a", [0, 10], 2]]
        send(world, 3)
        assert [value["at"] for value in world.topic("views.late").values] == [3]


def test_a_jump_of_time_is_not_confirmed_by_the_same_record_once_more() -> None:
    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        if view.n == 13:
            raise ValueError("unlucky")
        views[view.page] += 1

    app, _ = app_with(reporting(), work)
    with World(app) as world:
        send(world, 1, 2)
        send(world, 4_000_000, n=13)
        send(world, 4_000_001, n=13)  # a second one moves time
        assert len(world.topic("out").values) == 1
    app, _ = app_with(reporting(), work)
    with World(app) as world:
        send(world, 1, 2)
        send(world, 4_000_000, n=13)
        send(world, 3, 12)
        assert world.topic("out").values == [["a", [0, 10], 3]]


def test_a_window_that_closes_has_no_record() -> None:
    def declare(app: anabranch.App) -> Any:
        hours = app.Table("by-hour", default=int).tumbling(3600, expires=7200)

        def add_up(key: Any, value: int) -> None:
            hours[key[0]] += value

        return app.Table("by-page", default=int, on_window_close=add_up).tumbling(10, 10).relative_to_field(View.at)

    app, _ = app_with(declare, add)
    with pytest.raises(Stop, match="a window that closes has no record"), World(app) as world:
        send(world, 1, 2, 30, 31)


def test_two_agents_that_write_one_table_close_its_windows_at_the_time_of_the_later_one() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        app.topic("out")
        views = reporting()(app)
        for name in ("views", "more"):

            async def count(stream: Any) -> None:
                async for view in stream:
                    views[view.page] += 1

            app.agent(app.topic(name, value_type=View, idle_after=None), name=f"count-{name}")(count)
        return app

    with World(app) as world:
        world.send("more", {"page": "a", "at": 1}, key="a")
        send(world, 1, 2, 30, 31)
        world.worker().kill()
        world.worker().start()
        send(world, 32)
        assert not world.topic("out").values
        for at in (3, 11):
            world.send("more", {"page": "a", "at": at}, key="a")
            world.settle()
        assert world.topic("out").values == [["a", [0, 10], 4]]


def test_private_keys_and_fields_of_windowed_tables_are_not_shown() -> None:
    def declare(app: anabranch.App) -> Any:
        table = app.Table("by-page", default=dict, private=["$key", "email"])
        return table.tumbling(10, expires=60).relative_to_field(View.at)

    def work(views: Any, view: Any, made: dict[str, Any]) -> None:
        views[view.page] = {"email": "ann@example.org", "n": 1}

    app, _ = app_with(declare, work)
    with World(app) as world:
        send(world, 1, page="ann@example.org")
        shown = world.get("/tables/by-page/").json
        assert "ann@example.org" not in str(shown)
        assert HIDDEN in str(shown)


def test_in_a_run_windows_behind_group_by_close_at_the_end_of_the_input_and_no_record_is_late(tmp_path: Any) -> None:
    program = tmp_path / "pages.py"
    program.write_text(
        "import anabranch, faust\n"
        "class View(faust.Record):\n    page: str\n    at: float\n"
        "app = anabranch.App('w', topic_partitions=3)\n"
        "out = app.topic('out')\n"
        "async def report(key, value):\n"
        "    await out.send(key=key[0], value=[key[0], list(key[1]), value])\n"
        "views = app.Table('by-page', default=int, on_window_close=report).tumbling(10, expires=12)\n"
        "views = views.relative_to_field(View.at)\n"
        "@app.agent(app.topic('views', value_type=View))\n"
        "async def count(stream):\n"
        "    async for view in stream.group_by(View.page):\n"
        "        views[view.page] += 1\n"
    )
    file = tmp_path / "views.jsonl"
    file.write_text("".join(f'{{"page": "p{n % 5}", "at": {n}, "user": "u{n % 7}"}}\n' for n in range(6000)))
    with World(str(program)) as world:
        run = world.run({"views": file}, key="user", workers=2)
    told = {(page, *window): value for page, window, value in run.topics["out"].values}
    assert told == {(f"p{p}", t, t + 10): 2 for p in range(5) for t in range(0, 6000, 10)}
    assert len(run.topics["out"].values) == len(told)


def test_a_run_whose_windows_cannot_close_is_refused(tmp_path: Any) -> None:
    program, file = tmp_path / "pages.py", tmp_path / "raw.jsonl"
    program.write_text(
        "import anabranch\n"
        "app = anabranch.App('w', topic_partitions=1)\n"
        "views = app.topic('views')\n"
        "table = app.Table('by-page', default=int, on_window_close=print).tumbling(10, expires=12)\n"
        "@app.agent(app.topic('raw'))\n"
        "async def forward(stream):\n"
        "    async for view in stream:\n"
        "        await views.send(key=view['page'], value=view)\n"
        "@app.agent(views)\n"
        "async def count(stream):\n"
        "    async for view in stream:\n"
        "        table[view['page']] += 1\n"
    )
    file.write_text('{"page": "a"}\n')
    with (
        World(str(program)) as world,
        pytest.raises(Usage, match=r"agent pages\.count reads topic views, which has no"),
    ):
        world.run({"raw": file})
