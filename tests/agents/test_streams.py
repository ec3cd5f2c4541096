"""What a stream hands out: values, their records' facts, and several records at a time."""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from typing import Any

import faust
import msgspec
from anabranch import current_event
from anabranch.topics.admin import TopicSpec

LONG_AGO_MS = 1_357_016_400_123
HEADERS = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b"")]


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
            assert event.headers == {"trace": b"again", "empty": b""}

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
        assert {tp.topic for tp in app.engine.assignment()} == {f"{name}-run-r1-{t}" for t in ("in", live, f"{live}-2")}
    assert drain(live, committed=False) == []
    assert f"{live}-2" not in lab.admin.partitions()
    assert [m.value() for m in drain(f"{name}-run-r1-{live}")] == [b"1"] * 4


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


# Several records at a time --------------------------------------------------------------------------------------------


async def test_take_gives_full_lists_of_one_partition_and_the_rest_after_a_while(lab, record) -> None:
    topic, app, got = lab.topic(3), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic), name="taker")
    async def taker(stream):
        async for values in stream.take(10, within=0.05):
            got.append(values)

    # Partition p has 25 records of p: two full lists, and five that wait for the deadline.
    lab.produce(topic, [record([p, i], None, 0, None, p) for i in range(25) for p in range(3)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert all(len({p for p, _ in values}) == 1 for values in got), "never mixes partitions"
    for p in range(3):
        lists = [[i for _, i in values] for values in got if values[0][0] == p]
        assert [len(values) for values in lists] == [10, 10, 5]
        assert [i for values in lists for i in values] == list(range(25))


async def test_take_events_gives_events(lab, record) -> None:
    topic, app, got = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic, key_type=str), name="taker")
    async def taker(stream):
        async for events in stream.take_events(2, within=5):
            got.append([(event.key, event.value, event.message.offset) for event in events])

    lab.produce(topic, [record(i, f"k{i}") for i in range(4)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert got == [[("k0", 0, 0), ("k1", 1, 1)], [("k2", 2, 2), ("k3", 3, 3)]]


async def test_take_with_timestamp_writes_the_records_time_into_the_value(lab, record) -> None:
    topic, app, got = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic), name="taker")
    async def taker(stream):
        async for values in stream.take_with_timestamp(2, within=5, timestamp_field_name="at"):
            got.extend(values)

    lab.produce(topic, [record({"i": i}, None, LONG_AGO_MS) for i in range(2)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert got == [{"i": i, "at": LONG_AGO_MS / 1000} for i in range(2)]


async def test_what_take_holds_back_is_not_committed_and_comes_again_after_a_crash(lab, table_of) -> None:
    #  records       0 … 24 of one partition, in tens
    #  first run     [0..9] [10..19] 20..24 held ──✗ killed      committed: 20
    #  second run    20..24 again, 25..29 → [20..29]
    topic, name = lab.topic(), lab.fresh("app")

    def program(app):
        sums, lists = app.Table("sums", default=int), []

        @app.agent(app.topic(topic), name="taker")
        async def taker(stream):
            async for values in stream.take(10, within=60):
                lists.append(values)
                sums["all"] += sum(values)

        return lists

    lab.produce(topic, range(25))
    app = lab.app(name)
    lists = program(app)
    worker = await lab.started(app)
    await lab.until(lambda: list(app.engine.committed.values()) == [20])
    await lab.kill(app, worker)
    assert [len(values) for values in lists] == [10, 10]
    assert lab.committed(name, topic)[0][0] == 20

    lab.produce(topic, range(25, 30))
    app = lab.app(name)
    lists = program(app)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert lists == [list(range(20, 30))]
    assert table_of(app, "sums") == {"all": sum(range(30))}


async def test_a_worker_that_stops_leaves_what_take_holds_back_for_the_next(lab) -> None:
    topic, name, seen = lab.topic(), lab.fresh("app"), []

    def program(app):
        @app.agent(app.topic(topic), name="taker")
        async def taker(stream):
            async for values in stream.take(3, within=60):
                seen.append(values)

    lab.produce(topic, range(4))
    first, second = lab.app(name), lab.app(name)
    program(first), program(second)
    async with lab.running(first):
        await lab.until(lambda: list(first.engine.committed.values()) == [3])
    assert lab.committed(name, topic)[0][0] == 3
    lab.produce(topic, [4, 5])
    async with lab.running(second):
        await lab.caught_up(topic, second)
    assert seen == [[0, 1, 2], [3, 4, 5]]


async def test_batches_are_runs_of_one_partition_in_order(lab, record, table_of) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    sums, seen, ends = app.Table("sums", default=int), defaultdict(list), {0: 0, 1: 0}

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for batch in stream.batches():
            assert batch.offset == ends[batch.partition]
            ends[batch.partition] = batch.end
            seen[batch.partition] += batch.values
            sums[str(batch.partition)] += sum(batch)

    lab.produce(topic, [record(i, None, 0, None, i % 2) for i in range(3_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert seen == {p: list(range(p, 3_000, 2)) for p in (0, 1)}
    assert table_of(app, "sums") == {"0": sum(range(0, 3_000, 2)), "1": sum(range(1, 3_000, 2))}


# Several agents, several instances ------------------------------------------------------------------------------------


async def test_agents_of_one_topic_keep_their_own_progress_over_a_restart(lab, table_of) -> None:
    #  fast   0 ─────────────── 100                      mark 100, in the offset's metadata
    #  slow   0 ── 10 held at the eleventh …             committed offset 10
    #  killed; then both go on, each where it was
    topic, name = lab.topic(), lab.fresh("app")
    handled: dict[str, list[int]] = defaultdict(list)

    def program(app, stuck):
        fast_sum, slow_sum = app.Table("fast", default=int), app.Table("slow", default=int)
        source = app.topic(topic)

        @app.agent(source, name="fast")
        async def fast(stream):
            async for value in stream:
                fast_sum["all"] += value
                handled["fast"].append(value)

        @app.agent(source, name="slow")
        async def slow(stream):
            async for values in stream.take(10, within=60) if stuck else stream.take(5, within=60):
                slow_sum["all"] += sum(values)
                handled["slow"] += values

    lab.produce(topic, range(95))
    app = lab.app(name)
    program(app, stuck=True)
    worker = await lab.started(app)
    await lab.until(lambda: lab.committed(name, topic).get(0) == (90, '{"marks":{"fast":95}}'))
    await lab.kill(app, worker)

    lab.produce(topic, range(95, 105))
    app = lab.app(name)
    program(app, stuck=False)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert handled == {"fast": list(range(105)), "slow": list(range(105))}
    assert table_of(app, "fast") == table_of(app, "slow") == {"all": sum(range(105))}


async def test_a_slow_agent_does_not_hold_back_a_fast_one_for_long_and_both_see_everything(lab, table_of) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    counts = app.Table("counts", default=int)
    source = app.topic(topic)

    @app.agent(source, name="fast")
    async def fast(stream):
        async for value in stream:
            counts[f"fast {value % 2}"] += 1

    @app.agent(source, name="slow")
    async def slow(stream):
        async for value in stream:
            await asyncio.sleep(0.001)
            counts[f"slow {value % 2}"] += 1

    lab.produce(topic, [(str(i % 2), i) for i in range(300)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "counts") == {f"{who} {k}": 150 for who in ("fast", "slow") for k in (0, 1)}


async def test_concurrent_instances_share_a_partition_and_keep_order_per_key(lab, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    totals = app.Table("totals", default=int)
    orders: dict[str, list[int]] = defaultdict(list)
    by_instance: dict[int, set[str]] = defaultdict(set)
    busy, most_busy = set(), [0]

    @app.agent(app.topic(topic), name="worker", concurrency=4)
    async def worker(stream):
        async for value in stream:
            me = stream.concurrency_index
            busy.add(me)
            most_busy[0] = max(most_busy[0], len(busy))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            busy.discard(me)
            orders[value["k"]].append(value["i"])
            by_instance[me].add(value["k"])
            totals[value["k"]] += value["i"]

    lab.produce(topic, [(f"k{i % 20}", {"k": f"k{i % 20}", "i": i}) for i in range(1_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    expected = {f"k{k}": list(range(k, 1_000, 20)) for k in range(20)}
    assert orders == expected
    assert table_of(app, "totals") == {k: sum(v) for k, v in expected.items()}
    assert len(by_instance) == 4
    assert most_busy == [4], "they do work at the same time"
    assert sum(len(keys) for keys in by_instance.values()) == 20, "a key has one instance"


async def test_isolated_partitions_have_an_instance_each(lab, record) -> None:
    topic, app = lab.topic(3), lab.app(lab.fresh("app"))
    seen: dict[int, list[int]] = defaultdict(list)

    @app.agent(app.topic(topic), name="isolated", isolated_partitions=True)
    async def isolated(stream):
        async for event in stream.events():
            seen[id(stream)].append(event.message.partition)

    lab.produce(topic, [record(i, None, 0, None, i % 3) for i in range(30)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert sorted(seen.values()) == [[p] * 10 for p in range(3)]


async def test_concurrent_instances_that_hold_records_back_find_each_its_own_again(lab) -> None:
    #  instance of "a"   a0 a1 a2 … held          committed offset 0, the other's mark in its metadata
    #  instance of "b"   [b0 b1 b2] handled       killed; nothing lost, nothing twice
    topic, name = lab.topic(), lab.fresh("app")
    handled: list[str] = []

    def program(app, size):
        @app.agent(app.topic(topic, value_type=str), name="taker", concurrency=2)
        async def taker(stream):
            async for values in stream.take(size, within=60):
                handled.extend(values)

    keys = {zlib.crc32(key.encode()) % 2: key for key in ("a", "b", "c", "d")}
    assert len(keys) == 2
    few, many = keys[0], keys[1]
    lab.produce(topic, [(few, "few 0"), *((many, f"many {i}") for i in range(3)), (few, "few 1")])
    app = lab.app(name)
    program(app, 3)
    worker = await lab.started(app)
    await lab.until(lambda: lab.committed(name, topic).get(0) == (0, '{"marks":{"taker#1":5}}'))
    await lab.kill(app, worker)
    app = lab.app(name)
    program(app, 1)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert handled == ["many 0", "many 1", "many 2", "few 0", "few 1"]


async def test_an_agent_can_read_several_topics(lab, table_of) -> None:
    one, two, app = lab.topic(2), lab.topic(2), lab.app(lab.fresh("app"))
    totals, seen = app.Table("totals", default=int), set()

    @app.agent(app.topic(one, two), name="adder")
    async def adder(stream):
        async for event in stream.events():
            totals["k"] += event.value
            seen.add(event.message.topic)

    lab.produce(one, [("k", 1), ("k", 2)])
    lab.produce(two, [("k", 10), ("k", 20)])
    async with lab.running(app):
        await lab.caught_up(one, app)
        await lab.caught_up(two, app)
    assert table_of(app, "totals") == {"k": 33}
    assert seen == {one, two}


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
