"""A consumer or producer that is fenced or broken is reported as such by every call, so that the worker replaces it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from anabranch.agents.engine import committed_offsets
from anabranch.agents.engine.committed_offsets import assigned, begin_at_ends
from anabranch.agents.engine.committer import AtLeastOnce, CommitRequest
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics import client_watchdog
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Hung, Rebuild
from anabranch.topics.output import Output
from anabranch.topics.producer import TransactionalProducer
from anabranch.topics.topic_partition import TopicPartition
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

SETTINGS = EngineSettings()


def fatal(*_: object, **__: object) -> Any:
    """What every call of a broken client does; the error is not marked as fatal."""
    raise KafkaException(KafkaError(KafkaError._FATAL, "Local: Fatal error"))


@pytest.fixture
def topic(lab) -> str:
    return lab.topic()


@pytest.fixture
def fenced(lab, topic: str) -> Iterator[Any]:
    """A consumer whose `group.instance.id` another member of its group has taken over."""
    group = lab.fresh("group")

    def join() -> Any:
        consumer = lab.cluster.consumer(
            group_id=group, group_instance_id="a", session_timeout_ms=6_000, heartbeat_interval_ms=200
        )
        consumer.subscribe([topic])
        return consumer

    first, deadline = join(), time.monotonic() + 60
    while not first.assignment():
        assert time.monotonic() < deadline
        first.poll(0.1)
    second, errors = join(), []
    while not errors:
        assert time.monotonic() < deadline
        second.poll(0.05)
        errors = [message.error() for message in first.consume(1, 0.05) if message.error() is not None]
    assert errors[0].code() == KafkaError._FATAL
    yield first
    first.close()
    second.close()


def test_at_least_once_offsets_of_a_fenced_consumer_are_not_committed(lab, topic: str, fenced: Any) -> None:
    committer = AtLeastOnce(lab.cluster, fenced)
    with pytest.raises(Hung, match="commit offsets: this client cannot be used any more") as caught:
        committer.commit(CommitRequest([], {}, [KafkaPartition(topic, 0, 1)], fenced.consumer_group_metadata()))
    assert caught.value.fenced, "two processes of one identity would replace their consumers for ever"
    committer.close()


def test_a_fenced_consumer_cannot_fix_where_its_group_begins(lab, topic: str, fenced: Any) -> None:
    at = TopicPartition(topic, 0)
    with pytest.raises(Hung, match="commit where the group begins: this client cannot be used any more"):
        begin_at_ends(fenced, [at], [at], [], Admin(lab.cluster), lab.cluster, SETTINGS)


def test_a_fenced_consumer_that_cannot_read_committed_offsets_is_replaced(
    broker: Cluster, topic: str, monkeypatch
) -> None:
    consumer: Any = type("Broken", (), {"committed": staticmethod(fatal)})
    with pytest.raises(Hung, match="read committed offsets: this client cannot be used any more"):
        assigned(consumer, [KafkaPartition(topic, 0)], Admin(broker), broker, SETTINGS)


def test_an_offset_that_the_group_does_not_take_fails_the_commit(lab, topic: str) -> None:
    def commit(offsets: list[KafkaPartition], **_: object) -> list[KafkaPartition]:
        answer = [KafkaPartition(at.topic, at.partition, at.offset) for at in offsets]
        assert answer[1].error is None
        return [answer[0], _Refused()]

    class _Refused:
        error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)

    consumer: Any = type("Consumer", (), {"commit": staticmethod(commit)})
    committer = AtLeastOnce(lab.cluster, consumer)
    offsets = [KafkaPartition(topic, 0, 1), KafkaPartition("forbidden", 0, 1)]
    with pytest.raises(Exception, match=r"commit offsets: .*TOPIC_AUTHORIZATION_FAILED"):
        committer.commit(CommitRequest([], {}, offsets, object()))
    committer.close()


def test_at_least_once_a_broken_producer_is_replaced(lab, topic: str, monkeypatch) -> None:
    committer = AtLeastOnce(lab.cluster, None)

    class Broken:
        produce = staticmethod(fatal)
        flush = poll = staticmethod(lambda *_: 0)

    monkeypatch.setattr(committer, "_kafka", Broken)
    with pytest.raises(Rebuild, match=f"produce to {topic}"):
        committer.commit(CommitRequest([Output(topic, b"1", None, 0, 0, None)], {}, [], None))


async def test_a_transaction_that_never_ends_and_holds_back_offsets_stops_the_worker(lab, monkeypatch) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    monkeypatch.setattr(client_watchdog, "HUNG_S", 0.2)
    monkeypatch.setattr(committed_offsets, "ASK_S", 0.3)

    def program() -> Any:
        app = lab.app(name)

        @app.agent(app.topic(topic))
        async def agent(stream: Any) -> None:
            async for _ in stream:
                pass

        return app

    first = program()
    async with lab.running(first):
        lab.produce(topic, [1])
        await lab.caught_up(topic, first)
        stuck = TransactionalProducer(lab.cluster, lab.fresh("stuck"), transaction_timeout_ms=60_000)
        await asyncio.to_thread(stuck.open)
        stuck.begin()
        group = runtime_of(first).engine._member.group.metadata()
        await asyncio.to_thread(stuck.send_offsets, [KafkaPartition(topic, 0, 1)], group)
    stop = await lab.stopped_by(program())
    assert re.search(rf"group {name}: the committed offsets of {topic}\[0\] are part of a transaction", str(stop))
    assert "kafka-transactions.sh" in str(stop)
    stuck.abort()
