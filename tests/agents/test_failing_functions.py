"""A function of a flow that raises StopIteration, as `next(…)` does, fails its record like any other error.

Python's `map`, `filter` and `chain` take it for the end of the elements, so that records would vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf, nan
from typing import Any

import msgspec
import pytest
from anabranch import App, Count, Sum, Tumbling, World
from anabranch.agents.topic import Topic
from anabranch.topics.errors import Usage

AT = 3


def stops(value: Any) -> Any:
    """Return the value; raise StopIteration for `AT`, as `next(each for each in [value] if each != AT)` does."""
    if value == AT:
        raise StopIteration
    return value


def one(_: object) -> str:
    return "one"


def of_field(element: dict[str, Any]) -> Any:
    return stops(element["v"])


FLOWS: dict[str, Callable[[Topic], Any]] = {
    "map": lambda topic: topic.map(stops).key_by(one),
    "filter": lambda topic: topic.filter(lambda value: stops(value) is not None).key_by(one),
    "flat_map": lambda topic: topic.flat_map(lambda value: [stops(value)]).key_by(one),
    "flat_map of the record's key": lambda topic: topic.flat_map(lambda value: [stops(value)]),
    "filter of the record's key": lambda topic: topic.filter(lambda value: stops(value) is not None),
    "select": lambda topic: topic.map(lambda value: {"v": value}).select(v=of_field).key_by(one),
    "map before with_columns": lambda topic: (
        topic.map(stops).map(lambda value: {"v": value}).with_columns(w="v").key_by(one)
    ),
    "with_columns": lambda topic: topic.map(lambda value: {"v": value}).with_columns(w=of_field).key_by(one),
    "key_by": lambda topic: topic.key_by(lambda value: str(stops(value) * 0)),
    "the value of key_by": lambda topic: topic.key_by(one, stops),
    "window": lambda topic: topic.map(stops).key_by(one).window(Tumbling("1h"), grace="0s"),
}


def counted(flow: Callable[[Topic], Any], **topic: Any) -> tuple[int, list[Any]]:
    """Return the number of records in the table of a flow, and the values of dead letters."""
    app = App("stops")
    numbers = app.topic("numbers", key_type=str, partitions=1, **topic)
    flow(numbers).aggregate("counts", n=Count())
    with World(app) as world:
        for number in range(8):
            world.send("numbers", number, key="k")
        world.settle()
        return sum(row["n"] for row in world.table("counts").values()), world_letters(world)


def world_letters(world: World) -> list[Any]:
    return [letter.value for letter in world.dead_letters("numbers")]


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_function_that_raises_stop_iteration_fails_its_record_alone(flow: Callable[[Topic], Any]) -> None:
    assert counted(flow) == (7, [AT])


async def is_large(value: int) -> bool:
    return value > AT


def yields(value: int) -> Any:
    yield value > AT


class IsLarge:
    async def __call__(self, value: int) -> bool:
        return value > AT


@pytest.mark.parametrize("function", [is_large, yields, IsLarge(), partial(is_large)])
def test_a_function_whose_results_are_all_true_is_refused(function: Any) -> None:
    """Every coroutine and every generator is true, so a filter kept all elements."""
    numbers = App("stops").topic("numbers")
    for operator in (numbers.filter, numbers.map, numbers.flow().filter):
        with pytest.raises(Usage, match=r"async function|generator"):
            operator(function)
    if function is yields:
        numbers.flat_map(function)
    else:
        with pytest.raises(Usage, match=r"flat_map\(.*\): an async function"):
            numbers.flat_map(function)


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_a_time_that_raises_stop_iteration_likewise(unit: str) -> None:
    per = {"ms": 1, "us": 1_000}[unit]

    def by_hour(topic: Topic) -> Any:
        return topic.key_by(one).window(Tumbling("1h"), grace="0s")

    assert counted(by_hour, time=lambda value: (1_767_225_600_000 + stops(value)) * per, time_unit=unit) == (7, [AT])


def test_an_aggregate_of_a_function_that_raises_stop_iteration_likewise() -> None:
    app = App("stops")
    numbers = app.topic("numbers", key_type=str, partitions=1)
    numbers.aggregate("sums", n=Sum(stops))
    with World(app) as world:
        for number in range(8):
            world.send("numbers", number, key="k")
        world.settle()
        assert (world.table("sums"), world_letters(world)) == ({"k": {"n": 25}}, [AT])


class Price(msgspec.Struct):
    amount: float


@pytest.mark.parametrize("made", [nan, {"of": [1.0, inf]}, Price(-inf)], ids=["number", "list", "struct"])
@pytest.mark.parametrize("way", ["send", "to", "declared"])
def test_a_value_that_json_would_write_as_null_fails_its_record(made: Any, way: str) -> None:
    app = App("prices")
    numbers = app.topic("numbers", partitions=1)
    prices = app.topic("prices", partitions=1, value_type=type(made) if way == "declared" else None)
    fine = type(made)() if way == "declared" and not isinstance(made, Price) else Price(1.5)

    def value(number: int) -> Any:
        return made if number == AT else fine

    if way == "to":
        numbers.map(value).to(prices)
    else:

        @app.agent(numbers)
        async def price(stream: Any) -> None:
            async for number in stream:
                await prices.send(value=value(number))

    with World(app) as world:
        for number in range(5):
            world.send("numbers", number)
        world.settle()
        assert world_letters(world) == [AT]
        assert len(world.topic("prices")) == 4
