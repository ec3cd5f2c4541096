"""The contract of all sources; add a file format to `KINDS`, and a compression to `PACKS`."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import polars
import pytest
import zstandard
from anabranch.replay.pipeline.cursor import Cursor
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.replay.sources.source import Source, SourcePosition
from anabranch.replay.sources.source_record import SourceRecord
from line_files import Reading, read

TEXT = b"one,1\n\ntwo,2\r\nthree,3\xc3\xa9\n,\nlast without an end"
CSV = b'k,n,text\na,1,plain\nb,NA,"two\nlines, one ""cell"""\r\n\nc,007,x\nd,1.5e3,\ne,-4,last'
JSONL = b'{"k":"a","t":1}\n{"k":"\\u00e9","t":"2013-01-01T10:00:00Z"}\n\n{"k":3,"t":1357034400000}\n{"k":null,"t":2.5}'
ROWS = [{"k": f"k{n}", "n": n, "t": 1_357_034_400_000 + n, "more": None if n % 2 else f"é{n}"} for n in range(6)]


def parquet() -> bytes:
    out = io.BytesIO()
    polars.DataFrame(ROWS).write_parquet(out, row_group_size=2)
    return out.getvalue()


def avro() -> bytes:
    out = io.BytesIO()
    fields: list[Any] = [{"name": "k", "type": "string"}, {"name": "n", "type": "int"}, {"name": "t", "type": "long"}]
    fields.append({"name": "more", "type": ["null", "string"]})
    fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, ROWS, codec="deflate", sync_interval=10)
    return out.getvalue()


@dataclass
class Kind:
    name: str
    data: bytes
    format: Format
    count: int
    lines: bool = True


KINDS = [
    Kind("a.txt", TEXT, Format(), 6),
    Kind("a.csv", CSV, Format(key="k"), 5),
    Kind("a.jsonl", JSONL, Format(key="k", time="t"), 4),
    Kind("b.jsonl", JSONL, Format(key='k + "x"', headers=(("h", "t"),)), 3),
    Kind("a.parquet", parquet(), Format(key="k", time="t"), 6, lines=False),
    Kind("b.parquet", parquet(), Format(key='k + "-" + n', partition="n"), 6, lines=False),
    Kind("a.avro", avro(), Format(key="k", time="t"), 6, lines=False),
]


def plain(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def gz(folder: Path, name: str, data: bytes) -> str:
    return plain(folder, f"{name}.gz", gzip.compress(data))


def bz(folder: Path, name: str, data: bytes) -> str:
    return plain(folder, f"{name}.bz2", bz2.compress(data))


def zst(folder: Path, name: str, data: bytes) -> str:
    # Two frames, as `cat a.zst b.zst` makes them.
    half = len(data) // 2
    return plain(folder, f"{name}.zst", zstandard.compress(data[:half]) + zstandard.compress(data[half:]))


def zipped(folder: Path, name: str, data: bytes) -> str:
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return str(path)


def zipped_gz(folder: Path, name: str, data: bytes) -> str:
    return zipped(folder, f"{name}.gz", gzip.compress(data))


def remote(folder: Path, name: str, data: bytes) -> str:
    # By a URL, so that fsspec opens it; `memory://` has one cursor for all who open a file.
    return f"file://{plain(folder, name, data)}"


PACKS = [plain, gz, bz, zst, zipped, zipped_gz, remote]
Pack = Callable[[Path, str, bytes], str]
CASES = [
    pytest.param(pack, kind, id=f"{kind.name}-{pack.__name__}")
    for kind in KINDS
    for pack in PACKS
    if kind.lines or pack in (plain, zipped, remote)
]
pytestmark = pytest.mark.parametrize(("pack", "kind"), CASES)


def batches(source: Source) -> Iterator[Sequence[SourceRecord]]:
    while not source.ended:
        yield source.next_batch().records


def as_stored(position: SourcePosition) -> SourcePosition:
    return msgspec.json.decode(msgspec.json.encode(position), type=SourcePosition)


def test_killed_anywhere_and_opened_at_its_snapshot_it_gives_the_rest(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    # Two files, so that a position between them is one of those tried.
    history = find_history([pack(tmp_path, f"{n}{kind.name}", kind.data) for n in (1, 2)], kind.format)
    whole = read(history.open())
    assert len(whole) == 2 * kind.count
    for size in (1, 3):
        source = Reading(history.open(batch_lines=size))
        read_so_far: list[SourceRecord] = []
        while not source.ended:
            assert read_so_far + read(history.open(as_stored(source.position))) == whole
            read_so_far += source.next()
        assert read_so_far == whole
        assert read(history.open(as_stored(source.position))) == []


def test_a_position_between_any_two_records_is_one(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    (part,) = find_history([pack(tmp_path, kind.name, kind.data)], kind.format).parts
    whole = read(part.open(None, 100))
    for taken in range(kind.count):
        cursor = Cursor(lambda at: part.open(at, 3))
        given: list[SourceRecord] = []
        while len(given) < taken:
            if cursor.used_up:
                cursor.fill()
                continue
            given.append(cursor.records[cursor.taken])
            cursor.taken += 1
        again = Cursor(lambda at: part.open(at, 2), as_stored(cursor.snapshot()))
        rest: list[SourceRecord] = []
        while not (again.used_up and again.last):
            again.fill()
            rest += again.records[again.taken :]
            again.taken = len(again.records)
        assert given + rest == whole


def test_a_smaller_batch_changes_nothing(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    history = find_history([pack(tmp_path, kind.name, kind.data)], kind.format)
    bad_and_blank = []
    for size in (1, 2, 3, 100):
        source = Reading(history.open(batch_lines=size))
        assert source.rest() == read(history.open())
        bad_and_blank.append(([str(line) for line in source.bad], source.blank))
        assert max(map(len, batches(history.open(batch_lines=size)))) <= max(size, 1)
    assert all(found == bad_and_blank[0] for found in bad_and_blank)


def test_the_whole_size_is_done_at_the_end(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    history = find_history([pack(tmp_path, kind.name, kind.data)], kind.format)
    source = history.open()
    read(source)
    source.close()
    assert source.done_bytes == history.size_bytes > 0


def test_a_byte_order_mark_is_no_content(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    mark = b"\xef\xbb\xbf" if kind.lines else b""
    marked = find_history([pack(tmp_path, f"marked{kind.name}", mark + kind.data)], kind.format)
    assert read(marked.open()) == read(find_history([pack(tmp_path, kind.name, kind.data)], kind.format).open())


def test_cut_off_anywhere_it_gives_a_beginning_and_says_so(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    whole = read(find_history([pack(tmp_path, kind.name, kind.data)], kind.format).open())
    packed = pack(tmp_path, kind.name, kind.data)
    if pack is remote or packed.endswith(".zip") or (kind.lines and pack is plain):
        return  # nobody can see that lines are missing, and a zip archive has its table at its end
    data = Path(packed).read_bytes()
    for size in range(1, len(data), 7):
        path = plain(tmp_path, f"{size}-{Path(packed).name}", data[:size])
        history = find_history([path], kind.format)
        source = Reading(history.open(batch_lines=2))
        items = source.rest()
        assert items == whole[: len(items)] or (kind.lines and items[:-1] == whole[: len(items) - 1])
        at_a_border = not source.bad and (items == whole or pack in (zst, bz) or kind.name == "a.avro")
        assert at_a_border or source.bad[-1].reason.endswith("the rest of the file is not read"), (size, source.bad)


def test_what_has_changed_is_told_by_its_fingerprint(tmp_path: Path, pack: Pack, kind: Kind) -> None:
    def mark() -> tuple[str, str]:
        history = find_history([path], kind.format)
        return history.identity("t"), history.fingerprint()

    path = pack(tmp_path, kind.name, kind.data)
    before = mark()
    assert mark() == before
    pack(tmp_path, kind.name, kind.data + b"x")
    assert mark()[0] == before[0]
    assert mark()[1] != before[1]
