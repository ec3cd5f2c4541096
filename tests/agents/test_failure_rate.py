"""A worker that gives up most of what one of its agents reads stops; one that gives up some goes on."""

from __future__ import annotations

import re
from typing import Any

import pyarrow
import pytest
from anabranch.agents.engine.failure_rate import EpochCounts, FailureRate
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.failure_policy import Retry
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop
from anabranch.topics.packed import pack
from failing_records import Boom

pytestmark = pytest.mark.memory_suffices(
    "test_one_agent_that_loses_all_stops_the_worker_and_is_named",
)


def note(flood: FailureRate, now_s: float, handled: int, failed: int) -> None:
    flood.note(now_s, {"total": EpochCounts(handled, failed)})


def test_a_few_bad_records_are_no_flood_however_large_their_share():
    note(FailureRate(0.5), 0.0, handled=999, failed=999)


def test_many_bad_records_are_no_flood_where_most_are_good():
    flood = FailureRate(0.5)
    for second in range(300):
        note(flood, float(second), handled=2_000, failed=1_000)


def test_more_than_the_share_is_a_flood():
    flood = FailureRate(0.5)
    note(flood, 0.0, handled=1_000, failed=900)
    with pytest.raises(Stop, match="agent total: 1,000 of the last 1,100 records failed"):
        note(flood, 1.0, handled=100, failed=100)


def test_what_is_longer_ago_than_a_minute_is_forgotten():
    flood = FailureRate(0.5)
    for minute in range(10):
        note(flood, minute * 61.0, handled=900, failed=900)


def test_a_share_of_one_lets_everything_pass():
    note(FailureRate(1.0), 0.0, handled=5_000, failed=5_000)


def test_an_agent_that_loses_all_is_a_flood_beside_others_that_lose_nothing():
    flood = FailureRate(0.5)
    with pytest.raises(Stop, match="agent broken: 1,000 of the last 1,000 records failed"):
        flood.note(0.0, {"fine": EpochCounts(50_000, 0), "broken": EpochCounts(1_000, 1_000)})


def test_agents_that_lose_some_are_no_flood_however_many_they_are():
    FailureRate(0.5).note(0.0, {f"agent {n}": EpochCounts(3_000, 1_400) for n in range(10)})


COUNT = 2_000


def many(lab: Any, record: Any, topic: str, packed: bool) -> None:
    """Numbers, one a record or all in a few packed batches."""
    if not packed:
        lab.produce(topic, range(COUNT))
        return
    for start in range(0, COUNT, 1_000):
        made = pack(pyarrow.record_batch({"n": range(start, start + 1_000)}))
        lab.produce(topic, [record(made.value, None, 0, made.headers)])


@pytest.mark.parametrize("way", ["flows", "agents", "packed", "concurrent", "retried", "several at a time"])
async def test_several_agents_of_one_topic_that_each_lose_a_fifth_go_on(lab, record, drain, table_of, way) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    kept = app.Table("kept", default=int)
    source = app.topic(topic)
    policy = Retry(times=1, first_s=0.001) if way == "retried" else "dead_letter"
    lost = 100 if way in ("retried", "several at a time") else 5  # each failure of these costs more

    def check(value: Any) -> int:
        number = value["n"] if way == "packed" else value
        if number % lost == 1:
            raise Boom
        return number

    def agent(name: str) -> None:
        @app.agent(source, name=name, on_failure=policy, concurrency=2 if way == "concurrent" else 1)
        async def some(stream):
            if way == "several at a time":
                async for values in stream.take(10, within=0.05):
                    kept[name] += len(list(map(check, values)))
                return
            async for value in stream:
                check(value)
                kept[name] += 1

    for number in range(4):
        if way == "flows":
            source.map(check).key_by(lambda _, to=number: f"a{to}", lambda _: 1).reduce(sum, f"kept{number}")
        else:
            agent(f"a{number}")
    many(lab, record, topic, packed=way == "packed")
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert runtime_of(app).status.dead_letters_total == 4 * COUNT // lost
    if way != "flows":
        assert table_of(app, "kept") == {f"a{n}": COUNT - COUNT // lost for n in range(4)}
    assert len(drain(f"{topic}.dlq")) == 4 * COUNT // lost


async def test_one_agent_that_loses_all_stops_the_worker_and_is_named(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    source = app.topic(topic)

    @app.agent(source, name="fine")
    async def fine(stream):
        async for _ in stream:
            pass

    @app.agent(source, name="broken", on_failure="skip")
    async def broken(stream):
        async for _ in stream:
            raise Boom

    lab.produce(topic, range(1_500))
    found = re.match(r"agent broken: ([\d,]+) of the last ([\d,]+) records failed", str(await lab.stopped_by(app)))
    assert found
    assert found[1] == found[2]


async def test_a_share_of_one_never_stops_a_worker(lab, drain) -> None:
    topic = lab.topic()
    app = lab.app(lab.fresh("app"), settings=EngineSettings(session_timeout_ms=6_000, max_failure_share=1))
    for name in "ab":

        @app.agent(app.topic(topic, value_type=str), name=name)
        async def broken(stream):
            async for _ in stream:
                raise Boom

    lab.produce(topic, range(1_000))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert len(drain(f"{topic}.dlq")) == 2_000
