"""`KafkaWorld`: an app on the session's broker, with the methods of a world."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anabranch import App, Stream
from anabranch.replay.testing.kafka_world import KafkaWorld
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from anabranch.topics.errors import Stop, Usage

sys.path.insert(0, str(Path(__file__).parent))
import world_shop as shop


@pytest.fixture
def make(broker: Cluster) -> Iterator[Any]:
    """Makes worlds that end with the test."""
    made: list[KafkaWorld] = []

    def world(program: Any = shop.app, **options: Any) -> KafkaWorld:
        made.append(KafkaWorld(broker, program, **options))
        return made[-1]

    yield world
    for one in made:
        one.close()


def words() -> App:
    app = App("words")
    words = app.topic("words", value_type=str)
    sizes = app.topic("sizes", key_type=str, value_type=int)
    counts = app.Table("counts", default=int)

    @app.agent(words)
    async def count(stream: Stream[str]) -> Any:
        async for word in stream.group_by(lambda word: word, name="word"):
            if not word:
                raise ValueError("no word")
            counts[word] += 1
            await sizes.send(key=word, value=len(word))
            yield word.upper()

    return app


@pytest.mark.parametrize("workers", [1, 2])
def test_records_are_processed_through_all_stages_by_all_workers(make: Any, workers: int) -> None:
    world = make(words, workers=workers)
    for word in ("a", "bb", "a", "ccc", ""):
        world.send("words", word, at="2026-01-01T10:00Z")
    world.settle()
    assert world.table("counts") == {"a": 2, "bb": 1, "ccc": 1}
    sizes = world.topic("sizes")
    assert sorted(zip(sizes.keys, sizes.values, strict=True)) == [("a", 1), ("a", 1), ("bb", 2), ("ccc", 3)]
    assert {record.timestamp.isoformat() for record in sizes} == {"2026-01-01T10:00:00+00:00"}
    assert world.ask("count", "dd") == "DD"
    world.settle()
    assert world.table("counts")["dd"] == 1


def test_a_world_begins_empty_beside_another_of_the_same_app_and_leaves_no_topics(make: Any, broker: Cluster) -> None:
    first, second = make(), make()
    first.send("orders", {"user": "ann", "amount": 3}, key="ann")
    second.send("orders", {"user": "ann", "amount": -1}, key="ann")
    first.settle()
    second.settle()
    assert (first.table("totals"), second.table("totals")) == ({"ann": 3}, {})
    assert [letter.error for letter in second.dead_letters("orders")] == ["ValueError: amount -1"]
    assert first.topic("orders").values == [{"user": "ann", "amount": 3}]
    assert first.module is not second.module is not shop
    name = first.app.conf.id
    first.close()
    assert not [topic for topic in Admin(broker).partitions() if topic.startswith(name)]


def test_misuse_is_named(make: Any) -> None:
    world = make(partitions={"more": 2})
    with pytest.raises(Usage, match="knows no topic 'order'"):
        world.send("order", 1)
    world.send("more", 1, partition=1)
    assert world.topic("more").values == [1]
    with pytest.raises(Usage, match="the time is the machine's"):
        world.advance("1h")
    world.close()
    with pytest.raises(Usage, match="this world has ended"):
        world.settle()
    with pytest.raises(Usage, match="was made before the test"):
        make(App("before"))


def test_the_error_of_a_worker_is_raised_by_settle(make: Any) -> None:
    def strict() -> App:
        app = App("strict")
        numbers = app.topic("numbers", value_type=int)

        @app.agent(numbers, on_failure="fail")
        async def check(stream: Stream[int]) -> None:
            async for number in stream:
                raise ValueError(number)

        return app

    world = make(strict)
    world.send("numbers", 7)
    with pytest.raises(Stop, match="ValueError: 7"):
        world.settle()
