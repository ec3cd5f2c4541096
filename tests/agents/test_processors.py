"""Processors stand where they were written: before a record goes on, or behind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from anabranch import App
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop, Usage

pytestmark = pytest.mark.memory_suffices(
    "test_a_record_goes_on_with_its_own_bytes_behind_filters_and_processed_behind_others",
)


async def test_what_is_filtered_before_group_by_does_not_go_on_and_makes_no_dead_letters(lab: Any, drain: Any) -> None:
    #  0 … 29 ──filter: even──▶ group_by (cannot tell the key of an odd one) ──filter: not 4──▶ agent
    topic, app, got = lab.topic(2), lab.app(lab.fresh("app")), []
    keys = {number: f"k{number % 3}" for number in range(0, 30, 2)}

    @app.agent(app.topic(topic), name="grouper")
    async def grouper(stream):
        even = stream.filter(lambda number: number % 2 == 0)
        async for number in even.group_by(keys.__getitem__, name="key", topic=by_key).filter(lambda n: n != 4):
            got.append(number)

    by_key = app.topic(lab.topic(2, "by-key"))
    lab.produce(topic, [(f"s{number % 5}", number) for number in range(30)])
    async with lab.running(app):
        await lab.until(lambda: len(got) == 14, "the even ones but 4")
        await lab.caught_up(topic, app)
    assert sorted(got) == [number for number in range(0, 30, 2) if number != 4]
    gone_on = {int(message.value()): message.key().decode() for message in drain(by_key.get_topic_name())}
    assert gone_on == keys
    assert f"{topic}.dlq" not in lab.admin.partitions()


async def test_a_record_goes_on_with_its_own_bytes_behind_filters_and_processed_behind_others(
    lab: Any, drain: Any
) -> None:
    app, odd_spelling = lab.app(lab.fresh("app")), b'{"n": 1,  "more": [1.0]}'
    sources = {way: lab.topic() for way in ("filter", "through", "group_by", "echo")}
    targets = {way: app.topic(lab.topic(1, "out")) for way in sources}
    early, got = app.topic(lab.topic(1, "early")), {}

    def add(value: dict[str, Any]) -> dict[str, Any]:
        value["n"] += 1  # in place, as it is often done
        return value

    def program(way: str) -> None:
        @app.agent(app.topic(sources[way]), name=way)
        async def agent(stream):
            match way:
                case "filter":
                    stream = stream.filter(lambda value: value["n"]).through(targets[way])
                case "through":
                    stream.add_processor(add)
                    stream = stream.through(targets[way])
                case "group_by":
                    stream.add_processor(add)
                    stream = stream.group_by(lambda value: value["n"], name="n", topic=targets[way])
                case _:
                    stream = stream.echo(early)
                    stream.add_processor(add)
                    stream = stream.echo(targets[way])
            async for value in stream:
                got[way] = value

    for way, source in sources.items():
        program(way)
        lab.produce(source, [("k", odd_spelling)])
    async with lab.running(app):
        await lab.until(lambda: got.keys() == sources.keys(), "all ways")
        for source in sources.values():
            await lab.caught_up(source, app)
    sent = {way: [(m.key(), m.value()) for m in drain(target.get_topic_name())] for way, target in targets.items()}
    processed = b'{"n":2,"more":[1.0]}'
    assert sent == {
        "filter": [(b"k", odd_spelling)],
        "through": [(b"k", processed)],
        "group_by": [(b"2", processed)],
        "echo": [(b"k", processed)],
    }
    assert [m.value() for m in drain(early.get_topic_name())] == [odd_spelling]
    assert got["filter"]["n"] == 1
    assert {got[way]["n"] for way in ("through", "group_by", "echo")} == {2}


async def test_events_and_items_show_values_as_they_are_behind_the_processors(lab: Any, drain: Any) -> None:
    app, got = lab.app(lab.fresh("app")), {}
    sources = {way: lab.topic() for way in ("events", "items", "current", "take_events")}
    target = app.topic(lab.topic(1, "out"), key_type=str)

    def program(way: str) -> None:
        seen = got[way] = []

        @app.agent(app.topic(sources[way], key_type=str), name=way)
        async def agent(stream):
            stream.add_processor(lambda number: number * 10)
            match way:
                case "events":
                    async for event in stream.events():
                        seen.append((event.key, event.value))
                        await event.send(target)  # as it is now
                        await event.forward(target)  # as it came
                case "items":
                    async for key, value in stream.items():
                        seen.append((key, value))
                case "current":
                    async for value in stream:
                        assert stream.current_event.value == value
                        seen.append((stream.current_event.key, value))
                case _:
                    async for events in stream.take_events(2, within=60):
                        seen.extend((event.key, event.value) for event in events)

    for way, source in sources.items():
        program(way)
        lab.produce(source, [("a", 1), ("b", 2)])
    async with lab.running(app):
        for source in sources.values():
            await lab.caught_up(source, app)
    assert got == {way: [("a", 10), ("b", 20)] for way in sources}
    assert [m.value() for m in drain(target.get_topic_name())] == [b"10", b"1", b"20", b"2"]


async def test_batches_of_a_stream_with_processors_are_refused(lab: Any) -> None:
    app = lab.app(lab.fresh("app"))

    @app.agent(app.topic(lab.topic()), name="filtering")
    async def filtering(stream):
        async for _ in stream.filter(bool).batches():
            pass

    error = await lab.stopped_by(app)
    assert isinstance(error, Stop)
    assert "batches() of a stream with processors" in str(error)


class Sale(msgspec.Struct):
    user: str
    amount: int


async def test_a_stream_is_grouped_by_a_field_of_a_struct(lab: Any) -> None:
    topic, app = lab.topic(2), lab.app(lab.fresh("app"), topic_partitions=2)
    totals = app.Table("totals", default=int)

    @app.agent(app.topic(topic, value_type=Sale), name="sum")
    async def add(stream):
        async for sale in stream.group_by(Sale.user):
            totals[sale.user] += sale.amount

    lab.produce(topic, [{"user": f"u{number % 3}", "amount": number} for number in range(30)])
    async with lab.running(app):
        await lab.until(lambda: sum(totals.values()) == sum(range(30)), "all records")
        assert totals == {f"u{user}": sum(range(user, 30, 3)) for user in range(3)}
        assert runtime_of(app).status.dead_letters_total == 0


@pytest.mark.parametrize("key", ["user", 7, None])
def test_a_key_that_is_neither_a_function_nor_a_field_is_refused(key: object) -> None:
    app = App("refuses")
    with pytest.raises(Usage, match="neither a function of the value nor a field"):
        app.stream(app.topic("sales", value_type=Sale)).group_by(key, name="user")
