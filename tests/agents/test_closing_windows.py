"""When the windows of windowed tables close, what `on_window_close` does then, and which records are late."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import anabranch
import pytest
from anabranch import World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop, Usage
from page_views import View, add, app_with, reporting, send, tumbling, windows


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
            send(world, at, topic=topic)
        assert [late["at"] for late in world.topic("views.late").values] == [3]
        assert world.topic("out").values == [[0, 3]]


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


def test_a_topic_that_declares_another_max_jump_after_a_restart_goes_by_it() -> None:
    topic: dict[str, Any] = {"max_jump": "1h"}

    def make() -> anabranch.App:
        return app_with(reporting(), add, **topic)[0]()

    with World(make) as world:
        send(world, 1, 2)
        world.worker().stop()
        topic["max_jump"] = None
        world.worker().start()
        send(world, 100_000)
        assert world.topic("out").values == [["a", [0, 10], 2]]


def test_an_agent_that_first_writes_behind_the_windows_of_another_one_is_late_and_nothing_is_lost() -> None:
    def make() -> anabranch.App:
        app = anabranch.App("w", topic_partitions=1)
        by_page = app.Table("by-page", default=int).tumbling(10, expires=10).relative_to_field(View.at)
        for name in ("views", "clicks"):

            @app.agent(app.topic(name, value_type=View, idle_after=None), name=name)
            async def count(stream: Any) -> None:
                async for view in stream:
                    by_page[view.page] += view.n

        return app

    with World(make) as world:
        for topic, at in (("views", 1), ("views", 25), ("clicks", 2), ("clicks", 21), ("views", 41), ("clicks", 22)):
            send(world, at, topic=topic)
        (late,) = world.topic("clicks.late").records
        assert late.value["at"] == 2
        assert dict(late.headers)["anabranch-reason"] == b"closed"
        # Once it has written, windows wait for its time too.
        assert windows(world) == {(20, 30): 3, (40, 50): 1}


def test_what_is_sent_when_a_window_closes_has_the_window_s_last_moment_as_its_time() -> None:
    app, _ = app_with(reporting(), add)
    with World(app) as world:
        send(world, 1, 2, 30, 31)
        assert [record.timestamp for record in world.topic("out")] == [datetime(1970, 1, 1, 0, 0, 9, 999000, UTC)]


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
        send(world, 3, 11, topic="more")
        assert world.topic("out").values == [["a", [0, 10], 4]]


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


@pytest.mark.parametrize("noted", [False, True])
def test_polls_get_smaller_only_for_the_time_that_their_records_take(noted: bool) -> None:
    def app() -> anabranch.App:
        app = anabranch.App("slow", topic_partitions=1)

        @app.agent(app.topic("orders", partitions=1))
        async def work(stream: Any) -> None:
            async for _ in stream:
                await asyncio.sleep(1)
                if noted:  # as windows do that close
                    runtime_of(app).context.note_unpolled(1.0)

        return app

    with World(app) as world:
        for _ in range(3):
            world.send("orders", "order")
            world.settle()
        group = runtime_of(world.worker().app).engine._group  # pyright: ignore[reportPrivateUsage]
        assert (group.poll_size.records < 500) is not noted
