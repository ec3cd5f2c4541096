"""Windowed tables as programs use them: `app.Table(…).tumbling(…)`, `views[key] += 1`, and how values are read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anabranch
import faust
import msgspec
import pytest
from anabranch import World
from anabranch.topics.errors import BadRecord, Stop, Usage
from anabranch.topics.private_texts import HIDDEN
from page_views import Declare, View, add, app_with, send, tumbling, windows


class Click(msgspec.Struct):
    page: str
    at: float


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


@pytest.mark.parametrize("before", [0, 1], ids=["before-it-writes", "after-it-has-written"])
@pytest.mark.parametrize("taking", ["take", "batches"])
def test_an_agent_that_takes_several_records_for_a_while_cannot_write_windows_either(
    before: int, taking: str, tmp_path: Path
) -> None:
    """Records that it takes together would move no time; in a bounded run it would get the end of the input as one."""

    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        views = tumbling()(app)

        async def count(stream: Any) -> None:
            if before:
                async for view in stream:
                    views[view.page] += 1
                    break
            async for _ in stream.take(2, within=1) if taking == "take" else stream.batches():
                break
            async for view in stream:
                views[view.page] += 1

        app.agent(app.topic("views", value_type=View), name="count")(count)
        return app

    with pytest.raises(Stop, match="takes several records"), World(app) as world:
        for at in (1, 2, 3, 4):
            send(world, at)
            world.advance(2)
    if taking == "batches" and not before:
        return  # one batch would hold the whole input
    file = tmp_path / "views.jsonl"
    file.write_text("".join(json.dumps({"page": "a", "at": at}) + "\n" for at in range(9)))
    with World(app) as world, pytest.raises(Stop, match="takes several records"):
        world.run({"views": file})


def test_an_agent_that_has_written_windows_as_another_program_may_take_several_records_now() -> None:
    programs: list[str] = ["writes", "takes"]
    taken: list[float] = []

    def app() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        views = tumbling()(app)

        async def count(stream: Any) -> None:
            if programs[0] == "writes":
                async for view in stream:
                    views[view.page] += 1
            async for some in stream.take(2, within=1):
                assert all(view.at != 13 for view in some)
                taken.extend(view.at for view in some)

        app.agent(app.topic("views", value_type=View), name="count")(count)
        return app

    with World(app) as world:
        send(world, 1, 2)
        world.worker().stop()
        del programs[0]
        world.worker().start()
        for at in (13, 14, 15):  # with the first one, it begins again
            send(world, at)
            world.advance(3)
        assert (taken, len(world.dead_letters("views"))) == ([14, 15], 1)


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
