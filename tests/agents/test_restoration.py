"""Partitions become active one by one, whatever happens while others are still restored.

A restore is held where a test wants it by an open transaction of somebody else in the changelog: its records count for
the end, and nothing behind its beginning can be read before it is committed or aborted.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
from anabranch import App
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.restoration import RestoreProgress
from anabranch.agents.worker import work
from anabranch.replay.cli.restore_bar import RestoreBar
from anabranch.topics.errors import Stop
from anabranch.topics.topic_partition import TopicPartition
from confluent_kafka import KafkaError, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from rich.console import Console

KEYS = 40


def program(lab: Any, name: str, topic: str, worker: str = "a", **options: Any) -> App:
    """Totals by key, and each value once in the log."""
    app = lab.app(name, worker=worker, **options)
    # Kafka deletes no single records of a topic that is only compacted.
    totals = app.Table("totals", default=int, extra_topic_configs={"cleanup.policy": "compact,delete"})
    out = app.topic(f"{topic}-out", partitions=1)

    @app.agent(app.topic(topic, key_type=str), name="total")
    async def total(stream):
        async for key, value in stream.items():
            totals[key] += value
            await out.send(value=value)

    return app


def records(start: int, stop: int) -> list[Any]:
    return [(f"k{i % KEYS}", i) for i in range(start, stop)]


def expected(stop: int) -> dict[str, int]:
    return {f"k{k}": sum(range(k, stop, KEYS)) for k in range(KEYS)}


@pytest.fixture
def hold(lab: Any) -> Iterator[Any]:
    """Open a transaction on partitions of a changelog: `end = hold(topic, 1, 3)`, later `end(commit=…)`."""
    opened: list[Producer] = []

    def begin(topic: str, *partitions: int, key: str = '"held"', value: bytes | None = b"7") -> Any:
        producer = lab.cluster.producer(transactional_id=lab.fresh("hold"), transaction_timeout_ms=120_000)
        producer.init_transactions(30)
        producer.begin_transaction()
        for partition in partitions:
            producer.produce(topic, value, key, partition=partition)
        producer.flush(60)
        opened.append(producer)

        def end(*, commit: bool = False) -> None:
            opened.remove(producer)
            (producer.commit_transaction if commit else producer.abort_transaction)(30)

        return end

    yield begin
    for producer in opened:
        producer.abort_transaction(30)


async def filled(lab: Any, partitions: int) -> tuple[str, str]:
    topic, name = lab.topic(partitions), lab.fresh("app")
    app = program(lab, name, topic)
    lab.produce(topic, records(0, 1_000))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    return topic, name


def numbers(app: App) -> set[int]:
    return {at.partition for at in runtime_of(app).status.active}


def committed(app: App, topic: str, ends: dict[int, int], *partitions: int) -> bool:
    runtime_of(app).raise_if_stopped()
    return all(runtime_of(app).status.committed.get(TopicPartition(topic, p), 0) >= ends[p] for p in partitions)


async def restore_over_http(app: App) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{app.conf.web_port}/restore/") as got:
        return await got.json()


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
async def test_agents_work_on_what_is_restored_while_the_rest_is_not(lab, drain, hold, table_of, store, caplog) -> None:
    #  changelog[1]  ── 500 ── open transaction ················· commit
    #  worker        starts ── [0] and [2] flow ── all of theirs ── [1] flows ── ready
    caplog.set_level("INFO", "anabranch")
    topic, name = await filled(lab, 3)
    changelog = f"{name}-totals-changelog"
    if store == "rocksdb://":  # so that [0] and [2] have nothing to read but a marker
        app = program(lab, name, topic, store=store)
        async with lab.running(app):
            pass
    end = hold(changelog, 1)
    app = program(lab, name, topic, store=store, web_enabled=True)
    lab.produce(topic, records(1_000, 2_000))
    ends = lab.ends(topic)
    worker = asyncio.create_task(lab.started(app))
    await lab.until(lambda: app._consumer and numbers(app) == {0, 2}, "two of three partitions are active")
    await lab.until(lambda: committed(app, topic, ends, 0, 2))

    status = runtime_of(app).status
    assert not status.ready.is_set()
    assert sorted(app.tables["totals"].states) == [0, 2], "half of a partition is not shown"
    assert all(expected(2_000)[key] == total for key, total in app.tables["totals"].items())
    progress = status.restoring
    assert (progress.partitions_left, progress.offsets_left) == (1, 1)
    assert progress.partitions == (3 if store == "memory://" else 1), "what is at its end is not restored"
    assert TopicPartition(topic, 1) not in status.committed
    answer = await restore_over_http(app)
    assert (answer["restoring"], answer["partitions_left"], answer["offsets_left"]) == (True, 1, 1)
    assert answer["share"] == progress.share

    end(commit=True)
    stop = await worker
    await lab.caught_up(topic, app)
    assert status.restoring is None
    assert await restore_over_http(app) == {"restoring": False}
    assert dict(app.tables["totals"].items()) == expected(2_000) | {"held": 7}
    assert f"restored {status.restored_total:,} records" in caplog.text
    runtime_of(app).stop_requested.set()
    await stop
    assert table_of(app, "totals") == expected(2_000) | {"held": 7}
    assert Counter(int(m.value()) for m in drain(f"{topic}-out")) == Counter(range(2_000))


async def test_workers_join_leave_and_die_in_the_middle_of_a_restore(lab, drain, hold, table_of) -> None:
    #  changelog[1] and [3]  open transaction ····································· abort
    #  a   starts ── [0] [2] flow ── two of four ──────────── killed ── starts again ── all
    #  b                             joins: two of four ── leaves
    topic, name = await filled(lab, 4)
    end, sent = hold(f"{name}-totals-changelog", 1, 3), 1_000

    def more() -> dict[int, int]:
        nonlocal sent
        lab.produce(topic, records(sent, sent + 500))
        sent += 500
        return lab.ends(topic)

    def free(*apps: App) -> set[int]:
        return {n for app in apps if app._consumer for n in numbers(app)}

    async def both_flow(*apps: App) -> None:
        ends = more()
        await lab.until(lambda: free(*apps) == {0, 2})
        await lab.until(
            lambda: all(any(n in numbers(app) and committed(app, topic, ends, n) for app in apps) for n in (0, 2))
        )

    a, b = program(lab, name, topic, "a"), program(lab, name, topic, "b")
    a_works = asyncio.create_task(work(a))
    await both_flow(a)
    b_works = asyncio.create_task(work(b))
    await lab.until(lambda: b._consumer and len(runtime_of(a).status.owned) == len(runtime_of(b).status.owned) == 2)
    await both_flow(a, b)
    runtime_of(b).stop_requested.set()
    await b_works
    await both_flow(a)
    await lab.kill(a, a_works)
    a = program(lab, name, topic, "a")
    worker = asyncio.create_task(lab.started(a))
    await both_flow(a)
    end()
    stop = await worker
    await lab.caught_up(topic, a)
    assert dict(a.tables["totals"].items()) == expected(sent)
    runtime_of(a).stop_requested.set()
    await stop
    assert table_of(a, "totals") == expected(sent)
    assert Counter(int(m.value()) for m in drain(f"{topic}-out")) == Counter(range(sent))


async def test_changelog_records_that_are_deleted_under_a_restore_stop_the_worker_with_a_hint(lab, hold) -> None:
    # What was restored up to there may hold keys that were deleted since.
    topic, name = await filled(lab, 1)
    changelog = f"{name}-totals-changelog"
    hold(changelog, 0)
    app = program(lab, name, topic)
    running = asyncio.create_task(work(app))
    await lab.until(
        lambda: app._consumer and runtime_of(app).status.restoring and runtime_of(app).status.restoring.records
    )
    lab.produce(changelog, [("later", 1)] * 3)
    admin = lab.cluster.admin()
    for future in admin.delete_records([KafkaPartition(changelog, 0, lab.ends(changelog)[0])]).values():
        future.result(30)
    with pytest.raises(Stop, match=r"records of .*-changelog\[0\] were deleted before they were read"):
        await asyncio.wait_for(running, 60)


def deletes(admin: AdminClient, before: KafkaPartition) -> bool:
    """Delete records; return False while the broker does not know yet that the policy of the topic allows it."""
    error = admin.delete_records([before])[before].exception(30)
    if error is not None and error.args[0].code() != KafkaError.POLICY_VIOLATION:
        raise error
    return error is None


async def test_a_changelog_that_has_lost_its_beginning_stops_a_worker_that_needs_it(lab) -> None:
    #   changelog:  ░░░░░░░░░│0 1 2 … ▶      what was deleted there stands nowhere else
    topic = lab.topic(1)
    name = lab.fresh("beheaded")

    def made(worker: str) -> App:
        app = lab.app(name, worker=worker)
        totals = app.Table("totals", default=int)

        @app.agent(app.topic(topic, key_type=str))
        async def total(stream):
            async for key, value in stream.items():
                totals[key] += value

        return app

    lab.produce(topic, records(0, 100))
    async with lab.running(made("a")) as app:
        await lab.caught_up(topic, app)
    changelog = f"{name}-totals-changelog"
    admin = lab.cluster.admin()
    # By accident, or by a retention that somebody has set: a topic that is only compacted loses nothing.
    for policy in ("delete", "compact"):
        entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, changelog, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(30)
        if policy == "delete":
            await lab.until(lambda: deletes(admin, KafkaPartition(changelog, 0, lab.ends(changelog)[0])))
    error = await lab.stopped_by(made("b"))
    assert isinstance(error, Stop)
    assert f"changelog {changelog}[0] begins at" in str(error)
    assert "recompute it" in str(error)


def test_progress_says_how_much_is_left_at_this_pace() -> None:
    progress = RestoreProgress(
        records=30_000, offsets=40_000, offsets_left=10_000, partitions=4, partitions_left=1, seconds=3
    )
    assert (progress.share, progress.rate, progress.seconds_left) == (0.75, 10_000, 1.0)
    assert str(progress) == (
        "restoring tables: 75%, 30,000 records, 10,000 records/s, 1 of 4 partitions left, about 1 s to go"
    )
    assert msgspec.json.decode(msgspec.json.encode(progress.facts()))["share"] == 0.75
    nothing = RestoreProgress(records=0, offsets=10, offsets_left=10, partitions=1, partitions_left=1, seconds=0)
    assert (nothing.share, nothing.rate, nothing.seconds_left) == (0, 0, None)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_worker_draws_the_progress_on_a_terminal_and_nowhere_else(terminal) -> None:
    text = io.StringIO()
    progress = RestoreProgress(
        records=30_000, offsets=40_000, offsets_left=10_000, partitions=4, partitions_left=1, seconds=3
    )
    with RestoreBar(Console(file=text, force_terminal=terminal, width=150)) as bar:
        bar.show(progress)
        bar.show(None)
    assert ("restoring tables: 75%, 30,000 records" in text.getvalue()) is terminal
