"""Values that agents change in place give the same tables with one commit at the end and with a commit per record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.memory_suffices(
    "test_an_agent_cannot_see_where_commits_fall",
)


def aliases(t: Any, _other: Any, _held: dict[str, Any], n: int) -> None:
    if n == 0:
        t["a"] = [1]
    elif n == 1:
        t["b"] = t["a"]
    else:
        t["b"].append(n)


def two_tables(t: Any, other: Any, _held: dict[str, Any], n: int) -> None:
    if n == 0:
        t["a"] = other["a"] = {"n": 0}
    else:
        t["a"]["n"] += n


def two_keys(t: Any, _other: Any, _held: dict[str, Any], n: int) -> None:
    if n == 0:
        t["a"] = t["b"] = [0]
    else:
        t["a"].append(n)


def kept_by_the_agent(t: Any, _other: Any, held: dict[str, Any], n: int) -> None:
    if n == 0:
        held["buffer"] = t["a"] = []
    else:
        held["buffer"].append(n)
        t["sum"] = [n]


def a_key_that_was_emptied(t: Any, _other: Any, _held: dict[str, Any], n: int) -> None:
    if n == 0:
        t["k"] = {"1": 1}
    elif n == 1:
        t["k"].pop("1")
    else:
        t["n"] = {"n": n}


PROGRAMS: dict[str, tuple[Callable[..., None], dict[str, Any], dict[str, Any]]] = {
    "one object at two keys, by assigning what was read": (aliases, {"a": [1], "b": [1, 2, 3]}, {}),
    "one object in two tables": (two_tables, {"a": {"n": 6}}, {"a": {"n": 0}}),
    "one object at two keys": (two_keys, {"a": [0, 1, 2, 3], "b": [0]}, {}),
    "an object that the agent keeps": (kept_by_the_agent, {"a": [], "sum": [3]}, {}),
    "a value that was emptied": (a_key_that_was_emptied, {"k": {}, "n": {"n": 3}}, {}),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("each", [False, True], ids=["in one epoch", "with a commit after each record"])
async def test_an_agent_cannot_see_where_commits_fall(lab, table_of, name: str, each: bool) -> None:
    act, expected, expected_other = PROGRAMS[name]
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))
    t, other, held = app.Table("t"), app.Table("other"), dict[str, Any]()

    @app.agent(app.topic(topic))
    async def work(stream):
        async for n in stream:
            act(t, other, held, n)

    if not each:
        lab.produce(topic, range(4))
    async with lab.running(app):
        for n in range(4) if each else ():
            lab.produce(topic, [n])
            await lab.caught_up(topic, app)
        await lab.caught_up(topic, app)
    assert (table_of(app, "t"), table_of(app, "other")) == (expected, expected_other)


async def test_a_default_that_is_changed_and_changed_back_by_the_next_record_is_a_key(lab, table_of) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))
    t = app.Table("t", default=dict)

    @app.agent(app.topic(topic))
    async def work(stream):
        async for n in stream:
            match n:
                case 0:
                    t["changed"]["1"] = 1
                case 1:
                    t["changed"].pop("1")
                case 2:
                    t["assigned"] = t["assigned"]
                case _:
                    assert t["only looked at"] == {}

    lab.produce(topic, range(4))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "t") == {"changed": {}, "assigned": {}}


async def test_a_value_that_cannot_be_kept_is_the_failure_of_its_record(lab, drain, table_of) -> None:
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))
    t = app.Table("t", default=dict)

    @app.agent(app.topic(topic))
    async def work(stream):
        async for n in stream:
            t["a"]["n"] = Counter("x") if n == 1 else n

    lab.produce(topic, range(3))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "t") == {"a": {"n": 2}}
    assert [letter.value() for letter in drain(f"{topic}.dlq")] == [b"1"]


async def test_two_agents_that_have_one_object_lose_no_change_of_it(lab, table_of) -> None:
    #  one  ── has t["a"] ───────────────────── appends ──
    #  two              ── appends, its record ends ──
    topic, app = lab.topic(1), lab.app(lab.fresh("app"))
    t, channel = app.Table("t", default=list), app.topic(topic)
    turn: dict[str, Any] = {}

    @app.agent(channel, name="one")
    async def one(stream):
        async for _ in stream:
            mine = t["a"]
            while "two" not in turn:
                await asyncio.sleep(0)
            mine.append("one")

    @app.agent(channel, name="two")
    async def two(stream):
        async for _ in stream:
            t["a"].append("two")
            turn["two"] = True

    lab.produce(topic, [1])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert sorted(table_of(app, "t")["a"]) == ["one", "two"]
