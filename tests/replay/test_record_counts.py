"""Background counts of a topic's records equal counts that are taken at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from anabranch.replay import record_counts
from anabranch.replay.record_counts import BackgroundCounts
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from confluent_kafka import TopicPartition

Fresh = Callable[..., str]


def filled(broker: Cluster, topic: str, **config: str) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int]]:
    """A topic of two partitions with 600 records; where they start and end."""
    Admin(broker).create([TopicSpec(topic, 2, config={name.replace("_", "."): text for name, text in config.items()})])
    producer = broker.producer()
    for number in range(600):
        producer.produce(topic, b"value", b"key", number % 2)
    assert producer.flush(60) == 0
    at = [TopicPartition(topic, partition) for partition in range(2)]
    return Admin(broker).begins(at), Admin(broker).ends(at)


def test_what_was_counted_ahead_is_not_read_again(broker: Cluster, fresh: Fresh, monkeypatch: pytest.MonkeyPatch):
    starts, ends = filled(broker, fresh("counted"))
    with BackgroundCounts(broker) as counts:
        counts.begin(starts, ends)
        monkeypatch.setattr(record_counts, "count_between", None)
        assert counts.between(starts, ends) == 600


def test_what_is_deleted_after_it_was_counted_is_missed(broker: Cluster, fresh: Fresh):
    topic = fresh("deleted")
    starts, ends = filled(broker, topic)
    with BackgroundCounts(broker) as counts:
        counts.begin(starts, ends)
        assert counts.between(starts, ends) == 600
        request, admin = TopicPartition(topic, 1, 100), broker.admin()
        admin.delete_records([request])[request].result(30)
        assert counts.between(starts, ends) == 500


def test_compacted_topics_and_other_offsets_are_counted_when_asked(
    broker: Cluster, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
):
    compacted, other = fresh("compacted"), fresh("other")
    asked = [filled(broker, compacted, cleanup_policy="compact"), filled(broker, other)]
    with BackgroundCounts(broker) as counts:
        for starts, ends in asked:
            counts.begin(starts, ends)
        monkeypatch.setattr(record_counts, "count_between", lambda *_: -1)
        assert counts.between(*asked[0]) == -1
        starts, ends = asked[1]
        assert counts.between({**starts, (other, 0): 7}, ends) == -1
        assert counts.between(starts, ends) == 600
