"""Archiving a topic: each committed record once, whichever process dies; damage is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import polars
import pytest
from anabranch.replay.archive import Archiver, ArchiveReport, Rolling, check_archive
from anabranch.replay.archive.jsonl_format import read_jsonl
from anabranch.replay.archive.manifest import ArchivedFile, Manifest, locked, read_manifest
from anabranch.replay.archive.parquet_format import read_parquet
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.producer import TransactionalProducer
from confluent_kafka import Message, TopicPartition
from fork_server import ForkServer

Drain = Callable[..., list[Message]]
Fresh = Callable[..., str]
Record = tuple[int, int, bytes | None, bytes | None, int, list[tuple[str, bytes | None]] | None]

ENCODINGS = pytest.mark.parametrize("encoding", ["parquet", "jsonl"])
ODD = [b"", None, b"\xff\x00\n", "é".encode(), b"plain", b'{"a":"\\u0000"}']

# Archives argv[2] into argv[3] in small files, and says how many records after each batch.
CHILD = """
import sys
from pathlib import Path
from anabranch.replay.archive import Archiver, ArchiveReport, Rolling
from anabranch.topics.cluster import Cluster
servers, topic, folder, encoding = sys.argv[1:]
archiver = Archiver(Cluster(servers), topic, Path(folder), encoding=encoding, rolling=Rolling(size_bytes=20_000))
archiver.archive(lambda progress: print(progress.records, flush=True))
"""


def of_topic(messages: list[Message]) -> list[Record]:
    """What a topic holds, by partition and offset."""
    found = [(m.partition(), m.offset(), m.key(), m.value(), m.timestamp()[1], m.headers() or None) for m in messages]
    return sorted(found, key=lambda record: record[:2])  # type: ignore[arg-type, return-value]


def of_archive(folder: Path) -> list[Record]:
    """What an archive holds, read file by file as its manifest names them."""
    manifest = read_manifest(folder)
    assert manifest is not None
    found: list[Record] = []
    for entry in manifest.files:
        read = read_parquet if manifest.encoding == "parquet" else read_jsonl
        with (folder / entry.name).open("rb") as file:
            for rows in read(file, 100):
                columns = zip(rows.offsets, rows.keys, rows.values, rows.times, rows.headers, strict=True)
                found += [(entry.partition, *record) for record in columns]
    return sorted(found, key=lambda record: record[:2])


def produce(cluster: Cluster, topic: str, count: int, *, begin: int = 0, partitions: int = 2) -> None:
    producer = cluster.producer()
    for n in range(begin, begin + count):
        headers = None if n % 3 else [("h", b"%d" % n), ("h", None), ("é", ODD[n % 5])]
        key, value = ODD[n % len(ODD)], ODD[(n // 2) % len(ODD)] if n % 2 else b"value %d" % n
        producer.produce(topic, value, key, n % partitions, timestamp=1_357_000_000_000 + n, headers=headers)
        producer.poll(0)
    assert producer.flush(60) == 0


def transact(cluster: Cluster, name: str, topic: str, values: list[bytes], *, commit: bool) -> None:
    producer = TransactionalProducer(cluster, name, transaction_timeout_ms=120_000)
    producer.open()
    producer.begin()
    for value in values:
        producer.produce(topic, value, value, 0)
    producer.flush()
    (producer.commit if commit else producer.abort)()
    producer.close()


@pytest.fixture
def topic(broker: Cluster, fresh: Fresh) -> str:
    name = fresh("archived")
    Admin(broker).create([TopicSpec(name, 2)])
    return name


@ENCODINGS
def test_every_record_is_there_as_it_was_and_once_more_adds_only_what_is_new(
    broker: Cluster, topic: str, drain: Drain, tmp_path: Path, fresh: Fresh, encoding: str
) -> None:
    #  partition 0:  odd bytes …  | committed, aborted, committed |  (second start) …
    produce(broker, topic, 200)
    transact(broker, fresh(), topic, [b"a", b"b"], commit=True)
    transact(broker, fresh(), topic, [b"never"] * 5, commit=False)
    first = Archiver(broker, topic, tmp_path / "a", encoding=encoding, rolling=Rolling(size_bytes=3_000)).archive()
    assert (first.records, first.resumed) == (202, False)
    assert of_archive(tmp_path / "a") == of_topic(drain(topic))
    nothing = Archiver(broker, topic, tmp_path / "a").archive()
    assert (nothing.records, nothing.files, nothing.resumed) == (0, 0, True)
    produce(broker, topic, 30, begin=200)
    transact(broker, fresh(), topic, [b"c"], commit=True)
    assert Archiver(broker, topic, tmp_path / "a").archive().records == 31
    assert of_archive(tmp_path / "a") == of_topic(drain(topic))
    manifest, findings = check_archive(tmp_path / "a")
    assert (manifest.records, manifest.encoding, findings) == (233, encoding, [])


def test_other_programs_read_the_parquet_files(broker: Cluster, topic: str, tmp_path: Path) -> None:
    produce(broker, topic, 7)
    Archiver(broker, topic, tmp_path).archive()
    frame = polars.read_parquet(tmp_path / "*.parquet").sort("timestamp")
    assert frame.columns == ["key", "value", "headers", "topic", "partition", "offset", "timestamp"]
    assert frame["value"].to_list()[:3] == [b"value 0", b"", b"value 2"]
    assert frame["topic"].unique().to_list() == [topic]
    assert frame["timestamp"].dt.epoch("ms").to_list() == [1_357_000_000_000 + n for n in range(7)]
    assert frame["headers"].to_list()[3] == [
        {"name": "h", "value": b"3"}, {"name": "h", "value": None}, {"name": "é", "value": "é".encode()},
    ]  # fmt: skip


def test_a_compacted_topic_has_gaps_that_are_no_loss(
    broker: Cluster, fresh: Fresh, drain: Drain, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    topic = fresh("compacted")
    config = {
        "cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "200", "min.compaction.lag.ms": "0",
    }  # fmt: skip
    Admin(broker).create([TopicSpec(topic, 1, config=config)])
    producer = broker.producer()

    def compacted() -> bool:
        # Only closed segments are compacted, and a new one is begun by a record.
        producer.produce(topic, b"x", b"again")
        assert producer.flush(60) == 0
        messages = drain(topic)
        return len(messages) < messages[-1].offset() + 1 - 40

    for n in range(50):
        producer.produce(topic, b"%d" % n, b"k%d" % (n % 5))
    eventually(compacted, "the topic is compacted")
    Archiver(broker, topic, tmp_path).archive()
    manifest, findings = check_archive(tmp_path)
    assert (manifest.compacted, findings) == (True, [])
    assert {record[2]: record[3] for record in of_archive(tmp_path)} == {m.key(): m.value() for m in drain(topic)}


def test_what_was_deleted_before_it_was_read_is_reported(broker: Cluster, topic: str, tmp_path: Path) -> None:
    produce(broker, topic, 40)
    Archiver(broker, topic, tmp_path).archive()
    produce(broker, topic, 40)
    delete_below(broker, topic, 25)
    report = Archiver(broker, topic, tmp_path).archive()
    assert [(lost.partition, lost.begin, lost.end) for lost in report.lost] == [(0, 20, 25)]
    assert report.records == 35
    _, findings = check_archive(tmp_path)
    assert [(finding.kind, finding.position) for finding in findings] == [("lost", f"{topic}[0]")]


def test_following_it_rolls_files_by_age_and_reports_what_is_deleted_under_its_eyes(
    broker: Cluster, topic: str, tmp_path: Path, drain: Drain, fresh: Fresh, eventually: Callable[..., None]
) -> None:
    #  partition 0:  10 records | open transaction: 3 records | 10 records
    #                           ^ readers wait here           ^ deleted up to here before it is committed
    archiver = Archiver(broker, topic, tmp_path, follow=True, rolling=Rolling(age_s=0.05))
    reports: list[ArchiveReport] = []
    following = threading.Thread(target=lambda: reports.append(archiver.archive()))
    following.start()
    try:
        produce(broker, topic, 20)
        eventually(lambda: records_in(tmp_path) == 20, "the first records are in files")
        assert of_archive(tmp_path) == of_topic(drain(topic))
        # On a busy machine the transaction is open for longer than the usual timeout.
        producer = TransactionalProducer(broker, fresh(), transaction_timeout_ms=120_000)
        producer.open()
        producer.begin()
        for _ in range(3):
            producer.produce(topic, b"deleted", b"x", 0)
        producer.flush()
        produce(broker, topic, 20, begin=20)
        delete_below(broker, topic, 13)
        producer.commit()
        producer.close()
        eventually(lambda: records_in(tmp_path) == 40, "it goes on")
    finally:
        archiver.stop()
        following.join(90)
    assert [(lost.partition, lost.begin, lost.end) for lost in reports[0].lost] == [(0, 10, 13)]
    assert {record[:2] for record in of_archive(tmp_path)} >= {record[:2] for record in of_topic(drain(topic))}
    assert len(reports[0].manifest.files) >= 4


def records_in(folder: Path) -> int:
    manifest = read_manifest(folder)
    return 0 if manifest is None else manifest.records


def delete_below(cluster: Cluster, topic: str, offset: int, partition: int = 0) -> None:
    request = [TopicPartition(topic, partition, offset)]
    admin = cluster.admin()
    for future in admin.delete_records(request).values():
        future.result(30)


@ENCODINGS
def test_killed_again_and_again_each_record_is_there_once(
    broker: Cluster, topic: str, drain: Drain, tmp_path: Path, encoding: str
) -> None:
    produce(broker, topic, 6_000)
    command = [sys.executable, "-c", CHILD, broker.bootstrap_servers, topic, str(tmp_path), encoding]
    #            batches seen before the kill: 1   then 2 more   then 1 more
    for batches in (1, 2, 1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            for _ in range(batches):
                child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
    (tmp_path / "00000-00000000000000000007.parquet").write_bytes(b"renamed, and killed before the manifest")
    report = Archiver(broker, topic, tmp_path, rolling=Rolling(size_bytes=20_000)).archive()
    assert "00000-00000000000000000007.parquet" in report.removed
    assert of_archive(tmp_path) == of_topic(drain(topic))
    assert check_archive(tmp_path)[1] == []
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"manifest.json", ".lock"} | {entry.name for entry in report.manifest.files}


def test_files_whose_manifest_is_gone_are_not_taken_for_unfinished_ones_and_deleted(
    broker: Cluster, topic: str, tmp_path: Path
) -> None:
    produce(broker, topic, 10)
    Archiver(broker, topic, tmp_path).archive()
    sealed = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").unlink()
    there = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(Usage, match=r"holds files of an archive, such as .*, but no manifest\.json"):
        Archiver(broker, topic, tmp_path).archive()
    assert {path.name for path in tmp_path.iterdir()} == there
    (tmp_path / "manifest.json").write_bytes(sealed)
    assert Archiver(broker, topic, tmp_path).archive().resumed
    assert check_archive(tmp_path)[1] == []


def damaged(folder: Path, entry: ArchivedFile, how: str) -> None:
    path = folder / entry.name
    if how == "changed":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "missing":
        path.unlink()
    else:
        manifest = read_manifest(folder)
        assert manifest is not None
        manifest.files.remove(entry)
        manifest.write(folder)


@pytest.mark.parametrize(
    ("how", "kind"), [("changed", "changed"), ("cut", "changed"), ("missing", "missing"), ("unnamed", "gap")]
)
def test_a_check_finds_what_is_wrong(
    broker: Cluster, topic: str, tmp_path: Path, forks: ForkServer, how: str, kind: str
) -> None:
    for begin in (0, 10, 20):
        produce(broker, topic, 10, begin=begin)
        manifest = Archiver(broker, topic, tmp_path).archive().manifest
    damaged(tmp_path, manifest.of(1)[1], how)
    findings = check_archive(tmp_path)[1]
    assert [finding.kind for finding in findings] == [kind]
    if how == "changed":
        command = ["archive", "check", str(tmp_path)]
        checked = forks.run(command, cwd=tmp_path, env=os.environ, timeout_s=150)
        assert (checked.returncode, kind in checked.stdout) == (1, True)


def test_a_changed_manifest_is_found(broker: Cluster, topic: str, tmp_path: Path) -> None:
    produce(broker, topic, 2)
    Archiver(broker, topic, tmp_path).archive()
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"records": 1', '"records": 0', 1))
    with pytest.raises(Stop, match="changed after it was written"):
        check_archive(tmp_path)


def test_what_does_not_fit_a_folder_is_refused(broker: Cluster, topic: str, fresh: Fresh, tmp_path: Path) -> None:
    with pytest.raises(Usage, match="no topic"):
        Archiver(broker, fresh("none"), tmp_path / "none").archive()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Usage, match="neither empty nor an archive"):
        Archiver(broker, topic, tmp_path).archive()
    produce(broker, topic, 4)
    folder = tmp_path / "a"
    Archiver(broker, topic, folder).archive()
    other = fresh("other")
    Admin(broker).create([TopicSpec(other, 1)])
    with pytest.raises(Usage, match=f"holds an archive of {topic}"):
        Archiver(broker, other, folder).archive()
    with pytest.raises(Usage, match="an archive in parquet"):
        Archiver(broker, topic, folder, encoding="jsonl").archive()
    with locked(folder), pytest.raises(Stop, match="another process archives"):
        Archiver(broker, topic, folder).archive()
    Admin(broker).delete([topic])
    Admin(broker).create([TopicSpec(topic, 2)])
    with pytest.raises(Stop, match="was recreated"):
        Archiver(broker, topic, folder).archive()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "manifest.json").read_text())["manifest"]["kind"] == Manifest.__struct_defaults__[0]
