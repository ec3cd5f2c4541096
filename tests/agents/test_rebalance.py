"""Workers come and go; nothing is counted twice and nothing is skipped."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from anabranch import App
from anabranch.agents.engine.committer import CommitRequest, ExactlyOnce
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop
from anabranch.topics.output import Output
from anabranch.topics.producer import Aborted, TransactionalProducer

PARTITIONS = 4
KEYS = 40
PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


def program(lab: Any, name: str, topic: str, worker: str, target: str | None = None, protocol: Any = "classic") -> App:
    """Totals by key; each worker has a data folder of its own."""
    app = lab.app(name, worker=worker, settings=EngineSettings(session_timeout_ms=6_000, group_protocol=protocol))
    totals = app.Table("totals", default=int)
    out = app.topic(target) if target else None

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            totals[f"k{value % KEYS}"] += value
            if value % 100 == 0:
                await asyncio.sleep(0)
            if out is not None:
                await out.send(value=value)

    return app


def records(start: int, stop: int) -> list[tuple[str, int]]:
    return [(f"k{i % KEYS}", i) for i in range(start, stop)]


def expected(stop: int) -> dict[str, int]:
    return {f"k{k}": sum(range(k, stop, KEYS)) for k in range(KEYS)}


def owned(app: App) -> int:
    return len(runtime_of(app).status.owned)


@PROTOCOLS
async def test_two_workers_share_the_partitions_and_one_gets_all_when_the_other_leaves(lab, table_of, protocol) -> None:
    #  a   ── 4 ── 2 ─────────────── 2 ── 4 ──
    #  b          2 ── leaves
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    a, b = (program(lab, name, topic, worker, protocol=protocol) for worker in "ab")
    async with lab.running(a):
        lab.produce(topic, records(0, 1_000))
        await lab.caught_up(topic, a)
        assert owned(a) == PARTITIONS
        async with lab.running(b):
            await lab.until(lambda: (owned(a), owned(b)) == (2, 2))
            lab.produce(topic, records(1_000, 2_000))
            await lab.caught_up(topic, a, b)
            shown = [dict(app.tables["totals"].items()) for app in (a, b)]
            assert not shown[0].keys() & shown[1].keys(), "a key has one owner"
            assert shown[0] | shown[1] == expected(2_000)
        await lab.until(lambda: owned(a) == PARTITIONS)
        lab.produce(topic, records(2_000, 3_000))
        await lab.caught_up(topic, a)
        assert dict(a.tables["totals"].items()) == expected(3_000)
    assert table_of(a, "totals") == expected(3_000)


@PROTOCOLS
async def test_workers_join_and_leave_under_load(lab, drain, table_of, protocol) -> None:
    #  a   ── 4 ── 2 ── 2 ── 2 ── 4 ──
    #  b          2 ── 1 ── 2 ── leaves
    #  c               1 ── leaves
    topic, target, name = lab.topic(PARTITIONS), lab.topic(2, "out"), lab.fresh("app")
    a, b, c = (program(lab, name, topic, worker, target, protocol) for worker in "abc")
    done, sent = asyncio.Event(), 0

    async def load() -> None:
        nonlocal sent
        while not done.is_set():
            lab.produce(topic, records(sent, sent + 200))
            sent += 200
            await asyncio.sleep(0.01)

    async with lab.running(a):
        loading = asyncio.create_task(load())
        await lab.until(lambda: runtime_of(a).status.commits_total > 3)
        async with lab.running(b):
            await lab.until(lambda: owned(b) == 2 and runtime_of(b).status.commits_total > 3)
            async with lab.running(c):
                await lab.until(lambda: owned(c) >= 1 and runtime_of(c).status.commits_total > 3)
        await lab.until(lambda: owned(a) == PARTITIONS)
        done.set()
        await loading
        await lab.caught_up(topic, a)
    assert table_of(a, "totals") == expected(sent)
    assert Counter(int(m.value()) for m in drain(target)) == Counter(range(sent))


@pytest.mark.parametrize(("protocol", "kept"), [("classic", 0), ("consumer", 2)])
async def test_partitions_that_do_not_move_do_not_stop_where_the_protocol_lets_them(lab, protocol, kept) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    a, b = (program(lab, name, topic, worker, protocol=protocol) for worker in "ab")
    lab.produce(topic, records(0, 1_000))
    async with lab.running(a):
        await lab.caught_up(topic, a)
        without_a_break = set(runtime_of(a).status.active)
        starting = asyncio.create_task(lab.started(b))

        while not owned(a) == owned(b) == len(runtime_of(a).status.active) == len(runtime_of(b).status.active) == 2:
            assert not starting.done() or not starting.exception()
            without_a_break &= runtime_of(a).status.active
            await asyncio.sleep(0)  # each turn of the loop is looked at
        assert len(without_a_break) == kept
        b_worker = await starting
        lab.produce(topic, records(1_000, 1_100))
        await lab.caught_up(topic, a, b)
        runtime_of(b).stop_requested.set()
        await b_worker


async def test_a_worker_that_is_killed_has_its_partitions_back_when_it_starts_again(lab, table_of) -> None:
    topic, name = lab.topic(PARTITIONS), lab.fresh("app")
    lab.produce(topic, records(0, 1_000))
    a = program(lab, name, topic, "a")
    worker = await lab.started(a)
    await lab.caught_up(topic, a)
    await lab.kill(a, worker)
    lab.produce(topic, records(1_000, 2_000))
    a = program(lab, name, topic, "a")
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with lab.running(a):
        assert loop.time() - began < 4, "the session timeout is 6 s"
        await lab.caught_up(topic, a)
    assert table_of(a, "totals") == expected(2_000)


async def test_a_revoke_while_the_gate_closes_leaves_it_open(lab, table_of, monkeypatch) -> None:
    #  agent  ── 1 ── 2 ………… parks                                ── 3 ──
    #  barrier       due: closes … ── revoke: committed, nothing left to commit
    topic, app, two, go_on = lab.topic(1), lab.app(lab.fresh("app")), asyncio.Event(), asyncio.Event()
    totals, out, revokes = app.Table("totals", default=int), app.topic(lab.topic(1, "out")), []

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            totals["all"] += value
            await out.send(value=value)
            if value == 2:
                two.set()
                await go_on.wait()

    def keep_alive() -> None:
        """A member that has not polled for a second does so here, and hears that partitions go."""
        if not runtime_of(app).context.barrier.running and not revokes:
            revokes.append(None)
            runtime_of(app).engine.rebalance.revoked(set())

    async with lab.running(app):
        lab.produce(topic, [1, 2])
        await two.wait()
        monkeypatch.setattr(runtime_of(app).engine._group, "keep_alive", keep_alive)
        await lab.until(lambda: runtime_of(app).context.barrier.closed)
        go_on.set()
        await lab.until(lambda: revokes)
        lab.produce(topic, [3])
        await lab.caught_up(topic, app)
    assert table_of(app, "totals") == {"all": 6}


async def test_partitions_that_are_revoked_in_the_middle_of_a_record_leave_nothing_of_it(lab, drain, table_of) -> None:
    #  a   ── record 5 … waits ──────── revoked: dropped
    #  b                      joins ── record 5 anew
    topic, target, name = lab.topic(1), lab.topic(1, "out"), lab.fresh("app")
    inside, let_go = asyncio.Event(), asyncio.Event()

    def waiting(worker: str) -> App:
        app = lab.app(name, worker=worker)
        totals, out = app.Table("totals", default=int), app.topic(target)

        @app.agent(app.topic(topic), name="total")
        async def total(stream):
            async for value in stream:
                totals["all"] += value
                await out.send(value=value)
                if value == 5:
                    inside.set()
                    await let_go.wait()

        return app

    a, b = waiting("a"), waiting("b")
    lab.produce(topic, range(10))
    async with lab.running(a):
        await inside.wait()
        starting = asyncio.create_task(lab.started(b))
        await lab.until(lambda: runtime_of(a).status.rollbacks_total or starting.done())
        let_go.set()
        b_worker = await starting
        await lab.caught_up(topic, a, b)
        runtime_of(b).stop_requested.set()
        await b_worker
    assert table_of(a, "totals") == {"all": 45}
    assert [int(m.value()) for m in drain(target)] == list(range(10))


async def test_a_zombie_that_has_consumed_nothing_is_fenced_all_the_same(lab, drain) -> None:
    #  a   ── 4 ── an epoch of what a timer sends ─────── its commit: too late
    #  b                                          joins
    topic, target, name = lab.topic(PARTITIONS), lab.topic(1, "out"), lab.fresh("app")
    a, b = (program(lab, name, topic, worker) for worker in "ab")
    async with lab.running(a):
        lab.produce(topic, records(0, 100))
        await lab.caught_up(topic, a)
        epoch = runtime_of(a).engine._commits._prepare().request
        assert (sorted(at.partition for at in epoch.offsets), epoch.outputs) == ([0, 1, 2, 3], [])
        async with lab.running(b):
            await lab.until(lambda: (owned(a), owned(b)) == (2, 2))
            zombie = ExactlyOnce(lab.cluster, lab.fresh("zombie"))
            await asyncio.to_thread(zombie.open)
            late = CommitRequest([Output(target, b"late", None, 0, 0, None)], {}, epoch.offsets, epoch.group)
            with pytest.raises(Aborted) as refused:
                await asyncio.to_thread(zombie.commit, late)
            assert refused.value.lost
    assert drain(target) == []


async def test_a_worker_that_is_fenced_twice_within_a_minute_stops_and_says_why(lab) -> None:
    topic = lab.topic(PARTITIONS)
    app = program(lab, lab.fresh("app"), topic, "a")
    worker = await lab.started(app)
    for turn in range(2):
        fenced = runtime_of(app).engine._member.committer
        await asyncio.to_thread(TransactionalProducer(lab.cluster, runtime_of(app).engine._member.name).open)
        lab.produce(topic, records(100 * turn, 100 * turn + 100))
        await lab.until(lambda fenced=fenced: worker.done() or runtime_of(app).engine._member.committer is not fenced)
        if not turn:
            await lab.caught_up(topic, app)  # else the worker, which opens its new producer, would fence ours
    with pytest.raises(Stop, match="producer was fenced twice within a minute: another process uses its identity"):
        await worker


@PROTOCOLS
async def test_a_revoke_drops_an_epoch_whose_partitions_were_lost(lab, drain, table_of, protocol) -> None:
    #  a   ── 4 ── a commit: too late ── records again ── 2 ──────
    #  b                                                  2 ──────
    topic, target, name = lab.topic(PARTITIONS), lab.topic(1, "out"), lab.fresh("app")
    a, b = (program(lab, name, topic, worker, target, protocol=protocol) for worker in "ab")
    async with lab.running(a):
        engine = runtime_of(a).engine
        engine._epoch.begin = lambda: setattr(engine._epoch, "_began_s", float("inf"))  # nothing commits it
        engine._epoch.begin()
        lab.produce(topic, records(0, 100))
        await lab.until(lambda: len(engine._epoch.outbox) == 100 and not engine._barrier.running)
        engine.rebalance.lost = True
        del engine._epoch.begin
        async with lab.running(b):
            await lab.until(lambda: (owned(a), owned(b)) == (2, 2))
            engine._epoch.begin()
            await lab.caught_up(topic, a, b)
    assert sorted(int(m.value()) for m in drain(target)) == list(range(100))
    assert table_of(a, "totals") == expected(100)
