"""Several agents of a topic, and several instances of one: each record once, in the order of its key."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

pytestmark = pytest.mark.memory_suffices(
    "test_agents_of_one_topic_keep_their_own_progress_over_a_restart",
    "test_a_slow_agent_does_not_hold_back_a_fast_one_for_long_and_both_see_everything",
)

# Several agents, several instances ------------------------------------------------------------------------------------


async def test_agents_of_one_topic_keep_their_own_progress_over_a_restart(lab, table_of) -> None:
    #  fast   0 ─────────────── 100                      mark 100, in the offset's metadata
    #  slow   0 ── 10 held at the eleventh …             committed offset 10
    #  killed; then both go on, each where it was
    topic, name = lab.topic(), lab.fresh("app")
    handled: dict[str, list[int]] = defaultdict(list)

    def program(app, stuck):
        fast_sum, slow_sum = app.Table("fast", default=int), app.Table("slow", default=int)
        source = app.topic(topic)

        @app.agent(source, name="fast")
        async def fast(stream):
            async for value in stream:
                fast_sum["all"] += value
                handled["fast"].append(value)

        @app.agent(source, name="slow")
        async def slow(stream):
            async for values in stream.take(10, within=60) if stuck else stream.take(5, within=60):
                slow_sum["all"] += sum(values)
                handled["slow"] += values

    lab.produce(topic, range(95))
    app = lab.app(name)
    program(app, stuck=True)
    worker = await lab.started(app)
    await lab.until(lambda: lab.committed(name, topic).get(0) == (90, '{"agents":{"fast":95}}'))
    await lab.kill(app, worker)

    lab.produce(topic, range(95, 105))
    app = lab.app(name)
    program(app, stuck=False)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert handled == {"fast": list(range(105)), "slow": list(range(105))}
    assert table_of(app, "fast") == table_of(app, "slow") == {"all": sum(range(105))}


async def test_a_slow_agent_does_not_hold_back_a_fast_one_for_long_and_both_see_everything(lab, table_of) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    counts = app.Table("counts", default=int)
    source = app.topic(topic)

    @app.agent(source, name="fast")
    async def fast(stream):
        async for value in stream:
            counts[f"fast {value % 2}"] += 1

    @app.agent(source, name="slow")
    async def slow(stream):
        async for value in stream:
            await asyncio.sleep(0.001)
            counts[f"slow {value % 2}"] += 1

    lab.produce(topic, [(str(i % 2), i) for i in range(300)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "counts") == {f"{who} {k}": 150 for who in ("fast", "slow") for k in (0, 1)}


async def test_concurrent_instances_share_a_partition_and_keep_order_per_key(lab, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    totals = app.Table("totals", default=int)
    orders: dict[str, list[int]] = defaultdict(list)
    by_instance: dict[int, set[str]] = defaultdict(set)
    busy, most_busy = set(), [0]

    @app.agent(app.topic(topic), name="worker", concurrency=4)
    async def worker(stream):
        async for value in stream:
            me = stream.concurrency_index
            busy.add(me)
            most_busy[0] = max(most_busy[0], len(busy))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            busy.discard(me)
            orders[value["k"]].append(value["i"])
            by_instance[me].add(value["k"])
            totals[value["k"]] += value["i"]

    lab.produce(topic, [(f"k{i % 20}", {"k": f"k{i % 20}", "i": i}) for i in range(1_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    expected = {f"k{k}": list(range(k, 1_000, 20)) for k in range(20)}
    assert orders == expected
    assert table_of(app, "totals") == {k: sum(v) for k, v in expected.items()}
    assert len(by_instance) == 4
    assert most_busy == [4], "they do work at the same time"
    assert sum(len(keys) for keys in by_instance.values()) == 20, "a key has one instance"


async def test_isolated_partitions_have_an_instance_each(lab, record) -> None:
    topic, app = lab.topic(3), lab.app(lab.fresh("app"))
    seen: dict[int, list[int]] = defaultdict(list)

    @app.agent(app.topic(topic), name="isolated", isolated_partitions=True)
    async def isolated(stream):
        async for event in stream.events():
            seen[id(stream)].append(event.message.partition)

    lab.produce(topic, [record(i, None, 0, None, i % 3) for i in range(30)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert sorted(seen.values()) == [[p] * 10 for p in range(3)]


async def test_an_agent_can_read_several_topics(lab, table_of) -> None:
    one, two, app = lab.topic(2), lab.topic(2), lab.app(lab.fresh("app"))
    totals, seen = app.Table("totals", default=int), set()

    @app.agent(app.topic(one, two), name="adder")
    async def adder(stream):
        async for event in stream.events():
            totals["k"] += event.value
            seen.add(event.message.topic)

    lab.produce(one, [("k", 1), ("k", 2)])
    lab.produce(two, [("k", 10), ("k", 20)])
    async with lab.running(app):
        await lab.caught_up(one, app)
        await lab.caught_up(two, app)
    assert table_of(app, "totals") == {"k": 33}
    assert seen == {one, two}
