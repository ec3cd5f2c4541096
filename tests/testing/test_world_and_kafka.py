"""The same app in a world and on a real Kafka has the same outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from anabranch import App, Stream, World
from anabranch.agents.runtime import runtime_of
from anabranch.agents.worker import work
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.topic_partition import TopicPartition
from confluent_kafka import TopicPartition as KafkaPartition


class Order(msgspec.Struct):
    user: str
    item: str
    amount: int


def program(name: str) -> Callable[[], App]:
    """An app with a table, a repartitioned stream, outputs and failing records; its topics carry its name."""

    def make() -> App:
        app = App(name)
        orders = app.topic(f"{name}-orders", value_type=Order, key_type=str)
        large = app.topic(f"{name}-large", value_type=Order)
        totals = app.Table("totals", default=int)
        items = app.Table("items", default=list)

        @app.agent(orders)
        async def total(stream: Stream[Order]) -> None:
            async for order in stream:
                if order.amount % 50 == 13:
                    raise ValueError("unlucky")
                totals[order.user] += order.amount
                if order.amount > 150:
                    await large.send(key=order.user, value=order)

        @app.agent(orders)
        async def by_item(stream: Stream[Order]) -> None:
            async for order in stream.group_by(lambda order: order.item, name="item"):
                items[order.item].append(order.amount)

        return app

    return make


ORDERS = [Order(f"u{number % 11}", f"i{number % 5}", number) for number in range(200)]


def in_a_world(name: str) -> Any:
    with World(program(name), workers=2) as world:
        for order in ORDERS:
            world.send(f"{name}-orders", order, key=order.user)
        world.settle()
        items = {item: sorted(amounts) for item, amounts in world.table("items").items()}
        large = Counter((record.key, record.raw_value) for record in world.topic(f"{name}-large"))
        letters = sorted(letter.value["amount"] for letter in world.dead_letters(f"{name}-orders"))
        return world.table("totals"), items, large, letters


async def on_kafka(name: str, cluster: Cluster, drain: Any, folder: Path) -> Any:
    apps = [program(name)() for _ in range(2)]
    for index, app in enumerate(apps):
        runtime_of(app).cluster = cluster
        runtime_of(app).configure(web_enabled=False, datadir=str(folder / str(index)))
    workers: list[asyncio.Task[None]] = []
    for app in apps:
        ready = asyncio.Event()
        workers.append(asyncio.create_task(work(app, on_ready=lambda _, ready=ready: ready.set())))
        await asyncio.wait_for(ready.wait(), 60)
    topic = runtime_of(apps[0]).described[f"{name}-orders"]
    producer = cluster.producer(linger_ms=0)
    for order in ORDERS:
        producer.produce(f"{name}-orders", topic.encode_value(order), topic.encode_key(order.user))
    assert producer.flush(60) == 0

    def processed() -> bool:
        read = {at.topic for app in apps for at in runtime_of(app).status.active}
        committed = {at: end for app in apps for at, end in runtime_of(app).status.committed.items()}
        count = sum(len(drain(one)) for one in read if "item" in one)
        lengths = Admin(cluster).ends([KafkaPartition(f"{name}-orders", partition) for partition in range(4)])
        done = all(committed.get(TopicPartition(*at), 0) >= end for at, end in lengths.items())
        lags = [lag for app in apps for lag in runtime_of(app).status.lags().values()]
        # Behind the last record there may be a transaction marker of each worker.
        return done and count == len(ORDERS) and all(lag <= len(apps) for lag in lags)

    deadline = asyncio.get_running_loop().time() + 60
    while not processed():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.2)
    tables: list[dict[Any, Any]] = []
    for table in ("totals", "items"):
        tables.append({key: value for app in apps for key, value in app.tables[table].items()})
    for app in apps:
        runtime_of(app).stop_requested.set()
    await asyncio.wait_for(asyncio.gather(*workers), 60)
    large = Counter((message.key(), message.value()) for message in drain(f"{name}-large"))
    letters = sorted(msgspec.json.decode(message.value())["amount"] for message in drain(f"{name}-orders.dlq"))
    return tables[0], {item: sorted(amounts) for item, amounts in tables[1].items()}, large, letters


def test_a_world_has_the_outcome_of_a_cluster(broker: Cluster, fresh: Any, drain: Any, tmp_path: Path) -> None:
    name = fresh("both")
    found = in_a_world(name)
    assert found == asyncio.run(on_kafka(name, broker, drain, tmp_path))
    totals, items, large, letters = found
    assert letters == [13, 63, 113, 163]
    assert sum(totals.values()) == sum(range(200)) - sum(letters)
    assert sum(map(len, items.values())) == 200
    assert len(large) == 48
