"""Records of the largest size and larger ones: the record goes to its failure policy, and the worker continues."""

from __future__ import annotations

import os
from typing import Any

import pytest
from anabranch.agents.engine.committer import AtLeastOnce
from anabranch.topics.errors import Stop

LIMIT = 100_000
BROKER_LIMIT = 1_048_588

# What the broker adds up for one record beside its value, and a little more.
BESIDE = 200


def noise(size: int) -> str:
    """Text that does not become smaller by compression to speak of: a broker looks at what has been compressed."""
    return os.urandom(size // 2 + 1).hex()[:size]


def errors(letters: list[Any]) -> list[str]:
    return [dict(letter.headers())["anabranch-error"].decode() for letter in letters]


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_an_output_larger_than_its_topic_takes_sends_its_record_to_the_policy(lab, drain, table_of, guarantee):
    topic, target = lab.topic(), lab.topic(1, "out", max_message_bytes=str(LIMIT))
    app = lab.app(lab.fresh("app"), processing_guarantee=guarantee)
    sums, out = app.Table("sums", default=int), app.topic(target, value_type=str)

    @app.agent(app.topic(topic), name="blower")
    async def blower(stream):
        async for size in stream:
            sums["all"] += 1
            # LZ4 halves such text, so twice the limit and a half is too much, and less than the limit never is.
            await out.send(value=noise(size))

    sizes = [10, LIMIT - BESIDE, 10 * LIMIT, 20, 9 * LIMIT, 30]
    lab.produce(topic, sizes)
    async with lab.running(app):
        await lab.caught_up(topic, app)
        lab.produce(topic, [40])
        await lab.caught_up(topic, app)
    sent = [len(m.value()) for m in drain(target)]
    good = [10, LIMIT - BESIDE, 20, 30, 40]
    if guarantee == "exactly_once":
        assert sent == good
        assert table_of(app, "sums") == {"all": 5}
    else:
        assert set(sent) == set(good)
    letters = drain(f"{topic}.dlq")
    assert [int(m.value()) for m in letters] == [10 * LIMIT, 9 * LIMIT]
    assert all(f"for topic {target}, which takes {LIMIT:,}" in error for error in errors(letters))


async def test_an_output_beyond_the_apps_own_bound_never_comes_that_far(lab, drain) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out"), lab.app(lab.fresh("app"))
    out = app.topic(target, value_type=str)

    @app.agent(app.topic(topic), name="blower")
    async def blower(stream):
        async for size in stream:
            await out.send(value="x" * size)

    lab.produce(topic, [1, 2_000_000, 3])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert [len(m.value()) for m in drain(target)] == [1, 3]
    (error,) = errors(drain(f"{topic}.dlq"))
    assert f"for topic {target} is over 1,000,000" in error


async def test_a_table_value_larger_than_the_changelog_takes_sends_its_record_to_the_policy(lab, drain, table_of):
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)
    texts = app.Table("texts", value_type=str, extra_topic_configs={"max.message.bytes": LIMIT})

    @app.agent(app.topic(topic), name="keeper")
    async def keeper(stream):
        async for size in stream:
            sums["all"] += 1
            texts[f"k{size}"] = noise(size)

    lab.produce(topic, [3, 4, 10 * LIMIT, 5, 6])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    changelog = drain(f"{app.conf.id}-texts-changelog")
    assert {m.key(): len(m.value()) - 2 for m in changelog} == {b'"k%d"' % size: size for size in (3, 4, 5, 6)}
    assert table_of(app, "sums") == {"all": 4}
    letters = drain(f"{topic}.dlq")
    assert [int(m.value()) for m in letters] == [10 * LIMIT]
    assert "texts-changelog, which takes 100,000" in errors(letters)[0]


async def test_a_record_as_large_as_the_broker_takes_has_a_whole_dead_letter(lab, drain) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic, value_type=bytes), name="refuses")
    async def refuses(stream):
        async for _ in stream:
            raise ValueError("x" * 5_000)

    largest = os.urandom(BROKER_LIMIT - BESIDE)
    producer = AtLeastOnce(lab.cluster, None)._kafka  # one that does not mind the size
    producer.produce(topic, largest)
    assert producer.flush(60) == 0
    async with lab.running(app):
        await lab.caught_up(topic, app)
    (letter,) = drain(f"{topic}.dlq")
    assert letter.value() == largest


async def test_a_dead_letter_that_does_not_fit_stops_the_worker_and_says_so(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    letters = f"{topic}.dlq"
    lab.admin.create([lab.spec(letters, max_message_bytes=str(LIMIT))])

    @app.agent(app.topic(topic, value_type=str), name="refuses")
    async def refuses(stream):
        async for _ in stream:
            raise ValueError

    lab.produce(topic, [noise(500_000)])
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert f"the dead letter of {topic}[0]@0 does not fit" in str(stop)
    assert "raise max.message.bytes" in str(stop)
