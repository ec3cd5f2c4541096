"""Worlds of apps with other settings, killed and started again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from anabranch import App, Retry, Stream, World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.topics.errors import Usage
from anabranch.topics.partitioners import RangePartitioner


class Order(msgspec.Struct):
    user: str
    amount: int


def program(**options: Any) -> Any:
    def make() -> App:
        app = App("shop", **options)
        orders = app.topic("orders", value_type=Order)
        totals = app.Table("totals", default=int)
        places = app.Table("places", default=int)

        @app.agent(orders)
        async def total(stream: Stream[Order]) -> None:
            async for order in stream:
                totals[order.user] += order.amount
                places["all"] += 1  # in each partition that has users

        return app

    return make


def send(world: World, rounds: int = 1) -> None:
    for number in range(60 * rounds):
        world.send("orders", Order(f"u{number % 7}", number % 60), key=f"u{number % 7}")


def totals(rounds: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for number in range(60 * rounds):
        found[f"u{number % 7}"] = found.get(f"u{number % 7}", 0) + number % 60
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"store": "rocksdb://"},
        {"standby_replicas": 1},
        {"settings": EngineSettings(group_protocol="consumer")},
        {"processing_guarantee": "at_least_once"},
        {"settings": EngineSettings(standby_replicas=2), "store": "rocksdb://"},
    ],
    ids=lambda options: " ".join(map(str, options)),
)
@pytest.mark.parametrize("identity", [True, False])
def test_totals_survive_kills(options: dict[str, Any], identity: bool) -> None:
    with World(program(**options), workers=3) as world:
        send(world)
        world.settle()
        assert world.table("totals") == totals(1)
        for index in (2, 0):
            world.worker(index).kill()
            world.worker(index).start(identity=identity)
        world.settle()
        assert world.table("totals") == totals(1)
        world.worker(1).stop()
        send(world)
        world.settle()
        assert world.table("totals") == {user: 2 * total for user, total in totals(1).items()}
        with pytest.raises(Usage, match="key 'all' is in several partitions"):
            world.table("places")
        parts = [world.worker(w).table("places", partition=p).get("all", 0) for w in (0, 2) for p in range(4)]
        assert sum(parts) == 120


def test_topics_partitioned_by_range() -> None:
    def make() -> App:
        app = App("ranges")
        points = app.topic("points", key_type=int, value_type=int, partitioner=RangePartitioner((b"25", b"50", b"75")))
        last = app.Table("last", key_type=int, value_type=int)

        @app.agent(points)
        async def note(stream: Stream[int]) -> None:
            async for key, value in stream.items():
                last[int(key)] = value  # type: ignore[call-overload]

        return app

    with World(make) as world:
        for key in range(10, 100, 5):
            world.send("points", key * 2, key=key)
        world.settle()
        assert world.table("last") == {key: key * 2 for key in range(10, 100, 5)}
        by_partition: dict[int, list[int]] = {}
        for record in world.topic("points"):
            by_partition.setdefault(record.partition, []).append(record.key)
        assert len(by_partition) == 4
        for keys in by_partition.values():
            assert max(keys) - min(keys) <= 25, "neighbours are together"


def test_retries_let_time_pass() -> None:
    times: list[float] = []

    def make() -> App:
        app = App("retries")
        lines = app.topic("lines", value_type=str)

        @app.agent(lines, on_failure=Retry(times=3, first_s=60, most_s=600))
        async def fail(stream: Stream[str]) -> None:
            async for _ in stream:
                times.append(world.now.timestamp())
                raise ValueError("again")

        return app

    with World(make) as world:
        world.send("lines", "x")
        world.settle()
        (letter,) = world.dead_letters("lines")
        assert letter.facts["attempts"] == "4"
    attempts = sorted({round(at) for at in times})
    assert [b - a for a, b in pairwise(attempts)] == pytest.approx([60, 120, 240], abs=2)


def test_worlds_do_not_share_anything() -> None:
    with World(program()) as first, World(program()) as second:
        send(first)
        second.send("orders", Order("ann", 1))
        second.settle()
        first.settle()
        assert first.table("totals") == totals(1)
        assert second.table("totals") == {"ann": 1}
        first.advance("1h")
        assert (first.now - second.now).total_seconds() > 3500


@pytest.mark.parametrize("partitions", [None, {"users": 2}])
def test_topics_of_another_size_keep_what_the_app_declares(partitions: dict[str, int] | None) -> None:
    def make() -> App:
        app = App("users")
        app.agent(app.topic("users", compacting=True, config={"max.message.bytes": "100"}), name="read")(read)
        return app

    async def read(stream: Stream[Any]) -> None:
        async for _ in stream:
            pass

    with World(make, partitions=partitions) as world:
        with pytest.raises(Usage, match="does not take the record"):
            world.send("users", "without a key")
        with pytest.raises(Usage, match="does not take the record"):
            world.send("users", bytes(range(200)), key="ann")
        assert len(world.environment.kafka.topics["users"].logs) == (2 if partitions else 4)
