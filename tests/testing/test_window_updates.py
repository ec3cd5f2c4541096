"""Updates of windows: what has changed is sent at the pace of the clock; the last record of a window is the final."""

from __future__ import annotations

from typing import Any

import anabranch
import pytest
from anabranch import Count, Cumulating, Hopping, Sessions, Sum, Tumbling, World
from anabranch.agents.event_time.windows import Windows
from anabranch.agents.flows import window_closer
from anabranch.replay.testing.faults import Plan
from anabranch.replay.testing.simulation import Simulation
from anabranch.topics.errors import Usage

USERS = ("ann", "bob", "cat", "dan")
by_key_or_not = pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])


def app_of(by_key: bool = True, windows: Windows | None = None, *, every: Any = "10s") -> anabranch.App:
    app = anabranch.App("updates", topic_partitions=2)
    sales = app.topic("sales", time="at", time_unit="s", grace="5s", max_jump=None, idle_after=None, partitions=2)
    keyed = sales.key_by("user") if by_key else sales.flow()
    table = keyed.window(windows or Tumbling("60s")).aggregate("by-user", n=Count(), spent=Sum("price"))
    table.updates(every=every).to("dashboard")
    table.final().to("finals")
    return app


def send(world: World, user: str, at: int, price: int = 1) -> None:
    world.send("sales", {"user": user, "at": at, "price": price}, key=user)


def told(world: World) -> list[tuple[Any, int]]:
    return [(record.key.decode(), record.value["n"]) for record in world.topic("dashboard").records]


@by_key_or_not
def test_windows_that_have_changed_are_sent_once_in_each_pace(by_key: bool) -> None:
    with World(lambda: app_of(by_key)) as world:
        send(world, "ann", 1)
        send(world, "ann", 2)
        send(world, "bob", 3)
        world.settle()
        assert told(world) == []
        world.advance("11s")
        assert sorted(told(world)) == [('["ann",0,60000]', 2), ('["bob",0,60000]', 1)]
        world.advance("60s")
        assert len(told(world)) == 2  # nothing has changed
        send(world, "ann", 4)
        world.settle()
        world.advance("11s")
        assert told(world)[2:] == [('["ann",0,60000]', 3)]


@by_key_or_not
def test_records_that_fail_do_not_put_updates_off(by_key: bool) -> None:
    def make() -> anabranch.App:
        app = anabranch.App("updates", topic_partitions=2)
        sales = app.topic("sales", time="at", time_unit="s", grace=0, idle_after=None, partitions=2)
        good = sales.filter(lambda sale: 1 // sale["price"])
        table = (good.key_by("user") if by_key else good).window(Tumbling("60s")).aggregate("by-user", n=Count())
        table.updates(every="5s").to("dashboard")
        return app

    with World(make) as world:
        for at in range(21):
            world.send("sales", {"user": "bad", "at": at, "price": 0}, key="bad", partition=0)
            if at % 10 == 0:
                world.send("sales", {"user": "ann", "at": at, "price": 1}, key="ann", partition=1)
            world.advance("1s")
        assert told(world) == [('["ann",0,60000]', 1), ('["ann",0,60000]', 2)]


@by_key_or_not
def test_the_last_update_of_a_window_is_the_final_one(by_key: bool) -> None:
    with World(lambda: app_of(by_key)) as world:
        send(world, "ann", 1)
        world.settle()
        world.advance("11s")
        for at in (3, 65):
            for user in USERS:  # both partitions go on
                send(world, user, at)
        world.settle()
        assert len(world.topic("finals").values) == 4
        last = {record.key.decode(): record.value for record in world.topic("dashboard").records}
        assert [last[f'["{value["key"]}",0,60000]'] for value in world.topic("finals").values] == world.topic(
            "finals"
        ).values
        assert told(world)[0] == ('["ann",0,60000]', 1)
        closed = len(told(world))
        world.advance("11s")
        assert sorted(told(world)[closed:]) == [(f'["{user}",60000,120000]', 1) for user in USERS]


def test_a_worker_that_starts_again_sends_the_open_windows_again() -> None:
    with World(lambda: app_of(by_key=False)) as world:
        send(world, "ann", 1)
        world.settle()
        world.worker().kill()
        world.worker().start()
        world.settle()
        world.advance("11s")
        assert told(world) == [('["ann",0,60000]', 1)]


def test_the_timestamp_of_an_update_is_stream_time_within_the_window() -> None:
    with World(lambda: app_of(by_key=False)) as world:
        send(world, "ann", 31)
        send(world, "ann", 3)
        send(world, "ann", 62)
        world.settle()
        world.advance("11s")
        times = {record.key.decode(): record.timestamp_ms for record in world.topic("dashboard").records}
        assert times == {'["ann",0,60000]': 59_999, '["ann",60000,120000]': 62_000}


@pytest.mark.parametrize("windows", [Hopping("20s", "10s"), Cumulating("30s", "10s")], ids=str)
def test_each_of_the_windows_that_overlap_has_a_key_of_its_own(windows: Windows) -> None:
    with World(lambda: app_of(False, windows)) as world:
        send(world, "ann", 11)
        world.settle()
        world.advance("11s")
        keys = [record.key.decode() for record in world.topic("dashboard").records]
        spans = windows.of_pane(windows.pane(11_000))
        assert sorted(keys) == sorted(f'["ann",{start},{end}]' for start, end in spans)


@by_key_or_not
def test_a_reader_of_updates_ends_with_the_finals_in_worlds_with_faults(
    by_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_closer, "_CHUNK", 3)
    monkeypatch.setattr(window_closer, "_PORTION", 2)

    def app() -> anabranch.App:
        app = app_of(by_key, Tumbling("10s"), every="0.2s")
        last = app.Table("last")

        @app.agent(app.topic("dashboard"), name="read")
        async def read(stream: Any) -> None:  # pyright: ignore[reportUnusedFunction]
            async for event in stream.events():
                last[event.key.decode()] = event.value

        return app

    sales = [(f"u{n % 7}", {"user": f"u{n % 7}", "at": n, "price": n % 5}) for n in range(120)]
    simulation = Simulation(
        app,
        inputs={"sales": sales},
        seeds=4,
        faults="kill,abort,lost-answer,rebalance",
        ignore=["dashboard"],
        bounded=True,
    )
    assert simulation.same_as_without_faults().worlds == 4
    tables: dict[str, dict[Any, Any]] = dict(simulation.world(1, Plan()).run().tables)
    rows = {f'["{key}",{start},{end}]': value for (key, start, end), value in tables["by-user"].items()}
    assert {key: {"n": value["n"], "spent": value["spent"]} for key, value in tables["last"].items()} == rows


def test_updates_that_could_not_be_right_are_refused() -> None:
    app = anabranch.App("updates")
    keyed = app.topic("sales", grace="5s").key_by("user")
    with pytest.raises(Usage, match="updates of sessions"):
        keyed.window(Sessions("5s")).aggregate("visits", n=Count()).updates(every="1s")
    table = keyed.window(Tumbling("5s")).aggregate("by-user", n=Count())
    with pytest.raises(Usage, match="filter or flat_map behind updates"):
        table.updates(every="1s").filter(lambda window: window["n"] > 1)
    table.updates(every="1s").select("key", "n").to("dashboard")
    with pytest.raises(Usage, match="two paces"):
        table.updates(every="2s")
    with pytest.raises(Usage, match="every"):
        table.updates(every=0)
