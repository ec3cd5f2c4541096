"""Workers wait for a broker that is down, whichever request they make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anabranch.agents.engine.loop import Engine
from anabranch.agents.runtime import runtime_of
from anabranch.topics import admin
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker.broker import EmbeddedBroker
from confluent_kafka import KafkaException

pytestmark = pytest.mark.needs_real_kafka("brokers that stop and start again")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker that may go, and comes back at the same address."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def home(own: EmbeddedBroker, lab: Any) -> Any:
    """A lab at it."""
    return type(lab)(Cluster(own.bootstrap_servers, {"log_level": "0"}), lab.fresh, lab.folder)


@pytest.fixture
def vain(monkeypatch: pytest.MonkeyPatch) -> list[KafkaException]:
    """The errors of requests that failed; `Admin` without `patience_s` gives up after a tenth of a second."""
    patiently, failed = Admin._patiently, []

    def counted(self: Admin, doing: str, ask: Callable[[], Any], *topics: Any) -> Any:
        def once() -> Any:
            try:
                return ask()
            except KafkaException as exc:
                failed.append(exc)
                raise

        return patiently(self, doing, once, *topics)

    monkeypatch.setattr(Admin, "_patiently", counted)
    monkeypatch.setattr(admin, "TIMEOUT_S", 1.0)
    monkeypatch.setitem(Admin.__init__.__kwdefaults__, "patience_s", 0.1)
    return failed


async def test_a_broker_that_goes_while_a_worker_declares_its_topics(own, home, vain, monkeypatch) -> None:
    #  worker  ── found ── declares its topics … … … … … ── restores, counts
    #  broker  ────────── ✗ away                    ── back
    topic, app = home.topic(), home.app(home.fresh("app"))
    totals, subscribe = app.Table("totals", default=int), Engine.subscribe

    @app.agent(app.topic(topic, value_type=int))
    async def total(stream):
        async for value in stream:
            totals["all"] += value

    home.produce(topic, [1, 2, 3])

    async def too_late(self: Engine, topics: Any) -> None:
        await asyncio.to_thread(own.stop)
        await subscribe(self, topics)

    monkeypatch.setattr(Engine, "subscribe", too_late)
    starting = asyncio.create_task(home.started(app))
    await home.until(lambda: len(vain) > 1 or starting.done(), "asked in vain")
    assert not starting.done(), await starting
    await asyncio.to_thread(own.start)
    worker = await starting
    await home.caught_up(topic, app)
    runtime_of(app).stop_requested.set()
    await worker
    assert home.committed(app.conf.id, topic)[0][0] == 3


async def test_a_broker_that_goes_before_offsets_are_committed_without_a_transaction(own, home) -> None:
    #  worker  ── handles ── commits ✗ no coordinator … … ── committed
    #  broker  ────────── ✗ away                      ── back
    topic, app = home.topic(), home.app(home.fresh("app"), processing_guarantee="at_least_once")
    held, go, failed = asyncio.Event(), asyncio.Event(), []

    @app.agent(app.topic(topic, value_type=int))
    async def total(stream):
        async for _ in stream:
            held.set()
            await go.wait()

    class Counting:
        def __init__(self, kafka: Any) -> None:
            self._kafka = kafka

        def commit(self, **how: Any) -> Any:
            try:
                return self._kafka.commit(**how)
            except KafkaException as exc:
                failed.append(exc)
                raise

    home.produce(topic, [1, 2, 3])
    async with home.running(app):
        await asyncio.wait_for(held.wait(), 60)
        committer = runtime_of(app).engine._member.committer
        committer._consumer = Counting(committer._consumer)
        own.kill()
        go.set()
        await home.until(lambda: failed or runtime_of(app).stopped_by, "committed in vain")
        await asyncio.to_thread(own.start)
        await home.caught_up(topic, app)


def test_a_topic_is_made_when_the_broker_is_back(own, home, vain, fresh, eventually) -> None:
    asked, name = Admin(home.cluster, patience_s=60), fresh("late")
    own.stop()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(asked.create, [TopicSpec(name, 2)])
        eventually(lambda: len(vain) >= 2 or made.done(), "it was asked in vain")
        own.start()
        made.result()
    assert asked.partitions([name]) == {name: 2}
