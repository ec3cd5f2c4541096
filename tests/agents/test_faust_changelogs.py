"""A changelog that Faust has written is read as Faust reads it, or the worker stops and says what to do."""

from __future__ import annotations

from typing import Any

import faust
import pytest
from anabranch.topics.errors import Stop
from confluent_kafka import TopicPartition

stock = faust.App("stock")


def written_by_faust(changelog: str, pairs: list[tuple[Any, Any]]) -> list[Any]:
    topic = stock.topic(changelog, key_serializer="json", value_serializer="json")
    return [
        (topic.prepare_key(key, "json", topic.schema, {})[0], topic.prepare_value(value, "json", topic.schema, {})[0])
        for key, value in pairs
    ]


async def restored(lab: Any, pairs: list[tuple[Any, Any]], **options: Any) -> tuple[Any, Any]:
    """A worker of an app whose table has this changelog, not started yet, and the table."""
    name = lab.fresh("moved")
    changelog = f"{name}-kept-changelog"
    lab.admin.create([lab.spec(changelog, cleanup_policy="compact")])
    lab.produce(changelog, written_by_faust(changelog, pairs))
    app, topic = lab.app(name), lab.topic()
    group = lab.cluster.consumer(group_id=name)  # Faust had committed offsets, too
    group.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    group.close()
    table = app.SetTable("kept", **options) if options.pop("sets", False) else app.Table("kept", **options)

    @app.agent(app.topic(topic))
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    return app, table


@pytest.mark.parametrize("key", ["ünicode", 1.0, ("a", 2.0)])
async def test_keys_that_faust_spells_in_another_way_stop_the_worker(lab: Any, key: Any) -> None:
    app, _ = await restored(lab, [("ann", 1), (key, 2)], default=int)
    why = await lab.stopped_by(app)
    assert isinstance(why, Stop)
    assert "table kept" in str(why)
    assert "recompute the table" in str(why.hint)


@pytest.mark.parametrize("keys", [["ann", 'a "quoted" one', "a, b"], [1, -2, 15], [("a", 1), ("b, c", 2)]])
async def test_other_keys_are_the_tables_own(lab: Any, keys: list[Any]) -> None:
    app, table = await restored(lab, [(key, number) for number, key in enumerate(keys)], default=int)
    async with lab.running(app):
        assert {key: table[key] for key in keys} == dict(zip(keys, range(len(keys)), strict=True))
        assert len(table) == len(keys)


async def test_changes_of_sets_stop_the_worker(lab: Any) -> None:
    app, _ = await restored(lab, [((1, "ann"), "page"), ((2, "ann"), "page")], sets=True)
    assert "changes of sets" in str(await lab.stopped_by(app))
