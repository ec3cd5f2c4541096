"""What an aborted epoch must not lose, and what must not be committed on doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from anabranch.agents.engine.committer import ExactlyOnce, QueuedCommit
from anabranch.agents.engine.delivery_reports import Reports
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.restoration import Restoration
from anabranch.agents.tables.rocksdb_store import RocksStore, StoreOwner
from anabranch.agents.tables.store import Changes, MemoryStore
from anabranch.replay.cli.worker_report import WorkerReport
from anabranch.topics.errors import Stop
from anabranch.topics.producer import Aborted, TransactionalProducer
from failing_records import BAD, Boom
from table_partitions import commit, made, open_at, stored


@pytest.fixture
def abort(monkeypatch) -> Callable[..., list[Any]]:
    """Aborts commits of epochs that send something; gives the plans that were aborted."""

    def begin(times: int, to: str = "") -> list[Any]:
        real, aborted = ExactlyOnce.complete, list[Any]()

        def failing(committer: ExactlyOnce, queued: QueuedCommit) -> Any:
            plan = queued.request
            if len(aborted) < times and any(output.topic.endswith(to) for output in plan.outputs):
                aborted.append(plan)
                committer._kafka.abort()
                raise Aborted("for the test")
            return real(committer, queued)

        monkeypatch.setattr(ExactlyOnce, "complete", failing)
        return aborted

    return begin


async def test_dead_letters_are_sent_again_after_an_abort(lab, drain, table_of, abort) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(topic, value_type=int), name="adder")
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            if value == BAD:
                raise Boom

    aborted = abort(3, to=".dlq")
    async with lab.running(app):
        lab.produce(topic, [1, BAD, "no number", 2, BAD, 3])
        await lab.caught_up(topic, app)
        lab.produce(topic, [4])
        await lab.caught_up(topic, app)
    assert len(aborted) == 3
    assert [m.value() for m in drain(f"{topic}.dlq")] == [b"-1", b"no number", b"-1"]
    assert table_of(app, "sums") == {"all": 10}


async def test_what_timers_have_sent_outlives_aborts_and_rollbacks(lab, drain, table_of, abort) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    sums, out = app.Table("sums", default=int), app.topic(target)
    inside, sent = asyncio.Event(), asyncio.Event()

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            if value == BAD:
                inside.set()
                await sent.wait()
                raise Boom

    @app.task
    async def sends() -> None:
        await inside.wait()
        for value in range(3):
            await out.send(value=value)
        sent.set()

    aborted = abort(2)
    async with lab.running(app):
        lab.produce(topic, [1, BAD, 2])
        await lab.caught_up(topic, app)
        await lab.until(lambda: len(drain(target)) == 3)
    assert len(aborted) == 2
    assert [int(m.value()) for m in drain(target)] == [0, 1, 2]
    assert table_of(app, "sums") == {"all": 3}


def sender(lab: Any, topic: str, target: str) -> Any:
    app = lab.app(lab.fresh("app"))
    out = app.topic(target)

    @app.agent(app.topic(topic), name="sender")
    async def send(stream):
        async for value in stream:
            await out.send(key=f"k{value}", value=value)

    return app


async def test_epochs_that_are_aborted_again_and_again_stop_the_worker(lab, abort) -> None:
    topic, target = lab.topic(), lab.topic(1, "out")
    lab.produce(topic, range(10))
    aborted = abort(10**9)
    stop = await lab.stopped_by(sender(lab, topic, target))
    assert isinstance(stop, Stop)
    assert "5 epochs in a row could not be committed" in str(stop)
    assert len(aborted) == 5


async def test_a_few_aborted_epochs_in_a_row_are_done_again(lab, drain, abort) -> None:
    topic, target = lab.topic(), lab.topic(1, "out")
    app = sender(lab, topic, target)
    abort(4)
    async with lab.running(app):
        lab.produce(topic, range(10))
        await lab.caught_up(topic, app)
    assert [int(m.value()) for m in drain(target)] == list(range(10))


@pytest.mark.parametrize("aborted", [False, True], ids=["committed", "aborted"])
async def test_a_worker_says_at_its_end_whether_its_last_epoch_is_committed(lab, monkeypatch, capsys, aborted) -> None:
    topic, target = lab.topic(), lab.topic(1, "out")
    app = sender(lab, topic, target)
    async with lab.running(app):
        lab.produce(topic, range(10))
        await lab.caught_up(topic, app)
        if aborted:
            engine = runtime_of(app).engine

            def complete(committer: ExactlyOnce, queued: QueuedCommit) -> Any:
                engine.stopping = True
                committer._kafka.abort()
                raise Aborted("for the test")

            monkeypatch.setattr(ExactlyOnce, "complete", complete)
            lab.produce(topic, range(10))
            await lab.until(lambda: engine.stopping)
    WorkerReport(runtime_of(app), "app", embedded=False, brief=True).on_end()
    end = "; the last records are not committed, and will be processed again" if aborted else "; offsets are committed"
    assert capsys.readouterr().err.rstrip().endswith(end)


async def test_records_that_may_be_lost_are_sent_again_and_never_committed(lab, drain, monkeypatch) -> None:
    topic, target = lab.topic(), lab.topic(1, "out")
    app, real, doubted, aborted = sender(lab, topic, target), Reports.has_offset, list[str](), list[bool]()
    abort = TransactionalProducer.abort

    def lossy(reports: Reports, message: Any) -> bool:
        if message.topic() == target and len(doubted) < 2:  # as if librdkafka took it for delivered
            doubted.append(target)
            reports.unsure.add((target, 0))
            return False
        return real(reports, message)

    monkeypatch.setattr(Reports, "has_offset", lossy)
    monkeypatch.setattr(TransactionalProducer, "abort", lambda kafka: (aborted.append(True), abort(kafka)))
    async with lab.running(app):
        lab.produce(topic, range(10))
        await lab.caught_up(topic, app)
    assert doubted
    assert aborted
    assert [int(m.value()) for m in drain(target)] == list(range(10))


@pytest.mark.parametrize("options", [{"default": list}, {"sets": True}], ids=["a default", "sets"])
def test_a_key_that_was_deleted_and_whose_default_was_only_read_then_is_a_tombstone(options) -> None:
    table = made(**options)
    open_at(table, "orders", 0)
    table["a"] = {1} if "sets" in options else [1]
    commit(table)
    open_at(table, "orders", 0)
    del table["a"]
    assert not table["a"]
    changes = commit(table)
    assert changes[0].values == [None]
    assert stored(table)[0] == {}


async def test_a_store_that_is_beyond_its_changelog_s_end_is_built_anew(lab) -> None:
    topic, name = lab.topic(), lab.fresh("app")

    def program() -> Any:
        app = lab.app(name, store="rocksdb://")
        sums = app.Table("sums", default=int)

        @app.agent(app.topic(topic), name="adder")
        async def adder(stream):
            async for value in stream:
                sums["all"] += value

        return app

    lab.produce(topic, range(10))
    app = program()
    async with lab.running(app):
        await lab.caught_up(topic, app)
    changelog = f"{name}-sums-changelog"
    (folder,) = (lab.folder / "a").glob("v*/0/tables/sums-0")
    ids = lab.admin.cluster_id(), lab.admin.topic_ids([changelog])[changelog]
    store = RocksStore(folder, StoreOwner(name, "sums", 0, *ids))
    store.apply(Changes([b'"all"'], [b"1000"], deletes=False), lab.ends(changelog)[0] + 5)
    store.close()
    app = program()
    async with lab.running(app):
        assert dict(app.tables["sums"].items()) == {"all": 45}
    assert folder.with_name("sums-0.unusable").exists()


def test_a_store_in_memory_beyond_its_changelog_s_end_is_refused(lab) -> None:
    restoration = Restoration(SimpleNamespace(cluster=lab.cluster), lab.admin, [])  # pyright: ignore[reportArgumentType]
    store = MemoryStore()
    store.position = 10
    restoration._states["changelog", 0] = SimpleNamespace(store=store)
    with pytest.raises(Stop, match="at position 10, beyond the changelog's end 9"):
        restoration._restore(("changelog", 0), made(), 0, 9)
