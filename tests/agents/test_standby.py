"""Copies of partitions that other workers own: global tables, and what is kept warm for a take-over."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from anabranch import App
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.standby_placement import standby_owners, standby_partitions
from anabranch.agents.web.health import not_ready
from anabranch.agents.web.metrics import WorkerCollector

KEYS = 200

WAYS = pytest.mark.parametrize(
    ("store", "protocol"), [("memory://", "classic"), ("rocksdb://", "classic"), ("memory://", "consumer")]
)


def ranges(partitions: int, members: list[str]) -> dict[int, str]:
    """The range assignor, the dumb way."""
    owners = {}
    for number in range(partitions):
        shares = [partitions // len(members) + (i < partitions % len(members)) for i in range(len(members))]
        owners[number] = members[next(i for i in range(len(members)) if number < sum(shares[: i + 1]))]
    return owners


@pytest.mark.parametrize("partitions", [1, 4, 7, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_first_copy_of_a_partition_is_where_it_goes_when_its_owner_leaves(partitions, count) -> None:
    members = [f"m{i}" for i in range(count)]
    owners = ranges(partitions, members)
    found = standby_owners(owners, members)
    for number, owner in owners.items():
        assert sorted([owner, *found[number]]) == members
        rest = [member for member in members if member != owner]
        if rest:
            assert found[number][0] == ranges(partitions, rest)[number]
    assigned = {member: {n for n, owner in owners.items() if owner == member} for member in members}
    for replicas in range(count):
        kept = [standby_partitions(member, assigned, replicas) for member in members]
        assert sorted(n for numbers in kept for n in numbers) == sorted([*owners] * replicas)
        assert all(not numbers & assigned[member] for numbers, member in zip(kept, members, strict=True))
    assert all(a <= b for a, b in pairwise(len(standby_partitions("m0", assigned, r)) for r in range(count)))


def of_group(lab: Any, name: str, worker: str, protocol: Any = "classic", **options: Any) -> App:
    settings = EngineSettings(session_timeout_ms=6_000, group_protocol=protocol)
    return lab.app(name, worker=worker, settings=settings, **options)


def rates(lab: Any, name: str, topic: str, asked: str, worker: str, **options: Any) -> App:
    """Rates by currency from one topic; questions of another, keyed otherwise, are answered from any partition's."""
    app = of_group(lab, name, worker, **options)
    table = app.GlobalTable("rates", default=int)
    answers = app.topic(f"{asked}-answers", partitions=1)

    @app.agent(app.topic(topic, key_type=str), name="learn")
    async def learn(stream):
        async for key, value in stream.items():
            if value < 0:
                del table[key]
            else:
                table[key] = value

    @app.agent(app.topic(asked, key_type=str), name="answer")
    async def answer(stream):
        async for currency in stream:
            await answers.send(value=[currency, table[currency], currency in table, len(table)])

    return app


@WAYS
async def test_every_worker_holds_all_of_a_global_table(lab, drain, record, store, protocol) -> None:
    #  a  ── learns all ──── [0] ── learns ──────────────── [0] [1] ── answers from all
    #  b                     [1] ── sees a's, a sees b's ── leaves
    #  c                     no partition, sees all
    topic, asked, name = lab.topic(2), lab.topic(2, "asked"), lab.fresh("app")
    a, b, c = (rates(lab, name, topic, asked, worker, store=store, protocol=protocol) for worker in "abc")
    want = {f"c{i}": i for i in range(KEYS)}
    lab.produce(topic, list(want.items()))
    async with lab.running(a):
        await lab.caught_up(topic, a)
        async with lab.running(b, c):
            await lab.until(lambda: sum(bool(runtime_of(app).status.active) for app in (a, b, c)) == 2)
            assert [dict(app.tables["rates"].items()) for app in (a, b, c)] == [want] * 3, "whole when they are ready"
            lab.produce(topic, [("c1", 1_001), ("c2", -1), ("new", 5)])
            want = want | {"c1": 1_001, "new": 5}
            del want["c2"]
            for app in (a, b, c):
                table = app.tables["rates"]
                await lab.until(lambda table=table: dict(table.items()) == want, "what others have committed")
                assert (table["c1"], table["c2"], "c2" in table, len(table)) == (1_001, 0, False, len(want))
            questions = [f'"{currency}"' for currency in ("c1", "c2", "new", "c7")]
            lab.produce(asked, [record(text, "x", partition=i % 2) for i, text in enumerate(questions)])
            await lab.caught_up(asked, a, b, c)
        await lab.until(lambda: len(runtime_of(a).status.active) == 4)
        lab.produce(asked, [record('"c1"', "x")])
        await lab.caught_up(asked, a)
    n = len(want)
    answers = sorted(m.value() for m in drain(f"{asked}-answers"))
    right = [f'["c1",1001,true,{n}]'] * 2 + [f'["c2",0,false,{n}]', f'["c7",7,true,{n}]', f'["new",5,true,{n}]']
    assert answers == [text.encode() for text in sorted(right)]


async def test_a_worker_without_topics_is_ready_when_its_global_tables_are_whole(lab) -> None:
    #  a       ── learns ─────────────── learns on
    #  viewer               ── ready ──────── sees it
    topic, name = lab.topic(2), lab.fresh("app")
    a = rates(lab, name, topic, lab.topic(2, "asked"), "a")
    viewer = lab.app(name, worker="b")
    seen = viewer.GlobalTable("rates", default=int)
    want = {f"c{i}": i for i in range(KEYS)}
    lab.produce(topic, list(want.items()))
    async with lab.running(a):
        await lab.caught_up(topic, a)
        async with lab.running(viewer):
            assert dict(seen.items()) == want
            (keys,) = [
                sample.value
                for metric in WorkerCollector(runtime_of(viewer), not_ready).collect()
                for sample in metric.samples
                if sample.name == "anabranch_table_keys"
            ]
            assert keys == KEYS, "others' partitions count as well"
            lab.produce(topic, [("new", 5)])
            await lab.until(lambda: seen["new"] == 5, "what is committed later")


def totals(lab: Any, name: str, topic: str, worker: str, **options: Any) -> App:
    app = of_group(lab, name, worker, **options)
    table = app.Table("totals", default=int)

    @app.agent(app.topic(topic, key_type=str), name="total")
    async def total(stream):
        async for key, value in stream.items():
            table[key] += value

    return app


def copied(lab: Any, app: App, numbers: set[int]) -> bool:
    """Whether the worker's copies are those of these partitions, and at their changelog's ends."""
    states = runtime_of(app).engine.rebalance._restoration._states
    if {at[1] for at in states} != numbers:
        return False
    ends = lab.ends(f"{app.conf.id}-totals-changelog")
    return all(state.store.position == ends[at[1]] for at, state in states.items())


@WAYS
async def test_a_take_over_from_a_warm_copy_restores_nothing(lab, table_of, store, protocol) -> None:
    #  a  ── two of four ── copies of the others', at the end ── takes over: nothing to read
    #  b     two of four ── copies of the others' ────────────── leaves
    topic, name = lab.topic(4), lab.fresh("app")
    way = {"store": store, "protocol": protocol, "standby_replicas": 1}
    apps = [totals(lab, name, topic, worker, **way) for worker in "ab"]
    records = [(f"k{i % KEYS}", i) for i in range(2_000)]
    want = {f"k{k}": sum(range(k, 2_000, KEYS)) for k in range(KEYS)}
    async with lab.running(apps[0]):
        lab.produce(topic, records[:1_000])
        await lab.caught_up(topic, apps[0])
        async with lab.running(apps[1]):
            await lab.until(lambda: [len(runtime_of(app).status.active) for app in apps] == [2, 2])
            lab.produce(topic, records[1_000:])
            await lab.caught_up(topic, *apps)
            own = [{at.partition for at in runtime_of(app).status.active} for app in apps]
            await lab.until(lambda: copied(lab, apps[0], own[1]) and copied(lab, apps[1], own[0]), "copies are warm")
            assert sum(lab.ends(f"{name}-totals-changelog").values()) >= 2 * KEYS
        before = runtime_of(apps[0]).status.restored_total
        await lab.until(lambda: len(runtime_of(apps[0]).status.active) == 4)
        assert runtime_of(apps[0]).status.restored_total == before, "the copy has it all"
        assert dict(apps[0].tables["totals"].items()) == want
        lab.produce(topic, [("k0", 1)])
        await lab.caught_up(topic, apps[0])
    assert table_of(apps[0], "totals") == want | {"k0": want["k0"] + 1}
