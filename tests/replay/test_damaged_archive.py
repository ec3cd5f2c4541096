"""Damaged and forged archives are refused in one sentence, whatever their checksums are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from anabranch.replay.archive import ArchiveHistory, Manifest, check_archive
from anabranch.replay.archive.archive_file_writer import ArchiveFileWriter
from anabranch.replay.archive.manifest import MANIFEST, Encoding, read_manifest
from anabranch.replay.archive.record_columns import COLUMNS
from anabranch.replay.sources.format import Format
from anabranch.replay.verify.comparison import verify
from anabranch.replay.verify.comparison_side import find_side
from anabranch.topics.durable_files import sync_path
from anabranch.topics.errors import Stop
from line_files import read, refusal

COUNT = 20


def archived(folder: Path, encoding: Encoding) -> Path:
    folder.mkdir()
    growing = ArchiveFileWriter(folder, encoding, "orders", 0, 0, 0.0)
    rows, offsets = growing.waiting, range(COUNT)
    rows.keys += [b"k%d" % (offset % 3) for offset in offsets]
    rows.values += [b'{"n":%d}' % offset for offset in offsets]
    rows.headers += [[("h", b"x")]] * COUNT
    rows.offsets += offsets
    rows.times += [1_357_034_400_000 + offset for offset in offsets]
    entry = growing.finish(COUNT)
    Manifest(
        topic="orders", topic_id="i", encoding=encoding, columns=COLUMNS, partitions=1,
        begun={0: 0}, positions={0: COUNT}, files=[entry], created_ms=0,
    ).write(folder)  # fmt: skip
    return folder


def data_file(folder: Path) -> Path:
    (path,) = (path for path in folder.iterdir() if path.name[0] == "0")
    return path


def refitted(folder: Path, data: bytes) -> None:
    """Another content of the data file, and a manifest that takes it for the right one."""
    path = data_file(folder)
    path.write_bytes(data)
    manifest = read_manifest(folder)
    assert manifest is not None
    entry = msgspec.structs.replace(manifest.files[0], sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    manifest.files = [entry]
    manifest.write(folder)


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest with a checksum that fits."""
    body = json.loads((folder / MANIFEST).read_bytes())["manifest"]
    change(body)
    text = json.dumps(body).encode()
    sealed = b'{"manifest":%b,"sha256":"%b"}' % (text, hashlib.sha256(text).hexdigest().encode())
    (folder / MANIFEST).write_bytes(sealed)


def replayed(folder: Path) -> list[Any]:
    history = ArchiveHistory(folder, Format())
    history.check("t")
    return read(history.open())


def refused(folder: Path) -> str:
    """The same by all that reads an archive: a replay, and a comparison."""
    said = refusal(lambda: replayed(folder), Stop)
    assert refusal(lambda: verify(find_side(str(folder), Format(), None), find_side(str(folder), Format(), None)), Stop)
    sentence, hint = said.split("\n")
    assert str(folder) in sentence
    assert "hint" in hint or "manifest" in said
    return said


encodings = pytest.mark.parametrize("encoding", ["parquet", "jsonl"])


@encodings
def test_an_archive_that_is_what_was_written_is_read(tmp_path: Path, encoding: Encoding) -> None:
    folder = archived(tmp_path / "a", encoding)
    items = replayed(folder)
    assert [(item[1], item[3]) for item in items] == [(b'{"n":%d}' % n, [("h", b"x")]) for n in range(COUNT)]


@encodings
@pytest.mark.parametrize("at", range(0, 1000, 37))
def test_a_changed_byte_is_refused_whether_the_checksum_fits_or_not(
    tmp_path: Path, encoding: Encoding, at: int
) -> None:
    folder = archived(tmp_path / "a", encoding)
    data = bytearray(data_file(folder).read_bytes())
    data[at % len(data)] ^= 0x55
    data_file(folder).write_bytes(data)
    assert "differs from the file that the archiver wrote" in refused(folder)
    refitted(folder, bytes(data))
    try:
        assert len(replayed(folder)) == COUNT  # in a value or a statistic, nobody can tell
    except Stop as exc:
        assert str(data_file(folder)) in str(exc)


@encodings
@pytest.mark.parametrize("data", [b"", b"PAR1", b"\x28\xb5\x2f\xfd", b"not what it says" * 100])
def test_a_file_that_is_none_is_refused(tmp_path: Path, encoding: Encoding, data: bytes) -> None:
    folder = archived(tmp_path / "a", encoding)
    refitted(folder, data)
    assert data_file(folder).name in refused(folder)


def line(**facts: Any) -> bytes:
    return json.dumps({"topic": "orders", "partition": 0, "offset": 0, "timestamp": 1, "value": "v", **facts}).encode()


def packed(*lines: bytes, end: bytes = b"\n") -> bytes:
    return zstandard.compress(b"\n".join(lines) + end)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (packed(line(), line()), "offsets 0 to 0"),
        (packed(*(line(offset=n) for n in range(COUNT - 1))), "it holds 19 records, 20 according to"),
        (packed(line(offset=COUNT)), "offsets 20 to 20"),
        (packed(line(offset=-1)), "offsets -1"),
        (packed(line(), end=b""), "middle of a line"),
        (packed(line(key64="not base64")), "cannot be read"),
        (packed(line(headers=[["a"]])), "cannot be read"),
        (packed(line(headers=[[]])), "cannot be read"),
        (packed(b'{"topic":' + b"[" * 100_000), "cannot be read"),
        (packed(line()[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "cannot be read"),
        (packed(b'{"topic":"\xff\xfe"}'), "cannot be read"),
        (packed(line())[:-5], "it holds 0 records"),
    ],
    ids=range(12),
)
def test_lines_that_no_archiver_wrote_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    folder = archived(tmp_path / "a", "jsonl")
    refitted(folder, data)
    assert said in refused(folder)


def test_a_line_that_does_not_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    folder = archived(tmp_path / "a", "jsonl")
    compressor = zstandard.ZstdCompressor().compressobj()
    block = b"x" * (16 * 1024 * 1024)
    data = b"".join(compressor.compress(block) for _ in range(16)) + compressor.flush()
    assert len(data) < 100_000
    refitted(folder, data)
    assert "a line is longer than 100,663,296 bytes" in refusal(lambda: replayed(folder), Stop)


def table(**columns: Any) -> dict[str, Any]:
    header = pa.struct([pa.field("name", pa.string(), False), pa.field("value", pa.binary())])
    return {
        "key": pa.array([b"k"] * COUNT, pa.binary()),
        "value": pa.array([b"v"] * COUNT, pa.binary()),
        "headers": pa.nulls(COUNT, pa.list_(header)),
        "offset": pa.array(range(COUNT), pa.int64()),
        "timestamp": pa.array(range(COUNT), pa.timestamp("ms", "UTC")),
        **columns,
    }


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (table(value=pa.array(["v"] * COUNT)), "value is not binary"),
        (table(offset=pa.array(["1"] * COUNT)), "offset is not int64"),
        (table(headers=pa.array([["h"]] * COUNT)), "headers is not list"),
        (table(timestamp=pa.array(range(COUNT), pa.int64())), "timestamp is not"),
        ({"x": pa.array([1])}, "cannot be read"),
        (table(offset=pa.array([None] * COUNT, pa.int64())), "without an offset or a time"),
        (table(offset=pa.array([*range(COUNT - 1), 99], pa.int64())), "offsets 0 to 99"),
    ],
    ids=range(7),
)
def test_columns_that_no_archiver_wrote_are_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    folder = archived(tmp_path / "a", "parquet")
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", use_dictionary=["key"])
    refitted(folder, (tmp_path / "x.parquet").read_bytes())
    assert said in refused(folder)


def test_a_few_bytes_that_would_be_a_large_value_in_each_row_are_refused(tmp_path: Path) -> None:
    folder = archived(tmp_path / "a", "parquet")
    pq.write_table(pa.table(table()), tmp_path / "x.parquet", use_dictionary=["value"])
    refitted(folder, (tmp_path / "x.parquet").read_bytes())
    assert "its values are a dictionary" in refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"manifest":' + b'{"a":' * 100_000,
        b"\xff\xfe",
        b'{"manifest":{},"sha256":"x"}',
        b"null",
    ],
    ids=range(7),
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = archived(tmp_path / "a", "jsonl")
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in refusal(lambda: replayed(folder), Stop)
    assert MANIFEST in refusal(lambda: check_archive(folder), Stop)


def nested(body: dict[str, Any]) -> None:
    body["topic"] = "x" * 10
    body["unknown"] = json.loads("[" * 900 + "]" * 900)


def first(body: dict[str, Any], **facts: Any) -> None:
    body["files"][0] |= facts


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(version=2),
        lambda body: body.update(partitions=0),
        lambda body: body.update(partitions=10**12),
        lambda body: body.update(partitions="x"),
        lambda body: body.update(encoding="csv"),
        lambda body: body.update(positions={"7": 1}),
        lambda body: first(body, partition=1),
        lambda body: first(body, partition=-1),
        lambda body: first(body, begin=21),
        lambda body: first(body, end=10**30),
        lambda body: first(body, records=-1),
        lambda body: first(body, name="../secret"),
        lambda body: first(body, name="/etc/passwd"),
        lambda body: first(body, name=".lock"),
        lambda body: first(body, name=""),
        lambda body: body["files"].append(body["files"][0]),
        lambda body: body.pop("topic"),
    ],
    ids=range(17),
)
def test_a_manifest_that_says_what_cannot_be_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    folder = archived(tmp_path / "a", "jsonl")
    resealed(folder, change)
    assert str(folder / MANIFEST) in refusal(lambda: replayed(folder), Stop)


def test_records_that_stand_in_two_files_are_refused(tmp_path: Path) -> None:
    folder = archived(tmp_path / "a", "jsonl")
    path = data_file(folder)
    (folder / f"x{path.name}").write_bytes(path.read_bytes())
    resealed(folder, lambda body: body["files"].append({**body["files"][0], "name": f"x{path.name}"}))
    assert "are in two files" in refusal(lambda: replayed(folder), Stop)


# ---- what must be on disk before it is named ----


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_before_the_manifest_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(fd: int) -> None:
        size = os.fstat(fd).st_size
        did.append(("sync", Path(os.readlink(f"/proc/self/fd/{fd}")).name))
        real_fsync(fd)
        assert os.fstat(fd).st_size == size

    def replace(path: Path, target: Path) -> Path:
        did.append(("name", Path(target).name))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    folder = archived(tmp_path / "a", "parquet")
    name = data_file(folder).name
    at = {step: number for number, step in enumerate(did)}
    assert at["sync", f".{name}.part"] < at["name", name] < at["name", MANIFEST]
    assert at["sync", f".{MANIFEST}.{os.getpid()}.part"] < at["name", MANIFEST]
    did.clear()
    sync_path(folder)
    assert did == [("sync", "a")]
