"""Requests of admin clients that are never answered."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from anabranch.topics import admin as admin_module
from anabranch.topics import client_watchdog
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.memory.memory_kafka import MemoryKafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Admin:
    """An admin whose client has forgotten its broker: futures of requests stay open. A new client works."""
    monkeypatch.setattr(admin_module, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(admin_module, "_ID_S", 0.05)
    monkeypatch.setattr(admin_module, "_LATE_S", 0.05)
    monkeypatch.setattr(client_watchdog, "HUNG_S", 0.1)
    made = Admin(MemoryKafka().cluster(), patience_s=10.0)
    made.create([TopicSpec("orders", 1)])
    hanging: Any = made._kafka
    for request in ("list_offsets", "describe_topics", "describe_configs"):
        setattr(hanging, request, lambda asked, **_: {of: Future[Any]() for of in getattr(asked, "topic_names", asked)})
    return made


def test_offsets_that_a_client_never_returns_are_requested_with_a_new_client(admin: Admin) -> None:
    assert admin.ends([TopicPartition("orders", 0)]) == {("orders", 0): 0}


def test_a_commit_does_not_wait_for_topic_ids_that_never_come(admin: Admin) -> None:
    assert admin.ask_topic_ids(["orders"])() == {}
    assert admin.ask_topic_ids(["orders"])().keys() == {"orders"}, "a new client asks the next time"


def test_a_topic_that_a_broker_does_not_list_at_first_after_an_outage_is_not_taken_for_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin, asked = Admin(MemoryKafka().cluster(), patience_s=60.0), 0
    admin.create([TopicSpec("orders", 1)])
    kafka, now_s = admin._kafka, [0.0]
    listed, offsets = kafka.list_topics, kafka.list_offsets
    monkeypatch.setattr(client_watchdog, "HUNG_S", 100.0)
    monkeypatch.setattr(admin_module.clock, "now_s", lambda: now_s[0])

    def list_topics(**_: Any) -> Any:
        found = listed()
        if asked == 1:
            del found.topics["orders"]
        return found

    def list_offsets(*args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 2:
            return offsets(*args, **options)
        now_s[0] += 15.0  # nobody answers
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(kafka, "list_topics", list_topics)
    monkeypatch.setattr(kafka, "list_offsets", list_offsets)
    assert admin.ends([TopicPartition("orders", 0)]) == {("orders", 0): 0}
