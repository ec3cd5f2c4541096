"""Processed records of an app's own repartition topics are deleted; nothing else is."""

from __future__ import annotations

import logging
from typing import Any

import anabranch
import pytest
from anabranch import Count, Tumbling, World
from anabranch.topics.admin import Admin
from world_programs import PROGRAMS

REPARTITION = "shop-by-user-repartition"


def app_of() -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=1)
    sales = app.topic("sales", time="at", time_unit="s", grace=0, max_jump=None, idle_after=None, partitions=1)
    counted = sales.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count())
    counted.final().to("finals")
    by_item = app.Table("by-item", default=int)

    @app.agent(sales, name="items")
    async def items(stream: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        async for sale in stream.group_by(lambda sale: sale["item"], name="item"):
            by_item[sale["item"]] += 1

    return app


def send(world: World, first: int, last: int) -> None:
    for at in range(first, last):
        world.send("sales", {"user": "ann", "item": "tea", "at": at}, key="ann")
        world.settle()


def test_processed_records_of_repartition_topics_are_deleted() -> None:
    with World(app_of) as world:
        send(world, 0, 12)
        assert len(world.topic(REPARTITION)) > 10
        world.advance("31s")
        assert len(world.topic(REPARTITION)) == len(world.topic("shop-items-sales-item-repartition")) == 0
        assert len(world.topic("sales")) == 12
        world.worker().kill()
        world.worker().start()
        send(world, 12, 25)
        assert [window["n"] for window in world.topic("finals").values] == [10, 10]
        assert world.table("by-item") == {"tea": 25}


@pytest.mark.parametrize("seed", [33, 35])
def test_a_world_that_takes_long_enough_for_it_ends_like_a_short_one(seed: int) -> None:
    # Two faults of up to 20 s: the topic of `group_by` is empty at the end, and full without faults.
    made = PROGRAMS["pages"].simulation(seeds=range(seed, seed + 1))
    assert made.run().failures == []


def test_a_worker_that_may_not_delete_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Admin, "delete_records", lambda _, before: set(before))
    with World(app_of) as world, caplog.at_level(logging.WARNING):
        send(world, 0, 12)
        world.advance("5m")
        send(world, 12, 25)
        assert [window["n"] for window in world.topic("finals").values] == [10, 10]
    assert len([record for record in caplog.records if "may not delete records" in record.message]) == 1
