"""Results of tables, shown and written: keys are distinct, and each occurs once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from anabranch.agents.tables.global_table import GlobalTable
from anabranch.agents.tables.stream_time import STREAM_TIME
from anabranch.agents.tables.table import Table
from anabranch.agents.tables.ttl_table import TtlTable
from anabranch.replay.table_reader import Snapshot, refuse_split_keys, write_result
from anabranch.topics.errors import Stop


def content(table: Table, *parts: dict[Any, Any]) -> Snapshot:
    keep, encode = table.key_codec.keep, table.value_codec.encode
    return Snapshot(table, [{keep(key): encode(value) for key, value in part.items()} for part in parts])


def written(snapshot: Snapshot, folder: Path, ending: str) -> str:
    write_result(snapshot, folder / f"out{ending}")
    return (folder / f"out{ending}").read_text()


def test_a_key_in_two_partitions_is_refused_with_both_rows() -> None:
    with pytest.raises(Stop) as refused:
        content(Table("t"), {"ann": {"n": 5}, "bob": 1}, {}, {"ann": {"n": 7}})
    assert 'partition 0: ann = {"n":5}\n  partition 2: ann = {"n":7}' in str(refused.value)
    assert "--key" in str(refused.value)
    assert refused.value.exit_code == 1


def test_content_of_one_partition_each_and_of_tables_that_are_everywhere_is_fine() -> None:
    assert len(content(Table("t"), {"a": 1}, {"b": 1})) == 2
    assert dict(content(GlobalTable("t"), {"a": 1}, {"a": 2}).items()) == {"a": 2}


def test_the_event_time_of_each_partition_is_no_key() -> None:
    refuse_split_keys("t", [{STREAM_TIME: b"1"}, {STREAM_TIME: b"2"}], str)


def test_of_a_local_table_each_partition_has_its_row_and_the_digest_knows_which() -> None:
    there = content(Table("t", local=True), {"n": 1}, {"n": 2, "m": 3})
    assert there.rows == (["key", "partition", "value"], [["m", 1, 3], ["n", 0, 1], ["n", 1, 2]])
    other = content(Table("t", local=True), {"n": 2}, {"n": 1, "m": 3})
    assert there.digest() != other.digest()
    assert there.digest() == content(Table("t", local=True), {"n": 1}, {"m": 3, "n": 2}).digest()


TUPLES = {("a", "b/c"): 1, ("a/b", "c"): 2, ("a", ("b", "c")): 3, ("a", 1): 4, ("a", "1"): 5}


def test_tuples_are_distinct_keys_in_every_form(tmp_path: Path) -> None:
    there = content(Table("t"), TUPLES)
    rows = list(csv.DictReader(written(there, tmp_path, ".csv").splitlines()))
    assert {row["key"]: int(row["value"]) for row in rows} == {
        json.dumps(key, separators=(",", ":")): n for key, n in TUPLES.items()
    }
    lines = [json.loads(line) for line in written(there, tmp_path, ".jsonl").splitlines()]
    assert {line["key"]: line["value"] for line in lines} == {row["key"]: int(row["value"]) for row in rows}
    digests = {content(Table("t"), {key: 1}).digest() for key in TUPLES}
    assert len(digests) == len(TUPLES)


@pytest.mark.parametrize("keys", [("7", 7), (None, ""), ("true", True), ('["a"]', ("a",)), ("null", None)], ids=str)
def test_keys_whose_text_is_the_same_are_distinct(keys: tuple[Any, Any], tmp_path: Path) -> None:
    there = content(Table("t"), dict.fromkeys(keys, 1))
    for ending in (".csv", ".txt", ".jsonl"):
        lines = written(there, tmp_path, ending).splitlines()
        assert len(set(lines)) == len(lines), lines


def test_text_and_numbers_are_shown_as_they_are() -> None:
    assert content(Table("t"), {"a": 1, "b c": 2}).rows == (["key", "value"], [["a", 1], ["b c", 2]])
    assert [row[0] for row in content(Table("t"), {7: 1, 2.5: 1}).rows[1]] == [2.5, 7]
    assert [row[0] for row in content(Table("t"), {7: 1, "a": 1}).rows[1]] == [7, "a"]


def test_a_field_that_is_called_as_a_column_does_not_take_its_place() -> None:
    columns, rows = content(Table("t"), {"a": {"key": "z", "n": 1}}).rows
    assert (columns, rows) == (["key", "value.key", "n"], [["a", "z", 1]])
    columns, rows = content(Table("t", local=True), {"a": {"partition": "z"}}).rows
    assert (columns, rows) == (["key", "partition", "value.partition"], [["a", 0, "z"]])


def test_a_table_with_a_time_to_live_is_checked_as_well() -> None:
    table = TtlTable("t", ttl_ms=10, clock=lambda: 0)
    with pytest.raises(Stop):
        content(table, {"a": 1}, {"a": 1})


def test_a_carriage_return_in_a_key_does_not_end_a_row_of_a_result(tmp_path: Path) -> None:
    write_result(content(Table("t"), {"a\rb": 1, "c": 2}), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["key", "value"], ["a\rb", "1"], ["c", "2"]]


def test_the_states_of_aggregates_are_no_columns(tmp_path: Path) -> None:
    table: Any = Table("t")
    table.state_fields = frozenset({"_mean"})
    content = Snapshot(table, [{b'"a"': b'{"mean":2.0,"_mean":[4,2]}'}])
    assert content.rows == (["key", "mean"], [["a", 2.0]])
    write_result(content, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "key,mean\na,2.0\n"
