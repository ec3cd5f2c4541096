"""A failed record is retried; later records of its partition wait, and all others are processed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from anabranch import Retry
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import BadRecord, Stop
from anabranch.topics.topic_partition import TopicPartition

pytestmark = pytest.mark.memory_suffices(
    "test_a_record_is_tried_so_often_and_given_up_then",
    "test_a_partition_that_goes_away_while_its_record_waits_is_the_other_workers",
    "test_while_a_record_waits_only_what_is_behind_it_does_and_a_stop_does_not",
    "test_what_gathers_behind_a_waiting_record_is_bounded_and_not_lost",
)

# A wait that no test sits out: what is seen before it ends did not wait for it.
FOR_LONG = Retry(times=9, first_s=600.0, most_s=600.0)
AT_ONCE = Retry(times=2, first_s=0.001, most_s=0.001)


class Boom(Exception):
    """What agents raise here."""


def letter_headers(letter: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in letter.headers() or () if name.startswith("anabranch-")}


@pytest.mark.parametrize("awaits", [False, True], ids=["at once", "after it waited for something"])
async def test_a_record_is_tried_so_often_and_given_up_then(lab, drain, table_of, awaits) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    sums, out = app.Table("sums", default=int), app.topic(target)
    tries: Counter[int] = Counter()

    @app.agent(app.topic(topic), name="picky", on_failure=Retry(times=3, first_s=0.001, most_s=0.002))
    async def picky(stream):
        async for value in stream:
            tries[value] += 1
            sums["all"] += value
            await out.send(value=value)
            if awaits:
                await asyncio.sleep(0)
            if value == 7 or (value == 4 and tries[4] < 3):
                raise Boom(f"no {value}")

    lab.produce(topic, range(10))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    # What an agent has awaited in the middle of, others may have built on, so then the whole epoch is done again.
    assert tries[4] >= 3 if awaits else tries[4] == 3
    assert tries[7] == 4
    assert table_of(app, "sums") == {"all": sum(range(10)) - 7}
    assert [int(m.value()) for m in drain(target)] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    (letter,) = drain(f"{topic}.dlq")
    headers = letter_headers(letter)
    assert letter.value() == b"7"
    assert (headers["anabranch-error"], headers["anabranch-attempts"]) == ("Boom: no 7", "4")


@pytest.mark.parametrize("iterates", ["batches", "take", "concurrency"])
async def test_however_an_agent_iterates_each_record_counts_once(lab, drain, table_of, iterates) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)
    failed: Counter[int] = Counter()
    more = {"concurrency": 3} if iterates == "concurrency" else {}

    def check(value: int) -> None:
        if value % 50 == 7 or (value % 50 == 9 and failed[value] < 2):
            failed[value] += 1
            raise Boom

    @app.agent(app.topic(topic), name="adder", on_failure=AT_ONCE, **more)
    async def adder(stream):
        if iterates == "concurrency":
            async for value in stream:
                sums[f"k{value % 9}"] += value
                await asyncio.sleep(0)
                check(value)
            return
        async for values in stream.batches() if iterates == "batches" else stream.take(10, within=0.05):
            for value in values:
                sums[f"k{value % 9}"] += value
                check(value)

    lab.produce(topic, [(f"k{i % 9}", i) for i in range(200)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {f"k{k}": sum(i for i in range(k, 200, 9) if i % 50 != 7) for k in range(9)}
    assert sorted(int(letter.value()) for letter in drain(f"{topic}.dlq")) == [7, 57, 107, 157]


async def test_while_a_record_waits_only_what_is_behind_it_does_and_a_stop_does_not(lab, record, table_of) -> None:
    #  partition 0   1 2 BAD 3 …   waits before BAD; 1 and 2 are committed
    #  partition 1   10 20 …       goes on; so does the other agent, on both
    topic, name = lab.topic(2), lab.fresh("app")
    seen: list[int] = []

    def program(app: Any, policy: Any) -> Any:
        sums = app.Table("sums", default=int)
        source = app.topic(topic)

        @app.agent(source, name="adder", on_failure=policy)
        async def adder(stream):
            async for value in stream:
                if policy is FOR_LONG and value == -1:
                    raise Boom
                seen.append(value)
                sums[f"adder {value >= 10}"] += value

        @app.agent(source, name="other")
        async def other(stream):
            async for value in stream:
                sums[f"other {value >= 10}"] += value

        return sums

    app = lab.app(name)
    sums = program(app, FOR_LONG)
    lab.produce(topic, [record(v, None, 0, None, 0) for v in (1, 2, -1, 3, 4)])
    async with lab.running(app):
        lab.produce(topic, [record(v, None, 0, None, 1) for v in (10, 20)])
        await lab.until(lambda: runtime_of(app).status.committed.get(TopicPartition(topic, 1)) == 2)
        await lab.until(lambda: runtime_of(app).status.committed.get(TopicPartition(topic, 0)) == 2)
        lab.produce(topic, [record(v, None, 0, None, p) for v, p in ((5, 0), (30, 1))])
        await lab.until(lambda: runtime_of(app).status.committed.get(TopicPartition(topic, 1)) == 3)
        await lab.until(lambda: sums.get("other False") == 14)
    assert set(seen) == {1, 2, 10, 20, 30}
    seen.clear()
    app = lab.app(name)
    program(app, "fail")
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert seen == [-1, 3, 4, 5]
    assert table_of(app, "sums") == {"adder False": 14, "adder True": 60, "other False": 14, "other True": 60}


async def test_a_partition_that_goes_away_while_its_record_waits_is_the_other_workers(lab, record, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("app")

    def program(worker: str, mended: bool) -> Any:
        app = lab.app(name, worker=worker)
        sums = app.Table("sums", default=int)

        @app.agent(app.topic(topic), name="adder", on_failure=FOR_LONG)
        async def adder(stream):
            async for value in stream:
                sums[f"p{value % 2}"] += value
                if not mended and value >= 100:
                    raise Boom

        return app

    lab.produce(topic, [record(v, None, 0, None, v % 2) for v in (10, 11, 100, 101, 20, 21)])
    a, b = program("a", mended=False), program("b", mended=True)
    async with lab.running(a):
        await lab.until(
            lambda: [runtime_of(a).status.committed.get(TopicPartition(topic, p)) for p in (0, 1)] == [1, 1]
        )
        async with lab.running(b):
            await lab.until(lambda: len(runtime_of(a).status.owned) == len(runtime_of(b).status.owned) == 1)
            (mine,) = runtime_of(b).status.owned
            await lab.until(lambda: runtime_of(b).status.committed.get(mine) == 3)
            runtime_of(a).stop_requested.set()
            await lab.caught_up(topic, b)
    assert table_of(b, "sums") == {"p0": 130, "p1": 133}


async def test_what_gathers_behind_a_waiting_record_is_bounded_and_not_lost(lab, record, table_of) -> None:
    topic = lab.topic(2)
    app = lab.app(lab.fresh("app"), settings=EngineSettings(batch_records=200, session_timeout_ms=6_000))
    sums = app.Table("sums", default=int)
    broken = True

    @app.agent(app.topic(topic), name="adder", on_failure=Retry(times=100_000, first_s=0.05, most_s=0.05))
    async def adder(stream):
        async for value in stream:
            sums[f"below nought {value < 0}"] += value
            if broken and value == 0:
                raise Boom

    def gathered() -> int:
        return sum(
            partition.waiting for stream in runtime_of(app).context.router.streams for partition in stream.queue.delayed
        )

    most = 0

    def watched(condition: bool) -> bool:
        nonlocal most
        most = max(most, gathered())
        return condition

    lab.produce(topic, [record(v, None, 0, None, 0) for v in range(5_000)])
    async with lab.running(app):
        await lab.until(lambda: watched(most >= 200), "records gather")
        for v in range(1, 21):
            lab.produce(topic, [record(-v, None, 0, None, 1)])
            await lab.until(
                lambda v=v: watched(runtime_of(app).status.committed.get(TopicPartition(topic, 1), 0) >= v),
                "the other one",
            )
        assert most < 1_500, "a poll or two beyond the bound"
        broken = False
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"below nought False": sum(range(5_000)), "below nought True": -sum(range(21))}


async def test_what_would_fail_in_the_same_way_is_not_tried_again(lab, drain) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    tries: Counter[int] = Counter()

    @app.agent(app.topic(topic, value_type=int), name="picky", on_failure=Retry(times=3, first_s=0.001, on=OSError))
    async def picky(stream):
        async for value in stream:
            tries[value] += 1
            if value == 1:
                raise ValueError
            if value == 2:
                raise BadRecord("as it is")
            if value == 3:
                raise ConnectionError

    lab.produce(topic, ["0", "1", "2", "3", "four"])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert (tries[1], tries[2], tries[3]) == (1, 1, 4)
    letters = [(m.value(), letter_headers(m).get("anabranch-attempts")) for m in drain(f"{topic}.dlq")]
    assert letters == [(b"1", "1"), (b"2", "1"), (b"3", "4"), (b"four", None)]


@pytest.mark.parametrize("then", ["skip", "fail"])
async def test_after_its_tries_a_record_goes_where_the_policy_says(lab, then) -> None:
    topic, app, seen = lab.topic(), lab.app(lab.fresh("app")), []

    @app.agent(app.topic(topic), name="picky", on_failure=Retry(times=1, first_s=0.001, then=then))
    async def picky(stream):
        async for value in stream:
            seen.append(value)
            if value == 1:
                raise Boom

    lab.produce(topic, [1, 2])
    if then == "skip":
        async with lab.running(app):
            await lab.caught_up(topic, app)
        assert (seen, runtime_of(app).status.skipped_total) == ([1, 1, 2], 1)
    else:
        stop = await lab.stopped_by(app)
        assert isinstance(stop, Stop)
        assert f"agent picky failed at {topic}[0]@0: Boom" in str(stop)
        assert seen == [1, 1]


def test_retry_by_name_has_its_defaults_and_nonsense_is_refused(lab) -> None:
    app = lab.app(lab.fresh("app"))

    @app.agent(app.topic("t"), name="a", on_failure="retry")
    async def a(stream):
        async for _ in stream:
            pass

    assert (a.retry, a.on_failure) == (Retry(), "dead_letter")
    for nonsense in ({"times": 0}, {"first_s": 2.0, "most_s": 1.0}, {"then": "retry"}):
        with pytest.raises(Stop):
            Retry(**nonsense)
