"""Wrong declarations are refused where they are made, in one sentence that names the remedy."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial, wraps
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from anabranch import App, World
from anabranch.topics.errors import AnabranchError, Usage


async def nothing(stream: Any) -> None:
    async for _ in stream:
        pass


async def tick() -> None: ...


def plain() -> None: ...


def handle(_: object) -> None: ...


async def read_with(stream: Any, database: str) -> None: ...


class Plain:
    """Neither a dataclass nor a Struct."""

    price: int

    async def read(self, stream: Any) -> None:
        async for _ in stream:
            pass


def reading(app: App, **types: Any) -> None:
    app.agent(app.topic("x", **types))(nothing)


class Priced(msgspec.Struct):
    price: int


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda app: app.topic("x", value_typ=int), "'value_typ': did you mean value_type"),
        (lambda app: app.topic("x", grce="1m"), "did you mean grace"),
        (lambda app: app.Table("t", default=0), "default=0 is a value\n  hint: a function makes it: default=lambda: 0"),
        (lambda app: app.agent(app.topic("x"), sink="out")(nothing), r"sink=\[app.topic\('out'\)\]"),
        (lambda app: app.agent(app.topic("x"), sink=["out"])(nothing), r"sink=\[app.topic\('out'\)\]"),
        (lambda app: app.agent(app.topic("x"), sink=app.topic("out"))(nothing), "sinks are a list"),
        (lambda app: app.timer("6/m"), "timer: interval='6/m' is no duration\n  hint: for example 60"),
        (lambda app: app.timer(-1), "timer: interval=-1 is no duration"),
        (lambda app: app.timer(float("nan")), "timer: interval=nan is no duration"),
        (lambda app: app.timer(None), "timer: interval=None is no duration"),
        (lambda app: app.Table("t", ttl="soon"), "table t: ttl='soon' is no duration"),
        (lambda app: app.agent(nothing), r"without a topic, before nothing\n  hint: @app.agent\(orders\)"),
        (lambda app: app.agent(app.topic("x"))(Plain.read), "missing a required argument: 'stream'"),
        (lambda app: app.timer(tick), "timer: interval=.* is no duration"),
        (lambda app: app.timer(1)(plain), "timer plain is no async function"),
        (lambda app: app.task(plain), "task plain is no async function"),
        (lambda app: app.crontab("* * * * *")(plain), "cron job plain is no async function"),
        (lambda app: app.crontab(tick), "without a cron line"),
        (lambda app: app.crontab("* * *"), "crontab"),
        (lambda app: app.crontab("0 0 * * *", timezone="Europe/Berlin"), "ZoneInfo"),
        (lambda app: reading(app, value_type=Plain), "topic x: value_type=Plain: JSON cannot be read as this class"),
        (lambda app: reading(app, key_type=Plain), "topic x: key_type=Plain"),
        (lambda app: app.agent("x", value_type=Plain)(nothing), "agent: value_type=Plain"),
        (lambda app: reading(app, value_type=Counter), "topic x: value_type=Counter"),
        (lambda app: app.topic("x", value_type=Plain).reduce(sum, "totals"), "totals: value_type=Plain"),
        (lambda app: app.topic("x", value_type=Priced(1)), r"topic x: value_type=Priced\(price=1\): .* not supported"),
        (lambda app: app.Table("t", value_type=Plain), "table t: value_type=Plain"),
        (lambda app: app.GlobalTable("t", key_type=Plain), "table t: key_type=Plain"),
        (lambda app: app.topic("x").reduce(sum, 0), r'the table of a flow: 0\n  hint: .*reduce\(sum, "totals"\)'),
    ],
)
def test_it_is_refused_at_once(declare: Callable[[Any], object], said: str) -> None:
    with pytest.raises((TypeError, Usage), match=said):
        declare(App("wrong"))


def inject(fun: Any) -> Any:
    @wraps(fun)
    async def run(stream: Any) -> None:
        await fun(stream, "a database")

    return run


def by_value(fun: Callable[[object], None]) -> Any:
    @wraps(fun)
    async def run(stream: Any) -> None:
        async for value in stream:
            fun(value)

    return run


def in_a_thread(fun: Callable[[], None]) -> Any:
    @wraps(fun)
    async def run() -> None:
        await asyncio.to_thread(fun)

    return run


def without_wraps(fun: Callable[..., object]) -> Any:
    def run() -> object:
        return fun()

    return run


class Ticks:
    def __init__(self) -> None:
        self.seen = list[str]()

    async def tick(self) -> None:
        self.seen.append("bound")


@pytest.mark.parametrize("how", ["bound", "thread", "unnamed"])
@pytest.mark.parametrize("kind", ["task", "timer", "cron"])
def test_what_can_be_awaited_is_no_plain_function(how: str, kind: str) -> None:
    ticks = Ticks()

    def plainly() -> None:
        ticks.seen.append("thread")

    async def tick() -> None:
        ticks.seen.append("unnamed")

    def made() -> App:
        app = App("awaited", topic_partitions=1)
        app.agent(app.topic("x"), name="nothing")(nothing)
        decorate: Any = {"task": app.task, "timer": app.timer(60), "cron": app.crontab("* * * * *")}[kind]
        decorate({"bound": ticks.tick, "thread": in_a_thread(plainly), "unnamed": without_wraps(tick)}[how])
        return app

    with World(made) as world:
        world.advance("2m")
    assert set(ticks.seen) == {how}


def test_a_plain_function_that_names_a_later_one_is_refused() -> None:
    def early() -> None:
        later()

    with pytest.raises(Usage, match="task early is no async function"):
        App("early").task(early)

    def later() -> None: ...


def test_what_works_is_not_refused() -> None:
    app = App("rightly")

    @wraps(read_with)
    async def signed(*args: Any) -> None:
        await read_with(*args, "a database")

    signed.__signature__ = inspect.signature(read_with)
    app.agent(app.topic("x"), name="signed")(signed)
    app.agent(app.topic("x"), name="by-value")(by_value(handle))
    app.agent(app.topic("x"), name="bound")(Plain().read)

    @inject
    async def read(stream: Any, database: str) -> None:
        async for _ in stream:
            pass

    app.agent(app.topic("x"), name="read")(read)
    app.agent(app.topic("x"), name="partial")(partial(read.__wrapped__, database="another"))
    app.timer(1)(partial(nothing, ()))
    app.task(lambda: tick())
    app.crontab("0 0 * * *", timezone=ZoneInfo("Europe/Berlin"))(tick)
    app.topic("pickled", value_type=Plain, value_serializer="pickle")
    reading(app, value_type=Plain, value_serializer="pickle")
    for type_ in (object, Any, dict, list[int], int | None, Priced, datetime, Mapping, dict[str, Priced], Decimal):
        app.agent(app.topic("y", value_type=type_), name=str(type_))(nothing)


@pytest.mark.parametrize(
    ("type_", "value"), [(Counter, Counter("aab")), (OrderedDict, OrderedDict(a=1)), (Plain, {"price": 1})]
)
def test_a_topic_that_is_only_written_may_have_any_class(type_: Any, value: Any) -> None:
    def made() -> App:
        app = App("written", topic_partitions=1)
        out = app.topic("out", value_type=type_)

        @app.agent(app.topic("x"))
        async def write(stream: Any) -> None:
            async for _ in stream:
                await out.send(value=value)

        return app

    with World(made) as world:
        world.send("x", 1)
        world.settle()
        assert world.topic("out").values == [value]


def test_sinks_that_can_be_iterated_once_only_get_what_the_agent_yields() -> None:
    def made() -> App:
        app = App("sinks", topic_partitions=1)

        @app.agent(app.topic("orders"), name="pass", sink=map(app.topic, ["out", "copy"]))
        async def pass_on(stream: Any) -> Any:
            async for value in stream:
                yield value

        return app

    with World(made) as world:
        world.send("orders", 1)
        world.settle()
        assert [world.topic(name).values for name in ("out", "copy")] == [[1], [1]]


def test_durations_are_text_where_faust_takes_seconds() -> None:
    def made() -> App:
        app = App("texts", topic_partitions=1)
        lines = app.topic("lines", value_type=str, retention="1d")
        groups, ticks = app.topic("groups"), app.topic("ticks")
        seen = app.Table("seen", default=int, ttl="1h")

        @app.timer("5m")
        async def tick() -> None:
            await ticks.send(value=1)

        @app.agent(lines)
        async def group(stream: Any) -> None:
            async for several in stream.take(10, within="1m30s"):
                seen["all"] += len(several)
                await groups.send(value=several)

        return app

    with World(made) as world:
        world.send("lines", "a", at="2026-01-01T00:00Z")
        world.send("lines", "b", at="2026-01-01T00:01Z")
        world.advance("1m")
        assert world.topic("groups").values == []
        world.advance("10m")
        assert world.topic("groups").values == [["a", "b"]]
        assert len(world.topic("ticks")) == 2
        assert world.table("seen") == {"all": 2}
        world.send("lines", "c", at="2026-01-01T02:00Z")
        world.settle()
        assert world.table("seen") == {"all": 1}
        assert world.environment.kafka.topics["lines"].config.retention_ms == 86_400_000


def declared() -> App:
    app = App("declared")
    app.agent(app.topic("orders", key_type=str, partitions=4), name="nothing")(nothing)
    app.Table("totals")
    return app


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda world: world.send("orders", "ann", key={"user": "ann"}), "orders: expected text, not dict"),
        (lambda world: world.run("orders.csv"), "inputs are given by topic"),
        (lambda world: world.ask("nothin", 1), "did you mean nothing"),
        (lambda world: world.ask("x", 1), "it has: nothing"),
        (lambda _: World(declared, partitions={"orders": "4"}), "'4' is no number"),
        (lambda _: World(declared, partitions=1), "all of the app do: orders 4\n  hint: .*partitions={'orders': 1}"),
    ],
)
def test_what_a_test_asks_wrongly_is_refused(ask: Callable[[Any], object], said: str) -> None:
    with World(declared, partitions=4) as world, pytest.raises(AnabranchError, match=said):
        ask(world)


def reads_elsewhere(where: str) -> App:
    app = App("elsewhere", topic_partitions=1)
    orders = app.topic("orders")

    if where == "task":
        app.agent(orders, name="nothing")(nothing)

        @app.task
        async def read() -> None:
            async for _ in app.stream(orders):
                pass

    elif where == "instead":

        @app.agent(orders, name="read")
        async def read_another(_: Any) -> None:
            async for _ in orders.stream():
                pass

    else:

        @app.agent(orders, name="read")
        async def read_within(stream: Any) -> None:
            async for _ in stream:
                async for _ in app.stream(orders).events():
                    pass

    return app


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("task", "stream of topic orders outside of an agent"),
        ("instead", "stream of topic orders in agent read, whose stream is another one"),
        ("within", "stream of topic orders in agent read, whose stream is another one"),
    ],
)
def test_a_stream_that_would_get_no_records_is_refused(where: str, said: str) -> None:
    # Faust's documentation has the first one; without the refusal, none of them sees a record or says so.
    with World(lambda: reads_elsewhere(where)) as world, pytest.raises(Usage, match=said):
        world.send("orders", 1)
        world.settle()


@pytest.mark.parametrize("ways", ["group through", "through group", "through through group"])
def test_streams_between_the_steps_of_a_chain_are_not_refused(ways: str) -> None:
    def chained() -> App:
        app = App("chained", topic_partitions=1)
        seen = app.Table("seen", default=int)

        @app.agent(app.topic("orders", key_type=str, value_type=int), name="read")
        async def read(stream: Any) -> None:
            for number, way in enumerate(ways.split()):
                if way == "group":
                    stream = stream.group_by(lambda order: str(order), name="amount")
                else:
                    stream = stream.through(f"between-{number}")
            async for order in stream:
                seen["all"] += order

        return app

    with World(chained) as world:
        world.send("orders", 3, key="ann")
        world.settle()
        assert world.table("seen") == {"all": 3}
