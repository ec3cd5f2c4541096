"""A row of a packed batch equals the plain record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anabranch
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from anabranch.topics.errors import BadRecord, Usage
from anabranch.topics.packed import CONTENT_TYPE, KEY, TIME, Packed, is_packed, pack
from anabranch.topics.partitioners import HashPartitioner, RangePartitioner, key_bytes, partitions_of_column
from hypothesis import given, settings
from hypothesis import strategies as st

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FIELDS: dict[str, tuple[Any, Any]] = {
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "real": (pa.float64(), st.floats(-1e15, 1e15)),
    "flag": (pa.bool_(), st.booleans()),
    "text": (pa.string(), text),
    "large": (pa.large_string(), text),
    "nothing": (pa.null(), st.none()),
    "list": (pa.list_(pa.int64()), st.lists(st.none() | st.integers(0, 9), max_size=3)),
    "struct": (
        pa.struct([("x", pa.int64()), ("y", pa.string())]),
        st.fixed_dictionaries({"x": st.integers(0, 9), "y": text}),
    ),
}


@st.composite
def tables(draw: Any) -> tuple[pa.Schema, list[dict[str, Any]]]:
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, unique=True))
    rows = draw(st.lists(st.fixed_dictionaries({n: st.none() | FIELDS[n][1] for n in names}), min_size=1, max_size=5))
    return pa.schema([(name, FIELDS[name][0]) for name in names]), rows


@given(
    table=tables(),
    keys=st.lists(st.none() | st.binary(max_size=4), min_size=5, max_size=5),
    times=st.lists(st.none() | st.integers(0, 10**13), min_size=5, max_size=5),
    compression=st.sampled_from(["lz4", "zstd", None]),
)
@settings(max_examples=150, deadline=None)
def test_rows_come_back_as_the_json_keys_and_times_that_went_in(
    table: tuple[pa.Schema, list[dict[str, Any]]], keys: Any, times: Any, compression: Any
) -> None:
    schema, rows = table
    keys, times = keys[: len(rows)], times[: len(rows)]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    batch = batch.append_column(KEY, pa.array(keys, pa.binary())).append_column(TIME, pa.array(times, pa.int64()))
    record = pack(batch, key=KEY, time=TIME, compression=compression)
    assert is_packed(record.headers)
    assert record.timestamp_ms == max((time for time in times if time is not None), default=0)
    back = Packed(record.value, 7)
    assert back.rows == record.rows == len(rows)
    assert back.batch.schema.names == schema.names
    assert back.batch.to_pylist() == rows
    assert back.values() == [msgspec.json.encode(row) for row in batch.select(schema.names).to_pylist()]
    assert back.keys() == keys
    assert back.times_ms() == [7 if time is None else time for time in times]


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        (pa.array(["ann", None, "Zürich"]), [b"ann", None, "Zürich".encode()]),
        (pa.array([1, None, -20], pa.int32()), [b"1", None, b"-20"]),
        (pa.array([2**64 - 1, 0, None], pa.uint64()), [b"18446744073709551615", b"0", None]),
        (pa.array(["a", "b", None], pa.large_string()), [b"a", b"b", None]),
    ],
)
def test_a_field_that_is_the_key_is_not_stored_twice(column: pa.Array, keys: list[bytes | None]) -> None:
    packed = Packed(pack(pa.record_batch({"user": column, "n": [1, 2, 3]}), key="user").value, 5)
    assert packed.key_column == "user"
    assert packed.keys() == keys
    assert packed.times_ms() == [5, 5, 5]
    assert json.loads(packed.values()[0]).keys() == {"user", "n"}


def test_text_stands_as_it_stood() -> None:
    lines = [b'{"a": 1}', b'{ "b":2 , "a":null}', b"", "Zürich".encode()]
    packed = Packed(pack(pa.record_batch({"line": pa.array(lines, pa.binary())}), value="text").value)
    assert packed.values() == lines
    assert packed.keys() == [None] * 4
    assert packed.key_column is None


def test_a_full_batch_is_far_smaller_than_what_a_topic_takes() -> None:
    rng = np.random.default_rng(1)
    rows = 32_768
    batch = pa.record_batch(
        {"key": [f"k{n}" for n in rng.integers(0, 100_000, rows)], "amount": rng.integers(0, 1000, rows)}
    )
    assert len(pack(batch, key="key").value) < 500_000
    assert len(pack(batch, key="key", compression="zstd").value) < 300_000


def test_uncompressed_columns_are_views_of_the_value() -> None:
    value = pack(pa.record_batch({"n": np.arange(1000)}), compression=None).value
    packed = Packed(value)
    begin = pa.py_buffer(value).address
    assert begin <= packed.batch["n"].buffers()[1].address < begin + len(value)


def test_what_is_no_packed_batch_is_a_plain_record() -> None:
    kind = ("content-type", CONTENT_TYPE)
    assert is_packed([kind, ("rows", b"3")])
    assert not is_packed([kind])
    assert not is_packed([("rows", b"3"), ("content-type", b"application/json")])
    assert not is_packed([])
    assert not is_packed(None)


GOOD = pack(
    pa.record_batch(
        {
            "key": ["ann", "bob"],
            "list": [[1], None],
            "s": [{"x": 1}, None],
            "n": [1.5, None],
            KEY: [b"a", b"b"],
            TIME: [1, 2],
        }
    ),
    key=KEY,
    time=TIME,
    compression=None,
).value


@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500, deadline=None)
def test_damaged_bytes_are_a_bad_record_or_other_rows_and_never_anything_else(changes: list[tuple[int, int]]) -> None:
    value = bytearray(GOOD)
    for at, byte in changes:
        value[at] = byte
    try:
        packed = Packed(bytes(value))
        assert len(packed.values()) == len(packed.keys()) == len(packed.times_ms()) == packed.rows
    except BadRecord:
        pass


@pytest.mark.parametrize("value", [b"", b"{}", GOOD[:100], GOOD[:-60], GOOD[: len(GOOD) // 2], b"\xff" * 300])
def test_what_is_cut_off_or_no_arrow_is_a_bad_record(value: bytes) -> None:
    with pytest.raises(BadRecord):
        Packed(value)


def test_an_arrow_stream_of_others_is_a_bad_record() -> None:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"n": [1]})
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    with pytest.raises(BadRecord, match=r"anabranch\.packed=1"):
        Packed(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("columns", "named", "why"),
    [
        ({"n": []}, {}, "no rows"),
        ({KEY: [1]}, {}, "there must be one"),
        ({"n": [1], KEY: [1]}, {}, "cannot be called __key"),
        ({"n": [1], TIME: [1]}, {"key": "n"}, "cannot be called __time"),
        ({"n": [1]}, {"key": "m"}, "no column m"),
        ({"n": [1.5]}, {"key": "n"}, "keys are text"),
        ({"n": ["1"]}, {"time": "n"}, "milliseconds"),
        ({"n": [b"1"]}, {}, "JSON has no binary"),
        ({"n": pa.array([1], pa.timestamp("ms"))}, {}, "JSON has no timestamp"),
        ({"n": ["a"], "m": ["b"]}, {"value": "text"}, "one column of text"),
        ({"n": [None, "a"]}, {"value": "text"}, "null"),
    ],
)
def test_what_cannot_be_packed_is_said(columns: dict[str, Any], named: dict[str, Any], why: str) -> None:
    with pytest.raises(Usage, match=why):
        pack(pa.record_batch(columns), **named)


def test_the_vector_in_the_docs_holds_the_rows_that_it_says() -> None:
    page = (Path(anabranch.__file__).parent / "docs" / "packed.md").read_text()
    (written,) = re.findall(r"```hex\n(.*?)```", page, re.DOTALL)
    (listed,) = re.findall(r"```jsonl\n(.*?)```", page, re.DOTALL)
    packed = Packed(bytes.fromhex(written))
    rows = zip(packed.keys(), packed.times_ms(), packed.values(), strict=True)
    assert [[key.decode(), time_ms, value.decode()] for key, time_ms, value in rows if key] == [
        json.loads(line) for line in listed.splitlines()
    ]


PARTITIONERS = st.integers(1, 20).map(HashPartitioner) | st.sets(st.binary(min_size=1, max_size=3), max_size=5).map(
    lambda found: RangePartitioner(tuple(sorted(found)))
)
COLUMNS = st.sampled_from(
    [(pa.string(), text), (pa.int64(), st.integers(-100, 100)), (pa.binary(), st.binary(max_size=3))]
)


@given(partitioner=PARTITIONERS, data=st.data())
@settings(deadline=None)
def test_a_column_of_keys_goes_where_each_of_them_would(
    partitioner: HashPartitioner | RangePartitioner, data: st.DataObject
) -> None:
    kind, values = data.draw(COLUMNS)
    column = pa.array(data.draw(st.lists(st.none() | values, max_size=30)), kind)
    keys = key_bytes(column).to_pylist()
    assert partitions_of_column(partitioner, column).tolist() == [
        -1 if key is None else partitioner.partition(key) for key in keys
    ]
