"""Names that an app makes for agents and topics: two that come out the same are refused, and so are those that are too
long for Kafka, before any record is processed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anabranch
import pytest
from anabranch import Count, Tumbling, World, col
from anabranch.topics.errors import Stop, Usage

App = anabranch.App


def new_app() -> App:
    return App("shop", topic_partitions=1)


def reading(app: App, name: str, topic: str, *, by: str | None = None) -> None:
    @app.agent(app.topic(topic, partitions=1), name=name)
    async def read(stream: Any) -> None:
        async for _ in stream if by is None else stream.group_by(lambda value: value, name=by):
            pass


# One name of two -----------------------------------------------------------------------------------------------------


def two_agents(app: App) -> None:
    reading(app, "read", "orders")
    reading(app, "read", "returns")


def an_agent_and_a_flow(app: App) -> None:
    reading(app, "totals", "orders")
    app.topic("orders").key_by("user").aggregate("totals", n=Count())


def two_flows_into_a_table(app: App) -> None:
    totals = app.Table("totals", default=int)
    for topic in ("orders", "returns"):
        app.topic(topic).key_by("user", "n").reduce(sum, totals)


def two_flows_from_a_topic_to_another(app: App) -> None:
    orders = app.topic("orders").flow()
    orders.filter(col("n") > 100).to("checked")
    orders.filter(col("user") == "new").to("checked")


def the_combining_agent_of_another_table(app: App) -> None:
    orders = app.topic("orders")
    orders.key_by("user").aggregate("totals", n=Count())
    orders.key_by("user").aggregate("totals-combine", n=Count())


@pytest.mark.parametrize(
    "declare",
    [
        two_agents,
        an_agent_and_a_flow,
        two_flows_into_a_table,
        two_flows_from_a_topic_to_another,
        the_combining_agent_of_another_table,
    ],
)
def test_a_second_agent_of_a_name_is_refused_instead_of_replacing_the_first(declare: Callable[[App], None]) -> None:
    with pytest.raises(Usage, match="two agents called"):
        declare(new_app())


READER = """
@app.agent(app.topic(topic), name=name)
async def read(stream):
    async for _ in stream:
        pass
"""


def test_an_agent_whose_module_runs_twice_is_not_a_second_one() -> None:
    # As `__main__` and as a module that `autodiscover` names, or reloaded.
    app = new_app()
    for topic in ("orders", "orders"):
        exec(compile(READER, "shop.py", "exec"), {"app": app, "topic": topic, "name": "read"})
    assert app.agents["read"].channel.get_topic_name() == "orders"
    with pytest.raises(Usage, match="two agents called read"):
        exec(compile(READER, "shop.py", "exec"), {"app": app, "topic": "returns", "name": "read"})
    assert app.agents["read"].channel.get_topic_name() == "orders"
    app, again = new_app(), compile(READER * 2, "shop.py", "exec")
    with pytest.raises(Usage, match="two agents called read"):
        exec(again, {"app": app, "topic": "orders", "name": "read"})


def test_two_agents_with_one_repartition_topic_would_get_each_other_s_records_and_are_refused() -> None:
    def made() -> App:
        app = new_app()
        reading(app, "x", "a-b", by="c")
        reading(app, "x-a", "b", by="c")
        return app

    with World(made) as world, pytest.raises(Usage, match=r"agent x.* and agent x.* the same repartition topic"):
        world.settle()


def test_an_agent_and_a_table_with_one_repartition_topic_are_refused() -> None:
    def made() -> App:
        app = new_app()
        reading(app, "x", "a", by="c")
        app.topic("b").key_by("user").aggregate("x-a-c", n=Count())
        return app

    with World(made) as world, pytest.raises(Usage, match=r"table x-a-c and agent x \(a\) have the same"):
        world.settle()


# Too long ------------------------------------------------------------------------------------------------------------


def failing(app: App, topic: str) -> None:
    reading(app, "read", topic)


def windowed(app: App, topic: str) -> None:
    orders = app.topic(topic, time="at", grace="0s")
    orders.flow(on_failure="skip").window(Tumbling("1m")).aggregate("n", n=Count())


def written_by_agents(app: App, topic: str) -> None:
    app.Table("n", default=int).tumbling(60, expires=60)

    @app.agent(app.topic(topic), name="read", on_failure="skip")
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass


@pytest.mark.parametrize(("declare", "suffix"), [(failing, ".dlq"), (windowed, ".late"), (written_by_agents, ".late")])
def test_a_topic_whose_dead_letters_or_late_records_would_have_too_long_a_name_is_refused_at_the_start(
    declare: Callable[[App, str], None], suffix: str
) -> None:
    def made(length: int) -> Callable[[], App]:
        def make() -> App:
            app = new_app()
            declare(app, "t" * (length - len(suffix)))
            return app

        return make

    with World(made(249)) as world:
        world.settle()
    with World(made(250)) as world, pytest.raises(Usage, match=rf"is too long: t+{suffix}"):
        world.settle()


def test_a_repartition_topic_of_many_topics_whose_name_is_too_long_is_refused_by_name() -> None:
    def made() -> App:
        app = new_app()

        @app.agent(app.topic(*(f"orders-of-shop-{number:020}" for number in range(8))), name="read")
        async def read(stream: Any) -> None:
            async for _ in stream.group_by(lambda value: value, name="user"):
                pass

        return app

    with World(made) as world, pytest.raises(Usage, match="repartition topic is too long: shop-read-orders"):
        world.settle()


@pytest.mark.parametrize("on_failure", ["skip", "fail"])
def test_a_repartition_topic_without_dead_letters_may_have_as_long_a_name_as_kafka_allows(on_failure: Any) -> None:
    def made() -> App:
        app = new_app()

        @app.agent(app.topic("o"), name="read", on_failure=on_failure)
        async def read(stream: Any) -> None:
            async for _ in stream.group_by(lambda value: value, name="k" * (249 - len("shop-read-o--repartition"))):
                pass

        app.topic("s").flow(on_failure=on_failure).key_by("user").aggregate("t" * (249 - 17), n=Count())
        return app

    with World(made) as world:
        world.send("o", 1)
        world.settle()
        assert [len(name) for name in world.environment.kafka.topics if name.endswith("repartition")] == [249, 249]


def test_a_dead_letter_topic_that_kafka_takes_for_another_one_stops_the_worker_with_both_names() -> None:
    def made() -> App:
        app = new_app()
        app.topic("orders_dlq", partitions=1)

        @app.agent(app.topic("orders", partitions=1), name="read")
        async def read(stream: Any) -> None:
            async for _ in stream:
                raise ValueError("refused")

        return app

    with World(made) as world, pytest.raises(Stop, match=r"^create topic orders\.dlq: .*orders_dlq"):
        world.send("orders_dlq", 1)
        world.send("orders", 1)
        world.settle()
