"""Reading a file by columns and by records gives the same keys, values, times, bad lines and positions."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars
import pytest
from anabranch.replay.sources.column_batch import ColumnBatch
from anabranch.replay.sources.file_history import FileHistory, find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source_record import SourceRecord
from anabranch.topics.errors import Usage
from hypothesis import given, settings
from hypothesis import strategies as st


def read(history: FileHistory) -> tuple[list[SourceRecord], list[Any], int, Any, int]:
    """Records, bad lines, blank lines, the position after them; and how many came as columns."""
    source = history.open()
    items: list[SourceRecord] = []
    bad: list[Any] = []
    blank = by_column = 0
    after = source.begins
    while not source.ended:
        batch = source.next_batch()
        by_column += len(batch.records) if isinstance(batch.records, ColumnBatch) else 0
        items += batch.records
        bad += [(line.position, line.reason, line.value) for line in batch.bad]
        blank += batch.blank
        after = batch.after
    source.close()
    return items, sorted(bad), blank, after, by_column


def check_same(path: Path, format: Format, max_bytes: int = 1_000_000) -> int:
    """The same both ways; how many records came as columns."""
    history = find_history([str(path)], format).with_max_record_bytes(max_bytes)
    plain, columns = read(history), read(history.columnar())
    assert columns[:4] == plain[:4]
    return columns[4]


WRITTEN_AS_NUMBERS = (
    "0 7 -7 -0 007 +5 123456789012345678 1234567890123456789 -9999999999999999999 1.5 1. .5 -0.0 1e5 1E-7 "
    "1e16 123456789012345678.5 1e999 inf nan 1_000 ٣"
)
OTHERS = [
    " 5",
    "5 ",
    "",
    "NA",
    "null",
    "true",
    "no",
    "2013-01-01",
    "x",
    "é",
    "\u2028",
    "a'b",
    "\x00",
    "\x7f",
    "\\",
    "user-1",
]
CELLS = st.sampled_from([*WRITTEN_AS_NUMBERS.split(), *OTHERS])
QUOTED = st.sampled_from(['"a,b"', '"7"', '"007"', '""', '"NA"', '"a""b"', 'a"b', '"a"b', '"a\nb"', '"', '"é"', '" "'])
NUMBERS = st.integers(-(10**18), 10**18).map(str)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(repr)


@st.composite
def csv_text(draw: st.DrawFn) -> bytes:
    """Columns that are mostly of one kind, and some that are not."""
    width, height = draw(st.integers(1, 3)), draw(st.integers(0, 6))
    kinds = [draw(st.sampled_from([NUMBERS, FLOATS, CELLS, CELLS | QUOTED, QUOTED])) for _ in range(width)]
    rows = [",".join(draw(kind) for kind in kinds) for _ in range(height)]
    rows += draw(st.lists(st.sampled_from(["", "a", "1,2,3,4", "\r", "a\rb"]), max_size=1))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return (end.join(rows) + draw(st.sampled_from(["", end]))).encode()


@settings(max_examples=400, deadline=None)
@given(csv_text(), st.sampled_from([{}, {"as_text": True}, {"nulls": ("-7", "x")}, {"quote": ""}]), st.data())
def test_whatever_stands_in_a_csv_file(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, more: dict[str, Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(text)
    types = data.draw(st.sampled_from(["auto", "text", "int", "float", "bool"]))
    format = Format(columns=("a", "b", "c"), key="b", types=() if types == "auto" else (("a", types),), **more)
    check_same(path, format)
    check_same(path, replace(format, columns=("a",), key="a"))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"k,1", b"k", b",1", b"k,", b"", b"a,b,c", b"\xff,1", "é,ü".encode(), b"x\r", b"\r", b"\0,1"])
    ),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.sampled_from(
        [Format(), Format(key_before=","), Format(key_before="::"), Format(encoding="bytes", key_before=",")]
    ),
)
def test_whatever_stands_in_a_file_of_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes, ended: bool, format: Format
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(end.join(lines) + (end if ended else b""))
    check_same(path, format)


def test_numbers_text_and_times_come_as_columns_block_after_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.replay.sources.file_source.BLOCK_BYTES", 10_000)
    monkeypatch.setattr("anabranch.replay.sources.formats.csv_type_inference._SAMPLE_BYTES", 10_000)
    monkeypatch.setattr("anabranch.replay.sources.formats.csv_type_inference._LEAST_BYTES", 10_000)
    path = tmp_path / "a.csv"
    #  n: whole, with nulls in the middle; then once written 007, which is no whole number: that row is bad
    cells = [str(n) if n % 500 or n < 1_000 else "null" for n in range(3_000)]
    cells[2_500] = "007"
    rows = [f'user-{n % 7},{cell},{n / 4 + 0.125},"x, {n}",2013-01-{n % 28 + 1:02d}\n' for n, cell in enumerate(cells)]
    path.write_text("k,n,f,s,at\n" + "".join(rows))
    for format in (
        Format(key="k", time="at"),
        Format(key="n"),
        Format(key="f"),
        Format(key='k + "-" + s', time="at"),
        Format(key="k", partition="n if n is not None and n < 5 else None"),
    ):
        assert check_same(path, format) == 2_999


def test_bad_and_blank_lines_cost_their_surroundings_not_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    lines = [b"u%d,%d" % (n % 7, n) for n in range(40_000)]
    lines[17], lines[30_000], lines[30_001] = b"bad", b"\xff", b""
    path.write_bytes(b"\n".join(lines))
    assert check_same(path, Format(key_before=",")) == 30_000


def test_rows_too_large_for_their_topic_are_the_same_bad_lines(tmp_path: Path) -> None:
    for name, form in (("a.txt", Format()), ("a.csv", Format(columns=("a",)))):
        path = tmp_path / name
        path.write_text("one\n" + "x" * 5_000 + "\ntwo\n")
        check_same(path, form, max_bytes=4_000)
    polars.DataFrame({"a": ["one", "x" * 5_000, "two"]}).write_parquet(tmp_path / "a.parquet")
    check_same(tmp_path / "a.parquet", Format(), max_bytes=4_000)


def test_parquet_of_all_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.replay.sources.formats.parquet_file._COLUMN_ROWS", 100)
    count = 1_000
    at = [datetime.datetime(2013, 1, 1, microsecond=5) + datetime.timedelta(seconds=n) for n in range(count)]
    frame = polars.DataFrame(
        {
            "k": [f"u{n % 9}" if n % 11 else None for n in range(count)],
            "n": polars.Series(range(count), dtype=polars.UInt16),
            "at": at,
            "utc": polars.Series(at).dt.replace_time_zone("UTC"),
            "f": [n / 3 * 10.0 ** (n % 40 - 20) for n in range(count)],
            "f32": polars.Series([n / 3 for n in range(count)], dtype=polars.Float32),
            "list": [[n, None] for n in range(count)],
            "raw": [b"\xff%d" % n for n in range(count)],
            "day": [datetime.date(2013, 1, 1)] * count,
            "hour": [datetime.time(1, 2, 3)] * count,
            "money": [decimal.Decimal("1.50")] * count,
            "kind": polars.Series(["a", "b"] * (count // 2), dtype=polars.Categorical),
            "inner": [{"a": n, "b": "é"} for n in range(count)],
            "flag": [True, None] * (count // 2),
        }
    )
    folder = tmp_path / "year=2013" / "zone=a"
    folder.mkdir(parents=True)
    path = folder / "a.parquet"
    frame.write_parquet(path, row_group_size=300)
    for format in (
        Format(key="k", time="at"),
        Format(key="n", time="utc"),
        Format(key="raw"),
        Format(key="f"),
        Format(key='zone + "-" + str(year)', partition="0 if flag else None"),
    ):
        assert check_same(path, format) == count
    polars.DataFrame({"times": [at[:2], at[:1]]}).write_parquet(tmp_path / "b.parquet")
    assert check_same(tmp_path / "b.parquet", Format()) == 2


def test_columns_are_cut_like_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,at\n" + "".join(f"{n},{1_357_034_400 + n}\n" for n in range(10)))
    history = find_history([str(path)], Format(key="k", time="at"))
    (batch,) = [history.columnar().open().next_batch().records]
    items = list(history.open().next_batch().records)
    for first, end in itertools.product((0, 3, 9, 12), (0, 4, 10, 99)):
        assert list(batch[first:end]) == items[first:end]
    assert (batch[3], batch[-1]) == (items[3], items[-1])


def test_names_of_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("__key,n\na,1\n")
    with pytest.raises(Usage, match="__key"):
        find_history([str(path)], Format()).columnar().open()


JSON_TEXT = st.text(max_size=5) | st.sampled_from(
    ["user-1", "é", '"', "\\", "\u2028", "\x00", "\x7f", "/", "2013-01-01"]
)
JSON_INTS = st.integers(-(2**63), 2**64) | st.sampled_from([0, 1_357_034_400, 10**18, 2**63, 10**30])
JSON_FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [1e15, 1e16, -1e17, 1e-7, 0.1, -0.0, 1e300]
)
JSON_PLAIN = JSON_TEXT | JSON_INTS | JSON_FLOATS | st.booleans() | st.none()
JSON_VALUES = JSON_PLAIN | st.lists(JSON_INTS, max_size=2) | st.fixed_dictionaries({"x": JSON_PLAIN, "y": JSON_INTS})
JSON_ODD = [
    b"", b"\r", b"{}", b"[]", b"7", b"nothing", b"\xff", b'{"a":1}{"a":2}', b'{"a":1,"a":1}', b'{"a":1', b'{"a": 1}',
    b' {"a":1}', b'{"a":1} ', b'{"a":-0}', b'{"a":1.0}', b'{"a":1.50}', b'{"a":1e5}', b'{"a":1e+16}', b'{"a":1e16}',
    b'{"a":01}', b'{"a":NaN}', b'{"a":"\\u0041"}', b'{"a":"\\ud800"}', b'{"a":"\\/"}', b'{"a":"\x01"}', b'{"b":1}',
    b'{"a":1,"b":2,"c":3,"d":4}', b'{"b":1,"a":1}', b'{"__key":1,"a":1}', b'{"a":{}}', b'{"a":[]}', b'{"a":[{}]}',
]  # fmt: skip


@st.composite
def json_lines(draw: st.DrawFn) -> bytes:
    """Lines that are mostly of one kind, and some that are not."""
    names = draw(st.sampled_from(["a", "ab", "abc", "ba"]))
    kinds = [
        draw(st.sampled_from([JSON_TEXT, JSON_INTS, JSON_FLOATS, JSON_PLAIN, JSON_VALUES, st.booleans(), st.none()]))
        for _ in names
    ]
    rows = [dict(zip(names, map(draw, kinds), strict=True)) for _ in range(draw(st.integers(0, 5)))]
    write: Any = draw(st.sampled_from([msgspec.json.encode, lambda row: json.dumps(row).encode()]))
    lines = [write(row) for row in rows] + draw(st.lists(st.sampled_from(JSON_ODD), max_size=1))
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    return end.join(lines) + draw(st.sampled_from([b"", end]))


@settings(max_examples=500, deadline=None)
@given(
    json_lines(),
    st.sampled_from([{}, {"key": "a"}, {"key": "b", "time": "a"}, {"key": "a", "time": "a"}, {"key": "a + b"}]),
)
def test_whatever_stands_in_a_file_of_json_lines(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, asked: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(text)
    check_same(path, Format(**asked))


def test_lines_come_as_columns_block_after_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.replay.sources.file_source.BLOCK_BYTES", 10_000)
    path = tmp_path / "a.jsonl"
    rows: list[dict[str, Any]] = [
        {"user": f"ü{n % 7}", "n": n, "f": n / 3, "at": f"2013-01-{n % 28 + 1:02d}", "more": {"tags": ["a", None]}}
        for n in range(3_000)
    ]
    lines = [msgspec.json.encode(row) for row in rows]
    #  what each of these blocks holds: a number that is not written by all as it is here, spaces, no line at all, and
    #  from the middle on a field more
    lines[700], lines[900], lines[1_100] = lines[700][:-1] + b',"x":1e16}', json.dumps(rows[900]).encode(), b"bad"
    lines[1_500:] = [line[:-1] + b',"late":true}' for line in lines[1_500:]]
    for end in (b"\n", b"\r\n"):
        path.write_bytes(end.join(lines))
        for format in (Format(), Format(key="user", time="at"), Format(key="n", time="at")):
            assert 1_500 < check_same(path, format) < 3_000
    # Written as they stand, or not there as one column: as text, line by line.
    for format in (Format(key="f"), Format(key="user + at"), Format(key="more.tags")):
        assert check_same(path, format) == 0


def test_lines_that_polars_has_written_stay_columns(tmp_path: Path) -> None:
    frame = polars.DataFrame({"a": [1, 2, None], "b": ["x", None, "y"], "c": [[1.5], [], None], "d": [None] * 3})
    frame.write_ndjson(tmp_path / "a.jsonl")
    assert check_same(tmp_path / "a.jsonl", Format(key="b")) == 3
    # Other versions, and others, write that number without a plus.
    (tmp_path / "b.jsonl").write_bytes(b'{"a":1e+16}\n{"a":1.5}\n')
    assert check_same(tmp_path / "b.jsonl", Format()) == 0


def test_json_lines_too_large_for_their_topic_are_the_same_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"a":"%b"}\n' % (b"x" * size) for size in (1, 3_992, 3_993, 5_000, 2)))
    assert check_same(path, Format(), max_bytes=4_000) == 0
