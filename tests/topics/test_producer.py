"""Transactions: which records are visible, hidden and refused."""

from __future__ import annotations

import os
import time

import pytest
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Rebuild
from anabranch.topics.producer import Aborted, TransactionalProducer


@pytest.fixture
def topic(broker: Cluster, fresh) -> str:
    name = fresh("orders")
    Admin(broker).create([TopicSpec(name, 1)])
    return name


def opened(cluster: Cluster, transactional_id: str) -> TransactionalProducer:
    producer = TransactionalProducer(cluster, transactional_id)
    producer.open()
    return producer


def test_a_committed_transaction_is_visible(broker: Cluster, topic: str, fresh, drain) -> None:
    producer = opened(broker, fresh("tx"))
    producer.begin()
    producer.produce(topic, b"one", b"k")
    producer.produce(topic, b"two", b"k")
    producer.commit()
    assert [message.value() for message in drain(topic)] == [b"one", b"two"]


def test_an_open_transaction_is_not_visible(broker: Cluster, topic: str, fresh, drain) -> None:
    producer = opened(broker, fresh("tx"))
    producer.begin()
    producer.produce(topic, b"not yet", b"k")
    producer.flush()
    assert drain(topic) == []
    assert [message.value() for message in drain(topic, committed=False)] == [b"not yet"]
    producer.commit()
    assert [message.value() for message in drain(topic)] == [b"not yet"]


def test_an_aborted_transaction_stays_invisible_and_the_next_one_works(
    broker: Cluster, topic: str, fresh, drain
) -> None:
    producer = opened(broker, fresh("tx"))
    producer.begin()
    producer.produce(topic, b"dropped", b"k")
    producer.flush()
    producer.abort()
    producer.begin()
    producer.produce(topic, b"kept", b"k")
    producer.commit()
    assert [message.value() for message in drain(topic)] == [b"kept"]
    # The broker has both: it is the reader's isolation that hides one.
    assert [message.value() for message in drain(topic, committed=False)] == [b"dropped", b"kept"]


def test_a_transaction_that_fails_while_it_is_filled_is_aborted_and_the_next_one_works(
    broker: Cluster, topic: str, fresh, drain
) -> None:
    #  begin ── too large for its topic, which is heard a while later ── produce: Aborted ── begin ── commit
    small = fresh("small")
    Admin(broker).create([TopicSpec(small, 1, config={"max.message.bytes": "1000"})])
    producer = opened(broker, fresh("tx"))
    producer.begin()
    producer.produce(small, os.urandom(5_000))
    deadline_s = time.monotonic() + 60
    with pytest.raises(Aborted, match="in the meantime"):
        while time.monotonic() < deadline_s:
            producer.produce(topic, b"lost", b"k")
            producer.poll(0.05)
    producer.begin()
    producer.produce(topic, b"kept", b"k")
    producer.commit()
    assert [message.value() for message in drain(topic)] == [b"kept"]


def test_a_second_owner_fences_the_first_and_ends_what_it_left_open(broker: Cluster, topic: str, fresh, drain) -> None:
    #  first   ── begin ── "lost" ──────────────── commit ✗ Rebuild
    #  second                        open ── begin ── "won" ── commit
    transactional_id = fresh("tx")
    first = opened(broker, transactional_id)
    first.begin()
    first.produce(topic, b"lost", b"k")
    first.flush()

    second = opened(broker, transactional_id)
    with pytest.raises(Rebuild):
        first.commit()
    second.begin()
    second.produce(topic, b"won", b"k")
    second.commit()
    assert [message.value() for message in drain(topic)] == [b"won"]


def test_headers_timestamp_and_a_null_value_survive(broker: Cluster, topic: str, fresh, drain) -> None:
    headers = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b"")]
    long_ago_ms = 1_357_016_400_123
    producer = opened(broker, fresh("tx"))
    producer.begin()
    producer.produce(topic, None, b"deleted", timestamp_ms=long_ago_ms, headers=headers)
    producer.produce(topic, b"", b"", partition=0)
    producer.produce(topic, b"no key", None, partition=0)
    producer.commit()

    deleted, empty, keyless = drain(topic)
    assert (deleted.key(), deleted.value(), deleted.headers()) == (b"deleted", None, headers)
    assert deleted.timestamp()[1] == long_ago_ms
    assert (empty.key(), empty.value()) == (b"", b"")
    assert keyless.key() is None
