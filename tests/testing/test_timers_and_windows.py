"""An agent with timers that writes windowed tables, and an agent with timers of several topics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anabranch
import pytest
import timer_programs
from anabranch import Retry, Simulation, World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.replay.testing.world_feed import Input
from anabranch.topics.errors import AnabranchError


def windowed(*, partitions: int = 1, by_key: bool = False, wrong: bool = False) -> anabranch.App:
    """Counts steps in windows of 10 s, tells of those that close, and sets timers: also where a window closes."""
    app = anabranch.App("both", topic_partitions=partitions)
    steps = app.topic("steps", time="at", time_unit="s", idle_after=None, partitions=1 if by_key else partitions)
    told, seen = app.topic("told"), app.Table("seen", default=int)

    async def closed(key: Any, value: Any) -> None:
        user, (start, _) = key
        seen[user] += 100
        await told.send(key=user, value=f"closed {start:.0f}: {value}, {seen[user]}")
        app.at((start + 18) * 1000, key=user, name="t", payload="close")

    counts = app.Table("counts", default=int, on_window_close=closed).tumbling(10, expires=14).relative_to_stream()

    @app.agent(steps, name="watch")
    async def watch(stream):
        async for step in stream.group_by(lambda step: step["user"], name="user") if by_key else stream:
            user = step["user"]
            seen[user] += 1
            counts[user] += 1
            await told.send(key=user, value=f"step {step['at']}")
            for wait in step.get("waits", ()):
                app.at((step["at"] + wait) * 1000, key=user, name=f"t{wait}")
            if step.get("fails"):
                raise ValueError("refused")

    async def fire(timer):
        if wrong:
            counts[timer.key] += 1
        await told.send(key=timer.key, value=f"timer {timer.due_ms // 1000}: {seen[timer.key]}")

    for name in ("t", "t4", "t11", "t24", "t40"):
        watch.on_timer(name)(fire)
    return app


def step(at: int, *waits: int, user: str = "u", fails: bool = False) -> dict[str, Any]:
    return {"at": at, "waits": waits, "user": user, "fails": fails}


@pytest.mark.parametrize("settle_each", [False, True], ids=["one-epoch", "a-commit-each"])
@pytest.mark.parametrize("by_key", [False, True])
def test_windows_and_timers_of_one_agent_are_told_in_the_order_in_which_they_are_due(
    settle_each: bool, by_key: bool
) -> None:
    with World(lambda: windowed(by_key=by_key)) as world:
        for one in (step(1, 4, 11, 24), step(5), step(2), step(40)):
            world.send("steps", one, key="u")
            if settle_each:
                world.settle()
        world.settle()
        # The window from 0 to 10 closes at stream time 14, with the grace of 4 s.
        assert world.topic("told").values == [
            "step 1",
            "timer 5: 1",
            "step 5",
            "step 2",
            "timer 12: 3",
            "closed 0: 3, 103",
            "timer 18: 103",
            "timer 25: 103",
            "step 40",
        ]


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from test_timers_and_windows import {name}
app = {name}(by_key={by_key})
"""


def write_program(folder: Path, name: str, *, by_key: bool) -> str:
    text = PROGRAM.format(folder=str(Path(__file__).parent), name=name, by_key=by_key)
    (folder / "program.py").write_text(text)
    return str(folder / "program.py")


@pytest.mark.parametrize("by_key", [False, True])
def test_at_the_end_of_the_input_windows_and_timers_are_told_in_the_same_order_behind_group_by(
    tmp_path: Path, by_key: bool
) -> None:
    program = write_program(tmp_path, "windowed", by_key=by_key)
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (step(1, 4, 11, 24), step(5))))
    with World(program) as world:
        result = world.run({"steps": tmp_path / "steps.jsonl"}, key="user")
    # The input ends at 5. What the window that closes sets for 18 is behind that, and does not fire.
    assert result.topics["told"].values == [
        "step 1",
        "timer 5: 1",
        "step 5",
        "timer 12: 2",
        "closed 0: 2, 102",
        "timer 25: 102",
    ]
    assert [row["late"] for row in result.tables["watch-timers"].values()] == [True]


def test_a_timer_cannot_choose_a_window_by_a_record() -> None:
    with World(lambda: windowed(wrong=True)) as world:
        for one in (step(1, 4), step(9)):
            world.send("steps", one, key="u")
        with pytest.raises(AnabranchError, match="a timer that fires has no record whose time could choose a window"):
            world.settle()


@pytest.mark.parametrize("by_key", [False, True])
def test_worlds_with_faults_tell_the_same_windows_and_timers(by_key: bool) -> None:
    steps = [
        step(n + (7 if n % 5 == 0 else 0), *(((4, 11), (24,), (), (40, 4))[n % 4]), user=f"u{n % 5}", fails=n % 17 == 9)
        for n in range(100)
    ]
    simulation = Simulation(
        lambda: windowed(partitions=3, by_key=by_key),
        inputs={"steps": [(one["user"], one) for one in steps]},
        seeds=4,
        faults="kill,abort,lost-answer,rebalance",
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


def jumping(*, timers: bool) -> anabranch.App:
    """Closes many windows, or fires many timers, in epochs of five outputs, in front of records that are far ahead."""
    app = anabranch.App("jumping", topic_partitions=1, settings=EngineSettings(max_outputs=5))
    steps = app.topic("steps", time="at", time_unit="s", max_jump="10s", idle_after=None, partitions=1)
    told = app.topic("told")

    async def closed(key: Any, value: Any) -> None:
        await told.send(key="k", value=f"closed {key[0]} {key[1][0]:.0f}: {value}")

    counts = app.Table("counts", default=int, on_window_close=closed).tumbling(10, expires=10).relative_to_stream()

    @app.agent(steps, name="watch")
    async def watch(stream):
        async for step in stream:
            counts["all"] += 1
            for number in range(step.get("many", 0)):
                if timers:
                    app.at(step["at"] * 1000, key=number, name="t")
                else:
                    counts[number] += 1

    if timers:

        @watch.on_timer("t")
        async def fire(timer):
            await told.send(key="k", value=f"timer {timer.key}")

    return app


@pytest.mark.parametrize("timers", [False, True])
def test_a_record_far_ahead_that_waits_while_others_fire_is_not_its_own_confirmation_after_a_crash(
    timers: bool,
) -> None:
    # 60 and 200 far ahead of 2: 60 counts, 200 waits for another one. 60 far ahead of 3: it is alone.
    times = (1, 3, 60, 4, 12) if timers else (1, 2, 60, 200, 61, 62, 75)
    simulation = Simulation(
        lambda: jumping(timers=timers),
        inputs={"steps": [("k", {"at": at, "many": 40 if at in (2, 3) else 0}) for at in times]},
        seeds=6,
        faults="kill,abort,lost-answer",
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


def retrying(how: str, unreachable: set[int]) -> anabranch.App:
    """Counts steps in windows, or sets a timer; the key of some steps cannot be found yet."""
    app = anabranch.App("retrying", topic_partitions=1)
    steps = app.topic("steps", time="at", time_unit="s", max_jump="10s", idle_after=None, partitions=1)
    told, timers = app.topic("told"), how == "timers"
    counts = None if timers else app.Table("counts", default=int).tumbling(10, expires=10).relative_to_stream()

    def key(step: dict[str, int]) -> str:
        if step["at"] in unreachable:
            raise ConnectionError("not now")
        return "k"

    @app.agent(steps, name="watch", on_failure=Retry(times=10, first_s=30, most_s=30))
    async def watch(stream):
        async for step in stream if how == "windows" else stream.group_by(key, name="key"):
            if counts is not None:
                counts[key(step)] += 1
            if timers:
                app.at(20_000, key="k", name="t")
            await told.send(key="k", value=step["at"])

    if timers:

        @watch.on_timer("t")
        async def fire(timer):
            await told.send(key="k", value=timer.name)

    return app


@pytest.mark.parametrize("how", ["windows", "windows behind group_by", "timers"])
def test_a_record_far_ahead_that_waits_for_a_retry_is_not_its_own_confirmation_after_a_crash(how: str) -> None:
    unreachable = {200}
    with World(lambda: retrying(how, unreachable)) as world:
        for at in (1, 2, 200, 3, 4):
            world.send("steps", {"at": at}, key="k")
        world.advance("50s")  # it has failed twice
        world.worker().kill()
        world.worker().start()
        unreachable.clear()
        world.settle()
        assert world.topic("told").values == [1, 2, 200, 3, 4]
        if how != "timers":
            assert world.table("counts") == {("k", 0, 10_000): 4, ("k", 200_000, 210_000): 1}


# Several topics -----------------------------------------------------------------------------------------------------


def reminding(*, by_key: bool = False, idle_after: str | None = None) -> anabranch.App:
    app = anabranch.App("several", topic_partitions=2)
    both = app.topic("orders", "payments", time="at", time_unit="s", idle_after=idle_after, partitions=2)
    told, seen = app.topic("told"), app.Table("seen", default=int)

    @app.agent(both, name="watch")
    async def watch(stream):
        async for one in stream.group_by(lambda one: one["user"], name="user") if by_key else stream:
            seen[one["user"]] += 1
            await told.send(key=one["user"], value=f"{one['at']}")
            if one.get("paid"):
                app.cancel(key=one["user"], name="unpaid")
            else:
                app.at((one["at"] + 15) * 1000, key=one["user"], name="unpaid")

    @watch.on_timer("unpaid")
    async def unpaid(timer):
        await told.send(key=timer.key, value=f"unpaid at {timer.due_ms // 1000} after {seen[timer.key]}")

    return app


def order(user: str, at: int, *, paid: bool = False) -> dict[str, Any]:
    return {"user": user, "at": at, "paid": paid}


def test_timers_of_an_agent_of_several_topics_go_by_the_least_of_their_times() -> None:
    with World(reminding) as world:
        world.send("orders", order("u", 0), key="u")
        world.send("orders", order("u", 20), key="u")
        world.settle()
        assert world.topic("told").values == ["0", "20"]  # nothing is known of the payments
        world.send("payments", order("u", 14, paid=True), key="u")
        world.settle()
        world.send("orders", order("u", 30), key="u")
        world.send("payments", order("u", 50, paid=True), key="u")
        world.settle()
        world.worker().kill()
        world.worker().start()
        world.send("orders", order("u", 70), key="u")
        world.settle()
        # That of 20 was replaced; that of 45 fires before the order of 70, with which both topics have passed it.
        assert world.topic("told").values == ["0", "20", "14", "30", "50", "70"]
        world.send("payments", order("v", 90, paid=True), key="u")
        world.settle()
        assert world.topic("told").values[6:] == ["90"]
        (row,) = [row for row in world.get("/time/").json["operators"] if row["watermark_ms"] is not None]
        assert row["watermark_ms"] == 70_000


def test_timers_of_several_topics_fire_although_one_of_these_is_idle() -> None:
    with World(lambda: reminding(idle_after="10s")) as world:
        world.send("orders", order("u", 0), key="u")
        world.send("orders", order("v", 20), key="u")
        world.settle()
        world.advance("12s")
        world.settle()
        assert world.topic("told").values == ["0", "20", "unpaid at 15 after 1"]


@pytest.mark.parametrize("by_key", [False, True])
def test_topics_that_a_run_aligns_have_the_timers_that_follow_from_their_times(tmp_path: Path, by_key: bool) -> None:
    orders = [order(user, at) for at, user in enumerate("uvwuvwuvwxyz")]
    payments = [order(user, at, paid=True) for user, at in (("u", 12), ("w", 22), ("w", 23), ("x", 26), ("y", 40))]
    program = write_program(tmp_path, "reminding", by_key=by_key)
    for name, lines in (("orders", orders), ("payments", payments)):
        timed = [{**line, "ts": f"2026-01-01T00:00:{line['at']:02}Z"} for line in lines]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timed))
    with World(program) as world:
        files = {name: tmp_path / f"{name}.jsonl" for name in ("orders", "payments")}
        result = world.run(files, key="user", time="ts", workers=2)
    told = [value for value in result.topics["told"].values if value.startswith("unpaid")]
    if by_key:  # which records they have seen depends on the order of commits
        told = [value.rpartition(" after ")[0] for value in told]
    assert len(told) == len(set(told))
    if not by_key:
        assert sorted(told) == [
            "unpaid at 22 after 3",
            "unpaid at 24 after 1",
            "unpaid at 25 after 1",
            "unpaid at 26 after 1",
        ]


def test_worlds_with_faults_fire_the_same_timers_of_several_topics() -> None:
    simulation = Simulation(
        lambda: timer_programs.app_of(topics=("orders", "others")),
        inputs=timer_programs.inputs(timer_programs.orders()),
        seeds=4,
        faults="kill,abort,lost-answer,rebalance",
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


def test_worlds_with_faults_fire_the_same_timers_of_topics_that_are_aligned() -> None:
    times = {"orders": range(60), "payments": range(5, 60, 3)}
    simulation = Simulation(
        reminding,
        inputs={
            topic: [Input(order(f"u{n % 7}", n, paid=topic == "payments"), f"u{n % 7}", 1000 + n * 1000) for n in at]
            for topic, at in times.items()
        },
        seeds=4,
        faults="kill,abort,lost-answer,rebalance",
        bounded=True,
        aligned=True,
        ordered=["told"],
    )
    assert simulation.same_as_without_faults().worlds


# group_by of several topics -----------------------------------------------------------------------------------------


def test_group_by_of_several_topics_makes_one_topic_of_them_also_where_there_are_windows(tmp_path: Path) -> None:
    source = """
import anabranch
app = anabranch.App("several", topic_partitions=2)
both = app.topic("orders", "payments", time="at", time_unit="s", idle_after=None, partitions=2)
totals = app.Table("totals", default=int)
counts = app.Table("counts", default=int).tumbling(10, expires=10).relative_to_stream()

@app.agent(both, name="count")
async def count(stream):
    async for one in stream.group_by(lambda one: one["user"], name="user"):
        counts[one["user"]] += 1
        totals[one["user"]] += 1
"""
    (tmp_path / "program.py").write_text(source)
    for name, times in (("orders", (1, 5, 30)), ("payments", (2, 12))):
        lines = [json.dumps({"user": "u", "at": at, "key": f"k{at}"}) for at in times]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    with World(str(tmp_path / "program.py")) as world:
        result = world.run({name: tmp_path / f"{name}.jsonl" for name in ("orders", "payments")}, key="key")
        assert result.tables["totals"] == {"u": 5}
        assert result.tables["counts"] == {("u", 0, 10_000): 3, ("u", 10_000, 20_000): 1, ("u", 30_000, 40_000): 1}
