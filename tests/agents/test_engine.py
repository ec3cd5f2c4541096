"""The loop against a real broker: what becomes visible when, what a restart finds, what a start refuses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.admin import TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage
from confluent_kafka import TopicPartition


class Crash(Exception):
    """The process dies here."""


def summing(app: Any, topic: str, **table: Any) -> Any:
    """Totals by key of records `{"k": key, "n": number}`; a number of None deletes the key."""
    totals = app.Table("totals", default=int, **table)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            if value["n"] is None:
                del totals[value["k"]]
            else:
                totals[value["k"]] += value["n"]

    return totals


def numbers(start: int, stop: int, keys: int = 10) -> list[tuple[str, Any]]:
    return [(f"k{i % keys}", {"k": f"k{i % keys}", "n": i}) for i in range(start, stop)]


def sums(stop: int, keys: int = 10) -> dict[str, int]:
    return {f"k{k}": sum(range(k, stop, keys)) for k in range(min(keys, stop))}


# Visibility -----------------------------------------------------------------------------------------------------------


async def test_nothing_leaves_the_worker_while_an_agent_is_in_the_middle_of_a_record(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    totals, out = app.Table("totals", default=int), app.topic(target)
    inside, let_go = asyncio.Event(), asyncio.Event()

    @app.agent(app.topic(topic), name="holder")
    async def holder(stream):
        async for value in stream:
            totals["all"] += value
            await out.send(value=value)
            if value == 3:
                inside.set()
                await let_go.wait()

    lab.produce(topic, [1, 2])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        lab.produce(topic, [3, 4])
        await inside.wait()
        assert [m.value() for m in drain(target, committed=False)] == [b"1", b"2"]
        assert dict(totals.items()) == {"all": 3}, "readers outside see what is committed"
        let_go.set()
        await lab.caught_up(topic, app)
        assert [m.value() for m in drain(target)] == [b"1", b"2", b"3", b"4"]
        assert dict(totals.items()) == {"all": 10}


async def test_outputs_and_changelog_become_visible_together_at_the_commit(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    totals, out = app.Table("totals", default=int), app.topic(target)
    seen: list[list[int]] = []

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for value in stream:
            totals["all"] += value
            await out.send(value=value)

    async with lab.running(app):
        changelog = totals.changelog_name
        kafka = runtime_of(app).engine._member.committer._kafka
        commit = kafka.commit

        def watched() -> None:
            kafka.flush()
            for committed in (False, True):
                seen.append([len(drain(name, committed=committed)) for name in (target, changelog)])
            commit()

        kafka.commit = watched
        lab.produce(topic, [1])
        await lab.caught_up(topic, app)
        kafka.commit = commit
    assert seen == [[1, 1], [0, 0]], "produced, and invisible"
    assert [len(drain(name)) for name in (target, changelog)] == [1, 1]


@pytest.mark.parametrize(("guarantee", "copies"), [("exactly_once", 1), ("at_least_once", 2)])
async def test_after_a_crash_between_producing_and_committing(lab, drain, guarantee, copies) -> None:
    #  records 0…9 ── outputs produced ──✗ not committed       next worker: the same records again
    topic, target, name = lab.topic(), lab.topic(1, "out"), lab.fresh("app")

    def program(app):
        out = app.topic(target)

        @app.agent(app.topic(topic), name="copier")
        async def copier(stream):
            async for value in stream:
                await out.send(value=value)

    app = lab.app(name, processing_guarantee=guarantee)
    program(app)
    runtime_of(app).keep_identity = True
    with pytest.raises(Crash):
        async with lab.running(app):
            committer = runtime_of(app).engine._member.committer

            def crash(*_: Any, **__: Any) -> None:
                if guarantee == "exactly_once":
                    committer._kafka.flush()
                raise Crash

            if guarantee == "exactly_once":
                committer._kafka.commit = crash
            else:
                committer._consumer = type("Consumer", (), {"commit": crash})()
            lab.produce(topic, range(10))
            await runtime_of(app).stop_requested.wait()

    app = lab.app(name, processing_guarantee=guarantee)
    program(app)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert Counter(int(m.value()) for m in drain(target)) == dict.fromkeys(range(10), copies)


async def test_many_outputs_do_not_wait_for_the_end_of_the_epoch(lab, drain) -> None:
    topic, target = lab.topic(), lab.topic(1, "out")
    app = lab.app(lab.fresh("app"), settings=EngineSettings(epoch_s=60, commit_share=1e-9, max_outputs=100))
    out = app.topic(target)

    @app.agent(app.topic(topic), name="copier")
    async def copier(stream):
        async for value in stream:
            for _ in range(7):
                await out.send(value=value)

    lab.produce(topic, range(100))
    async with lab.running(app):
        await lab.until(lambda: runtime_of(app).status.commits_total >= 6)
        assert len(drain(target)) >= 600
    values = [int(m.value()) for m in drain(target)]
    assert values == [i for i in range(100) for _ in range(7)]


# Restart --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_totals_go_on_over_restarts(lab, table_of, end) -> None:
    topic, name, found = lab.topic(3), lab.fresh("app"), []
    for start, stop in ((0, 400), (400, 700), (700, 1_000)):
        lab.produce(topic, numbers(start, stop))
        app = lab.app(name)
        totals = summing(app, topic)
        worker = await lab.started(app)
        found.append(len(totals))
        await lab.caught_up(topic, app)
        assert dict(totals.items()) == sums(stop)
        if end == "killed":
            await lab.kill(app, worker)
        else:
            runtime_of(app).stop_requested.set()
            await worker
        assert table_of(app, "totals") == sums(stop)
    assert found[0] <= 10
    assert found[1:] == [10, 10], "restored before the first record"


async def test_an_agent_never_sees_a_record_before_its_table_is_restored(lab) -> None:
    topic, name, seen = lab.topic(), lab.fresh("app"), []

    def program(app):
        totals = app.Table("totals", default=int)

        @app.agent(app.topic(topic), name="adder")
        async def adder(stream):
            async for value in stream:
                seen.append(totals["all"])
                totals["all"] += value

    for _ in range(2):
        lab.produce(topic, [5])
        app = lab.app(name)
        program(app)
        async with lab.running(app):
            await lab.caught_up(topic, app)
    assert seen == [0, 5]


async def test_a_deleted_key_is_a_tombstone_in_the_changelog_and_stays_deleted(lab, drain, table_of) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = lab.app(name)
    totals = summing(app, topic)
    async with lab.running(app):
        lab.produce(topic, numbers(0, 3))
        await lab.caught_up(topic, app)
        lab.produce(topic, [("k1", {"k": "k1", "n": None})])
        await lab.caught_up(topic, app)
        assert dict(totals.items()) == {"k0": 0, "k2": 2}
    last = drain(f"{name}-totals-changelog")[-1]
    assert (last.key(), last.value()) == (b'"k1"', None)

    app = lab.app(name)
    totals = summing(app, topic)
    async with lab.running(app):
        assert dict(totals.items()) == {"k0": 0, "k2": 2}
        lab.produce(topic, [("k1", {"k": "k1", "n": 7})])
        await lab.caught_up(topic, app)
    assert table_of(app, "totals") == {"k0": 0, "k1": 7, "k2": 2}


async def test_the_changelog_is_compacted_and_has_the_partitions_of_the_topic(lab) -> None:
    topic, name = lab.topic(3), lab.fresh("app")
    app = lab.app(name)
    summing(app, topic, extra_topic_configs={"segment.ms": 60_000})
    async with lab.running(app):
        pass
    config = lab.admin.config(f"{name}-totals-changelog")
    assert config["cleanup.policy"] == "compact"
    assert config["segment.ms"] == "60000"
    assert len(lab.ends(f"{name}-totals-changelog")) == 3


async def test_only_the_last_value_of_a_key_goes_to_the_changelog_in_an_epoch(lab, drain) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = lab.app(name, settings=EngineSettings(epoch_s=60, commit_share=1e-9))
    totals = app.Table("totals", default=int)
    done = asyncio.Event()

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            totals[value["k"]] += value["n"]
            if value["n"] == 999:
                done.set()

    lab.produce(topic, numbers(0, 1_000))
    async with lab.running(app):
        await done.wait()
    assert runtime_of(app).status.commits_total == 1
    changelog = {m.key(): msgspec.json.decode(m.value()) for m in drain(f"{name}-totals-changelog")}
    assert len(drain(f"{name}-totals-changelog")) == 10
    assert changelog == {f'"{k}"'.encode(): total for k, total in sums(1_000).items()}


async def test_a_group_that_starts_at_the_end_sees_what_comes_later(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"), consumer_auto_offset_reset="latest")
    totals = summing(app, topic)
    lab.produce(topic, numbers(0, 10))
    async with lab.running(app):
        lab.produce(topic, numbers(10, 20))
        await lab.caught_up(topic, app)
        assert dict(totals.items()) == {f"k{i % 10}": i for i in range(10, 20)}


async def test_markers_of_transactions_in_the_source_are_no_records(lab, drain, table_of) -> None:
    # The source is another app's output: each of its epochs leaves a marker that occupies an offset.
    topic, between, name = lab.topic(), lab.topic(1, "between"), lab.fresh("app")
    first, second = lab.app(name), lab.app(f"{name}-2", worker="b")
    out = first.topic(between)

    @first.agent(first.topic(topic), name="copier")
    async def copier(stream):
        async for value in stream:
            await out.send(key=value["k"], value=value)

    totals = summing(second, between)
    async with lab.running(first, second):
        for start in range(0, 50, 10):
            lab.produce(topic, numbers(start, start + 10))
            await lab.caught_up(topic, first)
        await lab.until(lambda: dict(totals.items()) == sums(50), "totals")
    assert table_of(second, "totals") == sums(50)
    assert lab.ends(between)[0] > 50


# What a start refuses -------------------------------------------------------------------------------------------------


async def test_without_a_broker_the_worker_ends_soon_and_says_where_it_looked(lab) -> None:
    app = lab.app(lab.fresh("app"), settings=EngineSettings(connect_s=0.5))
    runtime_of(app).cluster = Cluster("127.0.0.1:1", {"log_level": "0"})
    summing(app, "orders")
    began = time.monotonic()
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert "no broker answers at 127.0.0.1:1" in str(stop)
    assert "hint:" in str(stop)
    assert time.monotonic() - began < 30, "not the patience of a running worker, which is minutes"
    assert EngineSettings().connect_s < 10


async def test_a_table_with_other_partitions_than_its_topic_is_refused(lab) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    summing(app, topic, partitions=3)
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Usage)
    assert stop.exit_code == 2
    assert f"has 3 partitions, but {topic} has 2" in str(stop)


async def test_a_changelog_with_other_partitions_than_the_topic_has_now_is_refused(lab) -> None:
    name = lab.fresh("app")
    lab.admin.create([TopicSpec(f"{name}-totals-changelog", 4)])
    app = lab.app(name)
    topic = lab.topic(2)
    summing(app, topic)
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Usage)
    assert f"its changelog {name}-totals-changelog has 4 partitions, but {topic} has 2" in str(stop)


async def test_an_agent_that_writes_to_a_table_of_other_partitions_stops_the_worker(lab) -> None:
    # The table fits the first topic; the agent of the second one writes to it as well.
    fits, other, app = lab.topic(3), lab.topic(2), lab.app(lab.fresh("app"))
    totals = summing(app, fits)

    @app.agent(app.topic(other), name="intruder")
    async def intruder(stream):
        async for _ in stream:
            totals["x"] += 1

    lab.produce(other, numbers(0, 10))
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Usage)
    assert f"table totals: an agent of topic {other} uses it, which does not have the 3 partitions" in str(stop)


async def test_offsets_that_are_gone_while_tables_have_content_stop_the_worker(lab) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    app = lab.app(name)
    summing(app, topic)
    lab.produce(topic, numbers(0, 20))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    admin = lab.cluster.admin()
    for future in admin.delete_consumer_groups([name]).values():
        future.result(10)

    app = lab.app(name)
    summing(app, topic)
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert "would count history twice" in str(stop)
    assert "kafka-consumer-groups" in str(stop)
    assert lab.committed(name, topic) == {}, "and nothing is committed that would make the next start pass"


async def test_records_that_were_deleted_before_they_were_read_stop_the_worker(lab) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = lab.app(name)
    summing(app, topic)
    lab.produce(topic, numbers(0, 10))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    lab.produce(topic, numbers(10, 20))
    admin = lab.cluster.admin()
    for future in admin.delete_records([TopicPartition(topic, 0, 15)]).values():
        future.result(10)

    app = lab.app(name)
    summing(app, topic)
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert f"records of {topic}[0] were deleted before they were read" in str(stop)
    assert "--reset-offsets" in str(stop)


async def test_an_app_without_agents_runs(lab) -> None:
    app, ticks = lab.app(lab.fresh("app")), []

    @app.timer(interval=0.005)
    async def tick():
        ticks.append(1)

    async with lab.running(app):
        await lab.until(lambda: len(ticks) > 2)
