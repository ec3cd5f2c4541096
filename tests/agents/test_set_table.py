"""Tables of sets with a real broker: committed once, undone with a record, the same after a restart."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from anabranch import App
from anabranch.topics.errors import Usage

pytestmark = pytest.mark.memory_suffices(
    "test_sets_are_committed_once_undone_with_a_record_and_there_after_a_restart",
)


def program(lab: Any, name: str, topic: str, **options: Any) -> App:
    """Who has seen what: records are `[user, method, page]`; a page "bad" fails after it was written."""
    app = lab.app(name, **options)
    seen = app.SetTable("seen", help="pages by user")

    @app.agent(app.topic(topic), name="visits")
    async def visits(stream):
        async for user, method, page in stream:
            getattr(seen[user], method)(page)
            if page == "bad":
                raise ValueError(page)

    return app


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
async def test_sets_are_committed_once_undone_with_a_record_and_there_after_a_restart(
    lab, drain, table_of, store
) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = program(lab, name, topic, store=store)
    lab.produce(topic, [["ann", "add", page] for page in "cab"])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        lab.produce(topic, [["ann", "add", "bad"], ["bob", "add", "a"], ["ann", "add", "a"]])
        await lab.caught_up(topic, app)
        assert dict(app.tables["seen"].items()) == {"ann": {"a", "b", "c"}, "bob": {"a"}}
        assert app.tables["seen"]["nobody"] == set()
    assert len(drain(f"{topic}.dlq")) == 1

    app = program(lab, name, topic, store=store)
    async with lab.running(app):
        assert app.tables["seen"]["ann"] == {"a", "b", "c"}
        lab.produce(topic, [["ann", "discard", "a"], ["bob", "discard", "a"], ["eve", "discard", "a"]])
        await lab.caught_up(topic, app)
        assert app.tables["seen"] == {"ann": {"b", "c"}}, "an empty set is no key"
    assert table_of(app, "seen") == {"ann": ["b", "c"]}
    values = [(m.key(), m.value()) for m in drain(f"{name}-seen-changelog")]
    assert values.count((b'"ann"', b'["a","b","c"]')) == 1, "an undone add and one that adds nothing write nothing"
    assert values[-1] == (b'"bob"', None)
    assert not [value for key, value in values if key == b'"eve"']


@pytest.mark.parametrize(("option", "value"), [("start_manager", True), ("window", 10)])
def test_what_set_tables_do_not_have_is_said(lab, option, value) -> None:
    with pytest.raises(Usage, match=option):
        lab.app(lab.fresh("app")).SetTable("seen", **{option: value})


async def test_a_task_that_an_agent_starts_is_told_that_it_cannot_write_to_tables(lab, drain) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic), name="total")
    async def total(stream):
        async for value in stream:
            if value == 2:
                await asyncio.gather(add(value))
            totals["all"] += await asyncio.create_task(doubled(value))

    async def add(value: int) -> None:
        totals["all"] += value

    async def doubled(value: int) -> int:
        return 2 * value

    lab.produce(topic, [1, 2, 3])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert totals == {"all": 8}
    (letter,) = drain(f"{topic}.dlq")
    error = dict(letter.headers())["anabranch-error"].decode()
    assert "table totals: cannot be modified by a task that agent total has started (asyncio.gather" in error
    assert "write it to the table in the agent" in error
    assert msgspec.json.decode(letter.value()) == 2
