"""Tools continue at a record with a header name that is not UTF-8, and name the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay.archive import Archiver
from anabranch.replay.dead_letters.dead_letter_reader import DeadLetterFilter
from anabranch.replay.dead_letters.republisher import Republisher
from anabranch.replay.player import Player
from anabranch.replay.record_counts import count_records
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.topic_source import TopicHistory
from anabranch.replay.verify.comparison import verify
from anabranch.replay.verify.comparison_side import find_side
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from confluent_kafka import Message

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]
Send = Callable[..., None]

# Enough that the interpreter specialises the calls of who reads them one by one.
GOOD = 60


@pytest.fixture
def topic(broker: Cluster, fresh: Fresh, send_with_unreadable_header: Send) -> str:
    """Records with readable headers, and one without, which is as large as a packed batch may be."""
    name = fresh("orders")
    Admin(broker).create([TopicSpec(name, 1), TopicSpec(f"{name}.dlq", 1)])
    producer = broker.producer()
    for at in (name, f"{name}.dlq"):
        for n in range(GOOD):
            producer.produce(at, b"%d" % n, b"k", 0, headers=[("trace", b"%d" % n)])
        assert producer.flush(60) == 0
        send_with_unreadable_header(at, b"odd" * 100)
    return name


def test_replay_unpack_archive_and_verify_go_on_without_its_headers(
    broker: Cluster, topic: str, fresh: Fresh, drain: Drain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def named() -> bool:
        found = any(f"{topic}[0]@{GOOD}" in line for line in caplog.messages)
        caplog.clear()
        return found

    for unpack in (False, True):
        copy = fresh("copy")
        history = TopicHistory(broker, f"topic://{topic}", Format(), unpack=unpack)
        assert Player(broker, history, copy).play().sent == GOOD + 1
        assert named()
        found = drain(copy)
        assert [m.headers() for m in found] == [*([("trace", b"%d" % n)] for n in range(GOOD)), None]
        assert found[-1].value() == b"odd" * 100
    assert count_records(broker, topic, 1) == GOOD + 1
    caplog.clear()
    assert Archiver(broker, topic, tmp_path / "archive").archive().records == GOOD + 1
    assert named()
    for side in (str(tmp_path / "archive"), f"topic://{copy}"):
        same = verify(find_side(side, Format(), broker), find_side(f"topic://{topic}", Format(), broker))
        assert same.same
        assert named()
    back = fresh("back")
    Player(broker, resolve_source([str(tmp_path / "archive")], Format(), cluster=broker), back).play()
    assert [m.value() for m in drain(back)] == [m.value() for m in found]


def test_dead_letters_with_such_headers_are_counted_and_shown(
    broker: Cluster, topic: str, fresh: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Republisher(broker, f"{topic}.dlq", runs_topic=fresh("runs"))
    assert {kind: count.letters for kind, count in dead.counts().items()} == {("", "unknown", ""): GOOD + 1}
    letters = [letter for letter, _ in dead.read(DeadLetterFilter())]
    assert (letters[-1].offset, letters[-1].value, letters[-1].headers) == (GOOD, b"odd" * 100, [])
    assert any(f"{topic}.dlq[0]@{GOOD}" in line for line in caplog.messages)
