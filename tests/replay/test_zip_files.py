"""Zip archives with many files, unusual, damaged or malicious ones, and files that change while they are read."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import polars
import pytest
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.files import file_opening
from anabranch.replay.sources.format import Format
from anabranch.topics.errors import Stop
from line_files import Reading, read, refusal
from packed_histories import packed_records, plain_records

LINE = b'{"k":1}\n'


def archive(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name.replace("_dot_", "."), data)
    return path


def patched(path: Path, magic: bytes, at: int, value: int) -> Path:
    """With two bytes of each header of a kind set."""
    data, begin = bytearray(path.read_bytes()), 0
    while (begin := data.find(magic, begin)) >= 0:
        struct.pack_into("<H", data, begin + at, value)
        begin += 4
    path.write_bytes(data)
    return path


def test_the_directory_of_an_archive_is_read_once_for_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Counted(zipfile.ZipFile):
        def __init__(self, file: Any, *more: Any) -> None:
            made.append(str(file))
            super().__init__(file, *more)

    paths = [archive(tmp_path / name, **{f"{n:03}_dot_jsonl": LINE for n in range(50)}) for name in ("a.zip", "b.zip")]
    monkeypatch.setattr(file_opening.zipfile, "ZipFile", Counted)
    history = find_history([str(path) for path in paths], Format(key="k"))
    history.check("t")
    assert len(read(history.open())) == 100
    # As a merge does: one of the first, one of the second, many at a time.
    parts = history.parts
    opened = [parts[at].open(None, 10) for pair in zip(range(50), range(50, 100), strict=True) for at in pair]
    assert sum(len(source.next_batch().records) for source in opened) == 100
    for source in opened:
        source.close()
    assert len(made) == 2


def test_archives_that_nobody_reads_are_closed(tmp_path: Path) -> None:
    held = []
    for number in range(6):
        path = archive(tmp_path / f"{number}.zip", a_dot_jsonl=LINE, b_dot_jsonl=LINE)
        source = Reading(find_history([str(path)], Format()).open())
        source.next()
        held.append(source)
    assert all(len(source.rest()) == 1 for source in held)
    for source in held:
        source.source.close()
    targets = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert sum(str(tmp_path) in target for target in targets) <= 3


def test_an_archive_of_an_odd_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = patched(archive(tmp_path / "a.zip", a_dot_jsonl=LINE), b"PK\x01\x02", 6, 200)
    said = refusal(lambda: find_history([str(path)], Format()), Stop)
    assert "cannot be read as a zip archive: zip file version 20.0" in said


def test_an_archive_with_a_name_that_is_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", é_dot_jsonl=LINE)
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    assert "cannot be read as a zip archive" in refusal(lambda: find_history([str(path)], Format()), Stop)


@pytest.mark.parametrize(
    ("at", "value", "said"), [(8, 1, "encrypted"), (10, 97, "compression"), (6, 200, "zip file version")]
)
def test_a_file_of_an_archive_that_cannot_be_opened_is_bad_and_its_neighbours_are_read(
    tmp_path: Path, at: int, value: int, said: str
) -> None:
    path = archive(tmp_path / "a.zip", a_dot_jsonl=LINE, b_dot_jsonl=LINE)
    data = bytearray(path.read_bytes())
    local, central = data.find(b"PK\x03\x04"), data.find(b"PK\x01\x02")
    struct.pack_into("<H", data, local + at - 2, value)
    struct.pack_into("<H", data, central + at, value if at != 6 else 20)
    path.write_bytes(data)
    source = Reading(find_history([str(path)], Format()).open())
    items = source.rest()
    if at == 6:  # what is needed to read it stands in the directory; the copy before the file is not looked at
        assert len(items) == 2
        return
    assert len(items) == 1
    (bad,) = source.bad
    assert said in bad.reason
    assert bad.position == f"{path}!a.jsonl:1"


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_damaged_archive_is_bad_files_or_a_refusal(tmp_path: Path, cut: int) -> None:
    path = archive(tmp_path / "a.zip", a_dot_jsonl=LINE * 20, b_dot_csv=b"k\n1\n", c_dot_txt=b"x\n")
    data = bytearray(path.read_bytes())
    data[cut % len(data)] ^= 0xA5
    path.write_bytes(data)
    try:
        read(find_history([str(path)], Format()).open())
    except Stop as exc:
        assert str(path) in str(exc)


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("../../etc/year=1/x.jsonl", LINE)
        made.writestr("/etc/passwd.jsonl", LINE)
        made.writestr("_temporary/0.jsonl", LINE)
        made.writestr(".hidden.jsonl", LINE)
    before = sorted(tmp_path.rglob("*"))
    history = find_history([str(tmp_path / "a.zip")], Format())
    assert [member.inside for member in history.entries] == ["../../etc/year=1/x.jsonl", "/etc/passwd.jsonl"]
    assert [item[1] for item in read(history.open())] == [LINE[:-1]] * 2
    assert sorted(tmp_path.rglob("*")) == before
    chosen = find_history([f"{tmp_path / 'a.zip'}!_temporary/*.jsonl"], Format())
    assert [member.inside for member in chosen.entries] == ["_temporary/0.jsonl"]


def test_what_grows_beyond_measure_when_it_is_unpacked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_opening, "_UNPACKED_BYTES", 1024 * 1024)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb.parquet", b"PAR1" + bytes(32 * 1024 * 1024))
        polars.DataFrame({"k": [1]}).write_parquet(tmp_path / "good.parquet")
        made.write(tmp_path / "good.parquet", "good.parquet")
    source = Reading(find_history([str(tmp_path / "a.zip")], Format()).open())
    assert len(source.rest()) == 1
    assert "decompresses to more than 200 times its size" in source.bad[0].reason


# ---- what changes while it is read ----


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(LINE)


def overwritten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(0, 1))


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def truncated(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (appended, "bytes"),
        (overwritten, "in its content"),
        (replaced, "replaced by another file"),
        (truncated, "to 100 bytes"),
        (Path.unlink, "no longer exists"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.zip", "a.parquet"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, name: str, change: Any, said: str) -> None:
    path = tmp_path / name
    lines = b"".join(b'{"k":"%064x","n":%d}\n' % (n * 2**200 // 7 % 2**255, n) for n in range(20_000))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines, 1))
    elif name.endswith(".zip"):
        archive(path, a_dot_jsonl=lines, b_dot_jsonl=lines)
    elif name.endswith(".parquet"):
        polars.read_ndjson(lines).write_parquet(path, row_group_size=2_000)
    else:
        path.write_bytes(lines)
    source = Reading(find_history([str(path)], Format()).open(batch_lines=500))
    source.next()
    change(path)
    message = refusal(source.rest, Stop)
    assert f"{path} changed while it was read" in message
    assert said in message


def test_a_file_that_changes_after_it_was_found_and_before_it_is_opened_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(LINE)
    history = find_history([str(tmp_path)], Format())
    appended(tmp_path / "b.jsonl")
    assert "b.jsonl changed while it was read" in refusal(lambda: read(history.open()), Stop)


def test_a_zstd_file_that_asks_for_much_memory_is_bad(tmp_path: Path) -> None:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    maker = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(maker.compress(LINE * 1000) + maker.flush())
    source = Reading(find_history([str(tmp_path / "a.jsonl.zst")], Format()).open())
    assert source.rest() == []
    assert "without --long" in source.bad[0].reason


@pytest.mark.parametrize("ending", ["gz", "bz2", "zip", "gz.zip"])
def test_what_is_read_of_a_damaged_file_does_not_depend_on_how_it_is_cut(tmp_path: Path, ending: str) -> None:
    lines = b"".join(b'{"k":"k%d","v":%d}\n' % (n % 7, n * 7_919) for n in range(20_000))
    made = {"gz": gzip.compress, "bz2": bz2.compress}.get(ending.split(".")[0], bytes)(lines)
    if ending != "zip":
        data = bytearray(made)
        data[-6 if ending == "bz2" else len(data) * 2 // 3] ^= 0x10
        made = bytes(data)
    path = tmp_path / f"a.jsonl.{ending}"
    if ending.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.jsonl.gz" if ending == "gz.zip" else "a.jsonl", made)
        if ending == "zip":
            data = bytearray(path.read_bytes())
            data[len(data) * 2 // 3] ^= 0x10
            path.write_bytes(data)
    else:
        path.write_bytes(made)
    history = find_history([str(path)], Format())
    records, bad, blank = plain_records(history)
    assert packed_records(history) == (records, bad, blank)
    assert plain_records(history, 7) == (records, bad, blank)
    source = Reading(history.open(batch_lines=999))
    again = [item[1] for item in source.next()]
    source.source.close()
    resumed = Reading(history.open(source.position))
    again += [item[1] for item in resumed.rest()]
    resumed.source.close()
    assert again == [value for _, value, _ in records]
