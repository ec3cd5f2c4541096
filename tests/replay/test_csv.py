"""CSV cells become numbers, nulls and text; rows are those of Python's csv module; bad rows are named."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.formats.csv_parser import CsvParser
from anabranch.replay.sources.formats.csv_type_inference import infer_row_types
from anabranch.replay.sources.source_record import SourceRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_files import plain, read_file, values


def test_cells_become_numbers_nulls_and_text(tmp_path: Path) -> None:
    cells = [
        "0",
        "-7",
        "007",
        "1.50",
        "1e3",
        "-0.25",
        "+1",
        "1.",
        ".5",
        "NA",
        "",
        "nan",
        "1_0",
        "TRUE",
        '"q"',
        "é",
        "9" * 19,
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([f"c{n}" for n in range(len(cells))])
    writer.writerow(cells)
    (value,) = values(plain(tmp_path, "a.csv", text.getvalue().encode()))
    assert list(json.loads(value or b"").values()) == [
        *(0, -7, "007", 1.5, 1000.0, -0.25, "+1", "1.", ".5", "NA", None, "nan", "1_0", "TRUE", '"q"', "é", "9" * 19)
    ]


def test_cells_can_stay_text(tmp_path: Path) -> None:
    assert values(plain(tmp_path, "a.csv", b"a,b,c\n1,,NA\n"), Format(as_text=True)) == [b'{"a":"1","b":"","c":"NA"}']


def test_nulls_are_what_the_user_says(tmp_path: Path) -> None:
    assert values(plain(tmp_path, "a.csv", b"a,b\n-,NA\n"), Format(nulls=("-",))) == [b'{"a":null,"b":"NA"}']


def test_a_file_without_a_header_takes_names(tmp_path: Path) -> None:
    items, _ = read_file(plain(tmp_path, "a.tsv", b"x\t1\ny\t2\n"), Format(columns=("k", "n"), key="k"))
    assert [item[:2] for item in items] == [(b"x", b'{"k":"x","n":1}'), (b"y", b'{"k":"y","n":2}')]


def test_a_null_key_is_none(tmp_path: Path) -> None:
    items, _ = read_file(plain(tmp_path, "a.csv", b"k,n\nnull,1\nx,2\n"), Format(key="k"))
    assert [item[0] for item in items] == [None, b"x"]


def test_bad_rows_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    data = b'k,n\na,1\nb\nc,3,3\n"d,4\ne,5\n"f"x,6\ng,7\n'
    items, source = read_file(plain(tmp_path, "a.csv", data), Format(key="k"))
    assert [item[0] for item in items] == [b"a", b"e", b"g"]
    assert sorted((bad.line, bad.value) for bad in source.bad) == [
        *((3, b"b"), (4, b"c,3,3"), (5, b'"d,4'), (7, b'"f"x,6'))
    ]
    assert "1 cells, but 2 columns" in {bad.reason for bad in source.bad}


def test_a_quote_that_is_never_closed_costs_one_line_of_a_long_file(tmp_path: Path) -> None:
    rows = [b"%d,%s" % (n, b"x" * 20) for n in range(30_000)]
    path = plain(tmp_path, "a.csv", b"\n".join([b"n,s", b'"oops,1', *rows]))
    items, source = read_file(path)
    assert len(items) == len(rows)
    assert [(bad.line, bad.source) for bad in source.bad] == [(2, str(path))]


Cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6)


@given(st.lists(st.tuples(Cell, Cell, Cell), max_size=8), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_rows_are_those_of_the_csv_module(tmp_path: Path, rows: list[tuple[str, ...]], quoting: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator="\n")  # type: ignore[arg-type]
    writer.writerows([("a", "b", "c"), *rows])
    path = plain(tmp_path, "odd.csv", text.getvalue().encode())
    assert [json.loads(value or b"") for value in values(path, Format(as_text=True))] == [
        dict(zip("abc", row, strict=True)) for row in rows
    ]


def test_where_a_batch_is_cut_changes_no_row() -> None:
    lines = [b'1,"a', b'b"', b"2,c", b'3,"d"', b"", b"4,e"]
    parser = CsvParser("x", Format(), ("n", "s"))
    whole = parser.parse(lines, 1, final=True)
    for cut in range(1, len(lines)):
        first = parser.parse(lines[:cut], 1, final=False)
        rest = parser.parse(lines[first.used :], first.used + 1, final=True)
        assert [*first.records, *rest.records] == list(whole.records)
        assert first.blank + rest.blank == whole.blank == 1


def twin(cells: list[str]) -> list[bytes]:
    """What cells of one column are: the narrowest of int, float and text that all of them fit."""
    there = [cell for cell in cells if cell not in ("", "null")]
    whole = all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", cell) for cell in there)
    number = all(re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", cell) for cell in there)
    number = number and not any(re.fullmatch(r"-?[0-9]{16,}", cell) for cell in there)
    write: Callable[[str], bytes] = msgspec.json.encode
    if there and whole:
        write = str.encode
    elif there and number:
        write = lambda cell: msgspec.json.encode(float(cell))  # noqa: E731
    return [b"null" if cell in ("", "null") else write(cell) for cell in cells]


# Columns of one flavour each, since what is alike is written all at once.
Flavours = [["1", "20"], ["user-1", "user-é"], ["2013-01-01T1:00", "1T"], ["x", "Ab"], ["a\\b", "a"], ["a\tb", "\x7f"]]
Flavours += [
    ["1", "-1", "-0"],
    ["1", "007", "0"],
    ["12345678901234567890", "3"],
    ["1", ""],
    ["NA", "ab"],
    ["1e5", "1"],
    ["null", "1.5"],
]


@given(st.sampled_from(Flavours).flatmap(lambda cells: st.lists(st.sampled_from(cells), min_size=1, max_size=6)))
def test_cells_are_numbers_nulls_and_text(cells: list[str]) -> None:
    for columns, row, value in (("a", "%s", b'{"a":%b}'), ("ab", "%s,x", b'{"a":%b,"b":"x"}')):
        lines = [(row % cell).encode() for cell in cells]
        found = CsvParser("x", guessed(Format(), columns, lines), tuple(columns)).parse(lines, 1, final=True)
        expected = [value % made for cell, made in zip(cells, twin(cells), strict=True) if cell or len(columns) > 1]
        assert [item[1] for item in found.records] == expected
        assert found.bad == []


def guessed(format: Format, columns: Sequence[str], lines: list[bytes]) -> Format:
    types = infer_row_types(lines, columns, format, final=True)
    return replace(format, inferred=tuple(types.items()))


Odd = st.text("019-.+eE \"'xé\u0663NA,", max_size=4)
Number = st.integers(-3, 10**20).map(str)


@given(
    st.lists(st.tuples(Odd | Number, Number, Odd), min_size=1, max_size=8),
    st.sampled_from([(), (("a", "int"),), (("b", "text"), ("c", "float"))]),
    st.sampled_from([("", "NA"), ("1", "-"), ()]),
)
def test_many_rows_at_once_are_what_they_are_one_by_one(
    rows: list[tuple[str, ...]], types: tuple[tuple[str, str], ...], nulls: tuple[str, ...]
) -> None:
    lines = [",".join(row).encode() for row in rows]
    format = guessed(Format(key="a", time="b", types=types, nulls=nulls, quote=""), "abc", lines)

    def parsed(some: list[bytes], first: int) -> tuple[list[SourceRecord], list[str], int]:
        found = CsvParser("x", format, ("a", "b", "c")).parse(some, first, final=True)
        return list(found.records), sorted(str(bad) for bad in found.bad), found.blank

    alone = [parsed([line], number) for number, line in enumerate(lines, 1)]
    items, bad, blank = parsed(lines, 1)
    assert items == [item for found in alone for item in found[0]]
    assert bad == sorted(said for found in alone for said in found[1])
    assert blank == sum(found[2] for found in alone)
