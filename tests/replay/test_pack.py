"""A packed replay sends the same records as a plain one, each once, by the topic's partitioner."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars
import pyarrow
import pytest
from anabranch.replay.archive import Archiver
from anabranch.replay.pipeline import packing
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.pipeline.selection import Selection
from anabranch.replay.player import Player
from anabranch.replay.record_counts import count_records
from anabranch.replay.source_resolver import resolve_source
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Replayable
from anabranch.replay.sources.source_record import BadLine
from anabranch.replay.sources.topic_source import TopicHistory
from anabranch.replay.verify.comparison import verify
from anabranch.replay.verify.comparison_side import find_side
from anabranch.topics import packed as packed_batches
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.packed import MAX_ROWS, Packed
from anabranch.topics.packed_limits import PackedLimits, measure
from anabranch.topics.partitioners import HashPartitioner, Partitioner, RangePartitioner
from confluent_kafka import Message
from killed_child import kill_repeatedly

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]
Eventually = Callable[..., None]
Patch = pytest.MonkeyPatch

BLOCK = "anabranch.replay.sources.file_source.BLOCK_BYTES"

# Plays argv[2:] packed into a topic in small blocks and transactions and says after each how far it is.
CHILD = """
import sys
from anabranch.replay import Format, Player, find_history
from anabranch.replay.sources import file_source
from anabranch.topics.cluster import Cluster
servers, topic, path = sys.argv[1:]
file_source.BLOCK_BYTES = 1_000
player = Player(Cluster(servers), find_history([path], Format(key_before=",")), topic,
                pack="lz4", transaction_records=200)
player.play(lambda progress: print(progress.sent, flush=True))
"""


def unpacked(messages: list[Message]) -> list[tuple[int, bytes | None, bytes, int]]:
    """Partition, key, value and time of each row."""
    rows: list[tuple[int, bytes | None, bytes, int]] = []
    for message in messages:
        packed = Packed(message.value() or b"", message.timestamp()[1])
        assert dict(message.headers() or [])["rows"] == b"%d" % packed.rows
        assert message.key() is None
        for key, value, time in zip(packed.keys(), packed.values(), packed.times_ms(), strict=True):
            rows.append((message.partition() or 0, key, value, time))
    return rows


def write_lines(folder: Path, count: int) -> Path:
    path = folder / "data.txt"
    path.write_text("".join(f"k{n % 17},{n}\n" for n in range(count)))
    return path


def check_once_and_in_order(messages: list[Message], count: int, partitioner: Partitioner) -> None:
    numbers: dict[bytes, list[int]] = {}
    for partition, key, value, _ in unpacked(messages):
        name, number = value.split(b",")
        assert (key, partition) == (name, partitioner.partition(name))
        numbers.setdefault(name, []).append(int(number))
    assert sorted(n for found in numbers.values() for n in found) == list(range(count))
    assert all(found == sorted(found) for found in numbers.values())


def write_orders(folder: Path) -> dict[str, tuple[Path, Format]]:
    """The same orders in each format, odd ones among them."""
    notes = ["plain", 'say "hi"', "a,b", "é\u2028", "\\", "7", "007", "-0", "1.50", "x" * 300]
    rows = [
        {
            "user": f"u{n % 17}" if n % 29 else None,
            "at": 1_357_034_400_000 + n,
            "n": n,
            "f": n / 8,
            "note": notes[n % 10],
        }
        for n in range(3_000)
    ]
    frame = polars.DataFrame(rows)
    files = {name: folder / f"a.{name}" for name in ("csv", "jsonl", "parquet", "txt")}
    frame.write_csv(files["csv"])
    frame.write_parquet(files["parquet"], row_group_size=700)
    files["jsonl"].write_text(
        "".join(json.dumps({k: v for k, v in row.items() if n % 7 or k != "f"}) + "\n" for n, row in enumerate(rows))
    )
    files["txt"].write_text("".join(f"{row['user']}|{row['n']}\n" for row in rows))
    keyed = Format(key="user", time="at")
    return {name: (path, Format(key_before="|") if name == "txt" else keyed) for name, path in files.items()}


def test_packed_and_plain_are_the_same_records_in_every_format(
    broker: Cluster, fresh: Fresh, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK, 20_000)
    for name, (path, format) in write_orders(tmp_path).items():
        history, plain, packed = find_history([str(path)], format), fresh(f"plain-{name}"), fresh(f"packed-{name}")
        first = Player(broker, history, plain, partitions=3).play()
        report = Player(broker, history, packed, partitions=3, pack="lz4").play()
        assert (report.sent, report.counts) == (3_000, first.counts)
        assert sum(report.end_offsets.values()) < 300
        # A commit has happened before each partition has been told.
        for topic in (plain, packed):
            eventually(lambda topic=topic: count_records(broker, topic, 3) == 3_000, f"all of {topic}")
        sides = [find_side(f"topic://{topic}", Format(), broker) for topic in (plain, packed)]
        if name == "txt":  # has no times of its own, and those of arrival differ
            sides = [find_side(str(path), format, broker), sides[1]]
        found = verify(*sides)
        assert found.same, (name, found.differences[:2])
        assert ("time" in found.fields, "partition" in found.fields) == (name != "txt", name != "txt")


def test_a_difference_is_shown_with_its_row(
    broker: Cluster, fresh: Fresh, eventually: Eventually, tmp_path: Path
) -> None:
    path, topic = write_lines(tmp_path, 100), fresh("differs")
    Player(broker, find_history([str(path)], Format()), topic, partitions=1, pack="zstd").play()
    path.write_text(path.read_text().replace(",42\n", ",43\n"))
    eventually(lambda: count_records(broker, topic, 1) == 100, f"all of {topic}")
    found = verify(find_side(str(path), Format(), broker), find_side(f"topic://{topic}", Format(), broker))
    assert [(d.position, d.value) for d in found.differences] == [
        (f"{path}:43", b"k8,43"),
        (f"{topic}[0] offset 0#42", b"k8,42"),
    ]


@pytest.mark.needs_real_kafka("processes of their own write to it")
def test_killed_again_and_again_every_row_is_there_once(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    count, topic = 20_000, fresh("killed")
    path = write_lines(tmp_path, count)
    kill_repeatedly(CHILD, broker, topic, path, after=(1, 9, 25))
    history = find_history([str(path)], Format(key_before=","))
    report = Player(broker, history, topic, pack="lz4").play()
    assert report.resumed_from
    assert report.sent == sum(report.counts.values()) == count
    check_once_and_in_order(drain(topic), count, HashPartitioner(4))
    assert Player(broker, history, topic, pack="zstd").play().already_done


@pytest.mark.usefixtures("unlucky")
def test_aborted_transactions_are_sent_again_and_a_range_partitioner_is_kept(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK, 1_000)
    topic, partitioner = fresh("aborted"), RangePartitioner((b"k12", b"k3"))
    history = find_history([str(write_lines(tmp_path, 1_000))], Format(key_before=","))
    report = Player(broker, history, topic, partitioner=partitioner, pack="lz4", transaction_records=300).play()
    assert (report.sent, sum(report.counts.values())) == (1_000, 1_000)
    check_once_and_in_order(drain(topic), 1_000, partitioner)
    assert len(drain(topic, committed=False)) == 2 * len(drain(topic))


def test_messages_keep_below_the_limit_of_the_topic_and_rows_without_keys_take_turns(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path
) -> None:
    topic, path, count = fresh("sizes"), tmp_path / "a.csv", 100_000
    noise = random.Random(1)
    rows = [noise.randbytes(noise.choice((2, 50))).hex() for _ in range(count)]
    path.write_text("noise\n" + "".join(f"x{row}\n" for row in rows))
    Admin(broker).create([TopicSpec(topic, 2, config={"max.message.bytes": "100000"})])
    report = Player(broker, find_history([str(path)], Format()), topic, pack="zstd").play()
    assert report.counts == {0: count // 2, 1: count // 2}
    messages = drain(topic)
    assert max(len(message.value() or b"") for message in messages) < 100_000
    assert max(Packed(message.value() or b"").rows for message in messages) <= MAX_ROWS
    for partition in range(2):
        found = [json.loads(value)["noise"] for at, _, value, _ in unpacked(messages) if at == partition]
        assert found == [f"x{row}" for row in rows[partition::2]]


def test_rows_that_come_by_turns_as_columns_and_one_by_one_keep_their_turn(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK, 3_000)
    topic, path, count = fresh("turns"), tmp_path / "a.jsonl", 3_000
    # Now and then written with spaces, so that what is around goes line by line.
    lines = [json.dumps({"n": n}, separators=(",", ": " if n % 500 == 499 else ":")) for n in range(count)]
    path.write_text("".join(f"{line}\n" for line in lines))
    history = find_history([str(path)], Format())
    Player(broker, history, topic, partitions=3, pack="lz4", transaction_records=700).play()
    messages = drain(topic)
    assert {Packed(message.value() or b"").kind for message in messages} == {"json", "text"}
    for partition in range(3):
        found = [value.decode() for at, _, value, _ in unpacked(messages) if at == partition]
        assert found == lines[partition::3]


BAD = b"k,1\nbad\nk,2\n\xff\nk,3\n"


def test_bad_lines_keep_their_policies(broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path) -> None:
    topic, path = fresh("bad"), tmp_path / "a.txt"
    path.write_bytes(BAD)
    history = find_history([str(path)], Format(key_before=","))
    with pytest.raises(BadLine, match=r"a\.txt:2: no delimiter ',', so the line has no key"):
        Player(broker, history, topic, pack="lz4").play()
    assert drain(topic) == []
    report = Player(broker, history, topic, pack="lz4", on_bad_line="dead-letter").play()
    assert (report.sent, report.dead_letters) == (3, 2)
    assert [row[2] for row in unpacked(drain(topic))] == [b"k,1", b"k,2", b"k,3"]
    letters = {m.value(): dict(m.headers() or [])["anabranch-source"] for m in drain(f"{topic}.dlq")}
    assert letters == {b"bad": f"{path}:2".encode(), b"\xff": f"{path}:4".encode()}


def test_what_looks_at_records_gives_rows_of_text_and_the_same(
    broker: Cluster, fresh: Fresh, eventually: Eventually, tmp_path: Path
) -> None:
    files = write_orders(tmp_path)
    path, format = files["csv"]
    more = tmp_path / "b.csv"
    more.write_bytes(path.read_bytes())
    merged = find_history([str(path), str(more)], format)
    for pipeline in (Pipeline(selection=Selection(where="n % 2")), Pipeline(limit=100, rounds=2), Pipeline()):
        plain, packed = fresh("plain"), fresh("packed")
        for topic, pack in ((plain, None), (packed, "lz4")):
            sent = Player(broker, merged, topic, pipeline=pipeline, partitions=2, pack=pack).play().sent
            eventually(lambda topic=topic, sent=sent: count_records(broker, topic, 2) == sent, f"all of {topic}")
        found = verify(*(find_side(f"topic://{topic}", Format(), broker) for topic in (plain, packed)))
        assert found.same, found.differences[:2]


def test_unpacked_they_are_plain_records_again_and_archives_keep_them(
    broker: Cluster, fresh: Fresh, eventually: Eventually, drain: Drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK, 20_000)
    path, format = write_orders(tmp_path)["csv"]
    packed, plain, again, wider = (fresh(name) for name in ("packed", "plain", "again", "wider"))
    Player(broker, find_history([str(path)], format), packed, partitions=3, pack="lz4").play()
    Player(broker, find_history([str(path)], format), packed, run_id=fresh("beside")).play()  # plain ones follow

    def played(history: Replayable, topic: str, **more: Any) -> None:
        # Stopped after its first transaction, it goes on where it was.
        player = Player(broker, history, topic, transaction_records=500, batch_lines=200, **more)
        player.play(lambda _: player.stop())
        assert Player(broker, history, topic, **more).play().sent == 6_000
        eventually(lambda: count_records(broker, topic, Admin(broker).partitions([topic])[topic]) == 6_000, topic)

    eventually(lambda: count_records(broker, packed, 3) == 6_000, packed)
    unpacking = TopicHistory(broker, f"topic://{packed}", Format(), unpack=True)
    played(unpacking, plain, pipeline=Pipeline(order="source"))
    assert {len(message.headers() or []) for message in drain(plain)} == {0}
    assert len(drain(plain)) == 6_000

    folder = tmp_path / "archive"
    Archiver(broker, packed, folder).archive()
    assert Archiver(broker, packed, folder).archive().records == 0
    played(resolve_source([str(folder)], Format()), again)
    assert [m.value() for m in drain(again)].count(None) == 0
    assert sorted(m.value() or b"" for m in drain(again)) == sorted(m.value() or b"" for m in drain(packed))
    Admin(broker).create([TopicSpec(wider, 5)])
    played(resolve_source([str(folder)], Format(), repartition=True), wider, pack="lz4")

    for topic in (plain, again, wider):
        found = verify(*(find_side(f"topic://{name}", Format(), broker) for name in (packed, topic)))
        assert found.same, (topic, found.differences[:2])
    places = {(partition, key) for partition, key, _, _ in unpacked(drain(wider)) if key is not None}
    assert all(HashPartitioner(5).partition(key) == partition for partition, key in places)


def test_what_cannot_travel_packed_is_refused(broker: Cluster, fresh: Fresh, tmp_path: Path) -> None:
    path, topic = write_lines(tmp_path, 5), fresh("compacted")
    with pytest.raises(Usage, match="--header"):
        Player(
            broker,
            find_history([str(path)], Format(kind="csv", columns=("k", "n"), headers=(("h", "k"),))),
            topic,
            pack="lz4",
        )
    Admin(broker).create([TopicSpec(topic, 1, config={"cleanup.policy": "compact"})])
    with pytest.raises(Usage, match="compacted"):
        Player(broker, find_history([str(path)], Format(key_before=",")), topic, pack="lz4").play()


def deep(levels: int) -> Any:
    return {"x": deep(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("line", "rows"), [({f"f{n}": n for n in range(5_000)}, 3), ({"n": deep(40)}, 3), ({"n": 1}, 2_000)]
)
def test_what_is_written_lies_within_what_readers_take(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, monkeypatch: Patch, line: dict[str, Any], rows: int
) -> None:
    readers = PackedLimits(size_bytes=200_000)
    monkeypatch.setattr(packing, "_READER_LIMITS", readers)
    # Many rows that compress to little.
    path, topic = tmp_path / "in.jsonl", fresh("packed")
    path.write_bytes((msgspec.json.encode({**line, "text": "a" * 500}) + b"\n") * rows)
    Player(broker, find_history([str(path)], Format()), topic, partitions=1, pack="zstd").play()
    messages = drain(topic)
    assert sum(measure(message.value() or b"", readers).rows for message in messages) == rows
    found = [value for message in messages for value in Packed(message.value() or b"").values()]
    assert found == path.read_bytes().splitlines()


def test_tools_take_a_packed_batch_that_is_refused_as_one_bad_line_and_name_it(
    broker: Cluster, fresh: Fresh, drain: Drain, caplog: pytest.LogCaptureFixture
) -> None:
    # good │ claims 10⁶ rows │ good, whose header lies │ good
    topic, copy, rows = fresh("packed"), fresh("copy"), packed_batches.pack(pyarrow.record_batch({"n": [1, 2]}))
    Admin(broker).create([TopicSpec(topic, 1)])
    large = packed_batches.pack(pyarrow.record_batch([pyarrow.nulls(1_000_000)], ["n"]))
    lie = [rows.headers[0], ("rows", b"3")]
    producer = broker.producer()
    sent = (rows.value, rows.headers), (large.value, large.headers), (rows.value, lie), (rows.value, rows.headers)
    for value, headers in sent:
        producer.produce(topic, value, headers=list(headers))
    assert producer.flush(60) == 0
    history = TopicHistory(broker, f"topic://{topic}", Format(), unpack=True)
    with pytest.raises(BadLine, match=rf"{topic}\[0\]:1: .*1,000,000 rows; at most 32,768"):
        Player(broker, history, copy).play()
    assert Player(broker, history, copy, on_bad_line="dead-letter").play().sent == 4
    assert [m.value() for m in drain(copy)] == [b'{"n":1}', b'{"n":2}'] * 2
    assert [m.value() for m in drain(f"{copy}.dlq")] == [large.value, rows.value]
    whole = fresh("whole")
    Player(broker, TopicHistory(broker, f"topic://{topic}", Format()), whole).play()
    caplog.clear()
    assert verify(*(find_side(f"topic://{name}", Format(), broker) for name in (topic, whole))).same
    for name in (topic, whole):
        assert (
            sum(f"{name}[0] offset {offset}: a packed batch" in line for line in caplog.messages for offset in (1, 2))
            == 2
        )
    assert count_records(broker, whole, 1) == count_records(broker, topic, 1)


@pytest.mark.parametrize("time", [None, 1_700_000_000_000])
def test_a_row_whose_time_is_exactly_0_ms_is_refused_as_a_plain_record_is(
    broker: Cluster, fresh: Fresh, drain: Drain, time: int | None
) -> None:
    packed, plain = fresh("packed"), fresh("plain")
    times = pyarrow.array([1_600_000_000_000, time, 0], pyarrow.int64())
    batch = pyarrow.record_batch([pyarrow.array(["a", "b", "c"]), times], ["k", "__time"])
    made = packed_batches.pack(batch, key="k", time="__time")
    Admin(broker).create([TopicSpec(packed, 1)])
    producer = broker.producer()
    producer.produce(packed, made.value, headers=made.headers, timestamp=1_650_000_000_000)
    producer.flush()
    history = TopicHistory(broker, f"topic://{packed}", Format(), unpack=True)
    with pytest.raises(Stop, match=r":0, row 2 of a packed batch: its time is .* \(0 ms\)"):
        Player(broker, history, plain, pipeline=Pipeline(order="source")).play()
    assert drain(plain) == []
