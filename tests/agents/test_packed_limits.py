"""A packed batch that is too large or of other types is one dead letter, and its neighbours count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from anabranch.agents.engine.settings import EngineSettings, PackedLimits
from anabranch.agents.runtime import runtime_of
from anabranch.topics.packed import CONTENT_TYPE, pack

pytestmark = pytest.mark.memory_suffices(
    "test_settings_of_the_app_raise_what_it_takes",
)

ABOUT = {b"anabranch.packed": b"1", b"anabranch.value": b"json"}
ROWS = 3


def good() -> pa.RecordBatch:
    return pa.record_batch({"key": ["a"] * ROWS, "n": range(ROWS)})


def written(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    batch = batch.replace_schema_metadata(ABOUT)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def message(record: Any, value: bytes, rows: int) -> Any:
    return record(value, None, 1_000, [("content-type", CONTENT_TYPE), ("rows", b"%d" % rows)])


def damaged_view() -> pa.RecordBatch:
    """Views that point at a buffer that is not there."""
    view = pa.array(["a" * 40] * ROWS, pa.string_view()).buffers()
    views = bytearray(view[1].to_pybytes())
    views[8:12] = (99).to_bytes(4, "little")
    column = pa.Array.from_buffers(pa.string_view(), ROWS, [None, pa.py_buffer(bytes(views)), *view[2:]])
    return pa.record_batch([pa.array(["a"] * ROWS), column], ["key", "n"])


STRANGE: list[tuple[Callable[[], bytes], int]] = [
    (lambda: written(pa.record_batch([pa.nulls(1_000_000)], ["n"])), 1_000_000),
    (lambda: written(pa.record_batch([pa.nulls(10**9)], ["n"])), 10**9),
    (lambda: written(good()), 10**9 - 1),  # the header lies
    (lambda: written(pa.record_batch({"n": pa.array([0] * 10_000_000, pa.int8())}), "lz4"), 10_000_000),
    (lambda: written(pa.record_batch({"n": ["a" * 70_000_000, "", ""]}), "zstd"), ROWS),
    (lambda: written(damaged_view()), ROWS),
    (lambda: written(pa.record_batch({f"c{n}": [1] * ROWS for n in range(5_000)}), "zstd"), ROWS),
]


def adder(app: Any, topic: str, how: str) -> None:
    table = app.Table("totals", default=int)

    async def run(stream: Any) -> None:
        async for rows in stream.batches() if how == "batches" else stream.take(1):
            for row in rows:
                table[row["key"]] += row["n"] + 1

    app.agent(app.topic(topic), name="adder", concurrency=2 if how == "concurrency" else 1)(run)


@pytest.fixture(scope="module")
def strange() -> list[tuple[bytes, int]]:
    return [(make(), rows) for make, rows in STRANGE]


@pytest.mark.parametrize("how", ["values", "batches", "concurrency"])
async def test_it_is_refused_before_it_is_opened(
    lab, record, drain, table_of, strange: list[tuple[bytes, int]], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    adder(app, topic, how)
    sent = [message(record, *found) for found in strange]
    lab.produce(topic, [message(record, written(good()), ROWS), *sent, message(record, written(good()), ROWS)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert runtime_of(app).status.records_total == 2 * ROWS + sum(rows for _, rows in strange if rows == ROWS) + 4
    assert table_of(app, "totals") == {"a": 2 * 6}
    letters = drain(f"{topic}.dlq")
    assert [letter.value() for letter in letters] == [value for value, _ in strange]
    headers = [dict(letter.headers()) for letter in letters]
    assert [found["anabranch-offset"] for found in headers] == [b"%d" % (n + 1) for n in range(len(strange))]
    assert {found["anabranch-reason"] for found in headers} == {b"decode"}
    assert sum("dead letter" in line for line in caplog.messages) == len(strange), "a line of log for each"


async def test_settings_of_the_app_raise_what_it_takes(lab, record, table_of) -> None:
    most = PackedLimits(rows=50_000, columns=5_000)
    topic = lab.topic()
    app = lab.app(lab.fresh("app"), settings=EngineSettings(session_timeout_ms=6_000, packed=most))
    adder(app, topic, "batches")
    many = pack(pa.record_batch({"key": ["m"] * 40_000, "n": pa.array([0] * 40_000)}))
    wide = pack(pa.record_batch({"key": ["w"], "n": [0], **{f"c{n}": [1] for n in range(4_500)}}), compression="zstd")
    lab.produce(topic, [message(record, found.value, found.rows) for found in (many, wide)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "totals") == {"m": 40_000, "w": 1}
    assert f"{topic}.dlq" not in lab.admin.partitions()
