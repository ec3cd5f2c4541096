"""Timers of agents in a worker: over restarts, rebalances and replayed dead letters, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anabranch
import pytest
from anabranch.agents.engine import replayed_dead_letters
from anabranch.agents.runtime import runtime_of
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republisher
from anabranch.topics.errors import Usage


def watching(
    lab: Any,
    app: Any,
    *topics: str,
    told: str,
    fails: set[str] | None = None,
    grouped: bool = False,
    windows: bool = False,
) -> Any:
    """An agent that sets a timer for 15 s after the time of each record with an odd number."""
    # Behind group_by, a source partition without records holds time back until it is idle.
    orders = app.topic(*topics, time="at", time_unit="s", grace=0, idle_after="300ms" if grouped else None)
    unpaid = app.Table("unpaid", default=int)

    async def closed(key: Any, value: int) -> None:
        await app.topic(told).send(key=key[0], value=f"{key[0]} closed {value}")

    counts = app.Table("counts", default=int, on_window_close=closed if windows else None)
    by_time = counts.tumbling(10, expires=10).relative_to_stream() if windows else None

    @app.agent(orders, name="watch")
    async def watch(stream):
        async for order in stream.group_by(lambda order: order["key"], name="key") if grouped else stream:
            await app.topic(told).send(key=order["key"], value=f"{order['key']} {order['at']}")
            if by_time is not None:
                by_time[order["key"]] += 1
            if order["at"] % 2:
                unpaid[order["key"]] += 1
                app.at((order["at"] + 15) * 1000, key=order["key"], name="late", payload=order["at"])

    @watch.on_timer("late")
    async def late(timer):
        assert (timer.due, timer.due_ms) == (
            datetime.fromtimestamp(timer.payload + 15, UTC),
            timer.due.timestamp() * 1000,
        )
        if fails and timer.key in fails:
            raise ValueError("not yet")
        await app.topic(told).send(key=timer.key, value=f"{timer.key} late {unpaid.pop(timer.key)}")

    return app


def order(key: str, at: int) -> tuple[str, dict[str, Any]]:
    return key, {"key": key, "at": at}


@pytest.mark.parametrize("how", ["plain", "grouped", "windows", "several"])
async def test_a_timer_of_a_worker_that_ends_fires_in_the_next_one_before_the_record_that_passes_it(
    lab, drain, how: str
) -> None:
    topic, told, name = lab.topic(1), lab.topic(1), lab.fresh("app")
    topics = [topic, lab.topic(1)] if how == "several" else [topic]
    options: dict[str, Any] = {"told": told, "grouped": how == "grouped", "windows": how == "windows"}
    lab.produce(topic, [order("a", 4), order("a", 5)])
    lab.produce(topics[-1], [order("a", 8)] if how == "several" else [])
    app = watching(lab, lab.app(name), *topics, **options)

    async def caught_up(app: Any, count: int) -> None:
        for each in topics:
            await lab.caught_up(each, app)
        await lab.until(lambda: len(drain(told)) == count, "all is told")

    async with lab.running(app):
        await caught_up(app, 3 if how == "several" else 2)
    lab.produce(topics[-1], [order("a", 18)])
    if how == "several":  # time is that of the other topic until this has passed the timer too
        again = watching(lab, lab.app(name), *topics, **options)
        async with lab.running(again):
            await caught_up(again, 4)
    lab.produce(topics[-1], [order("c", 30)] if how == "several" else [])
    lab.produce(topic, [order("b", 20), order("b", 22)])
    again = watching(lab, lab.app(name), *topics, **options)
    async with lab.running(again):
        await caught_up(again, {"plain": 6, "grouped": 6, "windows": 8, "several": 8}[how])
    values = [message.value().decode().strip('"') for message in drain(told)]
    if how == "several":
        assert sorted(values) == sorted(["a 4", "a 5", "a 8", "a 18", "c 30", "a late 1", "b 20", "b 22"])
        # Right before the record with which both topics have passed it.
        assert values.index("a late 1") == max(values.index("b 20"), values.index("c 30")) - 1
        return
    closed = [["a closed 2"], ["a closed 1"]] if how == "windows" else [[], []]
    assert values == ["a 4", "a 5", *closed[0], "a 18", *closed[1], "a late 1", "b 20", "b 22"]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for retry topics without a pause."""
    monkeypatch.setattr(replayed_dead_letters, "LOOK_S", 0.05)


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_timer_that_failed_fires_again_when_its_dead_letter_is_replayed(
    lab, broker, drain, grouped: bool
) -> None:
    topic, told, fails = lab.topic(2), lab.topic(1), {"a"}
    app = watching(lab, lab.app(lab.fresh("app")), topic, told=told, fails=fails, grouped=grouped)
    letters = f"{app.conf.id}-watch-{topic}-key-repartition.dlq" if grouped else f"{topic}.dlq"
    lab.produce(topic, [order("a", 4), order("a", 5), order("a", 30), order("b", 4), order("b", 7), order("b", 40)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 1, "a dead letter")
        republisher = Republisher(broker, letters, runs_topic=lab.fresh("runs"))
        assert republisher.republish(DeadLetterFilter()).sent == 1
        # It fails once more, and is replayed once more.
        await lab.until(lambda: runtime_of(app).status.dead_letters_total == 2, "another dead letter")
        fails.clear()
        assert republisher.republish(DeadLetterFilter()).sent == 1
        await lab.until(lambda: b'"a late 1"' in [message.value() for message in drain(told)], "the timer fires")
    assert sorted(message.value() for message in drain(told)) == sorted(
        [b'"a 4"', b'"a 5"', b'"a 30"', b'"a late 1"', b'"b 4"', b'"b 7"', b'"b 40"', b'"b late 1"']
    )
    (first, second) = drain(letters)
    facts = [dict(letter.headers()) for letter in (first, second)]
    assert {fact["anabranch-reason"] for fact in facts} == {b"timer"}
    assert facts[0]["anabranch-source"] == facts[1]["anabranch-source"]
    assert runtime_of(app).status.dead_letters_total == 2


# What is refused ----------------------------------------------------------------------------------------------------


def an_app(**options: Any) -> tuple[anabranch.App, Any]:
    app = anabranch.App("refused")
    return app, app.topic("orders", **options)


async def ignore(timer: Any) -> None: ...


def test_agents_that_cannot_have_timers_are_refused() -> None:
    app, orders = an_app()

    async def read(stream: Any) -> None: ...

    with pytest.raises(Usage, match="concurrency=2, and timers"):
        app.agent(orders, name="two", concurrency=2)(read).on_timer("t")(ignore)
    with pytest.raises(Usage, match="a channel in memory"):
        app.agent(app.channel(), name="memory")(read).on_timer("t")(ignore)
    watch = app.agent(orders, name="watch")(read)
    with pytest.raises(Usage, match="not an async function"):
        watch.on_timer("t")(lambda timer: None)
    watch.on_timer("t")(ignore)
    with pytest.raises(Usage, match="two functions for timers called 't'"):
        watch.on_timer("t")(ignore)
    with pytest.raises(Usage, match="outside of an agent"):
        app.at(0, key="k", name="t")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"when": 1_769_860_800}, "if it is in milliseconds"),
        ({"when": datetime(2026, 1, 31)}, "which zone"),
        ({"when": "soon"}, "ISO 8601"),
        ({"payload": {1, 2}}, "its payload cannot be kept"),
        ({"payload": timedelta(1)}, "its payload cannot be kept"),
        ({"key": object()}, "object"),
    ],
)
async def test_timers_that_cannot_be_kept_fail_their_record(lab, drain, arguments: Any, error: str) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="watch")
    async def watch(stream):
        async for _ in stream:
            app.at(**{"when": "2026-01-31T12:00Z", "key": "k", "name": "late", **arguments})

    watch.on_timer("late")(ignore)
    lab.produce(topic, [("k", 1)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    (letter,) = drain(f"{topic}.dlq")
    assert error in dict(letter.headers())["anabranch-error"].decode()


async def test_a_timer_without_a_function_stops_the_worker(lab) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="watch")
    async def watch(stream):
        async for _ in stream:
            app.at(0, key="k", name="latte")

    watch.on_timer("late")(ignore)
    lab.produce(topic, [("k", 1)])
    with pytest.raises(Usage, match="no function for timers called 'latte'"):
        async with lab.running(app):
            await lab.caught_up(topic, app)


@pytest.mark.parametrize("how", ["batches", "take"])
async def test_an_agent_with_timers_takes_one_record_at_a_time(lab, how: str) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="watch")
    async def watch(stream):
        async for _ in stream.batches() if how == "batches" else stream.take(3):
            pass

    watch.on_timer("late")(ignore)
    lab.produce(topic, [("k", 1)])
    with pytest.raises(anabranch.topics.errors.Stop, match="which fire between two records"):
        async with lab.running(app):
            await lab.caught_up(topic, app)


def test_timers_behind_group_by_go_by_the_declared_time_of_the_topic() -> None:
    def make() -> anabranch.App:
        app = anabranch.App("grouped", topic_partitions=1)
        orders = app.topic("orders", time="at", time_unit="s", grace="3s", idle_after=None)

        @app.agent(orders, name="watch")
        async def watch(stream):
            async for order in stream.group_by(lambda order: order["key"], name="key"):
                app.at((order["at"] + 5) * 1000, key=order["key"], name="t")

        @watch.on_timer("t")
        async def t(timer):
            await app.topic("told").send(key=timer.key, value=timer.due_ms)

        return app

    with anabranch.World(make) as world:
        for key, at in (("a", 1), ("b", 2), ("c", 8), ("d", 9), ("e", 10)):
            world.send("orders", {"key": key, "at": at})
            world.settle()
        assert world.topic("told").values == [6_000, 7_000]
        (row,) = world.get("/time/").json["operators"]
        assert row["watermark_ms"] == 7_000


async def test_timers_fire_in_a_test_context() -> None:
    app = anabranch.App("context", topic_partitions=1)
    fired: list[Any] = []

    @app.agent(app.topic("orders", time="at", idle_after=None), name="watch")
    async def watch(stream):
        async for order in stream:
            app.at(order["at"] + 5, key="k", name="t", payload=order["at"])
            yield order["at"]

    @watch.on_timer("t")
    async def t(timer):
        fired.append((timer.due_ms, timer.payload))

    async with watch.test_context() as agent:
        for at in (1, 2, 8, 9):
            await agent.put({"at": at}, key="k")
        assert fired == [(7, 2)]


PROGRAM = """
import anabranch
app = anabranch.App("grouped", topic_partitions=2)

@app.agent(app.topic("orders", time="at", time_unit="s"), name="watch")
async def watch(stream):
    async for order in stream.through("between"):
        app.at(order["at"] * 1000, key=order["key"], name="t")

@watch.on_timer("t")
async def t(timer): ...
"""


def test_timers_behind_through_are_refused_in_a_bounded_run(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "orders.jsonl").write_text('{"key": "a", "at": 1}\n')
    with (
        anabranch.World(str(tmp_path / "app.py")) as world,
        pytest.raises(anabranch.topics.errors.AnabranchError, match="timers behind through, or behind several"),
    ):
        world.run({"orders": tmp_path / "orders.jsonl"}, key="key")
