"""Agents see the rows of a packed batch as records, and all of them or none are committed.

A row is `{"key": …, "n": …}`; the tables are audited against the rows that went in. A row whose n is -1 fails.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from anabranch import Retry, current_event
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.packed import pack

pytestmark = pytest.mark.memory_suffices(
    "test_however_an_agent_iterates_a_bad_row_goes_alone_and_all_others_count_once",
    "test_a_worker_killed_in_the_middle_of_a_packed_batch_counts_it_once",
)

BAD = -1


class Boom(Exception):
    """What agents raise here."""


class Amount(msgspec.Struct):
    key: str
    n: int


Row = dict[str, Any]


def rows(count: int, stem: str = "k") -> list[Row]:
    """Tables live by partition, so each needs keys of its own: another stem."""
    return [{"key": f"{stem}{n % 7}", "n": n} for n in range(count)]


def packed(record: Any, found: list[Row], partition: int = 0) -> Any:
    made = pack(pa.RecordBatch.from_pylist(found), key="key")
    return record(made.value, None, 1_000, made.headers, partition)


def plain(record: Any, found: list[Row], partition: int = 0) -> list[Any]:
    return [record(row, row["key"], 1_000, None, partition) for row in found]


def totals(found: list[Row]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for row in found:
        if row["n"] != BAD:
            counted[row["key"]] += row["n"]
    return dict(counted)


def adder(app: Any, topic: str, how: str, **options: Any) -> Any:
    """An agent that adds up `n` by key; how: values, awaiting, batches, columns, take or concurrency."""
    table = app.Table("totals", default=int)
    value_type = options.pop("value_type", None)

    def add(row: Any) -> None:
        if isinstance(row, Amount):
            row = {"key": row.key, "n": row.n}
        table[row["key"]] += row["n"]
        if row["n"] == BAD:
            raise Boom("not this one")

    async def run(stream: Any) -> None:
        if how in ("values", "awaiting", "concurrency"):
            async for row in stream:
                if how != "values" and row["n"] % 5 == 0:
                    await asyncio.sleep(0)
                add(row)
        async for found in stream.take(4, within=0.05) if how == "take" else stream.batches():
            if how == "columns":
                for key, n in zip(found.frame["key"], found.column("n").tolist(), strict=True):
                    add({"key": key, "n": n})
            else:
                for row in found:
                    add(row)

    more = {"concurrency": 3} if how == "concurrency" else {}
    return app.agent(app.topic(topic, value_type=value_type), name="adder", **more, **options)(run)


def letters(drain: Any, topic: str) -> list[tuple[str, Any]]:
    found = []
    for letter in drain(f"{topic}.dlq"):
        headers = {name: value.decode() for name, value in letter.headers() if name.startswith("anabranch-")}
        found.append((headers["anabranch-source"].removeprefix(topic), letter))
    return sorted(found, key=lambda pair: pair[0])


HOWS = ["values", "awaiting", "batches", "columns", "take", "concurrency"]


async def test_however_an_agent_iterates_a_bad_row_goes_alone_and_all_others_count_once(
    lab, record, drain, table_of
) -> None:
    # p0: plain 3 │ packed 40, rows 0, 7, 8 and 39 bad │ plain 3, one bad │ packed 20      p1: packed 30
    first, second, third, other = rows(40), rows(3), rows(20), rows(30, "x")
    for row in (first[0], first[7], first[8], first[39], second[1]):
        row["n"] = BAD
    apps = {}
    topic = lab.topic(2)
    lab.produce(
        topic,
        [
            *plain(record, rows(3)),
            packed(record, first),
            *plain(record, second),
            packed(record, third),
            packed(record, other, 1),
        ],
    )
    for how in HOWS:
        apps[how] = lab.app(lab.fresh("app"), worker=how, settings=EngineSettings(epoch_s=0.001))
        adder(apps[how], topic, how)
    async with lab.running(*apps.values()):
        for app in apps.values():
            await lab.caught_up(topic, app)
    expected = totals([*rows(3), *first, *second, *third, *other])
    for how, app in apps.items():
        assert table_of(app, "totals") == expected, how
        assert runtime_of(app).status.records_total == 3 + 40 + 3 + 20 + 30, how
    found = letters(drain, topic)
    sources = [source for source, _ in found]
    assert sources == sorted(["[0]@3#0", "[0]@3#39", "[0]@3#7", "[0]@3#8", "[0]@5"] * len(HOWS))
    letter = next(letter for source, letter in found if source == "[0]@3#7")
    assert (letter.key(), letter.value(), letter.timestamp()[1]) == (b"k0", b'{"key":"k0","n":-1}', 1_000)
    headers = dict(letter.headers())
    assert (headers["anabranch-offset"], headers["anabranch-row"]) == (b"3", b"7")
    assert "rows" not in headers


async def test_a_worker_killed_in_the_middle_of_a_packed_batch_counts_it_once(lab, record, table_of) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    there = asyncio.Event()
    app = lab.app(name, settings=EngineSettings(session_timeout_ms=6_000, epoch_s=0.001))
    table = app.Table("totals", default=int)

    @app.agent(app.topic(topic), name="adder")
    async def stuck(stream):
        async for row in stream:
            table[row["key"]] += row["n"]
            if row["n"] == 25:
                there.set()
                await asyncio.Event().wait()

    lab.produce(topic, [*plain(record, rows(3)), packed(record, rows(40))])
    worker = await lab.started(app)
    await asyncio.wait_for(there.wait(), 60)
    await lab.kill(app, worker)
    assert lab.committed(name, topic).get(0, (0, ""))[0] <= 3
    again = lab.app(name, settings=EngineSettings(session_timeout_ms=6_000))
    adder(again, topic, "values")
    async with lab.running(again):
        await lab.caught_up(topic, again)
    assert table_of(again, "totals") == totals([*rows(3), *rows(40)])


async def test_nothing_is_committed_between_two_rows_even_when_they_go_one_by_one(lab, record, table_of) -> None:
    topic = lab.topic()
    app = lab.app(lab.fresh("app"), settings=EngineSettings(epoch_s=0.0005))
    table = app.Table("totals", default=int)
    commits: dict[int, set[int]] = {}

    @app.agent(app.topic(topic), name="adder")
    async def slow(stream):
        async for row in stream:
            offset = stream.current_event.message.offset
            commits.setdefault(offset, set()).add(runtime_of(app).status.commits_total)
            table[row["key"]] += row["n"]
            for _ in range(20):
                await asyncio.sleep(0)
            if row["n"] == BAD:
                commits[offset].clear()  # what was before is undone
                raise Boom

    bad = rows(60)
    bad[20]["n"] = bad[40]["n"] = BAD
    lab.produce(topic, [*plain(record, rows(30)), packed(record, bad), packed(record, rows(10))])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert all(len(commits[offset]) == 1 for offset in (30, 31)), commits
    assert table_of(app, "totals") == totals([*rows(30), *bad, *rows(10)])


async def test_a_row_that_is_tried_again_lets_its_batch_wait_and_nothing_else(lab, record, table_of) -> None:
    topic = lab.topic(2)
    app = lab.app(lab.fresh("app"))
    adder(app, topic, "values", on_failure=Retry(times=9, first_s=600.0, most_s=600.0))
    bad = rows(20)
    bad[10]["n"] = BAD
    lab.produce(
        topic, [*plain(record, rows(3)), packed(record, bad), packed(record, rows(5)), packed(record, rows(9, "x"), 1)]
    )
    async with lab.running(app):
        await lab.until(
            lambda: sorted(runtime_of(app).status.committed.values()) == [1, 3], "all but the batch that waits"
        )
        (stream,) = runtime_of(app).context.router.streams
        assert [len(batch.messages) for held in stream.queue.delayed for batch in held.batches] == [20, 5]
    assert table_of(app, "totals") == totals([*rows(3), *rows(9, "x")])


async def test_a_row_may_succeed_when_its_batch_is_tried_again(lab, record, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    table, tries = app.Table("totals", default=int), Counter[int]()

    @app.agent(app.topic(topic), name="adder", on_failure=Retry(times=3, first_s=0.2, most_s=0.2))
    async def adder(stream):
        async for row in stream:
            table[row["key"]] += row["n"]
            tries[row["n"]] += 1
            if row["n"] in (4, 12) and tries[row["n"]] < 3:
                raise Boom

    lab.produce(topic, [packed(record, rows(20))])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "totals") == totals(rows(20))


async def test_what_take_holds_back_is_never_a_part_of_a_packed_batch(lab, record) -> None:
    topic, app, taken = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic))
    async def group(stream):
        async for found in stream.take(4):
            taken.append(len(found))

    lab.produce(topic, [*plain(record, rows(1)), packed(record, rows(10)), *plain(record, rows(2))])
    async with lab.running(app):
        await lab.until(
            lambda: list(runtime_of(app).status.committed.values()) == [2], "all but the last two, which wait for more"
        )
    assert taken == [4, 4, 3]


async def test_what_does_not_fit_the_declared_type_goes_alone_and_what_is_damaged_whole(
    lab, record, drain, table_of
) -> None:
    topic, apps = lab.topic(), {}
    dirty = [*rows(3), {"key": "k0", "n": None}, *rows(2)]
    good = packed(record, rows(9))
    cut_off, lies = good._replace(value=good.value[:-200]), good._replace(headers=[good.headers[0], ("rows", b"8")])
    lab.produce(topic, [packed(record, dirty), cut_off, good, lies, packed(record, [{"key": "k1"}])])
    for how in ("values", "batches", "columns", "concurrency", "take"):
        apps[how] = lab.app(lab.fresh("app"), worker=how)
        adder(apps[how], topic, "batches" if how == "concurrency" else how, value_type=Amount)
    del apps["values"], apps["take"]
    async with lab.running(*apps.values()):
        for app in apps.values():
            await lab.caught_up(topic, app)
    for how, app in apps.items():
        assert table_of(app, "totals") == totals([*rows(3), *rows(2), *rows(9)]), how
    found = letters(drain, topic)
    assert [source for source, _ in found] == [
        source for source in ["[0]@0#3", "[0]@1", "[0]@3", "[0]@4#0"] for _ in apps
    ]
    assert {dict(letter.headers())["anabranch-reason"] for _, letter in found} == {b"decode"}
    assert {letter.value() for source, letter in found if source == "[0]@1"} == {cut_off.value}
    assert {letter.value() for source, letter in found if source == "[0]@0#3"} == {b'{"key":"k0","n":null}'}


async def test_events_say_which_row_they_are_and_have_its_key_and_time(lab, record) -> None:
    topic, app, seen = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic, key_type=str))
    async def look(stream):
        async for _ in stream:
            event = current_event()
            seen.append((event.message.offset, event.row, event.key, event.value["n"], event.message.timestamp))

    batch = pa.record_batch({"n": [1, 2], "__key": [b"a", b"b"], "__time": pa.array([5_000, None], pa.int64())})
    made = pack(batch, key="__key", time="__time")
    lab.produce(topic, [record({"n": 0}, "p", 2_000), record(made.value, None, 9_000, made.headers)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert seen == [(0, None, "p", 0, 2.0), (1, 0, "a", 1, 5.0), (1, 1, "b", 2, 9.0)]


@pytest.mark.parametrize("declared", [Amount, None])
async def test_batches_have_the_same_columns_packed_and_plain(lab, record, declared) -> None:
    topic, app, seen = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic, value_type=declared))
    async def look(stream):
        async for batch in stream.batches():
            seen.append(batch)

    lab.produce(topic, plain(record, rows(10)))
    async with lab.running(app):
        await lab.caught_up(topic, app)
        lab.produce(topic, [packed(record, rows(10))])
        await lab.caught_up(topic, app)
    whole = seen[-1]
    for found in (seen[:-1], [whole]):
        assert sum(map(len, found)) == 10
        assert [key for batch in found for key in batch.keys] == [row["key"].encode() for row in rows(10)]
        assert {stamp for batch in found for stamp in batch.timestamps_ms} == {1_000}
        assert pa.Table.from_batches([batch.arrow for batch in found]).to_pylist() == rows(10)
        assert [row for batch in found for row in batch.frame.rows(named=True)] == rows(10)
        assert np.concatenate([batch.column("n") for batch in found]).tolist() == list(range(10))
        assert [value for batch in found for value in batch] == msgspec.convert(rows(10), list[declared or Any])
    assert not whole.column("n").flags.owndata
