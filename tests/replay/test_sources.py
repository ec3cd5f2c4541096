"""Sources of lines give the same records for all compressions and batch boundaries."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format, kind_of
from anabranch.replay.sources.formats.line_buffer import LineBuffer
from anabranch.replay.sources.time_parser import TimeParser, parse_time_ms
from anabranch.topics.errors import Stop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_files import plain, read, read_file, refusal, values


def test_a_file_of_many_chunks_is_read_in_bounded_batches(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.txt", b"".join(b"%d\n" % n for n in range(200_000)))
    source = find_history([str(path)], Format()).open()
    sizes: list[int] = []
    seen: list[bytes | None] = []
    while not source.ended:
        batch = source.next_batch().records
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
    assert [str(bad).split("\n")[0] for bad in source.bad] == [
        f"{tmp_path}/data.txt:2: no delimiter ',', so the line has no key"
    ]
    assert source.bad[0].value == b"bob"


def test_bytes_that_are_not_in_the_encoding_are_bad_lines(tmp_path: Path) -> None:
    path = plain(tmp_path, "a.txt", b"ok\n\xff\xfe\nalso \xc3\xa9\n")
    items, source = read_file(path)
    assert [item[1] for item in items] == [b"ok", b"also \xc3\xa9"]
    assert [(bad.line, bad.reason) for bad in source.bad] == [(2, "not valid utf-8 at byte 1 of the line")]


def test_another_encoding_is_sent_as_utf8(tmp_path: Path) -> None:
    assert values(plain(tmp_path, "a.txt", b"caf\xe9\n"), Format(encoding="latin-1")) == ["café".encode()]


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
    assert outcome(lambda: TimeParser(how).parse_all(written)) == outcome(
        lambda: [parse_time_ms(each, how) for each in written]
    )


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


def test_a_missing_file_and_a_glob_without_files_are_named(tmp_path: Path) -> None:
    assert "nope.csv" in refusal(lambda: find_history([str(tmp_path / "nope.csv")], Format()))
    assert "no file matches" in refusal(lambda: find_history([str(tmp_path / "*.csv")], Format()))
    assert "contains no files" in refusal(lambda: find_history([str(tmp_path)], Format()))


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
    assert "columns 1 and 2 of the header have the same name 'x'" in refusal(lambda: history.check("t"))


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
