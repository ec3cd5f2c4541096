"""Each format has one reader: plain, packed and cut anywhere, it gives the same records and bad rows."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
from pathlib import Path
from typing import Annotated, Any

import fastavro
import msgspec
import pyarrow
import pyarrow.parquet
import pytest
from anabranch.replay.pipeline.dry_run import perform_dry_run
from anabranch.replay.pipeline.pipeline import Pipeline
from anabranch.replay.runs.inputs import declared_types
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source_record import BadLine
from anabranch.topics.errors import Usage
from anabranch.topics.partitioners import HashPartitioner
from line_files import Reading, plain, refusal
from packed_histories import Record, Told, both


def of_csv(folder: Path, data: bytes, **more: Any) -> tuple[list[Record], Told]:
    return both(find_history([str(plain(folder, "a.csv", data))], Format(**more)))


def values(found: tuple[list[Record], Told]) -> list[Any]:
    return [json.loads(value or b"") for _, value, _ in found[0]]


# ---- CSV ----


def test_a_leading_zero_in_the_last_line_makes_text_of_its_column_with_and_without_an_end(tmp_path: Path) -> None:
    for end in (b"", b"\n"):
        found = of_csv(tmp_path, b"user,zip\nann,98101\nbob,10115\ncid,01234" + end, key="zip")
        assert [key for key, _, _ in found[0]] == [b"98101", b"10115", b"01234"]
        assert [row["zip"] for row in values(found)] == ["98101", "10115", "01234"]


def test_a_cell_behind_the_sample_that_does_not_fit_is_bad_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.replay.sources.formats.csv_type_inference._SAMPLE_BYTES", 20)
    monkeypatch.setattr("anabranch.replay.sources.formats.csv_type_inference._LEAST_BYTES", 20)
    data = b"user,zip\nann,98101\nbob,10115\ncid,01234\ndan,7\neva,x\n"
    found = of_csv(tmp_path, data, key="user")
    assert [key for key, _, _ in found[0]] == [b"ann", b"bob", b"dan"]
    said = "is not of type int; --types zip=text reads the column as text"
    assert found[1] == [
        (4, f"column zip: '01234' {said}", b"cid,01234"),
        (6, f"column zip: 'x' {said}", b"eva,x"),
    ]
    assert [row["zip"] for row in values(of_csv(tmp_path, data, types=(("zip", "text"),)))][2:] == ["01234", "7", "x"]


def test_types_widen_over_all_files_of_a_source(tmp_path: Path) -> None:
    plain(tmp_path, "a.csv", b"n,m,k\n1,2,3\n")
    plain(tmp_path, "b.csv", b"m,n,k\n2.5,4,x\n")
    found = both(find_history([str(tmp_path)], Format()))
    assert [value for _, value, _ in found[0]] == [b'{"n":1,"m":2.0,"k":"3"}', b'{"m":2.5,"n":4,"k":"x"}']


def test_whole_numbers_that_no_float_holds_make_text(tmp_path: Path) -> None:
    found = of_csv(tmp_path, b"n,m\n1.5,1\n9007199254740993,1234567890123456789\n")
    assert values(found)[1] == {"n": "9007199254740993", "m": "1234567890123456789"}


def test_empty_cells_and_null_are_null_and_na_is_not(tmp_path: Path) -> None:
    data = b'code,n,t\nNA,1,\n"NA",null,""\nnull,,x\n'
    assert values(of_csv(tmp_path, data)) == [
        {"code": "NA", "n": 1, "t": None},
        {"code": "NA", "n": None, "t": None},
        {"code": None, "n": None, "t": "x"},
    ]
    declared = of_csv(tmp_path, data, types=(("code", "text"), ("t", "text")))
    assert [(row["code"], row["t"]) for row in values(declared)] == [("NA", ""), ("NA", ""), ("null", "x")]
    named = of_csv(tmp_path, b"code,n\nNA,-\nnull,2\n", nulls=("NA", "-"))
    assert values(named) == [{"code": None, "n": None}, {"code": "null", "n": 2}]


def test_a_column_may_have_no_name(tmp_path: Path) -> None:
    assert values(of_csv(tmp_path, b",a,b\n0,x,1\n1,y,2\n")) == [{"": 0, "a": "x", "b": 1}, {"": 1, "a": "y", "b": 2}]


def test_a_bad_row_of_several_lines_is_kept_whole(tmp_path: Path) -> None:
    found = of_csv(tmp_path, b'user,note\nann,"hello"\nbob,"two\nlines",extra\ncid,ok\n', key="user")
    assert [key for key, _, _ in found[0]] == [b"ann", b"cid"]
    assert found[1] == [(3, "3 cells, but 2 columns", b'bob,"two\nlines",extra')]


def test_each_bad_line_is_counted_once(tmp_path: Path) -> None:
    data = b'k,v\r\na,1\r\nb\xff,2\r\n"c"d,3\r\ne,4,5\r\nf,6\r\n"g,7\r\nh,8'
    records, bad = of_csv(tmp_path, data)
    assert [line for line, _, _ in bad] == [3, 4, 5, 7]
    assert len(records) == 3


def test_a_cell_may_be_as_large_as_a_line(tmp_path: Path) -> None:
    large = b"x" * 900_000
    for cell in (large, b'"%b\n%b"' % (large[:300_000], large[:300_000])):
        records, bad = of_csv(tmp_path, b"k,v\na,%b\nb,1\n" % cell)
        assert (len(records), bad) == (2, [])


def test_a_mark_of_utf_8_inside_of_a_file_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.replay.sources.file_source.BLOCK_BYTES", 16)
    monkeypatch.setattr("anabranch.replay.sources.file_source._CHUNK_BYTES", 16)
    rows = ["\ufeffab,1", "\ufeffcd,2", "\ufeffef,3", "\ufeffgh,4"]
    found = of_csv(tmp_path, ("k,v\n" + "\n".join(rows)).encode(), key="k")
    assert [key for key, _, _ in found[0]] == [row.split(",")[0].encode() for row in rows]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"id,n\r1,x\r2,y\r", "carriage return alone"),
        ("id,n\n1,x\n".encode("utf-16"), "iconv -f UTF-16"),
    ],
)
def test_lines_that_are_none_are_said_to_be_what_they_are(tmp_path: Path, data: bytes, said: str) -> None:
    records, bad = of_csv(tmp_path, data)
    assert not records
    assert said in bad[0][1]


def test_columns_of_one_name_are_refused_with_their_places(tmp_path: Path) -> None:
    for header, said in ((b"a,b,a", "columns 1 and 3 of the header have the same name 'a'"), (b"a,,", "have no name")):
        assert said in refusal(lambda header=header: of_csv(tmp_path, header + b"\n1,2,3\n"), Usage)


# ---- JSON Lines ----


def of_json(folder: Path, data: bytes, **more: Any) -> tuple[list[Record], Told]:
    return both(find_history([str(plain(folder, "a.jsonl", data))], Format(**more)))


def test_a_field_may_have_no_name(tmp_path: Path) -> None:
    assert of_json(tmp_path, b'{"":1,"b":2}\n{"":3,"b":4}\n')[0] == [
        (None, b'{"":1,"b":2}', 0),
        (None, b'{"":3,"b":4}', 0),
    ]


@pytest.mark.parametrize("depth", [70, 990, 5_000, 300_000])
def test_a_line_that_lies_too_deep_is_one_bad_line(tmp_path: Path, depth: int) -> None:
    for deep in (b'{"a":%b1%b}' % (b"[" * depth, b"]" * depth), b'{"a":' * depth + b"1" + b"}" * depth):
        records, bad = of_json(tmp_path, b'{"a":1}\n%b\n{"a":2}\n' % deep)
        assert len(records) + len(bad) == 3
        assert len(records) >= 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'[\n  {"a":1},\n  {"a":2}\n]\n', "continues in the next line"),
        (b'{"a":"\\ud800"}\n', "half of a character"),
        (b'{"a":"\\udc00 \\ud83d\\ude00"}\n', "half of a character"),
        ('{"a":1}\n'.encode("utf-16"), "iconv -f UTF-16"),
    ],
)
def test_what_is_no_json_is_said_to_be_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    _, bad = of_json(tmp_path, data)
    assert said in bad[0][1]
    assert not of_json(tmp_path, b'{"a":"\\ud83d\\ude00 \\\\ud800"}\n')[1]


# ---- Parquet ----


def of_parquet(folder: Path, table: Any, **more: Any) -> tuple[list[Record], Told]:
    options = {name: more.pop(name) for name in ("row_group_size", "use_deprecated_int96_timestamps") if name in more}
    pyarrow.parquet.write_table(table, folder / "a.parquet", **options)
    return both(find_history([str(folder / "a.parquet")], Format(**more)))


def moments(unit: str, *numbers: int | None, tz: str | None = None) -> Any:
    return pyarrow.array(numbers, pyarrow.int64()).cast(pyarrow.timestamp(unit, tz))


AT_US = 1_709_294_400_123_456
ODD = {
    "f": pyarrow.array([0.1, 0.2, 0.3], pyarrow.float32()),
    "ns": moments("ns", AT_US * 1_000 + 789, AT_US * 1_000, 5),
    "t": pyarrow.array([3_723_000_000, 3_723_000_001, 0], pyarrow.time64("us")),
    "dec": pyarrow.array([decimal.Decimal("1.50"), None, decimal.Decimal("-0.05")], pyarrow.decimal128(10, 2)),
    "d256": pyarrow.array([decimal.Decimal("9" * 60), None, decimal.Decimal(0)], pyarrow.decimal256(60, 0)),
    "raw": pyarrow.array([b"\xff\x00", b"", None]),
    "zone": moments("us", AT_US, None, 0, tz="+05:30"),
    "named": moments("ms", AT_US // 1_000, None, 0, tz="Europe/Berlin"),
    "kind": pyarrow.array(["a", None, "b"]).dictionary_encode(),
    "map": pyarrow.array([[("x", 1)], None, []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "took": pyarrow.array([1_500_000, -1, 0], pyarrow.duration("us")),
    "inner": pyarrow.array([{"at": dt.datetime(2013, 1, 1), "l": [dt.date(2013, 1, 1)]}, None, {"at": None, "l": []}]),
}


def test_a_bad_row_changes_no_text_of_its_neighbours(tmp_path: Path) -> None:
    good = of_parquet(tmp_path, pyarrow.table({"at": moments("us", AT_US, AT_US + 1, AT_US + 2), **ODD}), time="at")
    found = of_parquet(tmp_path, pyarrow.table({"at": moments("us", AT_US, None, AT_US + 2), **ODD}), time="at")
    assert good[1] == []
    assert found[0] == [good[0][0], good[0][2]]
    assert [(line, reason) for line, reason, _ in found[1]] == [(2, "no time")]
    assert values(good)[0] == {
        "at": "2024-03-01T12:00:00.123456",
        "f": 0.1,
        "ns": "2024-03-01T12:00:00.123456789",
        "t": "01:02:03",
        "dec": "1.50",
        "d256": "9" * 60,
        "raw": "/wA=",
        "zone": "2024-03-01T17:30:00.123456+05:30",
        "named": "2024-03-01T13:00:00.123+01:00",
        "kind": "a",
        "map": [{"key": "x", "value": 1}],
        "took": "PT1.5S",
        "inner": {"at": "2013-01-01T00:00:00.000000", "l": ["2013-01-01"]},
    }


@pytest.mark.parametrize("field", ["f", "ns", "t", "dec", "raw", "zone", "kind"])
def test_a_key_is_what_its_field_shows_whatever_is_wrong_beside_it(tmp_path: Path, field: str) -> None:
    at = moments("us", AT_US, None, AT_US)
    found = of_parquet(tmp_path, pyarrow.table({"at": at, **ODD}), key=field, time="at")
    shown = [row[field] for row in values(found)]
    keys = [key for key, _, _ in found[0]]
    if field == "raw":
        assert keys == [b"\xff\x00", None]
    else:
        assert keys == [str(value).encode() for value in shown]


def test_times_of_96_bits_reach_the_year_9999(tmp_path: Path) -> None:
    far = moments("us", 253_402_214_400_000_000, AT_US)
    found = of_parquet(tmp_path, pyarrow.table({"at": far}), use_deprecated_int96_timestamps=True)
    assert [row["at"] for row in values(found)] == ["9999-12-31T00:00:00.000000", "2024-03-01T12:00:00.123456"]


def test_a_time_that_no_calendar_has_costs_its_own_row(tmp_path: Path) -> None:
    far = 8_000_000_000_000_000_000
    table = pyarrow.table(
        {
            "n": list(range(4)),
            "at": moments("us", 0, far, 0, 0),
            "l": pyarrow.array([[0], [0], [far // 10**3], None], pyarrow.list_(pyarrow.timestamp("ms"))),
        }
    )
    found = of_parquet(tmp_path, table)
    assert [row["n"] for row in values(found)] == [0, 3]
    assert [(line, reason.split(":")[0]) for line, reason, _ in found[1]] == [(2, "column at"), (3, "column l")]


def test_text_that_is_not_utf_8_costs_its_own_row(tmp_path: Path) -> None:
    text = pyarrow.array([b"a", b"a\xffb", b"c"]).view(pyarrow.string())
    found = of_parquet(tmp_path, pyarrow.table({"n": [1, 2, 3], "s": text}))
    assert [row["n"] for row in values(found)] == [1, 3]
    assert [(line, reason) for line, reason, _ in found[1]] == [(2, "column s: text that is not valid UTF-8")]
    assert json.loads(found[1][0][2])["n"] == 2


def test_columns_that_json_has_nothing_for_are_refused_in_one_sentence(tmp_path: Path) -> None:
    double = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["a", "a"])
    for table, said in ((double, "two of its columns have the name 'a'"), (pyarrow.table({}), "it has no columns")):
        records, bad = of_parquet(tmp_path, table)
        assert not records
        assert said in bad[0][1]


def test_behind_a_damaged_row_group_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"n": list(range(300)), "s": [f"text {n}" for n in range(300)]})
    pyarrow.parquet.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(1)
    begin = column.data_page_offset + column.total_compressed_size // 2
    data[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(data)
    records, bad = both(find_history([str(path)], Format()))
    assert [json.loads(value or b"")["n"] for _, value, _ in records] == [*range(100), *range(200, 300)]
    assert [line for line, _, _ in bad] == [101]
    assert "100 rows from here are not read" in bad[0][1]


def test_a_column_has_one_type_in_all_files(tmp_path: Path) -> None:
    for name, kind in (("a", pyarrow.int32()), ("b", pyarrow.float64())):
        pyarrow.parquet.write_table(pyarrow.table({"n": pyarrow.array([1, 2], kind)}), tmp_path / f"{name}.parquet")
    found = both(find_history([str(tmp_path)], Format()))
    assert [value for _, value, _ in found[0]] == [b'{"n":1.0}', b'{"n":2.0}'] * 2


# ---- Avro ----


def of_avro(folder: Path, data: bytes, **more: Any) -> tuple[list[Record], Told]:
    return both(find_history([str(plain(folder, "a.avro", data))], Format(**more)))


def avro(schema: Any, rows: list[Any], **more: Any) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, schema, rows, **more)
    return out.getvalue()


def record(*fields: tuple[str, Any]) -> Any:
    return {"type": "record", "name": "r", "fields": [{"name": name, "type": kind} for name, kind in fields]}


def test_an_avro_value_that_cannot_be_had_costs_its_own_row(tmp_path: Path) -> None:
    bare = record(("n", "long"), ("at", "long"))
    dated = {"type": "long", "logicalType": "timestamp-millis"}
    data = avro(bare, [{"n": n, "at": 10**18 if n == 2 else n} for n in range(5)])
    # The same bytes, of which the schema says that they are times.
    again = avro(record(("n", "long"), ("at", dated)), [])
    body = data[data.index(data[-16:]) + 16 : -16]
    found = of_avro(tmp_path, again + body + again[-16:])
    assert [row["n"] for row in values(found)] == [0, 1, 3, 4]
    assert [line for line, _, _ in found[1]] == [3]
    assert json.loads(found[1][0][2]) == {"n": 2, "at": 10**18}


@pytest.mark.parametrize(
    ("schema", "rows", "said"),
    [
        ({"type": "array", "items": "int"}, [[1]], "does not describe records"),
        ({"type": "map", "values": "int"}, [{"a": 1}], "does not describe records"),
        (record(("v", {"type": "array", "items": "null"})), [{"v": [None]}], "types without bytes"),
        (record(("v", "null")), [{"v": None}], "types without bytes"),
    ],
)
def test_avro_that_is_not_of_records_or_without_bounds_is_refused(
    tmp_path: Path, schema: Any, rows: list[Any], said: str
) -> None:
    records, bad = of_avro(tmp_path, avro(schema, rows))
    assert (records, len(bad)) == ([], 1)
    assert said in bad[0][1]


def test_a_damaged_schema_is_one_bad_line(tmp_path: Path) -> None:
    data = avro(record(("v", "long")), [{"v": 1}])
    for old, new in ((b'"name": "v"', b'"n9me": "v"'), (b'"long"', b'"lnog"'), (b'"fields"', b'"felds" ')):
        records, bad = of_avro(tmp_path, data.replace(old, new))
        assert (records, len(bad)) == ([], 1)


def test_avro_records_within_each_other_are_read_or_bad_and_never_the_end(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}
    shallow = avro(schema, [{"next": {"next": None}}])
    mark = shallow[-16:]
    for depth in (100_000, 3):
        body = b"\x02" * depth + b"\x00"
        block = b"\x02" + number(len(body)) + body + mark
        records, bad = of_avro(tmp_path, shallow + block)
        assert len(records) + len(bad) == 2


def number(value: int) -> bytes:
    value, out = value << 1, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def test_maps_and_unions_stay_what_they_are(tmp_path: Path) -> None:
    schema = record(("m", {"type": "map", "values": "int"}), ("u", ["null", "int", "string"]))
    rows = [{"m": {"a": 1, "b": 2}, "u": "x"}, {"m": {}, "u": 7}, {"m": {"": 0}, "u": None}]
    assert values(of_avro(tmp_path, avro(schema, rows))) == rows


# ---- what is declared, and what a dry run shows ----


class Order(msgspec.Struct):
    zip: str
    fare: Annotated[float, msgspec.Meta(ge=0)]
    note: str | None = None
    count: int | None = msgspec.field(default=None, name="n")


def test_the_value_type_of_a_topic_declares_columns(tmp_path: Path) -> None:
    assert declared_types(Order) == {"zip": "text", "fare": "float", "note": "text?", "n": "int"}
    path = plain(tmp_path, "a.csv", b"zip,fare,note,more\n98101,1,,7\nnull,-2,x,8\n")
    history = find_history([str(path)], Format()).with_declared_types(declared_types(Order))
    assert values(both(history)) == [
        {"zip": "98101", "fare": 1.0, "note": None, "more": 7},
        {"zip": "null", "fare": -2.0, "note": "x", "more": 8},
    ]
    by_option = find_history([str(path)], Format(types=(("zip", "int"),))).with_declared_types(declared_types(Order))
    assert [row["zip"] for row in values(both(by_option))] == [98101, None]


def test_a_dry_run_shows_what_columns_hold_and_what_their_type_refuses(tmp_path: Path) -> None:
    data = b"zip,fare,note,d\n98101,1,,20130101\n10115,-2.5,x,20130102\n01234,,y,20130103\n"
    history = find_history([str(plain(tmp_path, "a.csv", data))], Format(time="d"))
    found = perform_dry_run(history, Pipeline(), HashPartitioner(1), value_type=Order)
    columns = found.profile.columns
    assert [(c.nulls, c.minimum, c.maximum) for c in columns.values()] == [
        (0, "01234", "98101"),
        (1, -2.5, 1.0),
        (1, "x", "y"),
        (0, 20130101, 20130103),
    ]
    assert [c.refused for c in columns.values()] == [0, 2, 0, 0]
    assert "Expected `float` >= 0" in columns["fare"].example
    assert found.near_1970 == 3


# ---- kept with a run ----


def test_the_types_of_a_run_stay_those_of_its_start(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.csv", b"n,z\n1,2\n")
    history = find_history([str(path)], Format())
    types = dict(history.schema.format.inferred)
    assert types == {"n": "int", "z": "int"}
    reading = Reading(find_history([str(path)], Format()).with_types({**types, "z": "text"}).open())
    assert [item[1] for item in reading.rest()] == [b'{"n":1,"z":"2"}']


def test_a_bad_line_names_file_line_and_remedy() -> None:
    assert "--on-bad-line skip" in str(BadLine("a.csv", 7, "why", b""))


def test_a_bad_parquet_row_is_kept_whole_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    days = pyarrow.array([0, 2_932_897], pyarrow.int32()).cast(pyarrow.date32())
    bytes_of = pyarrow.array([b"ok", b"a\xff"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, bytes_of.buffers())
    table = pyarrow.table(
        {
            "id": [1, 2],
            "day": days,
            "s": pyarrow.StructArray.from_arrays([text, pyarrow.array([3, 4])], ["t", "n"]),
            "l": pyarrow.ListArray.from_arrays([0, 1, 2], text),
            "d": text.dictionary_encode(),
        }
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    _, bad = both(find_history([str(path)], Format()))
    assert [json.loads(row) for _, _, row in bad] == [
        {"id": 2, "day": "2932897", "s": {"t": "a\\xff", "n": 4}, "l": ["a\\xff"], "d": "a\\xff"}
    ]


@pytest.mark.parametrize("more", [{}, {"partition": "0 * n"}], ids=["columns", "rows"])
@pytest.mark.parametrize("key", ["k", "str(k)"])
@pytest.mark.parametrize("kind", [pyarrow.float64(), pyarrow.float32()], ids=str)
def test_a_key_that_is_no_finite_number_makes_its_row_bad(tmp_path: Path, kind, key, more) -> None:
    numbers = [1.5, float("nan"), None, float("inf"), 2.0]
    table = pyarrow.table({"k": pyarrow.array(numbers, kind), "n": [1, 2, 3, 4, 5]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    records, bad = both(find_history([str(tmp_path / "a.parquet")], Format(key=key, **more)))
    kept = {json.loads(record[1])["n"]: record[0] for record in records}
    null = {3: None} if key == "k" else {}  # str(null) is refused
    assert kept == {1: b"1.5", **null, 5: b"2.0"}
    assert {row: "JSON has no such number" in reason for row, reason, _ in bad} == {
        2: True,
        4: True,
        **({} if null else {3: False}),
    }


def test_a_time_of_exactly_0_ms_says_that_it_cannot_be_sent(tmp_path: Path) -> None:
    _, bad = of_csv(tmp_path, b"at\n1970-01-01T00:00:00Z\n0\n1969-12-31\n", time="at")
    assert [("exactly 0 ms" in reason, "not between 1970" in reason) for _, reason, _ in bad] == [
        (True, False),
        (True, False),
        (False, True),
    ]


INFINITE = [
    {"a": 1.5, "l": [1.0], "s": {"x": 1.0}},
    {"a": float("nan"), "l": [float("nan"), None], "s": None},
    {"a": float("-inf"), "l": None, "s": None},
    {"a": 2.0, "l": [1.0, float("inf")], "s": None},
    {"a": None, "l": [], "s": {"x": float("inf")}},
]


def of_infinite_numbers(folder: Path, format: str) -> tuple[list[Record], Told]:
    path = folder / f"a.{format}"
    if format == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(INFINITE), path)
    else:
        number: Any = ["null", "double"]
        inner = {"type": "record", "name": "S", "fields": [{"name": "x", "type": "double"}]}
        types = {"a": number, "l": ["null", {"type": "array", "items": number}], "s": ["null", inner]}
        fields = [{"name": name, "type": kind} for name, kind in types.items()]
        with path.open("wb") as file:
            fastavro.writer(file, {"type": "record", "name": "R", "fields": fields}, INFINITE)
    return both(find_history([str(path)], Format()))


@pytest.mark.parametrize("format", ["parquet", "avro"])
def test_infinity_makes_its_row_bad_and_nan_is_null(tmp_path: Path, format: str) -> None:
    found = of_infinite_numbers(tmp_path, format)
    assert values(found) == [INFINITE[0], {"a": None, "l": [None, None], "s": None}]
    assert [(row, reason) for row, reason, _ in found[1]] == [
        (3, "column a: infinity: JSON has no such number"),
        (4, "column l: infinity: JSON has no such number"),
        (5, "column s: infinity: JSON has no such number"),
    ]
    assert [b"inf" in row for _, _, row in found[1]] == [True] * 3


@pytest.mark.parametrize("kind", [pyarrow.float16(), pyarrow.float32(), pyarrow.float64()], ids=str)
def test_infinity_of_any_size_of_float_makes_its_row_bad(tmp_path: Path, kind: pyarrow.DataType) -> None:
    numbers = pyarrow.array([1.0, float("inf"), None], pyarrow.float64()).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"a": numbers}), tmp_path / "a.parquet")
    found = both(find_history([str(tmp_path / "a.parquet")], Format()))
    assert values(found) == [{"a": 1.0}, {"a": None}]
    assert [row for row, _, _ in found[1]] == [2]
