"""Requests of admin clients that are never answered."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from anabranch.topics import admin as admin_module
from anabranch.topics import client_watchdog
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.memory.memory_kafka import MemoryKafka
from confluent_kafka import TopicPartition


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
