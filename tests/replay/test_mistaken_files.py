"""Files that are joined from several, or are not what their names and options say: read right, or told."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from anabranch.replay.sources.file_history import FileHistory, find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.formats import avro_file
from anabranch.replay.sources.formats.line_buffer import BlockBuffer, LineBuffer
from line_files import plain, refusal
from packed_histories import both


def history(path: Path, **format: Any) -> FileHistory:
    return find_history([str(path)], Format(**format))


FIRST, SECOND = b"user,n\nann,1\nbob,2\n", b"user,n\ncid,3\n"


# ---- several files in one ----


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_header_within_a_file_is_a_bad_line_and_makes_no_column_text(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], mark: bytes
) -> None:
    path = plain(tmp_path, f"a.csv{ending}", pack(mark + FIRST) + pack(mark + SECOND))
    records, ((line, reason, value),) = both(history(path))
    assert [record[1] for record in records] == [
        b'{"user":"ann","n":1}',
        b'{"user":"bob","n":2}',
        b'{"user":"cid","n":3}',
    ]
    assert (line, value) == (4, mark + b"user,n")
    assert reason.startswith("the header again")


@pytest.mark.parametrize("name", [b"v", b"2013"])
def test_a_header_with_a_mark_and_quotes_is_one_again(tmp_path: Path, name: bytes) -> None:
    part = b'\xef\xbb\xbf"u","%b"\n"a","b"\n' % name
    records, bad = both(history(plain(tmp_path, "a.csv", part + part)))
    assert [record[1] for record in records] == [b'{"u":"a","%b":"b"}' % name] * 2
    assert [line for line, *_ in bad] == [3]


def test_a_header_is_no_row_of_columns_of_text_either(tmp_path: Path) -> None:
    records, bad = both(history(plain(tmp_path, "a.csv", b"u,v\na,b\nu,x\nu,v\n")))
    assert [record[1] for record in records] == [b'{"u":"a","v":"b"}', b'{"u":"u","v":"x"}']
    assert [line for line, *_ in bad] == [4]


@pytest.mark.parametrize("data", [b"word\na\nword\n", b"1,2\n3,4\n1,2\n"])
def test_a_row_that_may_be_one_is_a_row(tmp_path: Path, data: bytes) -> None:
    records, bad = both(history(plain(tmp_path, "a.csv", data)))
    assert (len(records), bad) == (2, [])
    records, bad = both(history(plain(tmp_path, "b.csv", b"u,v\na,b\n"), columns=("u", "v")))
    assert (len(records), bad) == (2, [])


@pytest.mark.parametrize("more", [b"garbage", b"X" + bz2.compress(b"cid,3\n")[1:]])
def test_what_follows_a_stream_of_bzip2_and_cannot_be_read_is_bad(tmp_path: Path, more: bytes) -> None:
    records, ((line, reason, _),) = both(history(plain(tmp_path, "a.csv.bz2", bz2.compress(FIRST) + more)))
    assert (len(records), line) == (2, 4)
    assert "the rest of the file is not read" in reason


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
@pytest.mark.parametrize("zeros", [1, 70_000])
def test_zeros_behind_a_compressed_stream_are_padding(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], zeros: int
) -> None:
    padding = bytes(zeros)
    path = plain(tmp_path, f"a.csv{ending}", pack(FIRST) + padding + pack(b"cid,3\n") + padding)
    records, bad = both(history(path))
    assert (len(records), bad) == (3, [])


# ---- another format ----


def of_parquet() -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), out)
    return out.getvalue()


def of_tar(how: int = tarfile.DEFAULT_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=how) as archive:
        member = tarfile.TarInfo("a.csv")
        member.size = len(FIRST)
        archive.addfile(member, io.BytesIO(FIRST))
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(FIRST), "gzip"),
        (bz2.compress(FIRST), "bzip2"),
        (lzma.compress(FIRST), "xz"),
        (zstandard.ZstdCompressor().compress(FIRST), "zstd"),
        (b"PK\x03\x04\nabc\n", "zip"),
        (of_parquet(), "Parquet"),
        (of_tar(), "tar"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "pointer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_holds_no_lines_is_said_to_be_what_it_is(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = plain(tmp_path, name, data)
    records, ((_, reason, _),) = both(history(path))
    assert not records
    assert f"it is {kind}" in reason.replace("it is a ", "it is ")
    assert "not lines" in both(history(path, encoding="latin-1"))[1][0][1]


@pytest.mark.parametrize("how", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_text_with_mustard_in_it_is_no_tar_archive(tmp_path: Path, how: int) -> None:
    archive = of_tar(how)
    at = archive.index(b"ustar")
    assert both(history(plain(tmp_path, "a.txt", archive)))[1]
    records, bad = both(history(plain(tmp_path, "b.txt", b" " * (at - 1) + b"mustard\nb\n")))
    assert (len(records), bad) == (2, [])


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"user;n\nann;1\n", "';'"),
        (b"user\tn\nann\t1\n", r"$'\t'"),
        (b"a;b;c\n1,5;2;3\n", "';'"),
        (b"a|b\n1|2\n", "'|'"),
    ],
)
def test_a_header_with_another_delimiter_is_refused(tmp_path: Path, data: bytes, shown: str) -> None:
    path = plain(tmp_path, "a.csv", data)
    for key in (None, "user"):
        assert f"--delimiter {shown}" in refusal(lambda key=key: history(path, key=key).check("t"))
    assert len(both(history(path, delimiter=","))[1]) in (0, 1)
    (record,) = both(history(path, delimiter=data[data.index(b"\n") - 2 :][:1].decode()))[0]
    assert b'":' in (record[1] or b"")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b'"a;b"\nx;y\n'),
        ("a.csv", b'"last; first; age",n\nx,1\n'),
        ("a.csv", b"Betrag; EUR\n1\n2\n"),
        ("a.csv", b"id,kind (0|1|2)\n1,0\n2,2\n"),
        ("a.tsv", b"freq,unit,geo,time\t2010\t2011\nA,PC,NL,x\t1.0\t2.0\n"),
    ],
)
def test_a_header_with_other_delimiters_in_its_names_is_read(tmp_path: Path, name: str, data: bytes) -> None:
    records, bad = both(history(plain(tmp_path, name, data)))
    assert (len(records), bad) == (data.count(b"\n") - 1, [])


@pytest.mark.parametrize("rows", [b"", b"ann\nbob;1\n", b"ann;1,5\n"])
def test_a_header_is_refused_if_its_rows_may_have_the_other_delimiter(tmp_path: Path, rows: bytes) -> None:
    path = plain(tmp_path, "a.csv", b"user;n\n" + rows)
    assert "--delimiter ';'" in refusal(lambda: history(path).check("t"))


@pytest.mark.parametrize("delimiter", [None, ";"])
def test_a_first_line_for_spreadsheets_is_refused(tmp_path: Path, delimiter: str | None) -> None:
    path = plain(tmp_path, "a.csv", b"sep=;\nuser;n\nann;1\n")
    assert "tail -n +2" in refusal(lambda: history(path, delimiter=delimiter).check("t"))


# ---- encodings ----


@pytest.mark.parametrize(
    ("encoding", "text"), [("iso2022_jp", "日本"), ("utf-7", "日本"), ("hz", "中国"), ("iso2022_kr", "이름")]
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_encodings_without_bytes_above_127_are_decoded(tmp_path: Path, name: str, encoding: str, text: str) -> None:
    lines = {"a.csv": f"user,n\n{text},1\n", "a.jsonl": f'{{"user":"{text}","n":1}}\n', "a.txt": f"{text}\n"}[name]
    records, bad = both(history(plain(tmp_path, name, lines.encode(encoding)), encoding=encoding))
    assert not bad
    assert (records[-1][1] or b"").decode() == (text if name == "a.txt" else f'{{"user":"{text}","n":1}}')


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_each_line_begins_in_ascii_wherever_a_batch_is_cut(tmp_path: Path, name: str) -> None:
    # The first line does not return to ASCII from the Roman letters of Japan, where a backslash is a yen.
    data = b"u,n\n\x1b(Ja\\b,1\na\\b,2\n"
    records, bad = both(history(plain(tmp_path, name, data), encoding="iso2022_jp"))
    assert not bad
    assert ["¥" in (value or b"").decode() for _, value, _ in records[-2:]] == [True, False]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "U8", "utf"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_utf_8_has_many_names(tmp_path: Path, name: str, encoding: str) -> None:
    data = b"\xef\xbb\xbfu,n\n\xef\xbb\xbf\xc3\xa9,1\n\xff,2\n"
    records, ((line, *_),) = both(history(plain(tmp_path, name, data), encoding=encoding))
    assert line == 3
    assert (records[-1][1] or b"").decode() == ("\ufeffé,1" if name == "a.txt" else '{"u":"\ufeffé","n":1}')


@pytest.mark.parametrize(("mark", "told"), [("utf-8-sig", "omit --encoding"), ("utf-16", "iconv")])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_a_file_whose_mark_names_another_encoding_is_bad(tmp_path: Path, name: str, mark: str, told: str) -> None:
    path = plain(tmp_path, name, "u,n\né,1\n".encode(mark))
    for encoding in ("latin-1", "cp1252"):
        records, ((_, reason, _),) = both(history(path, encoding=encoding))
        assert (records, told in reason) == ([], True)


@pytest.mark.parametrize("kind", [LineBuffer, BlockBuffer])
@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbfa\nb", b"\xef\xbba\nb", b"\xef\xbb", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbfa\n"]
)
def test_a_byte_order_mark_may_arrive_in_pieces(kind: type[LineBuffer], data: bytes) -> None:
    expected = data.removeprefix(b"\xef\xbb\xbf")
    for size in (1, 2, 3, 100):
        buffer = kind("s")
        for at in range(0, len(data), size):
            buffer.feed(data[at : at + size])
        buffer.finish()
        lines = list(buffer.peek(10))
        buffer.drop(len(lines))
        assert (b"\n".join(lines), buffer.byte) == (expected.removesuffix(b"\n"), len(data))


# ---- fields of folders ----


def test_fields_of_folders_leave_a_line_as_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "y=2013"
    folder.mkdir()
    lines = [
        b'{"p":1.50}',
        b'{"p":1.50,"s":"\\"y\\""}',
        b'{"p":1.50,"s":"y","l":["y"]}',
        b'{"p":1.50, "y":5}',
        b'{"p":1.50,"\\u0079":5}',
    ]
    records, bad = both(history(plain(folder, "a.jsonl", b"\n".join(lines)), key="p"))
    assert not bad
    assert [key for key, *_ in records] == [b"1.50"] * 5
    assert [value for _, value, _ in records] == [line[:-1] + b',"y":2013}' for line in lines[:3]] + lines[3:]


def test_standard_input_is_refused_with_the_remedy() -> None:
    assert "save it to a file first" in refusal(lambda: find_history(["-"], Format()))


# ---- Avro ----


# The first and the last numbers of each size that Avro gives them.
EDGES = [sign * (1 << bits) + more for bits in (0, *range(6, 63, 7)) for sign in (1, -1) for more in (-1, 0)]


def container(
    codec: str, change: Callable[[int, bytearray], int] = lambda count, _: count, rows: int = 5, size: int = 1
) -> bytes:
    """An Avro file of one block, changed by `change`, which returns the number of records that the block claims."""
    from fastavro import schemaless_writer

    fields = [{"name": "k", "type": ["null", "string"]}, {"name": "*", "type": "long"}, {"name": "f", "type": "double"}]
    schema: Any = {"type": "record", "name": "r", "fields": fields}
    empty = io.BytesIO()
    fastavro.writer(empty, schema, [], codec=codec, sync_marker=b"0123456789abcdef")
    data = io.BytesIO()
    for n in range(rows):
        schemaless_writer(
            data, schema, {"k": None if n % 3 == 2 else f"k{n}" * size, "*": EDGES[n % len(EDGES)], "f": n / 4}
        )
    found = bytearray(data.getvalue())
    count = change(rows, found)
    block = bytes(found)
    if codec == "snappy":
        import pyarrow

        block = pyarrow.Codec("snappy").compress(block, asbytes=True) + zlib.crc32(data.getvalue()).to_bytes(4, "big")
    out = io.BytesIO()
    encoder = fastavro._write_py.BinaryEncoder(out)  # type: ignore[attr-defined]
    encoder.write_long(count)
    encoder.write_long(len(block))
    return empty.getvalue() + out.getvalue() + block + b"0123456789abcdef"


@pytest.mark.parametrize(("rows", "size"), [(5, 1), (30_000, 20)])
def test_avro_records_that_a_block_does_not_count_are_not_lost_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, size: int
) -> None:
    sound = history(plain(tmp_path, "a.avro", container("null", rows=rows, size=size)))
    with monkeypatch.context() as patch:
        # Blocks without damage are decoded as a whole.
        patch.delattr(avro_file, "_one_by_one")
        assert len(both(sound)[0]) == rows
    short = container("null", lambda count, _: count - 1, rows=rows, size=size)
    records, ((line, reason, _),) = both(history(plain(tmp_path, "b.avro", short)))
    assert (len(records), line) == (rows - 2, rows - 1)
    assert "bytes follow its last record" in reason


def test_an_avro_block_of_no_records_has_no_bytes(tmp_path: Path) -> None:
    records, ((_, reason, _),) = both(history(plain(tmp_path, "a.avro", container("null", lambda *_: 0))))
    assert (records, "no records" in reason) == ([], True)


def test_a_snappy_block_with_a_wrong_checksum_is_bad(tmp_path: Path) -> None:
    def damage(count: int, data: bytearray) -> int:
        data[-1] ^= 1
        return count

    assert len(both(history(plain(tmp_path, "a.avro", container("snappy"))))[0]) == 5
    records, ((_, reason, _),) = both(history(plain(tmp_path, "b.avro", container("snappy", damage))))
    assert (records, "checksum" in reason) == ([], True)
