"""Committers replace clients that hang or are broken."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from anabranch.agents.engine.committer import AtLeastOnce, CommitRequest, ExactlyOnce
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.engine.topic_ids import TopicIds
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.store import Changes
from anabranch.topics import client_watchdog
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Hung, Rebuild, Stop
from anabranch.topics.output import Output
from anabranch.topics.producer import Aborted, TransactionalProducer
from confluent_kafka import KafkaException, TopicPartition


def test_without_transactions_a_client_that_delivers_nothing_is_found_out_too(
    broker: Cluster, free_port, monkeypatch
) -> None:
    # A producer that nobody answers, of a cluster that does: as one that has forgotten all of its brokers.
    committer = AtLeastOnce(Cluster(f"127.0.0.1:{free_port()}", {"log_level": "0"}), None)
    monkeypatch.setattr(committer, "_cluster", broker)
    monkeypatch.setattr(client_watchdog, "HUNG_S", 0.5)
    plan = CommitRequest([Output("nowhere", b"1", None, 0, 0, None)], {}, [], None)
    with pytest.raises(Hung):
        committer.commit(plan)
    committer.close()
    assert not committer._kafka.flush(60), "what it had is forgotten"


async def test_nobody_waits_for_an_idle_worker_before_the_history_is_complete(lab, drain) -> None:
    settings = EngineSettings(session_timeout_ms=6_000, epoch_s=600.0)
    topic, app = lab.topic(), lab.app(lab.fresh("app"), settings=settings)
    runtime_of(app).history_complete = threading.Event()
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic))
    async def total(stream):
        async for value in stream:
            totals["all"] += value

    async with lab.running(app):
        for handled in range(1, 4):
            lab.produce(topic, [1])
            await lab.until(lambda handled=handled: runtime_of(app).status.records_total == handled, "a record")
        assert runtime_of(app).status.commits_total == 0
        runtime_of(app).history_complete.set()
        await lab.caught_up(topic, app)
    assert [message.value() for message in drain(f"{app.conf.id}-totals-changelog")] == [b"3"]


async def test_without_a_share_of_the_time_for_commits_an_epoch_ends_when_it_is_full(lab, drain) -> None:
    settings = EngineSettings(session_timeout_ms=6_000, epoch_s=600.0, commit_share=0, max_outputs=2)
    topic, out, app = lab.topic(), lab.topic(), lab.app(lab.fresh("app"), settings=settings)
    target = app.topic(out)

    @app.agent(app.topic(topic))
    async def passes(stream):
        async for value in stream:
            await target.send(value=value)

    async with lab.running(app):
        lab.produce(topic, [1])
        await lab.until(lambda: runtime_of(app).status.records_total == 1, "a record")
        assert drain(out) == []
        lab.produce(topic, [2])
        await lab.caught_up(topic, app)
        assert len(drain(out)) == 2


@pytest.mark.parametrize("what", ["outputs", "changes"])
def test_a_client_that_was_broken_before_it_was_asked_is_replaced(lab, monkeypatch, what) -> None:
    #  committer  ── transaction ──      ✗ told of it meanwhile ── commit: Rebuild
    #  another                    ── open ──
    topic, who = lab.topic(), lab.fresh("tx")
    committer = ExactlyOnce(lab.cluster, who)
    committer.open()
    kafka = committer._kafka
    kafka.begin()
    kafka.produce(topic, b"lost", b"k", 0)
    TransactionalProducer(lab.cluster, who).open()
    deadline = time.monotonic() + 30
    with pytest.raises(KafkaException):
        while time.monotonic() < deadline:
            kafka.produce_fast(topic, b"lost", b"k", 0)
            kafka._kafka.poll(0.05)
    monkeypatch.setattr(kafka, "begin", lambda: None)  # it was begun, and then the client broke
    outputs = [Output(topic, b"2", b"k", 0, 0, None)] if what == "outputs" else []
    changes = {topic: {0: Changes([b"a", b"b"], [b"1", b"2"], deletes=False)}} if what == "changes" else {}
    with pytest.raises(Rebuild):
        committer.commit(CommitRequest(outputs, changes, [], None))


def test_a_recreated_topic_that_does_not_take_the_offsets_is_named(
    lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topic = lab.topic()
    ids = TopicIds(lab.admin, "readers", tmp_path / "inputs.json")
    ids.watch({topic: "of one with more partitions"})
    committer = ExactlyOnce(lab.cluster, lab.fresh("tx"), topic_ids=ids)
    committer.open()
    kafka = committer._kafka

    def refuses(*_: object) -> None:
        kafka.abort()
        raise Aborted("send offsets: Unknown topic or partition")

    monkeypatch.setattr(kafka, "send_offsets", refuses)
    with pytest.raises(Stop, match=f"topic {topic} was deleted and recreated"):
        committer.commit(CommitRequest([], {}, [TopicPartition(topic, 7, 1)], object()))
