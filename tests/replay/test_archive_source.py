"""Archives and topics as history: the records are unchanged, wherever the replay is interrupted."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anabranch.replay.archive import ArchiveHistory, Archiver, Rolling, jsonl_format, parquet_format
from anabranch.replay.archive.record_columns import RecordColumns
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.player import Player
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.offset_range import OffsetBound
from anabranch.replay.sources.source import Replayable, Source, SourcePosition
from anabranch.replay.sources.source_record import SourceRecord
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import Message, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_child import kill_repeatedly
from line_files import Reading

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]

DAY_MS = 86_400_000
START_MS = 1_357_000_000_000
ODD = [b"", None, b"\xff\x00\n", "é".encode(), b"plain", b'{"a":"\\u0000"}', b"\x1f\x8b"]

CHILD = """
import sys
from anabranch.replay import Player
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.format import Format
from anabranch.topics.cluster import Cluster
servers, spec, topic = sys.argv[1:]
history = resolve_source([spec], Format(), cluster=Cluster(servers))
player = Player(Cluster(servers), history, topic, transaction_records=200, batch_lines=50)
player.play(lambda progress: print(progress.sent, flush=True))
"""

maybe = st.one_of(st.none(), st.binary(max_size=8))
headers = st.lists(st.tuples(st.text(max_size=4, alphabet=st.characters(exclude_categories=["Cs"])), maybe), max_size=3)


@pytest.mark.parametrize("encoding", ["parquet", "jsonl"])
@given(st.lists(st.tuples(maybe, maybe, st.one_of(st.none(), headers)), min_size=1, max_size=9), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_odd_bytes_come_back_from_a_file(
    encoding: Any, records: list[tuple[bytes | None, bytes | None, Any]], batch: int
) -> None:
    rows, file = RecordColumns(), io.BytesIO()
    for n, (key, value, told) in enumerate(records):
        rows.keys.append(key)
        rows.values.append(value)
        rows.headers.append(told)
        rows.offsets.append(3 * n)
        rows.times.append(START_MS - n)
    written = (parquet_format if encoding == "parquet" else jsonl_format).Writer(file, "t", 2)
    written.write(rows)
    written.close()
    file.seek(0)
    read = parquet_format.read_parquet if encoding == "parquet" else jsonl_format.read_jsonl
    found = list(read(file, batch))
    assert [item for part in found for item in part.to_records(2)] == [
        (key, value, START_MS - n, told or None, 2) for n, (key, value, told) in enumerate(records)
    ]
    assert [offset for part in found for offset in part.offsets] == [3 * n for n in range(len(records))]


def read(source: Source) -> list[SourceRecord]:
    items = Reading(source).rest()
    source.close()
    return items


def records_of(messages: list[Message]) -> dict[int, list[tuple[Any, ...]]]:
    """Per partition, in order, all but the offsets."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for message in sorted(messages, key=lambda message: message.offset() or 0):
        record = (message.key(), message.value(), message.timestamp()[1], message.headers() or None)
        found.setdefault(message.partition() or 0, []).append(record)
    return found


@pytest.fixture(scope="module")
def fill(broker: Cluster) -> Callable[..., str]:
    """A topic of 3 partitions with odd records, aborted ones in between, and times that go back now and then."""

    def make(name: str, count: int, *, partitions: int = 3) -> str:
        Admin(broker).create([TopicSpec(name, partitions)])
        producer = TransactionalProducer(broker, f"{name}-fill", transaction_timeout_ms=120_000)
        producer.open()
        n = 0
        while n < count:
            for commit in (False, True):
                producer.begin()
                for i in range(n, min(n + max(7, count // 10), count)):
                    key, value = ODD[i % len(ODD)], ODD[i // 2 % len(ODD)] if i % 2 else b"%d" % i
                    told: Any = None if i % 3 else [("h", b"%d" % i), ("h", None), ("é", b"\xff")]
                    time_ms = START_MS + i * 1000 - (5_000 if i % 11 == 0 else 0)
                    producer.produce(name, value, key, i * i % partitions, time_ms, told)
                producer.flush()
                (producer.commit if commit else producer.abort)()
            n += max(7, count // 10)
        producer.close()
        return name

    return make


@pytest.fixture(params=["archive in parquet", "archive in jsonl", "topic"])
def history(
    request: pytest.FixtureRequest, broker: Cluster, fresh: Fresh, fill: Callable[..., str], tmp_path: Path
) -> Replayable:
    topic = fill(fresh("past"), 60)
    if request.param == "topic":
        return resolve_source([f"topic://{topic}"], Format(), cluster=broker)
    encoding = request.param.removeprefix("archive in ")
    folder = tmp_path / "archive"
    Archiver(broker, topic, folder, encoding=encoding, rolling=Rolling(size_bytes=500)).archive()
    return resolve_source([str(folder)], Format(), cluster=broker)


@pytest.mark.parametrize("order", ["time", "source"])
def test_killed_anywhere_and_opened_at_its_snapshot_it_gives_the_rest(history: Replayable, order: Any) -> None:
    pipeline = Pipeline(order=order)
    whole = read(pipeline.open(history))
    assert len(whole) == 60
    source = Reading(pipeline.open(history, batch_lines=4))
    seen: list[SourceRecord] = []
    while not source.ended:
        position = msgspec.json.decode(msgspec.json.encode(source.position), type=SourcePosition)
        if len(seen) % 3 == 0:
            rest = read(pipeline.open(history, position))
            assert sorted(map(str, seen + rest)) == sorted(map(str, whole))
            assert order == "source" or seen + rest == whole, "merged by time, there is one order"
        seen += source.next()
    source.source.close()
    for partition in range(3):
        assert [item for item in seen if item[4] == partition] == [item for item in whole if item[4] == partition]
    last = pipeline.open(history, source.position)
    assert read(last) == []


def test_what_goes_back_is_what_was_there(
    broker: Cluster, fresh: Fresh, drain: Drain, fill: Callable[..., str], tmp_path: Path
) -> None:
    topic = fill(fresh("there"), 500)
    for encoding in ("parquet", "jsonl"):
        Archiver(broker, topic, tmp_path / encoding, encoding=encoding, rolling=Rolling(size_bytes=4_000)).archive()
    was = records_of(drain(topic))
    assert sum(map(len, was.values())) == 500
    for spec in (str(tmp_path / "parquet"), str(tmp_path / "jsonl"), f"topic://{topic}"):
        again = fresh("again")
        find = resolve_source([spec], Format(), cluster=broker)
        report = Player(broker, find, again, transaction_records=70, batch_lines=20).play()
        assert (report.sent, report.done, records_of(drain(again)) == was) == (500, True, True), spec
        assert Admin(broker).partitions([again]) == {again: 3}
        assert Player(broker, resolve_source([spec], Format(), cluster=broker), again).play().already_done
    fill(topic, 20)
    (told,) = Player(broker, resolve_source([spec], Format(), cluster=broker), again).play().warnings
    assert f"topic {topic} has grown by " in told


@pytest.mark.needs_real_kafka("processes of their own write to it")
@pytest.mark.parametrize("kind", ["archive", "topic"])
def test_killed_again_and_again_each_record_goes_back_once(
    broker: Cluster, fresh: Fresh, drain: Drain, fill: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    topic, again = fill(fresh("killed"), 6_000), fresh("again")
    spec = f"topic://{topic}"
    if kind == "archive":
        Archiver(broker, topic, tmp_path, rolling=Rolling(size_bytes=30_000)).archive()
        spec = str(tmp_path)
    kill_repeatedly(CHILD, broker, spec, again, after=(1, 6))
    report = Player(broker, resolve_source([spec], Format(), cluster=broker), again).play()
    assert report.resumed_from
    assert records_of(drain(again)) == records_of(drain(topic))


def test_a_topic_with_other_partitions_is_refused_unless_records_may_move(
    broker: Cluster, fresh: Fresh, drain: Drain, fill: Callable[..., str], tmp_path: Path
) -> None:
    topic, other = fill(fresh("three"), 30), fresh("two")
    Admin(broker).create([TopicSpec(other, 2)])
    Archiver(broker, topic, tmp_path).archive()
    for spec in (str(tmp_path), f"topic://{topic}"):
        with pytest.raises(Usage, match=r"3 partitions[\s\S]*--repartition"):
            Player(broker, resolve_source([spec], Format(), cluster=broker), other).play()
    Player(broker, resolve_source([str(tmp_path)], Format(), repartition=True), other).play()
    there = drain(other)
    assert sorted(str((m.key(), m.value())) for m in there) == sorted(str((m.key(), m.value())) for m in drain(topic))
    places: dict[Any, set[int | None]] = {}
    for message in there:
        places.setdefault(message.key(), set()).add(message.partition())
    assert all(len(found) == 1 for key, found in places.items() if key is not None)


def test_a_topic_is_read_from_where_to_where_one_says(broker: Cluster, fresh: Fresh, fill: Callable[..., str]) -> None:
    topic = fill(fresh("spans"), 60, partitions=1)

    def values(begin: str | None, until: str | None, **more: Any) -> list[int]:
        found = resolve_source([f"topic://{topic}"], Format(), cluster=broker, bounds=(begin, until), **more)
        return [(item[2] - START_MS) // 1000 for item in read(Pipeline().open(found))]

    whole = values(None, None)
    assert whole == [second - 5 if second % 11 == 0 else second for second in range(60)]
    assert values("2013-01-01T00:27:00Z", None) == whole[20:]
    assert values("2013-01-01T00:27:00Z", "2013-01-01T00:27:10Z") == whole[20:30]
    assert values("36500d", "2013-01-01T00:27:00Z", by_partition=True) == whole[:20]
    # Each 7 are aborted first: offsets 8 to 14 are the first that count, between markers of today.
    assert values("8", "11") == whole[:3]
    assert values("latest", None) == values("7d", None) == values(None, "0") == []
    with pytest.raises(Usage, match="not a position in a topic"):
        values("yesterday", None)
    request = TopicPartition(topic, 0, 10)
    admin = broker.admin()
    admin.delete_records([request])[request].result(30)
    assert values(None, None) == whole[2:]
    with pytest.raises(Usage, match="begins at offset 10"):
        values("9", None)


def test_a_time_past_the_end_and_empty_partitions_leave_nothing_to_read(
    broker: Cluster, fresh: Fresh, drain: Drain
) -> None:
    #  from 2013      partition 0: 2012          1: 2014          2: empty
    topic, copy = fresh("sparse"), fresh("copy")
    Admin(broker).create([TopicSpec(topic, 3)])
    producer = TransactionalProducer(broker, fresh("id"), transaction_timeout_ms=120_000)
    producer.open()
    producer.begin()
    for partition, timestamp_ms in ((0, START_MS - 365 * DAY_MS), (1, START_MS + 365 * DAY_MS)):
        producer.produce(topic, b"v%d" % partition, None, partition, timestamp_ms)
    producer.commit()
    producer.close()

    def values(begin: str | None, until: str | None) -> list[bytes | None]:
        found = resolve_source([f"topic://{topic}"], Format(), cluster=broker, bounds=(begin, until))
        return [item[1] for item in read(Pipeline().open(found))]

    assert values("2013-01-01", None) == [b"v1"]
    assert values(None, "2013-01-01") == [b"v0"]
    assert values(None, "2090-01-01") == [b"v0", b"v1"]
    assert values("2090-01-01", None) == values("2090-01-01", "2091-01-01") == []
    report = Player(
        broker, resolve_source([f"topic://{topic}"], Format(), cluster=broker, bounds=("2090-01-01", None)), copy
    )
    assert report.play().done
    assert drain(copy) == []


def test_records_from_before_1970_and_without_a_time_keep_that(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    topic, times = fresh("old"), [-5_000, -1, 1]
    Admin(broker).create([TopicSpec(topic, 1)])
    producer = TransactionalProducer(broker, fresh("id"), transaction_timeout_ms=120_000)
    producer.open()
    producer.begin()
    for time_ms in times:
        producer.produce(topic, b"v", None, 0, time_ms)
    producer.commit()
    producer.close()
    Archiver(broker, topic, tmp_path).archive()
    for spec in (str(tmp_path), f"topic://{topic}"):
        copy = fresh("copy")
        Player(broker, resolve_source([spec], Format(), cluster=broker), copy, pipeline=Pipeline(order="source")).play()
        assert [message.timestamp()[1] for message in drain(copy)] == times


def test_what_cannot_be_replayed_is_refused(
    broker: Cluster, fresh: Fresh, fill: Callable[..., str], tmp_path: Path
) -> None:
    topic = fill(fresh("refused"), 10)
    history = resolve_source([f"topic://{topic}"], Format(), cluster=broker)
    with pytest.raises(Usage, match="into itself"):
        Player(broker, history, topic).play()
    with pytest.raises(Usage, match="there is no topic"):
        resolve_source([f"topic://{fresh('none')}"], Format(), cluster=broker)
    with pytest.raises(Usage, match="apply to files only"):
        resolve_source([f"topic://{topic}"], Format(key="k"), cluster=broker)
    Archiver(broker, topic, tmp_path).archive()
    whole = ArchiveHistory(tmp_path, Format())
    path = tmp_path / whole.manifest.files[0].name
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Stop, match="differs from the file that the archiver wrote"):
        Player(broker, whole, fresh("damaged")).play()


def test_a_topic_that_was_created_anew_is_another(
    broker: Cluster, fresh: Fresh, drain: Drain, fill: Callable[..., str]
) -> None:
    topic, again = fill(fresh("anew"), 20), fresh("again")
    Player(broker, resolve_source([f"topic://{topic}"], Format(), cluster=broker), again).play()
    Admin(broker).delete([topic])
    fill(topic, 20)
    with pytest.raises(Stop, match="deleted and recreated"):
        Player(broker, resolve_source([f"topic://{topic}"], Format(), cluster=broker), again).play()
    assert len(drain(again)) == 20


def test_followed_a_topic_is_copied_on(
    broker: Cluster, fresh: Fresh, drain: Drain, fill: Callable[..., str], eventually: Callable[..., None]
) -> None:
    topic, again = fill(fresh("followed"), 30), fresh("again")
    history = resolve_source([f"topic://{topic}"], Format(), cluster=broker, follow=True)
    player = Player(broker, history, again)
    more = TransactionalProducer(broker, fresh(), transaction_timeout_ms=120_000)
    more.open()

    def go_on(progress: Any) -> None:
        if progress.sent == 30:
            more.begin()
            more.produce(topic, b"late", b"late", 1)
            more.commit()
        elif progress.sent > 30:
            player.stop()

    report = player.play(go_on)
    assert (report.sent, report.done) == (31, False)
    assert records_of(drain(again)) == records_of(drain(topic))


def test_places_in_topics() -> None:
    assert OffsetBound.parse("7d ago") == OffsetBound("ago", 7 * DAY_MS)
    assert OffsetBound.parse("2013-01-01") == OffsetBound("time", 1_356_998_400_000)
    assert OffsetBound.parse("42") == OffsetBound("offset", 42)
