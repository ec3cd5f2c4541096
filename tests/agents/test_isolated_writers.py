"""While records are isolated, a write that cannot be kept concerns the agent that has made it, wherever others are.

Two agents, whose tables are their own, or one:

    slow   a bad write ── waits ─────────────────────── asks for the next record: its dead letter
    busy       record, record, record, …                none of its records
"""

from __future__ import annotations

import asyncio

import pytest
from failing_records import BAD, Boom
from test_failures import letter_headers

BUSY = 30


@pytest.mark.parametrize("one_topic", [False, True], ids=["two topics", "one topic"])
@pytest.mark.parametrize("shares_table", [False, True], ids=["own tables", "one table"])
async def test_a_write_that_cannot_be_kept_is_not_blamed_on_an_agent_that_goes_on(
    lab, drain, table_of, one_topic, shares_table
) -> None:
    slow_topic = lab.topic()
    busy_topic = slow_topic if one_topic else lab.topic()
    app = lab.app(lab.fresh("app"))
    slow_sums = app.Table("slow_sums", default=int)
    busy_sums = slow_sums if shares_table else app.Table("busy_sums", default=int)

    @app.agent(app.topic(slow_topic), name="slow")
    async def slow(stream):
        async for value in stream:
            if value == BAD:
                slow_sums["slow bad"] = object()
                await asyncio.sleep(0.2)
                slow_sums["slow after"] += 1
            elif value == 1:
                slow_sums["slow"] += value

    @app.agent(app.topic(busy_topic), name="busy")
    async def busy(stream):
        async for value in stream:
            await asyncio.sleep(0.01)
            if value == 7:
                raise Boom("isolates all records of the epoch")
            busy_sums["busy"] += 1

    lab.produce(slow_topic, [BAD, 1, 1])
    lab.produce(busy_topic, [7, *[0] * BUSY])
    async with lab.running(app):
        await lab.caught_up(slow_topic, app)
        await lab.caught_up(busy_topic, app)
    letters = [
        (found["anabranch-agent"], int(found["anabranch-offset"]))
        for topic in {slow_topic, busy_topic}
        for found in map(letter_headers, drain(f"{topic}.dlq"))
    ]
    assert sorted(letters) == [("busy", 3 if one_topic else 0), ("slow", 0)]
    assert {**table_of(app, "slow_sums"), **table_of(app, busy_sums.name)} == {
        "slow": 2,
        "busy": BUSY + (3 if one_topic else 0),
    }


async def test_a_write_that_is_replaced_before_its_record_ends_is_no_failure(lab, table_of) -> None:
    first_topic, second_topic, app = lab.topic(), lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(first_topic), name="first")
    async def first(stream):
        async for value in stream:
            sums["state"] = object()
            await asyncio.sleep(0.2)
            sums["state"] = value

    @app.agent(app.topic(second_topic), name="second", on_failure="skip")
    async def second(stream):
        async for value in stream:
            await asyncio.sleep(0.01)
            if value == BAD:
                raise Boom("isolates all records of the epoch")
            sums["second"] += 1

    lab.produce(first_topic, [5, 6])
    lab.produce(second_topic, [BAD, *[0] * BUSY])
    async with lab.running(app):
        await lab.caught_up(first_topic, app)
        await lab.caught_up(second_topic, app)
    assert table_of(app, "sums") == {"state": 6, "second": BUSY}


async def test_a_bad_write_over_that_of_another_agent_is_not_blamed_on_that_one(lab, drain, table_of) -> None:
    a_topic, b_topic, app = lab.topic(), lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(a_topic), name="innocent")
    async def innocent(stream):
        async for value in stream:
            if value == BAD:
                raise Boom("isolates all records of the epoch")
            sums["shared"] = value
            await asyncio.sleep(1.0)  # the other one writes meanwhile, also on a busy machine
            sums["innocent"] += 1

    @app.agent(app.topic(b_topic), name="guilty")
    async def guilty(stream):
        async for _ in stream:
            await asyncio.sleep(0.5)
            sums["shared"] = object()
            await asyncio.sleep(1.0)

    lab.produce(a_topic, [BAD, 5])
    lab.produce(b_topic, [6])
    async with lab.running(app):
        await lab.caught_up(a_topic, app)
        await lab.caught_up(b_topic, app)
    letters = [
        (found["anabranch-agent"], int(found["anabranch-offset"]))
        for topic in (a_topic, b_topic)
        for found in map(letter_headers, drain(f"{topic}.dlq"))
    ]
    assert sorted(letters) == [("guilty", 0), ("innocent", 0)]
    assert table_of(app, "sums") == {"shared": 5, "innocent": 1}
