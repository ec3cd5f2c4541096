"""The pipeline selects, transforms, limits and repeats records, and resumes at any position."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anabranch.replay.pipeline.out_of_order import OutOfOrder
from anabranch.replay.pipeline.pace import Pace
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.pipeline.selection import Selection
from anabranch.replay.replay_report import Counters
from anabranch.replay.sources.file_history import FileHistory, find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Source, SourcePosition
from anabranch.replay.sources.source_record import SourceRecord
from anabranch.topics.clock import Clock
from anabranch.topics.errors import Stop, Usage
from anabranch.topics.partitioners import HashPartitioner

HOUR_MS = 3_600_000
BEGIN_MS = 1_357_034_400_000
PARTITIONS = 3

TRANSFORM = """
from anabranch.replay import Record

def twice(record):
    row = record.json()
    if row["n"] % 5 == 0:
        return None
    return [record, Record(record.key, b"copy", record.timestamp_ms, [("n", str(row["n"]).encode())])]

def broken(record):
    return record.json()["nothing"]
"""


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Two files whose records interleave in time."""
    found = [{"at": BEGIN_MS + n * HOUR_MS, "user": f"u{n % 4}", "n": n} for n in range(40)]
    for name, own in (("a", found[::2]), ("b", found[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return found


@pytest.fixture
def history(rows: list[dict[str, Any]], tmp_path: Path) -> FileHistory:
    assert rows
    return find_history([str(tmp_path / "*.jsonl")], Format(key="user", time="at"))


def numbers(items: list[SourceRecord]) -> list[Any]:
    return [json.loads(item[1] or b"")["n"] if item[1] != b"copy" else "copy" for item in items]


def everything(source: Source, after_batch: Callable[[SourcePosition, int], None] | None = None) -> list[Any]:
    found: list[Any] = []
    position = source.begins
    while not source.ended:
        if after_batch is not None:
            after_batch(json.loads(json.dumps(position)), len(found))
        batch = source.next_batch()
        position = batch.after
        found += numbers(batch.records)
        assert not batch.bad
    source.close()
    return found


def expected(pipeline: Pipeline, rows: list[dict[str, Any]]) -> list[Any]:
    """The dumb twin."""
    chosen, found = pipeline.selection, list[Any]()
    partitioner = HashPartitioner(PARTITIONS)
    for _ in range(pipeline.rounds):
        for row in rows:
            if (
                (chosen.start_ms or 0) <= row["at"] < (chosen.end_ms or 10**15)
                and (not chosen.keys or row["user"] in chosen.keys)
                and (not chosen.partitions or partitioner.partition(row["user"].encode()) in chosen.partitions)
                and (chosen.where is None or row["n"] > 7)
            ):
                if pipeline.transform is None:
                    found.append(row["n"])
                elif row["n"] % 5:
                    found += [row["n"], "copy"]
    return found[: pipeline.limit]


COURSES = {
    "all of it": Pipeline(),
    "a time": Pipeline(selection=Selection(start_ms=BEGIN_MS + 3 * HOUR_MS, end_ms=BEGIN_MS + 30 * HOUR_MS)),
    "a time of an order": Pipeline(out_of_order=OutOfOrder("fail"), selection=Selection(end_ms=BEGIN_MS + 9 * HOUR_MS)),
    "keys": Pipeline(selection=Selection(keys=("u1", "u3"))),
    "partitions": Pipeline(selection=Selection(partitions=(0, 2))),
    "a field": Pipeline(selection=Selection(where="n > 7 and user != 'nobody'")),
    "a transform": Pipeline(transform="twice_of:twice"),
    "a limit": Pipeline(limit=13),
    "rounds": Pipeline(rounds=3),
    "together": Pipeline(
        selection=Selection(where="n > 7", keys=("u0", "u1", "u2")),
        transform="twice_of:twice",
        rounds=4,
        limit=101,
        out_of_order=OutOfOrder("sort", 4),
    ),
}


@pytest.mark.parametrize("paced", [None, Pace(rate=1e9)], ids=["fast", "paced"])
@pytest.mark.parametrize("name", COURSES)
def test_a_course_gives_what_it_says_and_goes_on_after_every_batch(
    name: str,
    paced: Pace | None,
    history: FileHistory,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "twice_of.py").write_text(TRANSFORM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "twice_of", raising=False)
    pipeline, stands = COURSES[name], list[tuple[SourcePosition, int]]()

    def opened(position: SourcePosition | None = None, pace: Pace | None = paced, lines: int = 3) -> Source:
        return pipeline.open(
            history, position, partitioner=HashPartitioner(PARTITIONS), pace=pace, clock=Rushing(), batch_lines=lines
        )

    whole = everything(opened(), lambda position, given: stands.append((position, given)))
    assert whole == expected(pipeline, rows)
    assert len(stands) > 2
    for position, given in stands:
        # The rest is the same at another pace, and however batches are cut.
        assert everything(opened(position, None, 7)) == whole[given:]
        assert everything(opened(position, Pace(rate=1e9), 2)) == whole[given:]


class Rushing(Clock):
    """A second passes with every look."""

    now = 0.0

    def now_s(self) -> float:
        self.now += 1
        return self.now


def test_what_is_left_out_is_counted(history: FileHistory) -> None:
    counters = Counters()
    everything(Pipeline(selection=Selection(keys=("u1",))).open(history, counters=counters))
    assert counters.filtered_out == 30


def test_a_record_that_an_expression_cannot_judge_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n":1}\n{"m":1}\n[1]\n')
    history = find_history([str(tmp_path / "a.jsonl")], Format())
    source = Pipeline(selection=Selection(where="n == 1")).open(history)
    batch = source.next_batch()
    assert numbers(batch.records) == [1]
    assert [line.position for line in batch.bad] == ["record:2", "record:3"]
    assert "no field 'n'" in batch.bad[0].reason


def test_lines_of_text_are_judged_by_their_value(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("error: x\nfine\n")
    history = find_history([str(tmp_path / "a.txt")], Format())
    source = Pipeline(selection=Selection(where='value.startswith("error")')).open(history)
    assert [item[1] for item in source.next_batch().records] == [b"error: x"]


def test_a_transform_that_fails_names_the_record(
    history: FileHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice_of.py").write_text(TRANSFORM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "twice_of", raising=False)
    with pytest.raises(Stop, match=r"twice_of:broken: KeyError: 'nothing'; on the record of 2013-01-01T10:00:00Z"):
        Pipeline(transform="twice_of:broken").open(history).next_batch()
    for name, words in (
        ("twice_of", "module:function"),
        ("twice_of:nobody", "no function"),
        ("nowhere:x", "no module"),
    ):
        with pytest.raises(Usage, match=words):
            Pipeline(transform=name).open(history)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("record.key = 'ann'", "the key of its record is of type str, not bytes or None"),
        ("record.value = record.json()", "the value of its record is of type dict"),
        ("record.timestamp_ms = 1.5", "the timestamp_ms of its record is of type float, not int"),
        ("record.partition = '1'", "the partition of its record is of type str"),
        ("record.headers = {'a': b'1'}", "the headers of its record is of type dict"),
        ("record.headers = [('a', 1)]", r"a header of its record is \('a', 1\)"),
        ("return [record.value]", "something of type bytes, which is no Record"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise PanicException('a panic')", "PanicException: a panic"),
    ],
)
def test_a_transform_that_makes_no_record_of_kafka_names_the_record(
    history: FileHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    head = "from polars.exceptions import PanicException\n\ndef made(record):\n"
    (tmp_path / "wrong_kinds.py").write_text(f"{head}    {body}\n    return record\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong_kinds", raising=False)
    with pytest.raises(Stop, match=rf"wrong_kinds:made: .*{words}.*; on the record of 2013-01-01T10:00:00Z"):
        Pipeline(transform="wrong_kinds:made").open(history).next_batch()


def test_a_transform_may_give_text_and_the_integers_of_numpy(
    history: FileHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "record.value, record.timestamp_ms, record.partition = 'caf\u00e9', numpy.int64(7), numpy.int32(1)"
    (tmp_path / "other_kinds.py").write_text(f"import numpy\n\ndef made(record):\n    {body}\n    return record\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "other_kinds", raising=False)
    made = Pipeline(transform="other_kinds:made").open(history).next_batch().records
    assert {(value, time_ms, partition) for _, value, time_ms, _, partition in made} == {("café".encode(), 7, 1)}


def test_a_loop_over_nothing_ends(history: FileHistory) -> None:
    with pytest.raises(Stop, match="no record"):
        everything(Pipeline(rounds=0, selection=Selection(keys=("nobody",))).open(history))


def test_another_course_is_another_run(history: FileHistory) -> None:
    ids = {name: pipeline.run_id(history, "t") for name, pipeline in COURSES.items()}
    assert len(set(ids.values())) == len(COURSES)
    assert Pipeline(out_of_order=OutOfOrder("sort", 5)).run_id(history, "t") == Pipeline(
        out_of_order=OutOfOrder("sort", 9)
    ).run_id(history, "t")


def test_options_that_need_times_or_an_end_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    lines = find_history([str(tmp_path / "a.txt")], Format())
    with pytest.raises(Usage, match="--start needs records with times"):
        Pipeline(selection=Selection(start_ms=1)).checked(lines)
    with pytest.raises(Usage, match="--speed needs records with times"):
        Pipeline().checked(lines, Pace(speed=2))
    with pytest.raises(Usage, match="--loop"):
        Pipeline(rounds=2).checked(find_history(["tcp://localhost:9"], Format()))
