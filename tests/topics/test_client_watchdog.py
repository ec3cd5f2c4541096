"""Calls of Kafka clients that do not return."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from anabranch.topics import client_watchdog
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Hung
from anabranch.topics.memory.memory_kafka import MemoryKafka


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An event that is set at the end of the test; waiting for it is a call that hangs."""
    monkeypatch.setattr(client_watchdog, "_LOOK_S", 0.01)
    monkeypatch.setattr(client_watchdog, "_PROMPT_S", 0.05)
    release = threading.Event()
    yield release
    release.set()


@pytest.fixture
def cluster() -> Cluster:
    return MemoryKafka().cluster()


def test_a_call_hangs_if_it_does_not_return_although_the_cluster_answers(cluster: Cluster, never) -> None:
    with pytest.raises(Hung, match="send offsets: the Kafka client has no answer after"):
        client_watchdog.unless_ignored(cluster, 60.0, "send offsets", never.wait)


def test_a_call_may_wait_for_a_cluster_that_is_away(cluster: Cluster, never, monkeypatch) -> None:
    asked = list[int]()

    def answers(_: Cluster) -> bool:
        if not never.is_set():  # the call may take a moment to return, in which there is one more look
            asked.append(len(asked))
        if len(asked) == 10:
            never.set()
        return False

    monkeypatch.setattr(client_watchdog, "answers", answers)
    client_watchdog.unless_ignored(cluster, 60.0, "send offsets", never.wait)
    assert len(asked) == 10
    never.clear()
    monkeypatch.setattr(client_watchdog, "answers", lambda _: False)
    with pytest.raises(Hung):
        client_watchdog.unless_ignored(cluster, 0.1, "send offsets", never.wait)


def test_an_error_of_the_call_is_raised(cluster: Cluster, never) -> None:
    with pytest.raises(ZeroDivisionError):
        client_watchdog.unless_ignored(cluster, 60.0, "send offsets", lambda: 1 / 0)
