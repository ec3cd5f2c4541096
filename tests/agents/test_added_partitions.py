"""Partitions are added to a topic that workers read: keys move, and the content of tables stays."""

from __future__ import annotations

from typing import Any

import pytest
from anabranch import App
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


@pytest.mark.parametrize("how", ["group_by", "through"])
def test_workers_that_cannot_share_the_tasks_of_a_topic_that_grew_end_instead_of_waiting_and_start_again(
    anabranch_world: Any, how: str
) -> None:
    #            inp 0 1        inp 0 1 2 3 4     ranges of the two topics have other numbers:
    #   worker   ──A─B─         ──A─A─A─B─B─      task 1 has its partitions at two workers
    #            mid 0 1        mid 0 1
    #   worker   ──A─B─         ──A─B─
    def shop() -> App:
        app = App("shop")
        sales = app.topic("sales", key_type=str, value_type=int, partitions=2)
        totals = app.Table("totals", default=int)

        @app.agent(sales)
        async def total(stream: Any) -> None:
            keyed = stream.through("mid") if how == "through" else stream.group_by(lambda n: f"k{n % 7}", name="k")
            async for key, value in keyed.items():
                totals[key] += value

        return app

    def send(numbers: range) -> None:
        for number in numbers:
            world.send("sales", number, key=f"k{number % 7}")

    world = anabranch_world(shop, workers=2)
    send(range(20))
    world.settle()
    world.environment.kafka.topic("sales").add_partitions(5)
    world.environment.kafka.changed()
    send(range(20, 40))
    refused: list[str] = []
    for _ in range(4):
        try:
            world.advance("2m")
        except Usage as exc:
            refused.append(str(exc))
        for worker in map(world.worker, range(2)):
            if worker.life.ended:
                worker.start()
    assert refused, "both wait for ever"
    assert "partitions were added to topic sales while workers ran" in refused[0]
    assert "start all workers of the app again" in refused[0]
    world.settle()
    assert world.table("totals") == {f"k{i}": sum(range(i, 40, 7)) for i in range(7)}
