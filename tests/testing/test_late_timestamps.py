"""Late records whose timestamp in Kafka is none that can be sent again are kept as late records all the same."""

from __future__ import annotations

import json
from typing import Any

import anabranch
import pytest
from anabranch import Count, Tumbling, World


def app_of(kind: str) -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=1)
    sales = app.topic("sales", time="at", grace="0s", idle_after=None, partitions=1)
    if kind == "flow":
        sales.window(Tumbling("10s")).aggregate("by-user", n=Count())
        return app
    by_user = app.Table("by-user", default=int).tumbling(10, expires=10).relative_to_stream()

    @app.agent(sales)
    async def count(stream: Any) -> None:
        async for _ in stream:
            by_user["ann"] += 1

    return app


@pytest.mark.parametrize("kind", ["flow", "agent"])
def test_a_late_record_of_exactly_0_ms_is_late_and_no_dead_letter(kind: str) -> None:
    with World(lambda: app_of(kind)) as world:
        for at in (100_000_000_000, 100_000_001_000, 100_000_050_000):
            world.send("sales", {"at": at}, key="ann")
        world.settle()
        (log,) = world.environment.kafka.topics["sales"].logs
        # Other programs than ours can write them.
        for timestamp_ms in (0, -5_000, -1):
            log.append(b"ann", json.dumps({"at": 100_000_000_000}).encode(), None, timestamp_ms, 1, 0, None)
        world.send("sales", {"at": 100_000_050_000}, key="ann")
        world.settle()
        assert [record.timestamp_ms for record in world.topic("sales.late").records][:2] == [1, -5_000]
        assert len(world.topic("sales.late").records) == 3
        assert list(world.dead_letters("sales")) == []
