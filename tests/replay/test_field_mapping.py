"""Key, time, headers and partition from fields and expressions, equal for CSV and JSON Lines; CSV dialects."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastavro
import pytest
from anabranch.replay.runs.inputs import format_of, parse_inputs
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.formats.avro_container import Container
from anabranch.replay.sources.formats.avro_file import decoder
from anabranch.replay.sources.source_record import NO_LIMIT, SourceRecord
from anabranch.replay.sources.time_parser import parse_time_ms
from anabranch.topics.errors import Usage
from hypothesis import given
from hypothesis import strategies as st
from line_files import Reading

CSV = b"carrier,flight,at,p,price\nUA,15,01.02.2013 10:00,2,1.50\nAA,7,02.02.2013 11:30,,2\n"
JSONL = (
    b'{"carrier":"UA","flight":15,"at":"01.02.2013 10:00","p":2,"price":1.50}\n'
    b'{"carrier":"AA","flight":7,"at":"02.02.2013 11:30","p":null,"price":2}\n'
)
UA_MS, AA_MS = 1_359_712_800_000, 1_359_804_600_000  # in UTC


def read(
    folder: Path, name: str, data: bytes, format: Format, most: int = NO_LIMIT
) -> tuple[list[SourceRecord], Reading]:
    (folder / name).write_bytes(data)
    source = Reading(find_history([str(folder / name)], format).with_max_record_bytes(most).open())
    return source.rest(), source


@pytest.mark.parametrize(("name", "data"), [("f.csv", CSV), ("f.jsonl", JSONL)])
class TestShape:
    def test_all_of_it_is_computed(self, tmp_path: Path, name: str, data: bytes) -> None:
        format = Format(
            key='carrier + "-" + flight',
            time="at",
            time_format="%d.%m.%Y %H:%M",
            partition="p",
            headers=(("line", "carrier.lower()"), ("p", "p")),
        )
        items, _ = read(tmp_path, name, data, format)
        assert [(key, *rest) for key, _, *rest in items] == [
            (b"UA-15", UA_MS, [("line", b"ua"), ("p", b"2")], 2),
            (b"AA-7", AA_MS, [("line", b"aa")], None),
        ]

    def test_a_plain_key_is_as_it_is_written_whatever_else_is_asked(
        self, tmp_path: Path, name: str, data: bytes
    ) -> None:
        for more in ((), (("c", "carrier"),)):
            items, _ = read(tmp_path, name, data, Format(key="price", headers=more))
            assert [item[0] for item in items] == [b"1.50", b"2"]

    def test_a_time_zone_is_that_of_times_without_one(self, tmp_path: Path, name: str, data: bytes) -> None:
        format = Format(time="at", time_format="%d.%m.%Y %H:%M", time_zone="America/New_York")
        items, _ = read(tmp_path, name, data, format)
        assert [item[2] - 5 * 3_600_000 for item in items] == [UA_MS, AA_MS]

    def test_what_cannot_be_computed_is_a_bad_line(self, tmp_path: Path, name: str, data: bytes) -> None:
        items, source = read(tmp_path, name, data, Format(key='carrier + "-" + p'))
        assert [item[0] for item in items] == [b"UA-2"]
        (bad,) = source.bad
        assert bad.line == (3 if name == "f.csv" else 2)
        assert "null cannot be concatenated" in bad.reason


def test_fields_of_fields_of_json(tmp_path: Path) -> None:
    data = b'{"a":{"b":{"c":"x"}},"t":{"at":1357034400}}\n{"a":{"b":1},"t":{"at":1}}\n'
    items, source = read(tmp_path, "a.jsonl", data, Format(key="a.b.c", time="t.at"))
    assert [item[0:3:2] for item in items] == [(b"x", 1357034400000)]
    assert [bad.line for bad in source.bad] == [2]


def test_a_wrong_name_in_an_expression_is_known_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(CSV)
    for format in (Format(key="carrier + nope"), Format(headers=(("x", "nope"),)), Format(partition="nope")):
        with pytest.raises(Usage, match="nope: no such column"):
            find_history([str(tmp_path / "f.csv")], format).check("t")


@pytest.mark.parametrize(
    ("written", "how", "ms"),
    [
        (1357034400, "s", 1357034400000),
        ("1357034400000", "ms", 1357034400000),
        (1357034400000000, "us", 1357034400000),
        ("1357034400000000000", "ns", 1357034400000),
        (90, "s", 90_000),
        ("2013-01-01T10:00:00Z", "iso", 1357034400000),
        ("20130101", "iso", 1356998400000),
        ("20130101 100000", "%Y%m%d %H%M%S", 1357034400000),
        ("20130101", "%Y%m%d", 1356998400000),
        ("2013-01-01 10:00:00 +0200", "%Y-%m-%d %H:%M:%S %z", 1357027200000),
    ],
)
def test_times_are_read_as_told(written: object, how: str, ms: int) -> None:
    assert parse_time_ms(written, how) == ms


@pytest.mark.parametrize(
    ("written", "how"),
    [
        ("2013-01-01", "ms"),
        (1e300, "s"),
        (10**50, "ns"),
        ("9" * 99, "s"),
        ("x", "%Y"),
        (5, "%Y"),
        (-1, "s"),
        (1e12, "s"),
    ],
)
def test_absurd_times_are_refused(written: object, how: str) -> None:
    with pytest.raises(ValueError, match=r"not a|1970"):
        parse_time_ms(written, how)


@pytest.mark.parametrize(
    "format",
    [
        Format(time="at", time_format="fortnights"),
        Format(time="at", time_format="%Q"),
        Format(time="at", time_zone="Mars/Olympus"),
        Format(time_format="ms"),
        Format(types=(("price", "money"),)),
        Format(types=(("nope", "int"),)),
        Format(quote="''"),
        Format(quote=";", delimiter=";"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(tmp_path: Path, format: Format) -> None:
    with pytest.raises(Usage):
        read(tmp_path, "f.csv", CSV, format)


# ---- dialects ----


def test_types_are_as_told_and_what_is_not_of_them_is_a_bad_row(tmp_path: Path) -> None:
    data = b"a,b,c,d\n007,1,1,yes\n8,x,2,no\n9,3,+3.0,0\n,,,\n"
    types = (("a", "text"), ("b", "int"), ("c", "float"), ("d", "bool"))
    items, source = read(tmp_path, "a.csv", data, Format(types=types))
    assert [item[1] for item in items] == [
        b'{"a":"007","b":1,"c":1.0,"d":true}',
        b'{"a":"9","b":3,"c":3.0,"d":false}',
        b'{"a":"","b":null,"c":null,"d":null}',
    ]
    (bad,) = source.bad
    assert (bad.line, bad.reason) == (
        3,
        "column b: 'x' is not of type int; --types b=text reads the column as text",
    )


def test_quotes_may_be_others_or_none(tmp_path: Path) -> None:
    items, _ = read(tmp_path, "a.csv", b"a;b\n'x;\ny';1\n", Format(delimiter=";", quote="'"))
    assert items[0][1] == b'{"a":"x;\\ny","b":1}'
    items, _ = read(tmp_path, "b.csv", b'a,b\r\n"x,1\r\n', Format(quote=""))
    assert items[0][1] == b'{"a":"\\"x","b":1}'


def test_a_record_that_the_topic_would_refuse_is_a_bad_line(tmp_path: Path) -> None:
    for name, data in (
        ("a.txt", b"short\n" + b"x" * 200),
        ("a.csv", b"a,b\ns,1\n" + b"x" * 200 + b",2"),
        ("a.jsonl", b'{"a":1}\n{"a":"' + b"x" * 200 + b'"}'),
    ):
        items, source = read(tmp_path, name, data, Format(), 100)
        assert len(items) == 1
        assert "at most 100 are sent" in source.bad[0].reason


Plain: dict[str, st.SearchStrategy[object]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
}
Avro = st.lists(st.fixed_dictionaries({name: st.none() | values for name, values in Plain.items()}), min_size=1)


@given(Avro, st.integers(1, 40))
def test_avro_is_the_same_whichever_way_it_is_decoded(rows: list[dict[str, object]], interval: int) -> None:
    out, fields = io.BytesIO(), [{"name": name, "type": ["null", name]} for name in Plain]
    schema: Any = {"type": "record", "name": "r", "fields": fields}
    fastavro.writer(out, schema, rows, codec="deflate", sync_interval=interval)
    container = Container(io.BytesIO(out.getvalue()))
    blocks = list(container.blocks())
    # By polars, as large files are, and by fastavro.
    assert list(decoder(schema, 10**9)(blocks)) == list(decoder(schema, 1)(blocks)) == list(rows)


def test_options_of_a_command_line(tmp_path: Path) -> None:
    form = {"kind": "auto", "encoding": "utf-8", "as_text": False, "headers": ("h=a + b",), "types": "x=int,y=text"}
    assert format_of(form).headers == (("h", "a + b"),)
    assert format_of(form).types == (("x", "int"), ("y", "text"))
    with pytest.raises(Usage, match="NAME="):
        format_of({**form, "headers": ("h",)})
    made = parse_inputs(["t=a.csv"], [], ["u=x", 't=k + "=" + l'], ["at == 1"], {**form, "headers": ()})
    assert (made[0].format.key, made[0].format.time) == ('k + "=" + l', "at == 1")
