"""Commits beside the next epoch: what agents, readers and rebalances see while Kafka commits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from anabranch.agents.engine.committer import CommitRequest, ExactlyOnce, QueuedCommit
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.output import Output
from anabranch.topics.producer import Aborted, TransactionalProducer


class Held:
    """Holds back the next commit, between its queued records and Kafka's answer."""

    def __init__(self) -> None:
        self.holding, self.aborting = False, False
        self.began, self.may_end = threading.Event(), threading.Event()

    def complete(self, real: Callable[..., Any], committer: ExactlyOnce, queued: QueuedCommit) -> Any:
        if self.holding:
            self.holding = False
            self.began.set()
            assert self.may_end.wait(60)
            if self.aborting:
                committer._kafka.abort()
                raise Aborted("for the test")
        return real(committer, queued)


@pytest.fixture
def held(monkeypatch) -> Held:
    real, made = ExactlyOnce.complete, Held()
    monkeypatch.setattr(ExactlyOnce, "complete", lambda committer, queued: made.complete(real, committer, queued))
    return made


def summing(lab: Any, topic: str, seen: list[int]) -> tuple[Any, Any]:
    app = lab.app(lab.fresh("app"), settings=EngineSettings(commit_beside=True))
    sums, lists = app.Table("sums", default=int), app.Table("lists", default=list)

    @app.agent(app.topic(topic, value_type=int), name="adder")
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            lists["all"].append(value)
            seen.append(sums["all"])
            assert sum(lists["all"]) == sums["all"]

    return app, sums


@pytest.mark.parametrize("aborted", [False, True], ids=["committed", "aborted"])
async def test_agents_go_on_while_kafka_commits_and_readers_wait_for_it(lab, table_of, held, aborted) -> None:
    #  agent    ── 1 2 ──┬── 4 8 ──────────────────────────
    #  Kafka             └── commit of 1 2 ── answers late ─
    topic, seen = lab.topic(1), list[int]()
    app, sums = summing(lab, topic, seen)
    async with lab.running(app):
        held.holding, held.aborting = True, aborted
        lab.produce(topic, [1, 2])
        await lab.until(held.began.is_set)
        assert seen[-1:] == [3] or seen[-1:] == [1]
        lab.produce(topic, [4, 8])
        await lab.until(lambda: seen[-1] == 15)
        assert runtime_of(app).status.committed.get((topic, 0), 0) == 0
        assert sums.get("all") is None
        held.may_end.set()
        await lab.caught_up(topic, app)
        assert sums["all"] == 15
    assert table_of(app, "sums") == {"all": 15}
    assert table_of(app, "lists") == {"all": [1, 2, 4, 8]}
    assert (len(seen) > 4) == aborted, "an aborted commit takes the epoch beside it along"


async def test_a_worker_that_stops_waits_for_the_commit(lab, table_of, held) -> None:
    topic, seen = lab.topic(1), list[int]()
    app, _ = summing(lab, topic, seen)
    async with lab.running(app):
        held.holding = True
        lab.produce(topic, [1, 2])
        await lab.until(held.began.is_set)
        lab.produce(topic, [4])
        await lab.until(lambda: seen[-1] == 7)
        threading.Timer(0.3, held.may_end.set).start()
    assert table_of(app, "sums") == {"all": 7}


@pytest.mark.parametrize("at", ["before its commit", "when it is aborted"])
def test_a_commit_whose_epoch_is_dropped_is_aborted_and_not_repeated(lab, drain, monkeypatch, at) -> None:
    topic, committer = lab.topic(1), ExactlyOnce(lab.cluster, lab.fresh("tx"))
    committer.open()
    queued = committer.queue(CommitRequest([Output(topic, b"1", None, 0, 0, None)], {}, [], None))
    if at == "before its commit":
        queued.dropped.set()
    else:
        real = TransactionalProducer.commit

        def commit(kafka: TransactionalProducer) -> None:
            monkeypatch.setattr(TransactionalProducer, "commit", real)
            queued.dropped.set()
            kafka.abort()
            raise Aborted("for the test")

        monkeypatch.setattr(TransactionalProducer, "commit", commit)
    client = committer._kafka._kafka
    with pytest.raises(Aborted):
        committer.complete(queued)
    committer.commit(CommitRequest([Output(topic, b"2", None, 0, 0, None)], {}, [], None))
    assert committer._kafka._kafka is not client, "a client may use sequence numbers of aborted records again"
    committer.close()
    assert [message.value() for message in drain(topic)] == [b"2"]
