"""Sources of lines: what every kind of file promises, however it is packed and wherever it is cut."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from anabranch.replay.course.placement import last_of_each, place
from anabranch.replay.sources.csvfile import CsvParser
from anabranch.replay.sources.format import Format, kind_of
from anabranch.replay.sources.history import find_history
from anabranch.replay.sources.item import BadLine, Item
from anabranch.replay.sources.lines import LineBuffer
from anabranch.replay.sources.source import Position, Source
from anabranch.replay.sources.stamp import Stamps, parse_time_ms
from anabranch.replay.target import Target
from anabranch.topics.deadletter import dead_letter
from anabranch.topics.errors import AnabranchError, Stop, Usage
from anabranch.topics.partition import HashPlan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DAY_MS = 86_400_000


def read(source: Source) -> list[Item]:
    items: list[Item] = []
    while not source.ended:
        items += source.next_batch()
    return items


def read_file(path: Path, format: Format | None = None, position: Position | None = None) -> tuple[list[Item], Source]:
    source = find_history([str(path)], format or Format()).open(position)
    return read(source), source


def values(path: Path, format: Format | None = None) -> list[bytes | None]:
    return [item[1] for item in read_file(path, format)[0]]


def plain(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_a_file_of_many_chunks_is_read_in_bounded_batches(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.txt", b"".join(b"%d\n" % n for n in range(200_000)))
    source = find_history([str(path)], Format()).open()
    sizes: list[int] = []
    seen: list[bytes | None] = []
    while not source.ended:
        batch = source.next_batch()
        sizes.append(len(batch))
        seen += [item[1] for item in batch]
    assert max(sizes) <= 5_000
    assert seen == [b"%d" % n for n in range(200_000)]


# ---- text ----


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_odd_bytes_travel_as_they_are(tmp_path: Path, lines: list[bytes]) -> None:
    path = plain(tmp_path, "odd.txt", b"".join(line + b"\n" for line in lines))
    assert values(path, Format(encoding="bytes")) == lines


@given(st.lists(st.binary(max_size=9)), st.integers(1, 7))
def test_lines_are_cut_alike_however_the_bytes_arrive(chunks: list[bytes], limit: int) -> None:
    whole = b"".join(chunks)
    buffer = LineBuffer("x", skip_bom=False)
    for chunk in chunks:
        buffer.feed(chunk)
    buffer.finish()
    got: list[bytes] = []
    while buffer.waiting:
        taken = buffer.peek(limit)
        got += taken
        buffer.drop(len(taken))
        assert whole.startswith(b"\n".join(got))
    expected = whole.split(b"\n")
    assert got == (expected[:-1] if expected[-1] == b"" else expected)
    assert (buffer.byte, buffer.line) == (len(whole), len(got))


def test_what_stands_before_the_delimiter_is_the_key_and_the_line_stays_whole(tmp_path: Path) -> None:
    path = plain(tmp_path, "data.txt", b"ann,1\nbob,2,3\n\n,4\n")
    items, source = read_file(path, Format(key_before=","))
    assert [item[:2] for item in items] == [(b"ann", b"ann,1"), (b"bob", b"bob,2,3"), (b"", b",4")]
    assert source.blank == 1


def test_a_line_without_the_delimiter_is_bad(tmp_path: Path) -> None:
    _, source = read_file(plain(tmp_path, "data.txt", b"ann,1\nbob\n"), Format(key_before=","))
    assert [str(bad).split("\n")[0] for bad in source.bad] == [f"{tmp_path}/data.txt:2: no ',' ends a key"]
    assert source.bad[0].value == b"bob"


def test_bytes_that_are_not_in_the_encoding_are_bad_lines(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.txt", b"ok\n\xff\xfe\nalso \xc3\xa9\n")
    items, source = read_file(path)
    assert [item[1] for item in items] == [b"ok", b"also \xc3\xa9"]
    assert [(bad.line, bad.reason) for bad in source.bad] == [(2, "not valid utf-8 at byte 1 of the line")]


def test_another_encoding_is_sent_as_utf8(tmp_path: Path) -> None:
    assert values(plain(tmp_path, "a.txt", b"caf\xe9\n"), Format(encoding="latin-1")) == ["café".encode()]


# ---- CSV ----


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
        *(0, -7, "007", 1.5, 1000.0, -0.25, "+1", "1.", ".5", None, None, "nan", "1_0", "TRUE", '"q"', "é", "9" * 19)
    ]


def test_cells_can_stay_text(tmp_path: Path) -> None:
    assert values(plain(tmp_path, "a.csv", b"a,b,c\n1,,NA\n"), Format(as_text=True)) == [b'{"a":"1","b":"","c":"NA"}']


def test_nulls_are_what_the_user_says(tmp_path: Path) -> None:
    assert values(plain(tmp_path, "a.csv", b"a,b\n-,NA\n"), Format(nulls=("-",))) == [b'{"a":null,"b":"NA"}']


def test_a_file_without_a_header_takes_names(tmp_path: Path) -> None:
    items, _ = read_file(plain(tmp_path, "a.tsv", b"x\t1\ny\t2\n"), Format(columns=("k", "n"), key="k"))
    assert [item[:2] for item in items] == [(b"x", b'{"k":"x","n":1}'), (b"y", b'{"k":"y","n":2}')]


def test_a_null_key_is_none(tmp_path: Path) -> None:
    items, _ = read_file(plain(tmp_path, "a.csv", b"k,n\nNA,1\nx,2\n"), Format(key="k"))
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
        assert first.items + rest.items == whole.items
        assert first.blank + rest.blank == whole.blank == 1


def as_json(cell: str) -> bytes:
    if cell in ("", "NA"):
        return b"null"
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", cell):
        return cell.encode()
    return msgspec.json.encode(float(cell) if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+|[eE]\d)", cell, re.ASCII) else cell)


# Columns of one flavour each, since what is alike is written all at once.
Flavours = [["1", "20"], ["user-1", "user-é"], ["2013-01-01T1:00", "1T"], ["x", "Ab"], ["a\\b", "a"], ["a\tb", "\x7f"]]
Flavours += [["1", "-1", "-0"], ["1", "007", "0"], ["12345678901234567890", "3"], ["1", ""], ["NA", "ab"], ["1e5", "1"]]


@given(st.sampled_from(Flavours).flatmap(lambda cells: st.lists(st.sampled_from(cells), min_size=1, max_size=6)))
def test_cells_are_numbers_nulls_and_text(cells: list[str]) -> None:
    for columns, row, value in (("a", "%s", b'{"a":%b}'), ("ab", "%s,x", b'{"a":%b,"b":"x"}')):
        parser = CsvParser("x", Format(), tuple(columns))
        found = parser.parse([(row % cell).encode() for cell in cells], 1, final=True)
        expected = [value % as_json(cell) for cell in cells if cell or len(columns) > 1]
        assert [item[1] for item in found.items] == expected
        assert found.bad == []


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
    format = Format(key="a", time="b", types=types, nulls=nulls, quote="")

    def parsed(some: list[bytes], first: int) -> tuple[list[Item], list[str], int]:
        found = CsvParser("x", format, ("a", "b", "c")).parse(some, first, final=True)
        return found.items, sorted(str(bad) for bad in found.bad), found.blank

    alone = [parsed([line], number) for number, line in enumerate(lines, 1)]
    items, bad, blank = parsed(lines, 1)
    assert items == [item for found in alone for item in found[0]]
    assert bad == sorted(said for found in alone for said in found[1])
    assert blank == sum(found[2] for found in alone)


@given(
    st.lists(st.integers(-2, 10**21) | st.integers(0, 99).map(lambda n: 1_357_034_400_000 + n), min_size=1, max_size=5),
    st.sampled_from(["auto", "iso", "s", "ms", "us", "ns", "%Y%m%d"]),
    st.booleans(),
)
def test_many_times_at_once_are_what_they_are_one_by_one(numbers: list[int], how: str, as_text: bool) -> None:
    def outcome(read: Callable[[], list[int]]) -> list[int] | str:
        try:
            return read()
        except ValueError as exc:
            return str(exc)

    written = [str(number) for number in numbers] if as_text else numbers
    assert outcome(lambda: Stamps(how).many(written)) == outcome(lambda: [parse_time_ms(each, how) for each in written])


# ---- JSON Lines ----


def test_the_value_is_the_line_and_the_key_is_text(tmp_path: Path) -> None:
    lines = [
        b'{"a": 1, "k" : "x y"}',
        b'{"k":1.50}',
        b'{"k":true}',
        b'{"k":"\\n\\"\\u00e9"}',
        b'{"k":null}',
        b'{"k":""}',
    ]
    items, _ = read_file(plain(tmp_path, "a.jsonl", b"\n".join(lines)), Format(key="k"))
    assert [item[1] for item in items] == lines
    assert [item[0] for item in items] == [b"x y", b"1.50", b"true", '\n"é'.encode(), None, b""]


def test_bad_json_is_named_by_line(tmp_path: Path) -> None:
    lines = [b'{"k":"a"}', b"{bad", b'{"k":{}}', b'{"K":1,"x":2}', b"[1]", b'{"k":"b"} {}', b'{"k":2}']
    items, source = read_file(plain(tmp_path, "a.jsonl", b"\n".join(lines)), Format(key="k"))
    assert [item[0] for item in items] == [b"a", b"2"]
    assert [bad.line for bad in source.bad] == [2, 3, 4, 5, 6]
    assert source.bad[2].reason == "no field 'k'; fields: K, x"


def test_without_a_key_json_is_still_checked(tmp_path: Path) -> None:
    items, source = read_file(plain(tmp_path, "a.jsonl", b'{"a":1}\n{"a":}\n3\n'))
    assert ([item[1] for item in items], [bad.line for bad in source.bad]) == ([b'{"a":1}', b"3"], [2])


def test_key_and_time_may_be_one_field(tmp_path: Path) -> None:
    items, _ = read_file(plain(tmp_path, "a.jsonl", b'{"t":1357034400}'), Format(key="t", time="t"))
    assert items[0][0:3:2] == (b"1357034400", 1357034400000)


# ---- times ----


@pytest.mark.parametrize(
    "written",
    [
        "2013-01-01T10:00:00Z",
        "2013-01-01 10:00:00",
        "2013-01-01T05:00:00-05:00",
        "2013-01-01T10:00:00.000999",
        1357034400,
        1357034400.0,
        "1357034400",
        1357034400000,
        1357034400000000,
        "1357034400000000000",
    ],
)
def test_times_are_understood(written: object) -> None:
    assert parse_time_ms(written) == 1357034400000


@pytest.mark.parametrize(
    "written",
    ["", "NA", "yesterday", None, True, 0, -5, "1969-12-31", "0001-01-01", 1e30, "1_0", "٣", "nan", [], "99999-01-01"],
)
def test_what_is_no_time_is_refused(written: object) -> None:
    with pytest.raises(ValueError):
        parse_time_ms(written)


def test_a_bad_time_is_a_bad_line(tmp_path: Path) -> None:
    items, source = read_file(plain(tmp_path, "a.csv", b"t,n\n2013-01-01,1\nNA,2\n"), Format(time="t"))
    assert [item[2] for item in items] == [1356998400000]
    assert [(bad.line, bad.reason) for bad in source.bad] == [(3, "not a time: 'NA'")]


# ---- what cannot be read ----


def refusal(make: Callable[[], object], kind: type[AnabranchError] = Usage) -> str:
    with pytest.raises(kind) as caught:
        make()
    return str(caught.value)


def test_a_missing_file_and_a_glob_without_files_are_named(tmp_path: Path) -> None:
    assert "nope.csv" in refusal(lambda: find_history([str(tmp_path / "nope.csv")], Format()))
    assert "no file matches" in refusal(lambda: find_history([str(tmp_path / "*.csv")], Format()))
    assert "holds no files" in refusal(lambda: find_history([str(tmp_path)], Format()))


def test_an_unknown_ending_asks_for_the_format(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.data", b"x\n")
    assert "--format" in refusal(lambda: find_history([str(path)], Format()))
    assert values(path, Format(kind="text")) == [b"x"]


def test_a_wrong_column_lists_those_that_exist(tmp_path: Path) -> None:
    history = find_history([str(plain(tmp_path, "a.csv", b"x,y\n1,2\n"))], Format(key="z"))
    message = refusal(lambda: history.check("t"))
    assert "--key z: no such column" in message
    assert "columns: x, y" in message


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    history = find_history([str(plain(tmp_path, "a.csv", b"x,x\n1,2\n"))], Format())
    assert "stands twice" in refusal(lambda: history.check("t"))


@pytest.mark.parametrize(
    ("name", "format", "says"),
    [
        ("a.txt", Format(key="k"), "--key k"),
        ("a.csv", Format(key_before=","), "--key-before"),
        ("a.jsonl", Format(delimiter=";"), "--delimiter"),
        ("a.csv", Format(delimiter=";;"), "one character"),
        ("a.txt", Format(encoding="nope"), "unknown"),
        ("a.txt", Format(encoding="utf-16"), "UTF-8 first"),
        ("a.csv", Format(encoding="bytes"), "is for text"),
    ],
)
def test_options_that_say_nothing_are_refused(name: str, format: Format, says: str) -> None:
    assert says in refusal(lambda: kind_of(name, format))


def test_a_truncated_gzip_is_named_with_its_line(tmp_path: Path) -> None:
    lines = b"".join(b"%d %d\n" % (n, n * n * 7919) for n in range(90_000))
    path = plain(tmp_path, "a.txt.gz", gzip.compress(lines)[:-5_000])
    items, source = read_file(path)
    (bad,) = source.bad
    assert bad.reason == "ends too early: it is truncated; the rest of the file is not read"
    assert bad.source == str(path)
    assert 1_000 < bad.line == len(items) + 1 <= 90_000


def test_what_is_not_gzip_or_zip_is_named(tmp_path: Path) -> None:
    _, source = read_file(plain(tmp_path, "a.txt.gz", b"plain"))
    assert "a.txt.gz:1: cannot be read" in str(source.bad[0])
    assert "a.txt.zip: cannot be read" in refusal(lambda: read_file(plain(tmp_path, "a.txt.zip", b"plain")), Stop)


def test_a_line_without_end_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.txt", b"x" * (17 * 1024 * 1024))
    items, source = read_file(path)
    assert items == []
    assert "longer than 16,777,216 bytes" in source.bad[0].reason


def test_zip_members_are_read_by_name_and_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("b.txt", "../../a.txt", "README", "__MACOSX/._b.txt", "folder/"):
            archive.writestr(name, name)
    history = find_history([str(path)], Format())
    assert [item[1] for item in read(history.open())] == [b"../../a.txt", b"b.txt"]
    assert history.left_out == (f"{path}!README",)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["all.zip"]


def test_globs_are_sorted_and_nothing_is_read_twice(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        plain(tmp_path, f"{name}.txt", name.encode())
    assert [item[1] for item in read(find_history([str(tmp_path / "*.txt")], Format()).open())] == [b"a", b"b", b"c"]
    twice = [str(tmp_path / "*.txt"), str(tmp_path / "a.txt")]
    assert "given twice" in refusal(lambda: find_history(twice, Format()))


# ---- identity and change ----


def test_a_changed_file_has_another_fingerprint_and_the_same_identity(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.txt", b"one\n")
    before = find_history([str(path)], Format())
    marks = before.fingerprint(), before.identity("t")
    assert (before.fingerprint(), before.identity("t")) == marks
    path.write_bytes(b"two\n")
    after = find_history([str(path)], Format())
    assert after.fingerprint() != marks[0]
    assert after.identity("t") == marks[1]
    assert after.identity("u") != marks[1] != find_history([str(path)], Format(key_before=",")).identity("t")


# ---- places, targets, dead letters ----


@given(st.lists(st.one_of(st.none(), st.binary(max_size=9)), min_size=1), st.integers(1, 9), st.integers(0, 99))
def test_keys_go_where_murmur2_says_and_others_in_turn(keys: list[bytes | None], partitions: int, sent: int) -> None:
    places = place([(key, b"", 0, None, None) for key in keys], HashPlan(partitions), sent)
    for i, (key, partition) in enumerate(zip(keys, places, strict=True)):
        assert partition == ((sent + i) % partitions if key is None else HashPlan(partitions).partition(key))
    last = last_of_each(places)
    assert all(places[i] == p and p not in places[i + 1 :] for p, i in last.items())
    assert set(last) == set(places)


DEFAULTS = {"retention.ms": "604800000", "message.timestamp.after.max.ms": "3600000", "cleanup.policy": "delete"}


@pytest.mark.parametrize(
    ("config", "age_ms", "setting"),
    [
        (DEFAULTS, 8 * DAY_MS, "retention.ms=-1"),
        (DEFAULTS, -2 * 3_600_000, "message.timestamp.after.max.ms"),
        ({"message.timestamp.type": "LogAppendTime"}, 0, "message.timestamp.type=CreateTime"),
        ({"message.timestamp.before.max.ms": "1000"}, 2_000, "message.timestamp.before.max.ms"),
    ],
)
def test_a_topic_that_would_not_keep_records_is_refused_with_the_setting(
    config: dict[str, str], age_ms: int, setting: str
) -> None:
    now_ms = 1_700_000_000_000
    target = Target.of("t", config)
    assert setting in refusal(lambda: target.check_times(now_ms - age_ms, now_ms - age_ms, now_ms), Stop)


def test_a_topic_that_keeps_them_is_taken() -> None:
    now_ms = 1_700_000_000_000
    Target.of("t", DEFAULTS).check_times(now_ms - 6 * DAY_MS, now_ms, now_ms)
    Target.of("t", {"retention.ms": "-1"}).check_times(1, now_ms, now_ms)
    assert Target.of("t", DEFAULTS).warnings() == []


def test_a_compacted_topic_wants_keys_and_warns() -> None:
    target = Target.of("t", {"cleanup.policy": "compact"})
    target.check_keys(without_key=False)
    assert "cleanup.policy=delete" in refusal(lambda: target.check_keys(without_key=True), Stop)
    assert "compacted" in target.warnings()[0]


def test_a_dead_letter_says_only_what_is_known() -> None:
    letter = dead_letter(
        topic="t", reason="line", error="x" * 2_000, key=None, value=b"\xff", headers=[("h", b"1")], source="a.txt:3"
    )
    assert letter[:3] == ("t.dlq", None, b"\xff")
    headers = dict(letter.headers)
    assert headers["h"] == b"1"
    assert headers["anabranch-source"] == b"a.txt:3"
    assert len(headers["anabranch-error"].decode()) == 1_000
    assert "anabranch-offset" not in headers


def test_a_bad_line_knows_where_it_stood() -> None:
    assert BadLine("a.txt", 7, "why", b"x").where == "a.txt:7"


# ---- sockets ----


class Server:
    """Listens on loopback and serves each connection the next of the texts, then closes it."""

    def __init__(self, *texts: list[bytes]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.spec = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._texts = texts
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for text in self._texts:
            connection, _ = self._listening.accept()
            with connection:
                for piece in text:
                    connection.sendall(piece)
        self._listening.close()


def read_until(source: Source, count: int) -> list[Item]:
    items: list[Item] = []
    deadline = time.monotonic() + 10
    while len(items) < count and not source.ended:
        assert time.monotonic() < deadline
        items += source.next_batch() or time.sleep(0.005) or []
    return items


def test_a_socket_ends_when_the_server_closes_it_and_its_last_line_counts() -> None:
    server = Server([b"a,1\nb", b",2\r\n", b"c,3"])
    history = find_history([server.spec], Format(key_before=","))
    assert not history.resumable
    source = history.open()
    assert [item[:2] for item in read_until(source, 99)] == [(b"a", b"a,1"), (b"b", b"b,2"), (b"c", b"c,3")]
    assert source.ended


def test_a_followed_socket_is_connected_to_again() -> None:
    server = Server([b"one\ntwo"], [b"three\n"])
    source = find_history([server.spec], Format(), follow=True).open()
    assert [item[1] for item in read_until(source, 3)] == [b"one", b"two", b"three"]
    assert not source.ended
    assert source.ask_again_s > 0
    source.close()


def test_a_socket_speaks_csv_and_json_too() -> None:
    source = find_history([Server([b'x,"1\n2"\n']).spec], Format(kind="csv", columns=("a", "b"), key="a")).open()
    assert read_until(source, 9) == [(b"x", b'{"a":"x","b":"1\\n2"}', 0, None, None)]
    source = find_history([Server([b'{"a":1}\n']).spec], Format(kind="jsonl", key="a")).open()
    assert read_until(source, 9) == [(b"1", b'{"a":1}', 0, None, None)]


def test_a_socket_nobody_listens_at_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    assert "nc -lk" in refusal(lambda: find_history([spec], Format()).open(), Stop)
    assert "tcp://host:port" in refusal(lambda: find_history(["tcp://nowhere"], Format()))
    assert "alone" in refusal(lambda: find_history([spec, __file__], Format()))
