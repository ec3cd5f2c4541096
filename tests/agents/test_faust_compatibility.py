"""Leaders, signals and clients behave as in Faust."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
from anabranch.agents.runtime import runtime_of


async def condition(true: Any) -> None:
    async with asyncio.timeout(90):
        while not true():
            await asyncio.sleep(0.02)


async def test_one_worker_of_an_app_without_topics_is_the_leader(lab: Any) -> None:
    name = lab.fresh("leaderless")
    apps = [lab.app(name, worker=worker) for worker in "ab"]
    ticks: dict[Any, int] = dict.fromkeys(apps, 0)
    for app in apps:

        @app.timer(interval=0.05, on_leader=True)
        async def tick(app: Any) -> None:
            ticks[app] += 1

    async with lab.running(*apps):
        await condition(lambda: sum(app.is_leader() for app in apps) == 1 and any(ticks.values()))
        leader = next(app for app in apps if app.is_leader())
        before = ticks[leader]
        await condition(lambda: ticks[leader] > before)


async def test_the_other_worker_becomes_the_leader_when_the_first_one_ends(lab: Any) -> None:
    name = lab.fresh("leaderless")
    first, second = lab.app(name, worker="a"), lab.app(name, worker="b")
    async with lab.running(first):
        await condition(first.is_leader)
        async with lab.running(second):
            await condition(lambda: not second.is_leader() and runtime_of(second).status.owned == set())
            runtime_of(first).stop_requested.set()
            await condition(second.is_leader)


async def test_signals_of_a_rebalance_are_sent_in_order(lab: Any) -> None:
    topic, name, seen = lab.topic(2), lab.fresh("signals"), []
    first, second = lab.app(name, worker="a"), lab.app(name, worker="b")

    for app in (first, second):

        @app.agent(app.topic(topic))
        async def read(stream: Any) -> None:
            async for _ in stream:
                pass

    @first.on_partitions_assigned.connect
    async def assigned(app: Any, assigned: Any, **kwargs: Any) -> None:
        seen.append(("assigned", len(assigned)))

    @first.on_partitions_revoked.connect
    async def revoked(app: Any, revoked: Any, **kwargs: Any) -> None:
        seen.append(("revoked", len(revoked)))

    @first.on_rebalance_complete.connect
    async def complete(app: Any, **kwargs: Any) -> None:
        seen.append(("complete", app.rebalancing_count))

    async with lab.running(first):
        await condition(lambda: len(seen) == 2)
        assert seen == [("assigned", 2), ("complete", 1)]
        async with lab.running(second):
            await condition(lambda: len(seen) == 5)
            assert seen[2:] == [("revoked", 2), ("assigned", 1), ("complete", 2)]


async def test_a_client_that_sends_to_a_topic_that_is_not_there_makes_it(lab: Any, drain: Any) -> None:
    app, name = lab.app(lab.fresh("client")), lab.fresh("made")
    app.finalize()
    topic = app.topic(name, partitions=3)
    app.client_only = True
    await topic.send(key="k", value={"a": 1})  # nobody awaits the answer, as in Faust's commands
    await app.producer.flush()
    assert [message.value() for message in drain(name)] == [b'{"a":1}']
    assert lab.admin.partitions([name]) == {name: 3}


async def test_a_record_that_a_client_cannot_send_is_said_in_the_log(lab: Any, caplog: Any) -> None:
    app = lab.app(lab.fresh("client"), topic_allow_declare=False)
    runtime_of(app).cluster = lab.cluster.with_options({"topic.metadata.propagation.max.ms": "1"})
    app.finalize()
    app.client_only = True
    await app.topic("not.there").send(value=1)
    await app.producer.flush()
    assert "not sent" in caplog.text
    assert "not.there" in caplog.text


async def test_values_of_models_arrive_as_models_in_agents(lab: Any) -> None:
    class Payment(faust.Record, namespace="test_faust_habits.Payment"):
        user: str

    topic, seen = lab.topic(), []
    app = lab.app(lab.fresh("models"))

    @app.agent(app.topic(topic))
    async def read(stream: Any) -> None:
        async for value in stream:
            seen.append(value)

    lab.produce(topic, [b'{"user":"ann","__faust":{"ns":"test_faust_habits.Payment"}}', b'{"user":"bob"}'])
    async with lab.running(app):
        await condition(lambda: len(seen) == 2)
    assert seen == [Payment("ann"), {"user": "bob"}]
