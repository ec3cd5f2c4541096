"""A reset deletes what the app has made, and nothing of the user's; then the app begins anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faust
import pytest
from anabranch import App, World, current_event
from anabranch.agents.runtime import runtime_of
from anabranch.replay.app_reset import AppReset
from anabranch.replay.player import Player
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.topics.admin import Admin
from anabranch.topics.errors import Stop
from anabranch.topics.topic_partition import TopicPartition


class Order(faust.Record):
    user: str
    n: int


def program(app: Any, topic: str) -> Any:
    totals = app.Table("totals", default=int)
    sums = app.topic(topic).key_by("user", "n").reduce(sum, "sums")

    @app.agent(app.topic(topic, value_type=Order), name="by_user")
    async def by_user(stream: Any) -> None:
        async for order in stream.group_by(Order.user):
            totals[order.user] += order.n

    return totals, sums


def orders(n: int) -> list[Any]:
    return [(str(i), {"user": f"u{i % 3}", "n": 1}) for i in range(n)]


async def test_an_app_that_is_reset_processes_its_topics_anew_and_what_is_not_its_own_is_kept(lab, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("shop")
    kept = [topic, f"{topic}.dlq", f"{name}-mine-changelog", f"{name}-old-changelog", f"{name}-eu-totals-changelog"]
    kept.append(f"{name}-run-r1-totals-changelog")  # of a bounded run: not even listed
    lab.admin.create([lab.spec(other) for other in kept[1:]])

    def made() -> Any:
        app = lab.app(name, topic_partitions=2)
        app.topic(f"{name}-mine-changelog")  # the user's, whatever it is called
        program(app, topic)
        return app

    lab.produce(topic, orders(6))
    app = made()
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: table_of(app, "totals") == {"u0": 2, "u1": 2, "u2": 2} == table_of(app, "sums"))
        with pytest.raises(Stop, match=r"workers of .* are running \(1\)"):
            AppReset(made()).execute(AppReset(made()).plan())
    own = [f"{name}-{end}" for end in ("sums-changelog", "sums-repartition", "totals-changelog")]
    own.append(f"{name}-by_user-{topic}-Order.user-repartition")
    # Else the app that begins anew would tell the windows again that `dlq replay` has brought back before.
    again = [f"{name}-by_user{kind}-retry" for kind in ("", "-timers", "-windows", "-fired-windows")]
    lab.admin.create([lab.spec(retried) for retried in again])
    own += again
    plan = AppReset(made()).plan()
    assert set(plan.topics) == set(own)
    assert plan.read == (topic,), "a topic of the app's own is not kept, although it reads it"
    assert {at.topic: offset > 0 for at, offset in plan.offsets.items()}[topic]
    assert plan.similar == (f"{name}-eu-totals-changelog", f"{name}-old-changelog")
    assert plan.folders
    assert set(own) <= lab.admin.partitions().keys(), "a plan deletes nothing"

    AppReset(made()).execute(plan)
    existing = lab.admin.partitions().keys()
    assert not set(own) & existing
    assert set(kept) <= existing
    assert AppReset(made()).plan().empty
    lab.produce(topic, orders(3))
    app = made()
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: table_of(app, "totals") == {"u0": 3, "u1": 3, "u2": 3} == table_of(app, "sums"))


async def test_a_reset_to_the_end_skips_what_is_there(lab, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("shop")

    def made() -> Any:
        app = lab.app(name, topic_partitions=2)
        program(app, topic)
        return app

    lab.produce(topic, orders(6))
    app = made()
    async with lab.running(app):
        await lab.caught_up(topic, app)
    AppReset(made()).execute(AppReset(made()).plan(), start="latest")
    lab.produce(topic, orders(3))
    app = made()
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: table_of(app, "totals") == {"u0": 1, "u1": 1, "u2": 1})


def test_a_replay_into_a_topic_of_the_app_s_own_is_not_taken_for_done_after_a_reset(lab, tmp_path: Path) -> None:
    name, runs = lab.fresh("shop"), lab.fresh("runs")
    app = lab.app(name)

    @app.agent(app.topic(f"{name}-raw", internal=True), name="reads")
    async def reads(stream: Any) -> None:
        async for _ in stream:
            pass

    (tmp_path / "a.jsonl").write_text("1\n2\n")

    def play() -> int:
        history = find_history([str(tmp_path / "a.jsonl")], Format())
        return Player(lab.cluster, history, f"{name}-raw", runs_topic=runs).play().sent_now

    assert play() == 2
    resetting = AppReset(app)
    plan = resetting.plan()
    assert f"{name}-raw" in plan.topics
    resetting.execute(plan, runs_topic=runs)
    with pytest.raises(Stop, match="no longer holds the records of run"):
        play()


def failing_at_the_end() -> App:
    """Windows that fail when they close, and timers that fail when they fire: all once the topic is idle."""
    app = App("w", topic_partitions=1)

    async def report(key: Any, value: Any) -> None:
        raise ValueError("no such printer")

    counts = app.Table("counts", default=int, on_window_close=report).tumbling(10, expires=10)

    @app.agent(app.topic("views", idle_after=10, key_type=str, partitions=1), name="count")
    async def count(stream: Any) -> None:
        async for view in stream:
            counts["all"] += view
            event = current_event()
            assert event is not None
            app.at(int(event.message.timestamp * 1000) + 5_000, key="a", name="late")

    @count.on_timer("late")
    async def late(timer: Any) -> None:
        raise ValueError("no such bell")

    return app


def test_what_has_failed_behind_the_last_record_happens_again_after_a_reset_and_comes_back_only_so() -> None:
    with World(failing_at_the_end) as world:
        world.send("views", 1, key="a")
        world.settle()
        world.advance("1h")
        letters = world.dead_letters("views")
        assert {letter.reason: letter.facts["source"] for letter in letters} == {
            "timer": "views[0]@1",
            "window": "views[0]@1",
        }
        world.worker().stop()
        with world.environment.loading():
            resetting = AppReset(world.worker().app)
            assert resetting.execute(resetting.plan()) == len(letters)


def test_what_came_of_records_that_are_deleted_by_now_is_not_noted_as_done() -> None:
    with World(failing_at_the_end) as world:
        world.send("views", 1, key="a")
        world.settle()
        world.advance("1h")
        world.send("views", 1, key="a")
        world.settle()
        assert len(world.dead_letters("views")) == 2
        world.worker().stop()
        with world.environment.loading():
            Admin(world.environment.kafka.cluster()).delete_records({TopicPartition("views", 0): 1})
            resetting = AppReset(world.worker().app)
            assert resetting.execute(resetting.plan()) == 0


@pytest.mark.parametrize("deleted", [0, 1, 2])
async def test_failures_behind_group_by_are_done_only_if_their_records_are_surely_there(
    lab, record, deleted: int
) -> None:
    #  1 s ✗  2 s ✗  3 s ✗    the first one or two are deleted: beside the first that is left there may have been more
    topic, name = lab.topic(1), lab.fresh("shop")

    def made() -> Any:
        app = lab.app(name, topic_partitions=1)

        @app.agent(app.topic(topic, value_type=Order), name="by_user")
        async def by_user(stream: Any) -> None:
            async for order in stream.group_by(Order.user):
                raise ValueError(f"not this one: {order.n}")

        return app

    app = made()
    async with lab.running(app):
        for n in (1, 2, 3):
            lab.produce(topic, [record({"user": "ann", "n": n}, "ann", 1_700_000_000_000 + n * 1000)])
            await lab.until(lambda n=n: runtime_of(app).status.dead_letters_total == n)
    if deleted:
        lab.admin.delete_records({TopicPartition(topic, 0): deleted})
    resetting = AppReset(made())
    noted = resetting.execute(resetting.plan(), runs_topic=lab.fresh("runs"))
    assert noted == {0: 3, 1: 1, 2: 0}[deleted]
