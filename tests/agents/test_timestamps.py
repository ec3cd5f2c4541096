"""Timestamps of records that agents send: before 1970, none, and exactly 0 ms, which librdkafka replaces by now."""

from __future__ import annotations

from typing import Any


async def test_times_before_1970_are_kept_and_exactly_0_ms_is_refused_by_name(
    lab: Any, record: Any, drain: Any
) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    out = app.topic(target)

    @app.agent(app.topic(topic), name="sender")
    async def sender(stream):
        async for event in stream.events():
            await out.send(value="result")
            await event.forward(target)
            await out.send(value="given", timestamp=event.value)

    lab.produce(topic, [record(-1_000.5, None, -5_000), record(0.0, None, -6_000)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert [(m.value(), m.timestamp()[1]) for m in drain(target)] == [
        (b'"result"', -5_000),
        (b"-1000.5", -5_000),
        (b'"given"', -1_000_500),
    ]
    (letter,) = drain(f"{topic}.dlq")
    assert letter.timestamp()[1] == -6_000
    assert (
        b"(0 ms) cannot be sent: librdkafka replaces 0 by the current time" in dict(letter.headers())["anabranch-error"]
    )


async def test_what_comes_of_a_record_without_a_time_has_the_present_one(lab: Any, record: Any, drain: Any) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="sender")
    async def sender(stream):
        async for value in stream:
            await app.topic(target).send(value=value)
            await app.topic(target).send(value=value, timestamp=-0.001)

    lab.produce(topic, [record(1, None, -1)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    now_ms, none_ms = (message.timestamp()[1] for message in drain(target))
    assert now_ms > 1_600_000_000_000
    assert none_ms == -1
