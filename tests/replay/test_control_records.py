"""Tools skip control records in topics that an app has made; elsewhere they are plain records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay.archive.archiver import Archiver
from anabranch.replay.player import Player
from anabranch.replay.record_counts import count_records
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.replay.verify.comparison import verify
from anabranch.replay.verify.comparison_side import find_side
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.control_records import CONTROL_KEY, ControlRecord
from confluent_kafka import Message

END = ControlRecord("end")


def fill(cluster: Cluster, topic: str) -> None:
    """Five records and, before, between and behind them, four control records."""
    Admin(cluster).create([TopicSpec(topic, 1)])
    producer = cluster.producer()
    for n in range(5):
        if n in (0, 3):
            producer.produce(topic, END.encoded(), CONTROL_KEY, headers=list(END.headers))
        producer.produce(topic, b"%d" % n, b"k", headers=[("trace", b"1")])
    for _ in range(2):
        producer.produce(topic, END.encoded(), CONTROL_KEY, headers=[("trace", b"1"), *END.headers])
    assert producer.flush(60) == 0


TOPICS = {
    "a repartition topic": "{}-totals-repartition",
    "a run's input": "{}-run-1f0c-orders",
    "a user's topic": "{}-orders",
}


@pytest.mark.parametrize("form", TOPICS.values(), ids=TOPICS)
def test_they_are_neither_counted_archived_replayed_nor_compared_in_an_app_s_own_topics(
    broker: Cluster, fresh: Callable[..., str], drain: Callable[..., list[Message]], tmp_path: Path, form: str
) -> None:
    topic, copies = form.format(fresh("app")), {"topic": fresh("copy"), "archive": fresh("copy")}
    records = 9 if form == "{}-orders" else 5
    fill(broker, topic)
    assert count_records(broker, topic, 1) == records

    archived = Archiver(broker, topic, tmp_path / "archive").archive()
    assert archived.records == records
    assert Archiver(broker, topic, tmp_path / "archive").archive().records == 0, "it knows that it is at the end"
    for source, copy in zip((f"topic://{topic}", str(tmp_path / "archive")), copies.values(), strict=True):
        played = Player(broker, resolve_source([source], Format(), cluster=broker), copy, partitions=1).play()
        assert played.sent == records
        headers = [message.headers() for message in drain(copy)]
        assert len(headers) == records
        assert all(found in (None, [("trace", b"1")]) for found in headers), "an ordinary record"

    for other in (str(tmp_path / "archive"), *(f"topic://{copy}" for copy in copies.values())):
        compared = verify(find_side(f"topic://{topic}", Format(), broker), find_side(other, Format(), broker))
        assert (compared.same, compared.a.records) == (True, records)
