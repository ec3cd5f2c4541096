"""Damaged files: each byte belongs to a record, a bad line or a blank line, plain and packed.

A file of each format is made, some of its bytes are changed, and it is read plain, packed, and in other batches. They
have to agree, nothing but our own errors may be raised, and all lines have to be accounted for. A run is short here,
and long where ANABRANCH_FUZZ_S says so (`make faults`); the seed of a failure is in its message.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.parquet
import pytest
from anabranch.replay.pipeline.packing import PackingSource
from anabranch.replay.sources.column_batch import ColumnBatch
from anabranch.replay.sources.file_history import find_history
from anabranch.replay.sources.format import Format
from anabranch.topics.errors import AnabranchError, BadRecord
from anabranch.topics.packed import Packed
from anabranch.topics.partitioners import HashPartitioner
from line_files import Reading
from packed_histories import MOST, Record, Told, packed_records, plain_records

_LOST = re.compile(r"([0-9,]+) rows from here are not read")
SECONDS = float(os.environ.get("ANABRANCH_FUZZ_S", "4"))
TEXT = [
    "",
    "a",
    "NA",
    "null",
    "é€",
    "\ufeff",
    "x,y",
    'q"q',
    "two\nlines",
    "007",
    "7",
    "-0",
    "1.5",
    "1e400",
    "0x1F",
    " 5",
]
TEXT += ["true", "2013-01-01", "20130101", "9" * 19, "\u2028", "\0", "\ud7ff", "[1]", '{"a":1}', "'"]


def rows(rng: random.Random) -> list[dict[str, Any]]:
    few = rng.sample(TEXT, 4)
    return [
        {
            "k": f"k{n % 5}",
            "v": rng.choice([n, n * 1_000_003, -n]),
            "t": 1_357_034_400_000 + n * 1_000,
            "s": rng.choice(few),
            "f": rng.choice([n / 4, -0.0, 1e300, 0.1]),
        }
        for n in range(rng.randrange(1, 30))
    ]


def of_csv(rng: random.Random) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list("kvtsf"), lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writeheader()
    writer.writerows(rows(rng))
    text = out.getvalue()
    return (text if rng.random() < 0.7 else text.rstrip("\r\n")).encode()


def of_jsonl(rng: random.Random) -> bytes:
    tight: Any = (",", ":") if rng.random() < 0.7 else None
    lines = [json.dumps(row, ensure_ascii=False, separators=tight) for row in rows(rng)]
    return rng.choice(["\n", "\r\n"]).join(lines).encode()


def of_text(rng: random.Random) -> bytes:
    return "\n".join(f"{row['k']},{row['s']}" for row in rows(rng)).encode()


def of_parquet(rng: random.Random) -> bytes:
    out, found = io.BytesIO(), rows(rng)
    table = pyarrow.Table.from_pylist(found)
    times = pyarrow.array([rng.randrange(-(2**62), 2**62) if rng.random() < 0.1 else n for n in range(len(found))])
    unit = rng.choice(["ms", "us", "ns"])
    table = table.append_column("at", times.cast(pyarrow.timestamp(unit)))
    table = table.append_column("l", pyarrow.array([[n, None] for n in range(len(found))]))
    pyarrow.parquet.write_table(
        table, out, row_group_size=rng.choice([3, 100]), compression=rng.choice(["none", "snappy", "zstd"])
    )
    return out.getvalue()


def of_avro(rng: random.Random) -> bytes:
    kinds = {"k": "string", "v": "long", "t": "long", "s": ["null", "string"], "f": "double"}
    fields: list[Any] = [{"name": name, "type": kind} for name, kind in kinds.items()]
    fields.append({"name": "l", "type": {"type": "array", "items": "int"}})
    out = io.BytesIO()
    schema: Any = {"type": "record", "name": "r", "fields": fields}
    found = [{**row, "l": [1] * rng.randrange(4)} for row in rows(rng)]
    fastavro.writer(out, schema, found, codec=rng.choice(["null", "deflate"]), sync_interval=rng.choice([40, 4_000]))
    return out.getvalue()


MAKERS = {"csv": of_csv, "jsonl": of_jsonl, "txt": of_text, "parquet": of_parquet, "avro": of_avro}


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, put in, taken out, doubled or cut off."""
    made = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        at = rng.randrange(len(made) + 1)
        some = rng.choice(
            [bytes([rng.randrange(256)]), b'"', b",", b"\n", b"\r", b"\xff", b"\0", b"\xef\xbb\xbf", b"7"]
        )
        span = rng.choice([0, 1, 1, 3, 40])
        match rng.randrange(4):
            case 0:
                made[at : at + len(some)] = some
            case 1:
                made[at:at] = some
            case 2:
                del made[at : at + span]
            case _:
                made[at:at] = made[max(0, at - span) : at]
    return bytes(made)


def formats(rng: random.Random, kind: str) -> Format:
    if kind == "txt":
        return rng.choice([Format(), Format(key_before=","), Format(encoding="bytes")])
    key = rng.choice([None, "k", "v", "s", "f", 'k + "-" + s'])
    more: dict[str, Any] = {}
    if kind == "csv":
        more = rng.choice([{}, {}, {"types": (("v", "text"),)}, {"types": (("v", "int"), ("f", "float"))}])
        more = {**more, **rng.choice([{}, {"as_text": True} if not more else {}, {"nulls": ("a", "7")}, {"quote": ""}])}
    return Format(key=key, time=rng.choice([None, "t"]), **more)


def lines_in(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def accounted(found: tuple[list[Record], Told, int]) -> int:
    """Rows that are records or bad, or that a bad line says are lost."""
    lost = [_LOST.search(reason) for _, reason, _ in found[1]]
    return len(found[0]) + sum(int(said[1].replace(",", "")) if said else 1 for said in lost)


def check(kind: str, folder: Path, data: bytes, format: Format, sizes: list[int]) -> None:
    path = folder / f"a.{kind}"
    path.write_bytes(data)
    history = find_history([str(path)], format)
    try:
        history.check("t")
        plain = plain_records(history)
    except AnabranchError as exc:
        with pytest.raises(type(exc)):
            history.check("t")
            packed_records(history)
        return
    for other in (packed_records(history), *(plain_records(history, size) for size in sizes)):
        if kind == "parquet" and any(_LOST.search(reason) for _, reason, _ in plain[1]):
            # How much of a damaged row group can be read depends on how much of it is asked for at once.
            assert accounted(other) == accounted(plain)
        else:
            assert other == plain
    records, bad, blank = plain
    if kind in ("jsonl", "txt") and not any("the rest of the file" in reason for _, reason, _ in bad):
        assert len(records) + len(bad) + blank == lines_in(data.removeprefix(b"\xef\xbb\xbf"))


@pytest.mark.parametrize("kind", MAKERS)
def test_damaged_files_are_read_alike_plain_packed_and_in_any_batches(tmp_path: Path, kind: str) -> None:
    began_s, seed = time.monotonic(), int(os.environ.get("ANABRANCH_FUZZ_SEED", "0"))
    while time.monotonic() - began_s < SECONDS or not seed:
        seed += 1
        rng = random.Random(f"{kind}{seed}")
        data = damaged(rng, MAKERS[kind](rng))
        format = formats(rng, kind)
        try:
            check(kind, tmp_path, data, format, rng.sample([1, 2, 3, 10], 2))
        except BaseException as exc:
            exc.add_note(f"ANABRANCH_FUZZ_SEED={seed - 1}: {format} of {data[:2_000]!r}")
            raise


def test_damaged_packed_batches_are_refused_or_read(tmp_path: Path) -> None:
    began_s, seed = time.monotonic(), int(os.environ.get("ANABRANCH_FUZZ_SEED", "0"))
    while time.monotonic() - began_s < SECONDS or not seed:
        seed += 1
        rng = random.Random(seed)
        kind = rng.choice(list(MAKERS))
        (tmp_path / f"a.{kind}").write_bytes(MAKERS[kind](rng))
        history = find_history([str(tmp_path / f"a.{kind}")], Format()).with_max_record_bytes(MOST).columnar()
        reading = Reading(
            PackingSource(history.open(), HashPartitioner(2), rng.choice(["lz4", "zstd"]), max_bytes=MOST, sent=0)
        )
        for message in reading.rest():
            value = damaged(rng, message[1] or b"")
            try:
                rows = list(ColumnBatch.unpacked(value, 0))
            except BadRecord:
                continue
            assert len(rows) == Packed(value).rows
