"""What a stream hands out: values, and the facts of their records."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import Any

import faust
import msgspec
import pytest
from anabranch import current_event
from anabranch.agents.runtime import runtime_of
from anabranch.topics.admin import TopicSpec
from anabranch.topics.errors import Usage

pytestmark = pytest.mark.memory_suffices(
    "test_key_headers_and_timestamp_of_a_record_are_there_for_who_asks",
    "test_what_is_handed_on_keeps_key_headers_and_timestamp",
    "test_a_bounded_run_never_writes_to_the_topics_of_the_live_app",
    "test_totals_of_repartitioned_streams_are_right_after_a_restart",
)

LONG_AGO_MS = 1_357_016_400_123
HEADERS = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("null", None)]


class Order(msgspec.Struct):
    user: str
    amount: int


class Withdrawal(faust.Record, serializer="json"):
    user: str
    amount: int


ORDER = b'{"user":"ann","amount":3}'


VALUES = [
    (Order, ORDER, Order("ann", 3)),
    (Withdrawal, ORDER, Withdrawal(user="ann", amount=3)),
    (dict[str, Any], ORDER, {"user": "ann", "amount": 3}),
    (None, ORDER, {"user": "ann", "amount": 3}),
    (None, b"[1,2.5,null,true]", [1, 2.5, None, True]),
    (str, "grüße".encode(), "grüße"),
    (bytes, b"\x00\xff", b"\x00\xff"),
    (int, b"7", 7),
]


async def test_values_arrive_as_their_declared_type_and_tombstones_as_none(lab) -> None:
    app, got = lab.app(lab.fresh("app")), defaultdict(list)

    def reader(number: int, topic: Any) -> None:
        @app.agent(topic, name=f"reader-{number}")
        async def read(stream):
            async for value in stream:
                got[number].append(value)

    topics = [lab.topic() for _ in VALUES]
    for number, (declared, sent, _) in enumerate(VALUES):
        reader(number, app.topic(topics[number], value_type=declared))
        lab.produce(topics[number], [sent, None])
    async with lab.running(app):
        for topic in topics:
            await lab.caught_up(topic, app)
    for number, (_, _, seen) in enumerate(VALUES):
        assert got[number] == [seen, None]
        assert type(got[number][0]) is type(seen)


async def test_key_headers_and_timestamp_of_a_record_are_there_for_who_asks(lab, record) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    by_event, by_item, by_current, by_stream = [], [], [], []
    source = app.topic(topic, value_type=str, key_type=str)

    @app.agent(source, name="events")
    async def events(stream):
        async for event in stream.events():
            message = event.message
            by_event.append((event.key, event.value, list(message.headers), message.partition, message.offset))
            assert round(message.timestamp * 1000) == LONG_AGO_MS
            assert event.headers == {"trace": b"again", "empty": b"", "null": None}

    @app.agent(source, name="items")
    async def items(stream):
        async for key, value in stream.items():
            by_item.append((key, value))

    @app.agent(source, name="current")
    async def current(stream):
        async for value in stream:
            await asyncio.sleep(0)  # it is still this record's afterwards
            assert current_event() is stream.current_event
            by_current.append((current_event().key, value))

    @app.agent(source, name="batches")
    async def batches(stream):
        async for batch in stream.batches():
            assert (batch.topic, batch.partition, batch.timestamps_ms) == (topic, 1, [LONG_AGO_MS] * len(batch))
            by_stream.extend(zip(batch.keys, batch, strict=True))

    lab.produce(topic, [record(f"v{i}", f"k{i}", LONG_AGO_MS, HEADERS, 1) for i in range(3)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert by_event == [(f"k{i}", f"v{i}", HEADERS, 1, i) for i in range(3)]
    assert by_item == by_current == [(f"k{i}", f"v{i}") for i in range(3)]
    assert by_stream == [(f"k{i}".encode(), f"v{i}") for i in range(3)]


async def test_outside_of_a_record_there_is_no_current_event(lab) -> None:
    app, seen = lab.app(lab.fresh("app")), []
    topic = lab.topic()

    @app.agent(app.topic(topic), name="reader")
    async def reader(stream):
        async for _ in stream:
            pass

    @app.task
    async def look():
        seen.append(current_event())

    async with lab.running(app):
        await lab.until(lambda: seen)
    assert seen == [None]


async def test_what_is_handed_on_keeps_key_headers_and_timestamp(lab, record, drain) -> None:
    app, reached = lab.app(lab.fresh("app")), []
    sources = {way: lab.topic() for way in ("forward", "send", "through", "group_by", "echo", "echo by name")}
    targets = {way: lab.topic(2, "out") for way in sources}

    def passer(way: str) -> None:
        out = app.topic(targets[way], key_type=bytes, value_type=bytes)

        @app.agent(app.topic(sources[way], key_type=bytes, value_type=bytes), name=way.replace(" ", "-"))
        async def pass_on(stream):
            match way:
                case "forward":
                    async for event in stream.events():
                        await event.forward(out)
                        reached.append(way)
                case "send":
                    async for event in stream.events():
                        message = event.message
                        await out.send(
                            key=event.key, value=event.value, timestamp=message.timestamp, headers=message.headers
                        )
                        reached.append(way)
                case "through":
                    async for _ in stream.through(out):
                        reached.append(way)
                case "group_by":
                    async for _ in stream.group_by(lambda _: b"k", name="key", topic=out):
                        reached.append(way)
                case "echo":
                    async for _ in stream.echo(out):
                        reached.append(way)
                case _:
                    async for _ in stream.echo(targets[way]):
                        reached.append(way)

    for way, source in sources.items():
        passer(way)
        lab.produce(source, [record(b"\x00v", b"k", LONG_AGO_MS, HEADERS)])
    async with lab.running(app):
        await lab.until(lambda: sorted(reached) == sorted(sources), "all ways")
        for source in sources.values():
            await lab.caught_up(source, app)
    for way, target in targets.items():
        (kept,) = drain(target)
        assert (kept.key(), kept.value(), kept.headers()) == (b"k", b"\x00v", HEADERS), way
        assert kept.timestamp()[1] == LONG_AGO_MS, way


async def test_a_bounded_run_never_writes_to_the_topics_of_the_live_app(lab, drain, monkeypatch) -> None:
    live, name = lab.topic(1, "live"), lab.fresh("app")
    monkeypatch.setenv("ANABRANCH_RUN", "r1")
    app, reached = lab.app(name), []
    source, kept = app.topic("in", partitions=1), app.topic(live)

    @app.agent(source, name="passer")
    async def passer(stream):
        async for event in stream.echo(live).through(f"{live}-2").events():
            await kept.send(value=event.value)
            await app.send(live, value=event.value)
            await event.forward(live)
            reached.append(event.value)

    @app.agent(live, name="named")  # a topic by name alone
    async def named(stream):
        async for _ in stream:
            pass

    lab.admin.create([TopicSpec(f"{name}-run-r1-in", 1)])
    lab.produce(f"{name}-run-r1-in", [1])
    async with lab.running(app):
        await lab.until(lambda: reached)
        await lab.caught_up(f"{name}-run-r1-in", app)
        assert {tp.topic for tp in runtime_of(app).status.owned} == {
            f"{name}-run-r1-{t}" for t in ("in", live, f"{live}-2")
        }
    assert drain(live, committed=False) == []
    assert f"{live}-2" not in lab.admin.partitions()
    assert [m.value() for m in drain(f"{name}-run-r1-{live}")] == [b"1"] * 4


async def test_a_topic_by_pattern_is_refused_when_it_is_declared(lab) -> None:
    app = lab.app(lab.fresh("app"))
    for pattern in ("orders-.*", re.compile("orders-.*")):
        with pytest.raises(Usage, match=r"pattern='orders-\.\*'[\s\S]*name the topics"):
            app.topic(pattern=pattern)


async def test_a_send_says_where_and_when_or_takes_the_time_of_the_record_being_handled(lab, record, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(3, "out"), lab.app(lab.fresh("app"))
    out = app.topic(target)

    @app.agent(app.topic(topic), name="sender")
    async def sender(stream):
        async for _ in stream:
            await out.send(key="a", value=1, partition=2, timestamp=1_600_000_000.001, headers={"h": b"x"})
            await out.send(key="b", value=2, partition=1)
            await asyncio.gather(out.send(key="c", value=3, partition=0), asyncio.sleep(0))

    lab.produce(topic, [record({}, "k", LONG_AGO_MS)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    sent = sorted((m.key(), m.partition(), m.timestamp()[1], m.headers()) for m in drain(target))
    assert sent == [
        (b"a", 2, 1_600_000_000_001, [("h", b"x")]),
        (b"b", 1, LONG_AGO_MS, None),
        (b"c", 0, LONG_AGO_MS, None),
    ]


async def test_milliseconds_survive_the_way_through_seconds(lab, record, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    out, stamps_ms = app.topic(target), [*range(1_357_016_400_000, 1_357_016_401_000, 7), 1_234_567_890_057]

    @app.agent(app.topic(topic), name="passer")
    async def passer(stream):
        async for event in stream.events():
            await out.send(value=event.value, timestamp=event.message.timestamp)

    lab.produce(topic, [record(1, None, ms) for ms in stamps_ms])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert [m.timestamp()[1] for m in drain(target)] == stamps_ms


async def test_a_filter_leaves_records_out_and_they_count_as_handled(lab) -> None:
    topic, app, got, taken = lab.topic(), lab.app(lab.fresh("app")), [], []

    @app.agent(app.topic(topic), name="even")
    async def even(stream):
        async for value in stream.filter(lambda v: v % 2 == 0):
            got.append(value)

    @app.agent(app.topic(topic), name="even-pairs")
    async def even_pairs(stream):
        async for pair in stream.filter(lambda v: v % 2 == 0).take(2, within=0.05):
            taken.append(pair)

    lab.produce(topic, range(8))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert got == [0, 2, 4, 6]
    assert taken == [[0, 2], [4, 6]]


async def test_enumerate_counts_values(lab) -> None:
    topic, app, got = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic), name="reader")
    async def reader(stream):
        async for i, value in stream.enumerate(start=1):
            got.append((i, value))

    lab.produce(topic, [10, 20])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert got == [(1, 10), (2, 20)]


async def test_channels_and_iterables_in_memory_go_fausts_own_way(lab) -> None:
    app, got, listed = lab.app(lab.fresh("app")), [], []
    channel = app.channel()

    @app.agent(channel, name="listener")
    async def listener(stream):
        async for value in stream:
            got.append(value)

    @app.task
    async def talk():
        async for value in app.stream([1, 2, 3]):
            listed.append(value)
        await channel.put("hello")

    async with lab.running(app):
        await lab.until(lambda: got and len(listed) == 3)
    assert (got, listed) == (["hello"], [1, 2, 3])


# Repartitioning -------------------------------------------------------------------------------------------------------


async def test_totals_of_repartitioned_streams_are_right_after_a_restart(lab, table_of) -> None:
    #  in, 3 partitions by shop  ──▶  repartition topic, 4 partitions by user  ──▶  table by user
    name, by_user = lab.fresh("app"), lab.topic(4, "by-user")
    topics = {way: lab.topic(3) for way in ("field", "callable", "through")}

    def program(app):
        def total(way: str, value_type: Any) -> None:
            totals = app.Table(way, default=int, partitions=4)

            @app.agent(app.topic(topics[way], value_type=value_type), name=f"total-{way}")
            async def add(stream):
                match way:
                    case "field":
                        stream = stream.group_by(Withdrawal.user, partitions=4)
                    case "callable":
                        stream = stream.filter(lambda order: order.amount).group_by(
                            lambda order: order.user, name="user", partitions=4
                        )
                    case _:
                        stream = stream.through(app.topic(by_user, value_type=Withdrawal))
                async for order in stream:
                    totals[order.user] += order.amount

        for way in topics:
            total(way, Order if way == "callable" else Withdrawal)

    def orders(way: str, start: int, stop: int) -> Any:
        for i in range(start, stop):
            user = f"u{i % 7}"
            yield (user if way == "through" else f"shop{i % 5}"), {"user": user, "amount": i}

    for start, stop in [(0, 400), (400, 700)]:
        for way, topic in topics.items():
            lab.produce(topic, orders(way, start, stop))
        app = lab.app(name)
        program(app)
        expected = {f"u{u}": sum(range(stop)[u::7]) for u in range(7)}
        async with lab.running(app):
            await lab.until(lambda: all(dict(app.tables[way].items()) == expected for way in topics), "totals")  # noqa: B023
        assert [table_of(app, way) for way in topics] == [expected] * 3
