"""Bugs that users of Faust and of Quix Streams have reported do not happen here.

Each test is named by its report. Others in this folder go further: kill -9 of real processes
(`test_store_directory.py`, and the faults suite), changelogs that lose records under a restore and workers that come
and go in the middle of one (`test_restoration.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from anabranch import App, current_event
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.admin import TopicSpec
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import TopicPartition

PARTITIONS = 4


def totals_app(lab: Any, name: str, topic: str, worker: str = "a", **options: Any) -> App:
    """Sums by key."""
    app = lab.app(name, worker=worker, **options)
    # Kafka refuses to delete records of a topic that is only compacted.
    totals = app.Table("totals", default=int, extra_topic_configs={"cleanup.policy": "compact,delete"})

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            totals[f"k{value % 40}"] += value

    return app


def records(start: int, stop: int) -> list[tuple[str, int]]:
    return [(f"k{i % 40}", i) for i in range(start, stop)]


def sums(stop: int) -> dict[str, int]:
    return {f"k{k}": sum(range(k, stop, 40)) for k in range(40)}


async def test_faust_216_221_323_workers_come_and_go_and_no_record_is_skipped_early_or_twice(lab, drain) -> None:
    """faust-streaming/faust #216: without tables, a rebalance skips records. #221: after it, a record that was fetched
    before it comes out of order, far ahead. #323: under exactly-once the worker crashes (ProducerFenced) and records
    are sent twice.
    """
    topic, target, name = lab.topic(PARTITIONS), lab.topic(1, "out"), lab.fresh("app")
    reached: dict[int, int] = defaultdict(lambda: -1)
    ahead: list[tuple[int, int, int]] = []
    sent, done = 0, asyncio.Event()

    def program(worker: str) -> App:
        app = lab.app(name, worker=worker)
        out = app.topic(target)

        @app.agent(app.topic(topic), name="pipe")
        async def pipe(stream):
            async for value in stream:
                message = current_event().message
                if message.offset > reached[message.partition] + 1:
                    ahead.append((message.partition, message.offset, reached[message.partition]))
                reached[message.partition] = max(reached[message.partition], message.offset)
                await out.send(value=value)

        return app

    async def load() -> None:
        nonlocal sent
        while not done.is_set():
            lab.produce(topic, records(sent, sent + 100))
            sent += 100
            await asyncio.sleep(0.01)

    a, b, c = map(program, "abc")
    async with lab.running(a):
        loading = asyncio.create_task(load())
        async with lab.running(b):
            await lab.until(lambda: runtime_of(b).status.commits_total > 2)
            async with lab.running(c):
                await lab.until(lambda: runtime_of(c).status.commits_total > 2)
        await lab.until(lambda: len(runtime_of(a).status.owned) == PARTITIONS)
        done.set()
        await loading
        await lab.caught_up(topic, a)
    assert not ahead
    assert Counter(int(m.value()) for m in drain(target)) == Counter(range(sent))


async def test_faust_177_what_is_sent_soon_is_part_of_the_transaction_as_well(lab, drain) -> None:
    """faust-streaming/faust #177: `send_soon` under exactly-once produces outside of any transaction."""
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    out, inside, go_on = app.topic(target), asyncio.Event(), asyncio.Event()

    @app.agent(app.topic(topic), name="pipe")
    async def pipe(stream):
        async for value in stream:
            out.send_soon(value=value)
            if value == 2:
                inside.set()
                await go_on.wait()

    lab.produce(topic, [1, 2, 3])
    async with lab.running(app):
        await inside.wait()
        assert lab.ends(target) == {0: 0}, "nothing is produced before its records are done, not even uncommitted"
        go_on.set()
        await lab.caught_up(topic, app)
    found = drain(target)
    assert [m.value() for m in found] == [b"1", b"2", b"3"]
    assert lab.ends(target)[0] > len(found), "the marker of a transaction stands behind them"


async def test_faust_517_and_robinhood_340_a_killed_worker_neither_repeats_nor_loses(lab, drain, table_of) -> None:
    """faust-streaming/faust #517: a read_committed reader sees duplicates after a kill and a restart. robinhood/faust
    #340: a table that counts 300,000 records under exactly-once has 299,356 after kill -9.
    """
    topic, target, name = lab.topic(PARTITIONS), lab.topic(1, "out"), lab.fresh("app")

    def program() -> App:
        app = lab.app(name)
        totals, out = app.Table("totals", default=int), app.topic(target)

        @app.agent(app.topic(topic), name="count")
        async def count(stream):
            async for value in stream:
                totals[f"p{current_event().message.partition}"] += 1
                await out.send(value=value)
                if value % 50 == 0:
                    await asyncio.sleep(0)

        return app

    lab.produce(topic, records(0, 6_000))
    for kills in (1, 2, 3):
        app = program()
        worker = await lab.started(app)
        await lab.until(lambda app=app: runtime_of(app).status.records_total > 0)
        lab.produce(topic, records(6_000 + kills * 100, 6_100 + kills * 100))
        await lab.kill(app, worker)
    app = program()
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert sum(table_of(app, "totals").values()) == 6_300
    assert set(Counter(int(m.value()) for m in drain(target)).values()) == {1}
    assert len(drain(target)) == 6_300


async def test_faust_175_an_agent_slower_than_the_poll_interval_does_not_die(lab, table_of) -> None:
    """faust-streaming/faust #175: consumers die one by one when records take long, and the application hangs."""
    topic = lab.topic(2)
    # Longer than a busy machine lets a process stand still, which would end the session as well.
    settings = EngineSettings(session_timeout_ms=6_000, max_poll_interval_ms=6_000)
    app = lab.app(lab.fresh("app"), settings=settings)
    totals = app.Table("totals", default=int)
    loop = asyncio.get_running_loop()

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            if value == 7:
                until_s = loop.time() + 1.5 * settings.max_poll_interval_ms / 1000
                while loop.time() < until_s:
                    await asyncio.sleep(0.05)
            totals[f"k{value % 40}"] += value

    lab.produce(topic, records(0, 100))
    async with lab.running(app):
        await lab.caught_up(topic, app)
        lab.produce(topic, records(100, 200))
        await lab.caught_up(topic, app)
        assert runtime_of(app).status.rollbacks_total == 0
    assert table_of(app, "totals") == sums(200)


async def test_faust_651_a_changelog_that_has_lost_its_beginning_does_not_hold_up_a_restore(lab) -> None:
    """faust-streaming/faust #651: with auto.offset.reset=latest, recovery waits for ever for records that Kafka has
    deleted.
    """
    topic, name = lab.topic(), lab.fresh("app")
    app = totals_app(lab, name, topic, consumer_auto_offset_reset="latest")
    async with lab.running(app):
        for start in (0, 40):
            lab.produce(topic, records(start, start + 40))
            await lab.caught_up(topic, app)
    changelog = f"{name}-totals-changelog"
    admin = lab.cluster.admin()
    for future in admin.delete_records([TopicPartition(changelog, 0, 10)]).values():
        future.result(20)
    app = totals_app(lab, name, topic, consumer_auto_offset_reset="latest")
    async with lab.running(app):
        found = dict(app.tables["totals"].items())
        assert 30 <= len(found) <= 40
        assert all(value == sums(80)[key] for key, value in found.items())


async def test_faust_158_a_store_that_is_further_than_its_changelog_is_built_anew(lab) -> None:
    """faust-streaming/faust #158: "the persisted offset is higher than the last offset in that topic" ends the worker,
    again and again.
    """
    topic, name = lab.topic(), lab.fresh("app")
    app = totals_app(lab, name, topic, store="rocksdb://")
    lab.produce(topic, records(0, 400))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    changelog = f"{name}-totals-changelog"
    lab.admin.delete([changelog])
    lab.admin.create([TopicSpec(changelog, 1, config={"cleanup.policy": "compact"})])
    lab.produce(changelog, [('"k0"', 7)])
    app = totals_app(lab, name, topic, store="rocksdb://")
    async with lab.running(app):
        assert dict(app.tables["totals"].items()) == {"k0": 7}
        lab.produce(topic, records(400, 401))
        await lab.caught_up(topic, app)
        assert dict(app.tables["totals"].items()) == {"k0": 407}


async def test_quix_1017_a_changelog_that_ends_in_what_is_no_record_is_restored(lab, table_of) -> None:
    """quixio/quix-streams #1017: recovery never reaches the high watermark when no record is at the end of the
    changelog (a control record, which the broker may even have removed).
    """
    topic, name = lab.topic(2), lab.fresh("app")
    app = totals_app(lab, name, topic)
    lab.produce(topic, records(0, 400))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    changelog = f"{name}-totals-changelog"
    producer = TransactionalProducer(lab.cluster, lab.fresh("aborts"), transaction_timeout_ms=120_000)
    producer.open()
    producer.begin()
    for partition in (0, 1, 0):
        producer.produce(changelog, b"0", b'"k0"', partition)
    producer.flush()
    producer.abort()
    producer.close()
    app = totals_app(lab, name, topic)
    async with lab.running(app):
        assert dict(app.tables["totals"].items()) == sums(400)
        lab.produce(topic, records(400, 800))
        await lab.caught_up(topic, app)
    assert table_of(app, "totals") == sums(800)


async def test_quix_1067_1131_workers_that_start_together_on_one_folder_restore_and_share(lab, table_of) -> None:
    """quixio/quix-streams #1067: a rebalance in the middle of recovery leaves it stuck at offset -1002. #1131: workers
    that share a folder fight over the locks of its RocksDB stores while partitions move, until the group evicts them.
    """
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    app = totals_app(lab, name, topic, "shared", store="rocksdb://")
    lab.produce(topic, records(0, 4_000))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    a, b, c = (totals_app(lab, name, topic, "shared", store="rocksdb://") for _ in range(3))
    async with lab.running(a, b, c):
        await lab.until(lambda: sum(len(runtime_of(app).status.owned) for app in (a, b, c)) == PARTITIONS)
        await lab.until(lambda: all(runtime_of(app).status.owned for app in (a, b, c)))
        lab.produce(topic, records(4_000, 8_000))
        await lab.caught_up(topic, a, b, c)
    assert table_of(app, "totals") == sums(8_000)
