"""`take`, its variants and batches lose none of the records that they hold back."""

from __future__ import annotations

import zlib
from collections import defaultdict

import pytest
from anabranch.agents.runtime import runtime_of

pytestmark = pytest.mark.memory_suffices(
    "test_what_take_holds_back_is_not_committed_and_comes_again_after_a_crash",
)

LONG_AGO_MS = 1_357_016_400_123


# Several records at a time --------------------------------------------------------------------------------------------


async def test_take_gives_full_lists_of_one_partition_and_the_rest_after_a_while(lab, record) -> None:
    topic, app, got = lab.topic(3), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic), name="taker")
    async def taker(stream):
        async for values in stream.take(10, within=0.05):
            got.append(values)

    # Partition p has 25 records of p: two full lists, and five that wait for the deadline.
    lab.produce(topic, [record([p, i], None, 0, None, p) for i in range(25) for p in range(3)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert all(len({p for p, _ in values}) == 1 for values in got), "never mixes partitions"
    for p in range(3):
        lists = [[i for _, i in values] for values in got if values[0][0] == p]
        assert [len(values) for values in lists] == [10, 10, 5]
        assert [i for values in lists for i in values] == list(range(25))


async def test_take_events_gives_events(lab, record) -> None:
    topic, app, got = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic, key_type=str), name="taker")
    async def taker(stream):
        async for events in stream.take_events(2, within=5):
            got.append([(event.key, event.value, event.message.offset) for event in events])

    lab.produce(topic, [record(i, f"k{i}") for i in range(4)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert got == [[("k0", 0, 0), ("k1", 1, 1)], [("k2", 2, 2), ("k3", 3, 3)]]


async def test_take_with_timestamp_writes_the_records_time_into_the_value(lab, record) -> None:
    topic, app, got = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic), name="taker")
    async def taker(stream):
        async for values in stream.take_with_timestamp(2, within=5, timestamp_field_name="at"):
            got.extend(values)

    lab.produce(topic, [record({"i": i}, None, LONG_AGO_MS) for i in range(2)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert got == [{"i": i, "at": LONG_AGO_MS / 1000} for i in range(2)]


async def test_what_take_holds_back_is_not_committed_and_comes_again_after_a_crash(lab, table_of) -> None:
    #  records       0 … 24 of one partition, in tens
    #  first run     [0..9] [10..19] 20..24 held ──✗ killed      committed: 20
    #  second run    20..24 again, 25..29 → [20..29]
    topic, name = lab.topic(), lab.fresh("app")

    def program(app):
        sums, lists = app.Table("sums", default=int), []

        @app.agent(app.topic(topic), name="taker")
        async def taker(stream):
            async for values in stream.take(10, within=60):
                lists.append(values)
                sums["all"] += sum(values)

        return lists

    lab.produce(topic, range(25))
    app = lab.app(name)
    lists = program(app)
    worker = await lab.started(app)
    await lab.until(lambda: list(runtime_of(app).status.committed.values()) == [20])
    await lab.kill(app, worker)
    assert [len(values) for values in lists] == [10, 10]
    assert lab.committed(name, topic)[0][0] == 20

    lab.produce(topic, range(25, 30))
    app = lab.app(name)
    lists = program(app)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert lists == [list(range(20, 30))]
    assert table_of(app, "sums") == {"all": sum(range(30))}


async def test_a_worker_that_stops_leaves_what_take_holds_back_for_the_next(lab) -> None:
    topic, name, seen = lab.topic(), lab.fresh("app"), []

    def program(app):
        @app.agent(app.topic(topic), name="taker")
        async def taker(stream):
            async for values in stream.take(3, within=60):
                seen.append(values)

    lab.produce(topic, range(4))
    first, second = lab.app(name), lab.app(name)
    program(first), program(second)
    async with lab.running(first):
        await lab.until(lambda: list(runtime_of(first).status.committed.values()) == [3])
    assert lab.committed(name, topic)[0][0] == 3
    lab.produce(topic, [4, 5])
    async with lab.running(second):
        await lab.caught_up(topic, second)
    assert seen == [[0, 1, 2], [3, 4, 5]]


async def test_batches_are_runs_of_one_partition_in_order(lab, record, table_of) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    sums, seen, ends = app.Table("sums", default=int), defaultdict(list), {0: 0, 1: 0}

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for batch in stream.batches():
            assert batch.offset == ends[batch.partition]
            ends[batch.partition] = batch.end
            seen[batch.partition] += batch.values
            sums[str(batch.partition)] += sum(batch)

    lab.produce(topic, [record(i, None, 0, None, i % 2) for i in range(3_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert seen == {p: list(range(p, 3_000, 2)) for p in (0, 1)}
    assert table_of(app, "sums") == {"0": sum(range(0, 3_000, 2)), "1": sum(range(1, 3_000, 2))}


async def test_concurrent_instances_that_hold_records_back_find_each_its_own_again(lab) -> None:
    #  instance of "a"   a0 a1 a2 … held          committed offset 0, the other's mark in its metadata
    #  instance of "b"   [b0 b1 b2] handled       killed; nothing lost, nothing twice
    topic, name = lab.topic(), lab.fresh("app")
    handled: list[str] = []

    def program(app, size):
        @app.agent(app.topic(topic, value_type=str), name="taker", concurrency=2)
        async def taker(stream):
            async for values in stream.take(size, within=60):
                handled.extend(values)

    keys = {zlib.crc32(key.encode()) % 2: key for key in ("a", "b", "c", "d")}
    assert len(keys) == 2
    few, many = keys[0], keys[1]
    lab.produce(topic, [(few, "few 0"), *((many, f"many {i}") for i in range(3)), (few, "few 1")])
    app = lab.app(name)
    program(app, 3)
    worker = await lab.started(app)
    await lab.until(lambda: lab.committed(name, topic).get(0) == (0, '{"agents":{"taker#1":5}}'))
    await lab.kill(app, worker)
    app = lab.app(name)
    program(app, 1)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert handled == ["many 0", "many 1", "many 2", "few 0", "few 1"]
