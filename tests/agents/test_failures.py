"""Records that fail go to their policy, alone: what they did is undone, and every other record counts exactly once.

A value of -1 fails; what the agents add up is audited against what went in.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from anabranch.agents.runtime import runtime_of
from failing_records import BAD, Boom, good_sum, with_bad

pytestmark = pytest.mark.memory_suffices(
    "test_a_record_that_raises_becomes_a_dead_letter_that_says_why_and_where_from",
    "test_what_a_failing_record_did_is_undone_and_the_others_count_once",
    "test_a_value_that_cannot_be_encoded_goes_to_the_policy_of_its_record",
)

LONG_AGO_MS = 1_357_016_400_123


def letter_headers(letter: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in letter.headers() or () if name.startswith("anabranch-")}


async def test_a_record_that_raises_becomes_a_dead_letter_that_says_why_and_where_from(lab, record, drain) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    app = lab.app(name)

    @app.agent(app.topic(topic), name="picky")
    async def picky(stream):
        async for value in stream:
            if value == BAD:
                raise Boom("not this one")

    lab.produce(topic, [record(1, "k", 0, None, 1), record(BAD, "key", LONG_AGO_MS, [("trace", b"x")], 1)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    (letter,) = drain(f"{topic}.dlq")
    assert (letter.key(), letter.value(), letter.timestamp()[1]) == (b"key", b"-1", LONG_AGO_MS)
    assert letter.headers()[0] == ("trace", b"x")
    assert letter_headers(letter) == {
        "anabranch-reason": "agent",
        "anabranch-error": "Boom: not this one",
        "anabranch-source": f"{topic}[1]@1",
        "anabranch-topic": topic,
        "anabranch-partition": "1",
        "anabranch-offset": "1",
        "anabranch-timestamp-ms": str(LONG_AGO_MS),
        "anabranch-agent": "picky",
        "anabranch-app": name,
        "anabranch-app-version": "1",
        "anabranch-attempts": "2",
        "anabranch-at": f"tests/agents/test_failures.py:{picky.fun.__code__.co_firstlineno + 4} in picky",
        "anabranch-retry-topic": f"{name}-picky-retry",
    }
    assert runtime_of(app).status.dead_letters_total == 1


@pytest.mark.parametrize(
    "values",
    [with_bad(1, 0), with_bad(60, 0), with_bad(60, 59), with_bad(60, 20, 21, 22, 23), with_bad(60, *range(5, 55, 7))],
    ids=["only", "first", "last", "in a row", "now and then"],
)
async def test_what_a_failing_record_did_is_undone_and_the_others_count_once(lab, drain, table_of, values) -> None:
    topic, apps, targets = lab.topic(), {}, {}

    def program(awaits: str) -> None:
        app = apps[awaits] = lab.app(lab.fresh("app"), worker=awaits)
        target = targets[awaits] = lab.topic(1, "out")
        sums, seen, out = app.Table("sums", default=int), app.Table("seen", default=list), app.topic(target)

        @app.agent(app.topic(topic), name=awaits)
        async def picky(stream):
            async for value in stream:
                if awaits == "before":
                    await asyncio.sleep(0)
                sums["all"] += value
                seen["all"].append(value)
                await out.send(value=value)
                if awaits == "between":
                    await asyncio.sleep(0)
                sums["count"] += 1
                if value == BAD:
                    raise Boom

    # Whether the agent was suspended in the middle of the record decides how it is undone.
    for awaits in ("never", "before", "between"):
        program(awaits)
    lab.produce(topic, values)
    async with lab.running(*apps.values()):
        for app in apps.values():
            await lab.caught_up(topic, app)
    good = [value for value in values if value != BAD]
    letters = [letter_headers(letter) for letter in drain(f"{topic}.dlq")]
    for awaits, app in apps.items():
        assert table_of(app, "sums") == ({"all": sum(good), "count": len(good)} if good else {}), awaits
        assert table_of(app, "seen") == ({"all": good} if good else {}), awaits
        assert [msgspec.json.decode(m.value()) for m in drain(targets[awaits])] == good, awaits
        offsets = [int(h["anabranch-offset"]) for h in letters if h["anabranch-agent"] == awaits]
        assert offsets == [i for i, value in enumerate(values) if value == BAD], awaits


@pytest.mark.parametrize("awaits", [False, True], ids=["straight", "awaiting"])
async def test_one_in_a_hundred_of_5000_fails_beside_an_agent_that_does_not_mind(lab, drain, table_of, awaits) -> None:
    topic, app = lab.topic(4), lab.app(lab.fresh("app"))
    picky_sums, calm_counts = app.Table("picky", default=int), app.Table("calm", default=int)
    source = app.topic(topic)

    @app.agent(source, name="picky")
    async def picky(stream):
        async for value in stream:
            key = f"k{abs(value) % 5}"
            picky_sums[key] += value
            if awaits and value % 10 == 0:
                await asyncio.sleep(0)
            if value % 100 == 50:
                raise Boom

    @app.agent(source, name="calm")
    async def calm(stream):
        async for value in stream:
            calm_counts[f"k{value % 5}"] += 1

    # The key is the table's, so that each lives in one partition.
    lab.produce(topic, [(f"k{i % 5}", i) for i in range(5_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "picky") == {f"k{k}": sum(i for i in range(k, 5_000, 5) if i % 100 != 50) for k in range(5)}
    assert table_of(app, "calm") == {f"k{k}": 1_000 for k in range(5)}
    assert sorted(int(letter.value()) for letter in drain(f"{topic}.dlq")) == list(range(50, 5_000, 100))


async def test_two_agents_that_fail_at_different_records_of_one_topic_each_keep_the_rest(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums, source = app.Table("sums", default=int), app.topic(topic)

    def agent(name: str, divisor: int) -> None:
        @app.agent(source, name=name)
        async def adder(stream):
            async for value in stream:
                sums[name] += value
                await asyncio.sleep(0)
                if value % divisor == 3:
                    raise Boom

    agent("sevens", 7)
    agent("elevens", 11)
    lab.produce(topic, range(100))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {
        name: sum(i for i in range(100) if i % divisor != 3) for name, divisor in [("sevens", 7), ("elevens", 11)]
    }
    letters = sorted(
        (h["anabranch-agent"], int(h["anabranch-offset"])) for h in map(letter_headers, drain(f"{topic}.dlq"))
    )
    assert letters == [("elevens", i) for i in range(3, 100, 11)] + [("sevens", i) for i in range(3, 100, 7)]


async def test_a_failure_among_concurrent_instances_undoes_only_its_record(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(topic), name="adder", concurrency=3)
    async def adder(stream):
        async for value in stream:
            sums[f"k{value % 9}"] += value
            await asyncio.sleep(0)
            if value % 50 == 7:
                raise Boom

    lab.produce(topic, [(f"k{i % 9}", i) for i in range(300)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {f"k{k}": sum(i for i in range(k, 300, 9) if i % 50 != 7) for k in range(9)}
    assert sorted(int(letter.value()) for letter in drain(f"{topic}.dlq")) == list(range(7, 300, 50))


async def test_what_an_agent_sent_from_tasks_of_its_own_is_undone_as_well(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    out, values = app.topic(target), with_bad(30, 10, 11, 20)

    @app.agent(app.topic(topic), name="sender")
    async def sender(stream):
        async for value in stream:
            await asyncio.gather(out.send(value=value), out.send(value=value))
            if value == BAD:
                raise Boom

    lab.produce(topic, values)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert [int(m.value()) for m in drain(target)] == [v for value in values if value != BAD for v in (value, value)]


async def test_an_agent_that_starts_anew_does_not_echo_or_filter_twice(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    filtered: list[int] = []

    @app.agent(app.topic(topic), name="echoing")
    async def echoing(stream):
        async for value in stream.filter(lambda v: filtered.append(v) or v % 2 == 0).echo(app.topic(target)):
            if value == 4:
                raise Boom

    lab.produce(topic, range(10))
    async with lab.running(app):
        await lab.caught_up(topic, app)
        filtered.clear()
        lab.produce(topic, [10])
        await lab.caught_up(topic, app)
    assert [m.value() for m in drain(target)] == [b"0", b"2", b"6", b"8", b"10"]
    assert filtered == [10]


async def test_an_agent_that_raises_while_it_leaves_an_undone_record_does_no_harm(lab, table_of) -> None:
    #  slow      in the middle of record 0, when …
    #  picky     … raises at record 1: the epoch is undone, slow is cancelled, and fails to clean up
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums, source = app.Table("sums", default=int), app.topic(topic)
    waiting = asyncio.Event()

    @app.agent(source, name="slow")
    async def slow(stream):
        async for value in stream:
            sums["slow"] += value
            if not waiting.is_set():
                waiting.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise Boom("while cleaning up") from None

    @app.agent(source, name="picky")
    async def picky(stream):
        async for value in stream:
            await waiting.wait()
            sums["picky"] += value
            if value == 1:
                raise Boom

    lab.produce(topic, range(5))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"slow": 10, "picky": 9}


async def test_a_batch_that_raises_comes_again_record_by_record(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)
    values = with_bad(200, 30, 31, 150)

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for batch in stream.batches():
            for value in batch:
                sums["all"] += value
                if value == BAD:
                    raise Boom

    lab.produce(topic, values)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": good_sum(values)}
    assert [int(letter_headers(m)["anabranch-offset"]) for m in drain(f"{topic}.dlq")] == [30, 31, 150]


async def test_a_group_of_take_that_raises_comes_again_record_by_record(lab, drain, table_of) -> None:
    apps, cases = [], [[7], [25], [30, 31], [49]]
    topics = [lab.topic() for _ in cases]

    def program(topic: str) -> None:
        app = lab.app(lab.fresh("app"), worker=topic)
        apps.append(app)
        sums = app.Table("sums", default=int)

        @app.agent(app.topic(topic), name="taker")
        async def taker(stream):
            async for group in stream.take(10, within=0.05):
                sums["all"] += sum(group)
                if BAD in group:
                    raise Boom

    for topic, bad in zip(topics, cases, strict=True):
        program(topic)
        lab.produce(topic, with_bad(50, *bad))
    async with lab.running(*apps):
        for topic, app in zip(topics, apps, strict=True):
            await lab.caught_up(topic, app)
    for topic, app, bad in zip(topics, apps, cases, strict=True):
        assert table_of(app, "sums") == {"all": good_sum(with_bad(50, *bad))}
        assert [int(letter_headers(m)["anabranch-offset"]) for m in drain(f"{topic}.dlq")] == bad


async def test_values_changed_in_place_before_the_record_raised_are_as_before(lab, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    lists = app.Table("lists", default=list)

    @app.agent(app.topic(topic), name="appender")
    async def appender(stream):
        async for value in stream:
            lists["all"].append(value)
            if value == BAD:
                lists["all"].clear()
                lists["new"].append(value)
                raise Boom

    async with lab.running(app):
        # Committed before the bad one comes, in the same epoch as it, and after it.
        lab.produce(topic, [1, 2])
        await lab.caught_up(topic, app)
        lab.produce(topic, [3, BAD, 4, BAD, BAD])
        await lab.caught_up(topic, app)
        lab.produce(topic, [5])
        await lab.caught_up(topic, app)
    assert table_of(app, "lists") == {"all": [1, 2, 3, 4, 5]}


async def test_a_value_that_cannot_be_encoded_goes_to_the_policy_of_its_record(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    held, sums = app.Table("held"), app.Table("sums", default=int)

    @app.agent(app.topic(topic), name="keeper")
    async def keeper(stream):
        async for value in stream:
            sums["all"] += value
            if value in (5, 17):
                held["set"] = {1, 2}
            else:
                held[f"k{value % 3}"] = value

    lab.produce(topic, range(30))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "held") == {"k0": 27, "k1": 28, "k2": 29}
    assert table_of(app, "sums") == {"all": sum(range(30)) - 5 - 17}
    letters = [letter_headers(m) for m in drain(f"{topic}.dlq")]
    assert [h["anabranch-offset"] for h in letters] == ["5", "17"]
    assert "a value of type set would be read back from JSON as another type" in letters[0]["anabranch-error"]


async def test_a_record_that_cannot_be_decoded_never_reaches_an_agent(lab, drain, table_of) -> None:
    app = lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)
    topics = {iterates: lab.topic() for iterates in ("values", "events", "take", "batches", "filter")}

    def adder(iterates: str) -> None:
        @app.agent(app.topic(topics[iterates], value_type=int), name=iterates)
        async def add(stream):
            match iterates:
                case "values":
                    async for value in stream:
                        sums[iterates] += value
                case "events":
                    async for event in stream.events():
                        sums[iterates] += event.value
                case "take":
                    async for values in stream.take(3, within=0.05):
                        sums[iterates] += sum(values)
                case "batches":
                    async for batch in stream.batches():
                        sums[iterates] += sum(batch)
                case _:
                    async for value in stream.filter(lambda v: v < 1_000):
                        sums[iterates] += value

    for iterates, topic in topics.items():
        adder(iterates)
        lab.produce(topic, ["1", "two", "3", "{", "", "6", "7", '"8"'])
    async with lab.running(app):
        for topic in topics.values():
            await lab.caught_up(topic, app)
    assert table_of(app, "sums") == dict.fromkeys(topics, 17)
    for topic in topics.values():
        letters = drain(f"{topic}.dlq")
        assert [m.value() for m in letters] == [b"two", b"{", b"", b'"8"']
        assert {letter_headers(m)["anabranch-reason"] for m in letters} == {"decode"}
