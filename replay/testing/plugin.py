"""The pytest plugin: fixtures for worlds and a real Kafka.

pytest loads it in every project that has anabranch installed (`pytest11` in `pyproject.toml`), so it imports nothing
until a fixture is used.

| fixture | |
| --- | --- |
| `anabranch_world` | makes worlds, and closes them at the end of the test: `world = anabranch_world(shop.app)` |
| `anabranch_kafka` | a real Kafka for the whole session; see `kafka_fixture.py` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .kafka_fixture import KafkaFixture
    from .world import World

__all__ = ["anabranch_kafka", "anabranch_world"]


@pytest.fixture
def anabranch_world() -> Iterator[Callable[..., World]]:
    """Make worlds, with the arguments of `World`; they are closed at the end of the test."""
    from .world import World

    worlds: list[World] = []

    def make(program: Any, **options: Any) -> World:
        worlds.append(World(program, **options))
        return worlds[-1]

    yield make
    for world in reversed(worlds):
        world.close()


@pytest.fixture(scope="session")
def anabranch_kafka() -> Iterator[KafkaFixture]:
    """A real Kafka that the tests of a session share: embedded, or as `ANABRANCH_TEST_BROKER` says."""
    from .kafka_fixture import provide_kafka

    with provide_kafka() as kafka:
        yield kafka
