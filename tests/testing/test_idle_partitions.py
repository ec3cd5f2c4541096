"""Partitions of a live topic that have no records: they neither hold windows open nor lose records."""

from __future__ import annotations

import anabranch
import pytest
from anabranch import Count, Sessions, Tumbling, World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.event_time.windows import Windows
from anabranch.agents.failure_policy import Retry
from anabranch.topics.errors import Usage
from open_transaction import open_transaction

START = "2026-01-31T12:00:00Z"
START_MS = 1_769_860_800_000


def app_of(
    *, by_key: bool = True, idle_after: str | None = "1m", windows: Windows | None = None, max_jump: str = "1h"
) -> anabranch.App:
    app = anabranch.App("idle", topic_partitions=3)
    visits = app.topic(
        "visits", time="at", time_unit="s", grace="0s", idle_after=idle_after, partitions=3, max_jump=max_jump
    )
    flow = visits.key_by("user") if by_key else visits.flow()
    flow.window(windows or Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")
    return app


def visit(world: World, seconds: int, partition: int = 0, user: str = "ann") -> None:
    world.send("visits", {"at": START_MS // 1000 + seconds, "user": user}, key=user, partition=partition)


def told(world: World) -> list[tuple[str, int, int]]:
    return [(v["key"], (v["start"] - START_MS) // 1000, v["n"]) for v in world.topic("finals").values]


@pytest.mark.parametrize("by_key", [True, False])
def test_the_last_window_closes_in_silence_at_the_pace_of_the_clock(by_key: bool) -> None:
    with World(lambda: app_of(by_key=by_key), start=START) as world:
        for seconds in (1, 3):
            visit(world, seconds)
        world.settle()
        world.advance("1m")
        assert told(world) == []
        world.advance("30s")
        assert told(world) == [("ann", 0, 2)]
        world.advance("10m")
        assert told(world) == [("ann", 0, 2)]
        visit(world, 200)
        visit(world, 211)
        world.settle()
        world.advance("2m")
        assert told(world)[1:] == [("ann", 200, 1), ("ann", 210, 1)]


@pytest.mark.parametrize("by_key", [True, False])
def test_the_window_of_a_record_behind_a_long_pause_closes_in_silence(by_key: bool) -> None:
    with World(lambda: app_of(by_key=by_key, max_jump="1m"), start=START) as world:
        for seconds in (1, 3):
            visit(world, seconds)
        world.advance("150s")
        assert told(world) == [("ann", 0, 2)]
        visit(world, 150)  # more than `max_jump` ahead, so that it moves no time
        world.advance("190s")
        assert told(world) == [("ann", 0, 2)]
        world.advance("40s")  # a minute until the partition is idle, and then from 10 to 160 at the pace of the clock
        assert told(world) == [("ann", 0, 2), ("ann", 150, 1)]


@pytest.mark.parametrize(("by_key", "within"), [(False, "3s"), (True, "17s")])  # how often idleness is told
def test_a_session_closes_in_silence_when_its_partition_has_been_idle_for_its_gap(by_key: bool, within: str) -> None:
    with World(lambda: app_of(by_key=by_key, windows=Sessions("20s")), start=START) as world:
        visit(world, 1)
        world.settle()
        world.advance("80s")  # `idle_after`, and the gap
        assert told(world) == []
        world.advance(within)
        assert told(world) == [("ann", 1, 1)]


@pytest.mark.parametrize("by_key", [True, False])
def test_partitions_are_idle_beside_one_that_has_records_all_the_time(by_key: bool) -> None:
    with World(lambda: app_of(by_key=by_key, idle_after="4s"), start=START) as world:
        visit(world, 0, partition=1, user="bob")
        for number in range(120):
            visit(world, number // 4)
            world.advance("250ms")
        windows = [("ann", 0, 40), ("ann", 10, 40)]
        assert sorted(told(world)) == [*windows, ("bob", 0, 1)]


def test_an_open_transaction_is_not_silence() -> None:
    with World(lambda: app_of(idle_after="4s"), start=START) as world:
        world.settle()
        record = b'{"at": %d, "user": "bob"}' % (START_MS // 1000)
        with open_transaction(world, "visits", [record], partition=1, key=b"bob"):
            for seconds in range(0, 40, 2):  # far beyond idle_after; partition 1 has a record that nobody may read
                visit(world, seconds)
                world.advance("2s")
            assert told(world) == []
        world.advance("30s")
        assert sorted(told(world)) == [("ann", start, 5) for start in (0, 10, 20, 30)] + [("bob", 0, 1)]
        with pytest.raises(Usage):
            world.topic("visits.late")


def test_without_idle_after_an_empty_partition_holds_windows_open() -> None:
    with World(lambda: app_of(idle_after=None), start=START) as world:
        for seconds in (1, 15, 30):
            visit(world, seconds)
        world.settle()
        world.advance("30m")
        assert told(world) == []


def test_an_empty_partition_does_not_hold_the_others_back_and_is_waited_for_again_when_it_has_records() -> None:
    with World(lambda: app_of(), workers=2, start=START) as world:
        for seconds in (1, 3):
            visit(world, seconds)
        world.settle()
        world.advance("90s")  # partitions 1 and 2 are idle, and so is 0
        visit(world, 40)
        visit(world, 45)
        world.settle()
        world.advance("30s")  # the idle ones are known to be at their ends after that
        assert told(world) == [("ann", 0, 2)]
        visit(world, 61)
        visit(world, 62)
        world.settle()
        world.advance("30s")
        assert told(world) == [("ann", 0, 2), ("ann", 40, 2)]
        visit(world, 63, partition=1, user="bob")
        visit(world, 64, partition=1, user="bob")
        visit(world, 75)
        visit(world, 76)
        world.settle()
        world.advance("30s")
        assert told(world) == [("ann", 0, 2), ("ann", 40, 2)], "partition 1 is at 64"
        visit(world, 81, partition=1, user="bob")
        visit(world, 82, partition=1, user="bob")
        world.settle()
        world.advance("30s")
        assert told(world)[2:] == [("ann", 60, 2), ("bob", 60, 2)]


def test_history_that_comes_into_an_idle_app_partition_by_partition_is_not_late() -> None:
    with World(lambda: app_of(), workers=2, start=START) as world:
        world.settle()
        world.advance("10m")  # all are idle
        for partition in range(3):
            for seconds in range(0, 3_600, 5):
                visit(world, seconds, partition, user=f"u{partition}")
        world.settle()
        world.advance("5m")
        assert len(told(world)) == 3 * 360
        assert {n for _, _, n in told(world)} == {2}
        with pytest.raises(Usage):
            world.topic("visits.late")


def test_idleness_outlives_the_worker() -> None:
    with World(lambda: app_of(), start=START) as world:
        visit(world, 1)
        visit(world, 2)
        world.settle()
        world.advance("65s")
        world.worker(0).kill()
        world.worker(0).start()
        world.settle()
        world.advance("2m")
        assert told(world) == [("ann", 0, 2)]
        visit(world, 3)
        world.settle()
        assert [late["at"] for late in world.topic("visits.late").values] == [START_MS // 1000 + 3]


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("final", [True, False], ids=["nothing-sent", "nobody-told"])
def test_windows_that_have_closed_in_silence_stay_closed_after_a_crash(by_key: bool, final: bool) -> None:
    def app() -> anabranch.App:
        app = anabranch.App("idle", topic_partitions=1)
        visits = app.topic("visits", time="at", time_unit="s", grace="0s", idle_after="1m", partitions=1)
        flow = visits.key_by("user") if by_key else visits.flow()
        made = flow.window(Tumbling("10s")).aggregate("by-user", n=Count())
        if final:
            made.final().filter(lambda window: window["n"] > 2).to("finals")
        return app

    with World(app, start=START) as world:
        for seconds in (1, 2):
            visit(world, seconds)
        world.settle()
        world.advance("5m")
        world.worker().kill()
        world.worker().start()
        visit(world, 3)
        world.settle()
        world.advance("5m")
        assert [row["n"] for row in world.table("by-user").values()] == [2]
        assert len(world.topic("visits.late").values) == 1


def test_a_partition_that_another_worker_had_meanwhile_is_not_idle_for_what_it_was_before() -> None:
    def app() -> anabranch.App:
        app = anabranch.App("idle", topic_partitions=2)
        visits = app.topic("visits", time="at", time_unit="s", grace="0s", idle_after="60s", partitions=2)
        visits.window(Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")
        return app

    with World(app, workers=2, start=START) as world:

        def visits_until(end: int) -> None:
            for seconds in range(int(world.now.timestamp()) - START_MS // 1000, end, 10):
                for partition in (0, 1):
                    visit(world, seconds, partition, user=f"u{partition}")
                world.advance("10s")

        world.settle()
        world.worker(1).stop()
        world.advance("50s")  # worker 0 has both partitions, and sees no record in them
        world.worker(1).start()
        world.settle()
        visits_until(400)  # each has one of them
        world.worker(1).stop()
        world.advance("5s")  # worker 0 has both again
        for partition in (0, 1):
            visit(world, 395, partition, user=f"u{partition}")
        world.settle()
        with pytest.raises(Usage):
            world.topic("visits.late")


def failing_elsewhere(kind: str, fails: str) -> anabranch.App:
    """Return an app of which an agent fails at each record of partition 0: the one of the windows, or another one."""
    app = anabranch.App("idle", topic_partitions=2)
    visits = app.topic("visits", time="at", time_unit="s", grace="0s", idle_after="4s", partitions=2)

    def good(visit: dict[str, object]) -> bool:
        if fails == "same agent" and visit["user"] == "bad":
            raise ValueError("refused")
        return True

    if fails == "other agent":

        @app.agent(visits, name="other")
        async def other(stream):
            async for visit in stream:
                if visit["user"] == "bad":
                    raise ValueError("refused")

    if kind != "table":
        flow = visits.filter(good)
        (flow.key_by("user") if kind == "flow by key" else flow).window(Tumbling("10s")).aggregate(
            "by-user", n=Count()
        ).final().to("finals")
        return app

    async def report(window, value):
        await app.topic("finals").send(value={"key": window[0], "start": int(window[1][0] * 1000), "n": value})

    table = app.Table("by-user", default=int, on_window_close=report).tumbling(10, 10)
    by_user = table.relative_to_stream()

    @app.agent(visits, name="count")
    async def count(stream):
        async for visit in stream:
            if good(visit):
                by_user[visit["user"]] += 1

    return app


@pytest.mark.parametrize("fails", ["same agent", "other agent"])
@pytest.mark.parametrize("kind", ["flow", "flow by key", "table"])
def test_failing_records_of_another_partition_do_not_end_the_silence(kind: str, fails: str) -> None:
    with World(lambda: failing_elsewhere(kind, fails), start=START) as world:
        for seconds in (1, 3):
            visit(world, seconds, 1)
        for seconds in range(30):
            visit(world, 100 + seconds, 0, user="bad")
            world.advance("1s")
        assert len(world.dead_letters("visits")) == 30
        assert ("ann", 0, 2) in told(world)


def test_a_partition_is_not_idle_while_it_is_not_read_because_another_agent_retries_a_record() -> None:
    def make() -> anabranch.App:
        app = anabranch.App("idle", topic_partitions=2, settings=EngineSettings(batch_records=5))
        visits = app.topic("visits", time="at", time_unit="s", grace="0s", idle_after="4s", partitions=2)
        visits.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")

        @app.agent(visits, name="other", on_failure=Retry(times=1, first_s=60.0, most_s=60.0))
        async def other(stream):
            async for visit in stream:
                if visit["user"] == "bad":
                    raise ValueError("refused")

        return app

    with World(make, start=START) as world:
        visit(world, 1, 1)
        for seconds in range(8):
            visit(world, 1 + seconds, 0, user="bad" if seconds == 0 else "ann")
        world.advance("1s")
        for seconds in range(9, 30):
            for partition in (0, 1):
                visit(world, seconds, partition)
            world.advance("1s")
        world.advance("60s")
        assert sum(row["n"] for row in world.table("by-user").values()) == 1 + 8 + 2 * 21


def test_windows_are_looked_up_by_key_and_time() -> None:
    app = anabranch.App("lookup")
    visits = app.topic("visits", time="at", time_unit="s", grace="0s", partitions=1)
    windows = visits.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count())
    sessions = visits.key_by("user").window(Sessions("5s")).aggregate("sessions", n=Count())
    with World(app) as world:
        for seconds in (1, 3, 15):
            visit(world, seconds)
        world.settle()
        ((window, found),) = windows.at("ann", "2026-01-31T12:00:09Z").items()
        assert (window.start_ms - START_MS, window.end_ms - START_MS, found) == (0, 10_000, {"n": 2})
        assert windows.at("ann", START_MS + 20_000) == windows.at("bob", START_MS) == {}
        assert [w.start_ms - START_MS for w in windows.windows("ann")] == [10_000, 0]
        assert list(sessions.at("ann", START_MS + 2_000).values()) == [{"n": 2}]
        assert sessions.at("ann", START_MS + 9_000) == {}
        with pytest.raises(Usage, match="which zone"):
            windows.at("ann", "2026-01-31T12:00:09")
