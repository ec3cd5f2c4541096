"""Partitions are added to a topic that workers read: keys move, and the content of tables stays."""

from __future__ import annotations

from typing import Any

from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Usage
from confluent_kafka.admin import NewPartitions

REFRESH_S = 60.0  # a consumer looks for new partitions every 10 s


async def test_workers_without_tables_go_on_and_those_with_tables_stop_before_they_count_wrong(lab: Any, record: Any):
    #   0: ─▶ both           0: ─▶ both
    #   1: ─▶ both           1: ─▶ both
    #                        2: ─▶ the one without tables; the other one says what to do
    topic = lab.topic(2)
    seen: list[int] = []
    plain, keyed = lab.app(lab.fresh("plain"), worker="p"), lab.app(lab.fresh("keyed"), worker="k")
    totals = keyed.Table("totals", default=int)

    @plain.agent(plain.topic(topic, value_type=int))
    async def look(stream: Any) -> None:
        async for value in stream:
            seen.append(value)

    @keyed.agent(keyed.topic(topic, key_type=str, value_type=int))
    async def total(stream: Any) -> None:
        async for key, value in stream.items():
            totals[key] += value

    working, counting = await lab.started(plain), await lab.started(keyed)
    lab.produce(topic, [record(i, f"k{i}") for i in range(20)])
    await lab.caught_up(topic, plain)
    await lab.caught_up(topic, keyed)

    admin = lab.cluster.admin()
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
    await lab.until(lambda: lab.admin.partitions([topic])[topic] == 3, "the partition is there")
    lab._producer = None  # the one there is knows of two until it asks again
    lab.produce(topic, [record(100 + i, f"k{i}", partition=2) for i in range(5)])
    await lab.until(counting.done, "the worker with a table ends", REFRESH_S)
    error = counting.exception()
    assert isinstance(error, Usage)
    assert topic in str(error)
    assert "partitions" in str(error)
    assert "keys have moved" in str(error)

    await lab.until(lambda: len(seen) >= 25, "the other one reads the new partition", REFRESH_S)
    runtime_of(plain).stop_requested.set()
    await working
    assert sorted(seen) == [*range(20), *range(100, 105)]
