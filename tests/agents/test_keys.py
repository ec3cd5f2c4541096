"""Keys that are equal in Python are one key, in one partition; values that cannot be keys are refused."""

from __future__ import annotations

import math
from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Any

import aiohttp
import msgspec
import pyarrow as pa
import pytest
from anabranch import col
from anabranch.agents.flows.aggregates import Count, Distinct, Max, Sum, Top
from anabranch.agents.flows.hyperloglog import ApproxDistinct
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import BadRecord, Usage
from anabranch.topics.keys import plain, record_key
from anabranch.topics.packed import pack
from anabranch.topics.serde import key_codec
from anabranch.topics.topic_partition import TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

pytestmark = pytest.mark.memory_suffices(
    "test_equal_keys_meet_in_one_partition_in_flows_group_by_and_over_http",
)

PARTITIONS = 4

NUMBERS = st.one_of(
    st.integers(-2, 2),
    st.booleans(),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e20, 2.0**53]),
    st.sampled_from([10**20, 2**53, Decimal("1.0"), Decimal("2.50"), 1 + 0j]),
    st.floats(allow_nan=False, allow_infinity=False),
)
KEYS = st.recursive(
    st.one_of(NUMBERS, st.none(), st.sampled_from(["", "1", "a", "true"])),
    lambda inner: st.lists(inner, min_size=1, max_size=2).map(tuple),
    max_leaves=4,
)


@given(KEYS, KEYS)
def test_keys_are_equal_where_their_bytes_in_tables_are_and_then_they_are_in_one_partition(a: Any, b: Any) -> None:
    codec = key_codec()
    assert (codec.keep(a) == codec.keep(b)) == (a == b)
    assert codec.decode(codec.keep(a)) == a == plain(a)
    if a == b:
        assert record_key(a) == record_key(b)


@pytest.mark.parametrize("key", [math.nan, math.inf, ("a", -math.inf), Decimal("NaN")])
def test_what_is_no_finite_number_is_no_key(key: Any) -> None:
    for refuses in (plain, record_key, key_codec().keep, key_codec(float).keep):
        with pytest.raises(BadRecord):
            refuses(key)


@pytest.mark.parametrize("key", [b"raw", Decimal("0.1"), date(2020, 1, 1), frozenset("a"), ["a"], {"a": 1}])
def test_a_key_that_json_would_give_back_as_something_else_has_to_be_declared(key: Any) -> None:
    with pytest.raises(BadRecord, match="declare"):
        key_codec().keep(key)


async def passed_on(lab: Any, drain: Any, apps: list[Any], tables: list[str]) -> None:
    """What was sent for these tables is in them. Behind the last record of a topic there may be a marker."""
    for table in tables:
        name = f"{apps[0].conf.id}-{table}-repartition"
        last = {message.partition(): message.offset() for message in drain(name)}

        def done(name: str = name, last: dict[int, int] = last) -> bool:
            committed = [runtime_of(app).status.committed for app in apps]
            return all(any(c.get(TopicPartition(name, p), 0) > at for c in committed) for p, at in last.items())

        await lab.until(done, f"all of {name} committed")


# What records are keyed by; and the elements they are made of come in pairs that Python holds equal.
FOUND = [
    2,
    2.0,
    1,
    True,
    0,
    -0.0,
    False,
    "2",
    "true",
    10**20,
    1e20,
    2.5,
    ["a", [2, None]],
    ["a", [2.0, None]],
    0.5,
    "u",
]


def hashable(key: Any) -> Any:
    return tuple(map(hashable, key)) if isinstance(key, list) else key


def one_of(codec: Any, key: Any) -> bytes:
    return codec.keep(hashable(key))


async def test_equal_keys_meet_in_one_partition_in_flows_group_by_and_over_http(
    lab, table_of, drain, free_port
) -> None:
    """FOUND three times over, in all partitions; each total as a dict of Python has it, each key in one partition."""
    topic = lab.topic(PARTITIONS)
    name = lab.fresh("app")

    def program(worker: str) -> Any:
        app = lab.app(name, worker=worker, web_enabled=True, web_port=free_port(), topic_partitions=PARTITIONS)
        source = app.topic(topic)
        source.key_by("id", "n").reduce(sum, "flow")
        source.key_by(lambda element: hashable(element["id"])).aggregate("counted", n=Count())
        grouped = app.Table("grouped", default=int)

        @app.agent(source)
        async def group(stream):
            async for value in stream.group_by(lambda value: hashable(value["id"]), name="id"):
                grouped[hashable(value["id"])] += value["n"]

        return app

    elements = [{"id": key, "n": 1} for key in FOUND * 3]
    want = Counter(hashable(key) for key in FOUND * 3)
    a, b = program("a"), program("b")
    async with lab.running(a, b):
        lab.produce(topic, [(f"k{i}", element) for i, element in enumerate(elements)])
        await lab.caught_up(topic, a, b)
        grouping = next(found for found in lab.admin.partitions() if f"{topic}-id-repartition" in found)
        assert grouping.startswith(f"{name}-")
        tables = ["flow", "counted", grouping.removeprefix(f"{name}-").removesuffix("-repartition")]
        await passed_on(lab, drain, [a, b], tables)
        await lab.until(
            lambda: all(runtime_of(app).status.owned and not runtime_of(app).status.rebalancing for app in (a, b))
        )
        asked = {"2": 2, "2.0": 2, "1": 1, "true": 1, "0.5": 0.5, "u": "u", '["a",[2,null]]': ("a", (2, None))}
        async with aiohttp.ClientSession() as session:

            async def get(app: Any, table: str, key: str) -> tuple[int, Any]:
                url = URL(f"http://127.0.0.1:{app.conf.web_port}/tables/{table}/", encoded=True) / key / ""
                async with session.get(url) as answer:
                    return answer.status, await answer.json()

            for app in (a, b):
                for key, meant in asked.items():
                    answers = [await get(app, table, key) for table in ("flow", "grouped")]
                    right = want[meant] if key not in ("2", "true") else 3  # text first, where there is both
                    assert answers in ([(200, right)] * 2, [(200, want[meant])] * 2), key

    for table in ("flow", "grouped", "counted"):
        changes = drain(f"{name}-{table}-changelog")
        held = {message.key(): message.partition() for message in changes}
        assert len({(m.key(), m.partition()) for m in changes}) == len(held) == len(want), table
        content = {hashable(msgspec.json.decode(m.key())): msgspec.json.decode(m.value()) for m in changes}
        assert content == (want if table != "counted" else {key: {"n": n} for key, n in want.items()})


class Sale(msgspec.Struct):
    day: date
    paid: bool
    raw: bytes
    amount: Decimal


def raw_key(value: dict[str, Any]) -> tuple[bytes, int]:
    return value["raw"].encode(), value["n"]


async def test_keys_of_types_that_the_program_declares_are_those_keys(lab, table_of, drain) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"), topic_partitions=2)
    sales = app.topic(topic, value_type=Sale)
    sales.key_by("day", "amount").reduce(sum, "by-day")
    sales.key_by("raw").aggregate("by-raw", n=Count())
    sales.key_by("paid").aggregate("by-paid", n=Count())
    sales.key_by(col("paid") == False).aggregate("unpaid", n=Count())  # noqa: E712
    other = lab.topic(2)
    app.topic(other).map(raw_key).key_by().reduce(sum, "declared")
    app.topic(other).key_by(lambda value: value["raw"].encode()).aggregate("refused", n=Count())
    days = [date(2020, 1, 1 + n % 2) for n in range(4)]
    rows = [Sale(day, n < 3, b"\xff" + bytes([n % 2]), Decimal("0.10")) for n, day in enumerate(days)]
    lab.produce(topic, [(str(n), msgspec.json.encode(row)) for n, row in enumerate(rows)])
    lab.produce(other, [(str(n), {"raw": "x", "n": n}) for n in range(3)])
    async with lab.running(app):
        for each in (topic, other):
            await lab.caught_up(each, app)
        await passed_on(lab, drain, [app], ["by-day", "by-raw", "by-paid", "unpaid", "declared"])

    def keys(table: str) -> dict[Any, Any]:
        made = app.tables[table]
        found = {m.key(): m.value() for m in drain(made.changelog_name)}
        return {made.key_codec.decode(key): made.value_codec.decode(value) for key, value in found.items()}

    assert keys("by-day") == {days[0]: Decimal("0.20"), days[1]: Decimal("0.20")}
    assert keys("by-raw") == {b"\xff\x00": {"n": 2}, b"\xff\x01": {"n": 2}}
    assert table_of(app, "by-paid") == {True: {"n": 3}, False: {"n": 1}}
    assert {m.key() for m in drain(app.tables["by-paid"].changelog_name)} == {b"true", b"false"}
    assert {m.key() for m in drain(app.tables["unpaid"].changelog_name)} == {b"true", b"false"}
    assert keys("declared") == {b"x": 3}
    letters = [dict(letter.headers()) for letter in drain(f"{other}.dlq")]
    assert len(letters) == 3
    assert all(b"a value of type bytes would be read back" in letter["anabranch-error"] for letter in letters)


async def test_a_key_that_is_no_finite_number_is_a_dead_letter_and_its_neighbours_count(
    lab, record, table_of, drain
) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"), topic_partitions=2)
    source = app.topic(topic)
    source.key_by(col("t").to_float()).aggregate("by-number", n=Count())
    source.key_by(col("t").to_float(), "n").to(app.topic(out := lab.topic(2)))
    texts = ["1.5", "nan", "2", "inf", "1.5", "-inf", "2.0", "x"]
    many = [*texts, *["2.0"] * 300]
    packed = pack(pa.record_batch({"t": many, "n": [1] * len(many)}))
    lab.produce(topic, [{"t": text, "n": 1} for text in texts])
    lab.produce(topic, [record(packed.value, None, 1_000, packed.headers, 0)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        await passed_on(lab, drain, [app], ["by-number"])
    assert table_of(app, "by-number") == {1.5: {"n": 4}, 2: {"n": 304}}
    assert Counter(m.key() for m in drain(out)) == {b"1.5": 4, b"2": 304}
    assert len(drain(f"{topic}.dlq")) == 2 * 2 * 4


async def test_none_counts_as_nothing_and_lists_have_content(lab, record, table_of, drain) -> None:
    """Plain and packed: 300 records of each, of which row 7 has no rank, and row 0 neither."""
    rows = [
        {
            "id": f"u{n % 2}",
            "tags": [n % 3, "x" if n % 3 else None],
            "x": None if n in (0, 7) else n,
            "y": [n % 4, None],
        }
        for n in range(300)
    ]
    plain_rows, packed_rows = lab.topic(2), lab.topic(2)
    app = lab.app(lab.fresh("app"), topic_partitions=2)
    for way, topic in (("plain", plain_rows), ("packed", packed_rows)):
        source = app.topic(topic)
        how = {
            "n": Count(),
            "tags": Distinct("tags"),
            "about": ApproxDistinct("tags"),
            "best": Top("x", 2),
            "most": Max("x"),
        }
        source.key_by("id").aggregate(f"{way}-keyed", **how)
        source.key_by(lambda row: (row["id"], ("z", row["x"]))).aggregate(f"{way}-nested", n=Count())
        source.aggregate(f"{way}-own", **how)
        source.aggregate(f"{way}-pairs", best=Top(lambda row: (row["tags"][0], row["id"]), 1))
    encoded = [msgspec.json.encode(row) for row in rows]
    lab.produce(plain_rows, [(row["id"], value) for row, value in zip(rows, encoded, strict=True)])
    table = pa.RecordBatch.from_pylist([{**row, "tags": list(map(str, row["tags"]))} for row in rows])
    packed = pack(table, key="id")
    lab.produce(packed_rows, [record(packed.value, None, 1_000, packed.headers, 0)])
    async with lab.running(app):
        for topic in (plain_rows, packed_rows):
            await lab.caught_up(topic, app)
        await passed_on(lab, drain, [app], ["plain-keyed", "packed-keyed", "plain-nested", "packed-nested"])
    assert runtime_of(app).status.dead_letters_total == 0
    for table in ("plain-keyed", "packed-keyed", "plain-own", "packed-own"):
        for key, found in table_of(app, table).items():
            mine = [row for row in rows if row["id"] == key]
            assert (found["n"], found["tags"], found["about"]) == (150, 3, 3), table
            assert found["most"] == max(row["x"] for row in mine if row["x"] is not None)
            assert [row["x"] for row in found["best"]] == sorted(row["x"] for row in mine if row["x"])[:-3:-1]
    for way in ("plain", "packed"):
        nested = {m.key() for m in drain(f"{app.conf.id}-{way}-nested-changelog")}
        assert {hashable(msgspec.json.decode(key)) for key in nested} == {(r["id"], ("z", r["x"])) for r in rows}
        for key, found in table_of(app, f"{way}-pairs").items():
            assert found["best"][0]["id"] == key
            assert str(found["best"][0]["tags"][0]) == "2"


async def test_a_record_counts_in_all_aggregates_or_in_none(lab, record, table_of, drain) -> None:
    """Of four users one has a list with None in it, which is in no order."""
    rows = [{"id": "k", "user": f"u{n % 4}", "x": [1, None if n % 4 == 1 else n]} for n in range(300)]
    good = [row for row in rows if row["x"][1] is not None]
    topics = lab.topic(1), lab.topic(1)
    app = lab.app(lab.fresh("app"), topic_partitions=1)
    for topic in topics:
        for way in ("own", "keyed"):
            flow = app.topic(topic).flow() if way == "own" else app.topic(topic).key_by("id")
            flow.aggregate(
                f"{topic}-{way}",
                users=ApproxDistinct("user"),
                exactly=Distinct("user"),
                n=Count(),
                sum=Sum(lambda row: row["x"][0]),
                most=Max("x"),
            )
    lab.produce(topics[0], [("k", row) for row in rows])
    packed = pack(pa.RecordBatch.from_pylist(rows), key="id")
    lab.produce(topics[1], [record(packed.value, None, 1_000, packed.headers, 0)])
    async with lab.running(app):
        for topic in topics:
            await lab.caught_up(topic, app)
            await passed_on(lab, drain, [app], [f"{topic}-keyed"])
    for topic in topics:
        for way in ("own", "keyed"):
            found = table_of(app, f"{topic}-{way}")["k"]
            assert [found[name] for name in ("users", "exactly", "n", "sum")] == [3, 3, len(good), len(good)]
            assert found["most"] == max(row["x"] for row in good)
        assert len(drain(f"{topic}.dlq")) == 2 * (300 - len(good))


def test_a_flow_into_a_table_of_faust_records_says_what_to_do(lab) -> None:
    import faust

    class Key(faust.Record):
        a: str

    app = lab.app(lab.fresh("app"))
    table = app.Table("t", key_type=Key)
    with pytest.raises(Usage, match="Faust records"):
        app.topic("lines").key_by("a").aggregate(table, n=Count())


def test_equal_keys_are_equal_bytes_whatever_a_topic_says_of_its_keys(lab) -> None:
    app = lab.app(lab.fresh("app"))
    for options in ({}, {"key_type": float}, {"key_type": int}, {"key_serializer": "json"}):
        topic = app.topic("numbers", **options)
        assert len({topic.encode_key(key) for key in (1, 1.0, True)}) == 1, options
        assert len({topic.encode_key(key) for key in (0, -0.0, False)}) == 1, options
