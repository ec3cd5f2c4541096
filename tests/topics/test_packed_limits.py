"""Packed batches are measured before they are opened, and refused beyond the limits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from anabranch.topics.errors import BadRecord, Usage
from anabranch.topics.packed import Packed, limits, pack, packed_rows
from anabranch.topics.packed_limits import InvalidBatch, PackedLimits, measure

ABOUT = {b"anabranch.packed": b"1", b"anabranch.value": b"json"}


def written(batch: pa.RecordBatch, *, compression: str | None = None, times: int = 1) -> bytes:
    """An Arrow stream that says that it is a packed batch, whatever is in it."""
    batch = batch.replace_schema_metadata(ABOUT)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        for _ in range(times):
            stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def nested(depth: int) -> pa.Array:
    value: Any = 1
    for level in range(depth - 1):
        value = [value] if level % 2 else {"x": value}
    return pa.array([value])


def test_what_is_within_the_limits_is_measured_and_opened() -> None:
    batch = pa.record_batch({"n": range(32_768), "s": ["a"] * 32_768, "x": [{"y": [1.5]}] * 32_768})
    for compression in (None, "lz4", "zstd"):
        value = written(batch, compression=compression)
        found = measure(value, PackedLimits())
        assert (found.rows, found.columns) == (32_768, 5)
        assert found.size_bytes == pytest.approx(batch.nbytes, rel=0.05)
        assert Packed(value).rows == 32_768


@pytest.mark.parametrize(
    ("batch", "limit"),
    [
        (lambda: pa.record_batch([pa.nulls(1_000_000)], ["n"]), "rows"),
        (lambda: pa.record_batch([pa.nulls(10**9)], ["n"]), "rows"),
        (lambda: pa.record_batch([pa.nulls(32_769)], ["n"]), "rows"),
        (lambda: pa.record_batch({f"c{n}": [1] for n in range(4_097)}), "columns"),
        (lambda: pa.record_batch([pa.array([{f"c{n}": 1 for n in range(4_096)}])], ["s"]), "columns"),
        (lambda: pa.record_batch([nested(33)], ["n"]), "depth"),
        # Elements of lists that take no bytes, or a bit each, are many bytes of JSON.
        (lambda: pa.record_batch([lists(pa.nulls(40_000_000))], ["n"]), "size_bytes"),
        (lambda: pa.record_batch([lists(booleans(40_000_000))], ["n"]), "size_bytes"),
        # So are names that each row repeats.
        (lambda: pa.record_batch([pa.nulls(32_768)] * 100, [f"{n:0100}" for n in range(100)]), "size_bytes"),
    ],
)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_what_is_larger_is_refused_and_its_limit_named(
    batch: Callable[[], pa.RecordBatch], limit: str, compression: str
) -> None:
    value = written(batch(), compression=compression)
    with pytest.raises(InvalidBatch) as refused:
        measure(value, PackedLimits())
    assert refused.value.limit == limit
    with pytest.raises(BadRecord, match=f"ANABRANCH_PACKED_{limit.upper()}"):
        Packed(value)


def booleans(count: int) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), count, [None, pa.py_buffer(bytes(count // 8 + 1))])


def lists(elements: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(elements)], pa.int32()), elements)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_what_decompresses_to_more_than_is_taken_is_refused(compression: str) -> None:
    value = written(pa.record_batch({"s": ["a" * 70_000_000]}), compression=compression)
    assert len(value) < 400_000
    with pytest.raises(BadRecord, match=r"70,000,0\d\d bytes, decompressed; at most 67,108,864"):
        Packed(value)
    assert Packed(value, most=PackedLimits(size_bytes=80_000_000)).rows == 1


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("claimed", [0, 1, 3_999_992, 4_000_008, 60_000_000, -2, 2**62])
def test_a_length_prefix_that_lies_is_a_bad_record(compression: str, claimed: int) -> None:
    value = written(pa.record_batch({"n": pa.array([7] * 500_000)}), compression=compression)
    most = PackedLimits(rows=10**6)
    assert Packed(value, most=most).rows == 500_000
    at = value.index((4_000_000).to_bytes(8, "little"))
    with pytest.raises(BadRecord):
        Packed(value[:at] + claimed.to_bytes(8, "little", signed=True) + value[at + 8 :], most=most)


def view_of_views() -> pa.Array:
    return pa.array([{"a": ["x" * 40]}], pa.struct({"a": pa.list_(pa.string_view())}))


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.array(["a" * 40], pa.string_view()), "utf8 view"),
        (pa.array([b"a" * 40], pa.binary_view()), "binary view"),
        (view_of_views(), "utf8 view"),
        (pa.array(["a"]).dictionary_encode(), "dictionaries"),
        (pa.array([[1]], pa.list_view(pa.int64())), "list view"),
        (pa.array([[1]], pa.list_(pa.int64(), 1)), "fixed-size list"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "map"),
        (pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array([1])), "run-end"),
        (pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]), "union"),
        (pa.array([1], pa.timestamp("ms")), "timestamp"),
        (pa.array([1], pa.decimal128(5)), "decimal"),
        (pa.array([b"0" * 16], pa.uuid()), "binary"),
        (pa.array([1], pa.int8()).cast(pa.bool8()), "extension"),
    ],
)
def test_types_that_json_does_not_have_are_refused_before_they_are_opened(column: pa.Array, why: str) -> None:
    value = written(pa.record_batch([column], ["n"]))
    with pytest.raises(BadRecord, match=f"damaged packed batch: .*{why}"):
        Packed(value)


def test_text_that_is_written_as_views_is_packed_as_readers_take_it() -> None:
    column = view_of_views()
    made = pack(pa.record_batch([pa.array(["k"], pa.string_view()), column], ["key", "n"]), key="key")
    assert Packed(made.value).values() == [b'{"key":"k","n":{"a":["%s"]}}' % (b"x" * 40)]


def test_more_than_one_batch_or_none_is_refused() -> None:
    batch = pa.record_batch({"n": [1]})
    for times in (0, 2):
        with pytest.raises(BadRecord, match="batch"):
            Packed(written(batch, times=times))
    assert Packed(written(batch)[:-8]).rows == 1, "the end of a stream may be left out"


@pytest.mark.parametrize(
    ("said", "rows"),
    [(b"3", 3), (b"32768", 32_768), (b"32769", 1), (b"0", 1), (b"-1", 1), (b"9" * 30, 1), (b"x", 1), (None, 1)],
)
def test_of_the_header_no_more_rows_are_believed_than_are_taken(said: bytes | None, rows: int) -> None:
    assert packed_rows([("content-type", b"application/vnd.apache.arrow.stream"), ("rows", said)]) == rows


def test_the_environment_raises_each_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ROWS", "COLUMNS", "SIZE_BYTES", "DEPTH")
    for number, name in enumerate(names, 100):
        monkeypatch.setenv(f"ANABRANCH_PACKED_{name}", str(number))
    assert limits.__wrapped__() == PackedLimits(100, 101, 102, 103)
    for text in ("0", "-1", "64MB", "1_0", "9" * 30):
        monkeypatch.setenv("ANABRANCH_PACKED_ROWS", text)
        with pytest.raises(Usage, match="ANABRANCH_PACKED_ROWS"):
            limits.__wrapped__()


# Changes bytes of valid batches; what the process does not survive is told by how it ends.
MUTATE = """
import random, sys
import pyarrow as pa
from anabranch.topics.errors import BadRecord
from anabranch.topics.packed import KEY, TIME, Packed, pack
seed, count = map(int, sys.argv[1:])
rng = random.Random(seed)
columns = {
    "s": ["ann", None, "é" * 9], "n": [1, None, 3], "f": [1.5, None, 2.0], "b": [True, None, False], "z": [None] * 3,
    "l": [["a", None], None, []], "o": [{"x": 1, "y": [{"z": "a"}]}, None, {"x": 2, "y": None}],
    KEY: [b"a", None, b"c"], TIME: [1, None, 3],
}
batch = pa.record_batch(columns)
good = [pack(batch, key=KEY, time=TIME, compression=way).value for way in (None, "lz4", "zstd")]
numbers = [0, 1, -1, 4, 7, 8, 32_768, 2**31 - 1, -2**31, 10**9, 2**62, -2**63]
for _ in range(count):
    value = bytearray(rng.choice(good))
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, size = rng.randrange(len(value)), rng.choice([1, 1, 1, 4, 8])
        at -= at % size
        number = rng.choice(numbers) if size > 1 else rng.randrange(256)
        value[at : at + size] = (number % 256**size).to_bytes(size, "little")
    try:
        packed = Packed(bytes(value), 5)
        assert len(packed.values()) == len(packed.keys()) == len(packed.times_ms()) == packed.rows
    except BadRecord:
        pass
"""


def test_whatever_bytes_change_there_are_rows_or_one_refusal() -> None:
    subprocess.run([sys.executable, "-c", MUTATE, "1", "4000"], check=True, timeout=120)
