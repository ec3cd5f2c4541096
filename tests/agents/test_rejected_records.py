"""What a topic does not take is found record by record and goes to its record's policy; the neighbours count once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from anabranch import current_event
from anabranch.agents.engine.rejected_records import Rules
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop, Usage

AT = 3
COUNT = 10
GOOD = [number for number in range(COUNT) if number != AT]

LATER_MS = 4_102_444_800_000  # 2100
NOON_MS = 1_700_000_000_000


def errors(letters: list[Any]) -> dict[int, str]:
    """Value -> error."""
    return {int(m.value()): dict(m.headers())["anabranch-error"].decode() for m in letters}


def program(app: Any, topic: str, send: Any, *, policy: str = "dead_letter") -> None:
    """Counts, and sends in its own way."""
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(topic), name="sender", on_failure=policy)
    async def sender(stream):
        async for value in stream:
            sums["count"] += 1
            await send(value)


# How record 3 is sent, to a topic of this configuration, and what its letter says.
SENT = {
    "without a key": ({"cleanup_policy": "compact"}, {"key": None}, "without a key"),
    "in the future": ({}, {"timestamp": LATER_MS / 1000}, "ahead of the clock"),
    "too long ago": ({"message_timestamp_before_max_ms": "86400000"}, {"timestamp": 1.5}, "behind the clock"),
    "before 1970": ({"message_timestamp_before_max_ms": "86400000"}, {"timestamp": -5.0}, "behind the clock"),
    "where no partition is": ({}, {"partition": 99}, "a topic of 1 partitions"),
    "too large": ({"max_message_bytes": "2000"}, {"value": "".join(map(chr, range(300, 6_000)))}, "takes 2,000"),
    "with an impossible time": ({}, {"timestamp": 1e18}, "ahead of the clock"),
    "with an impossible header": ({}, {"headers": {"\ud800": b"x"}}, "UnicodeEncodeError"),
}


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_what_a_topic_refuses_is_the_failure_of_its_record_alone(lab, drain, table_of, guarantee) -> None:
    apps: dict[str, Any] = {}
    topics: dict[str, tuple[str, str]] = {}

    def started(name: str, config: dict[str, str], wrong: dict[str, Any]) -> None:
        app = apps[name] = lab.app(lab.fresh("app"), worker=name, processing_guarantee=guarantee)
        topic, target = topics[name] = lab.topic(), lab.topic(1, "out", **config)
        out = app.topic(target)

        async def send(value: int) -> None:
            sent = {"key": f"k{value}", "value": value, "timestamp": time.time()}
            await out.send(**sent | (wrong if value == AT else {}))

        program(app, topic, send)
        lab.produce(topic, range(COUNT))

    for name, (config, wrong, _) in SENT.items():
        started(name, config, wrong)
    async with lab.running(*apps.values()):
        for name, app in apps.items():
            await lab.caught_up(topics[name][0], app)
            lab.produce(topics[name][0], [100])
        for name, app in apps.items():
            await lab.caught_up(topics[name][0], app)
    for name, (_, _, said) in SENT.items():
        topic, target = topics[name]
        sent = [int(m.value()) for m in drain(target)]
        assert (sent if guarantee == "exactly_once" else sorted(set(sent))) == [*GOOD, 100], name
        assert table_of(apps[name], "sums") == {"count": COUNT}, name
        letters = errors(drain(f"{topic}.dlq"))
        assert letters.keys() == {AT}, name
        assert said in letters[AT], name


async def test_a_record_of_the_future_is_forwarded_or_a_letter_of_a_time_that_its_topic_takes(lab, record, drain):
    topic = lab.topic(message_timestamp_after_max_ms=str(2**62))
    app = lab.app(lab.fresh("app"))
    strict, free = lab.topic(1, "strict"), lab.topic(1, "free", message_timestamp_after_max_ms=str(2**62))
    source = app.topic(topic)

    async def forward(stream, target):
        async for _ in stream:
            await current_event().forward(target)

    @app.agent(source, name="strict")
    async def to_strict(stream):
        await forward(stream, app.topic(strict))

    @app.agent(source, name="free")
    async def to_free(stream):
        await forward(stream, app.topic(free))

    lab.produce(topic, [record(n, None, LATER_MS if n == AT else NOON_MS) for n in range(COUNT)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert [(int(m.value()), m.timestamp()[1]) for m in drain(strict)] == [(n, NOON_MS) for n in GOOD]
    assert [m.timestamp()[1] for m in drain(free)] == [LATER_MS if n == AT else NOON_MS for n in range(COUNT)]
    (letter,) = drain(f"{topic}.dlq")
    assert abs(letter.timestamp()[1] / 1000 - time.time()) < 600
    headers = {name: value.decode() for name, value in letter.headers()}
    assert headers["anabranch-timestamp-ms"] == str(LATER_MS)
    assert headers["anabranch-agent"] == "strict"


async def test_a_record_of_the_future_that_fails_is_a_letter_and_one_too_old_for_the_letters_as_well(
    lab, record, drain
) -> None:
    topic, app = lab.topic(message_timestamp_after_max_ms=str(2**62)), lab.app(lab.fresh("app"))
    lab.admin.create([lab.spec(f"{topic}.dlq", message_timestamp_before_max_ms="86400000")])

    @app.agent(app.topic(topic), name="picky")
    async def picky(stream):
        async for value in stream:
            assert value in GOOD

    lab.produce(topic, [record(n, None, NOON_MS) for n in range(COUNT)])
    lab.produce(topic, [record(AT + 100, None, LATER_MS), record("x", None, LATER_MS), record("y", None, NOON_MS)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
    letters = drain(f"{topic}.dlq")
    assert [m.value() for m in letters] == [b"3", b"103", b"x", b"y"]
    assert all(abs(m.timestamp()[1] / 1000 - time.time()) < 600 for m in letters)
    stamps = [dict(m.headers())["anabranch-timestamp-ms"].decode() for m in letters]
    assert stamps == list(map(str, [NOON_MS, LATER_MS, LATER_MS, NOON_MS]))


async def test_one_in_five_without_a_key_of_many_is_found_in_a_few_epochs(lab, drain, table_of) -> None:
    topic, target, app = lab.topic(2), lab.topic(1, "out", cleanup_policy="compact"), lab.app(lab.fresh("app"))
    sums, out = app.Table("sums", default=int), app.topic(target)

    @app.agent(app.topic(topic), name="sender")
    async def sender(stream):
        async for value in stream:
            sums[f"p{current_event().message.partition}"] += 1
            await out.send(key=None if value % 5 == 0 else f"k{value}", value=value)

    lab.produce(topic, range(2_000))
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert runtime_of(app).status.rollbacks_total < 100
    assert sum(table_of(app, "sums").values()) == 1_600
    assert sorted(errors(drain(f"{topic}.dlq"))) == list(range(0, 2_000, 5))
    assert sorted(int(m.value()) for m in drain(target)) == [n for n in range(2_000) if n % 5]


async def test_what_no_rule_explains_is_found_by_sending_records_one_by_one(lab, drain, table_of, monkeypatch) -> None:
    monkeypatch.setattr(Rules, "broken_by", lambda *_, **__: None)
    topic, target, app = lab.topic(), lab.topic(1, "out", cleanup_policy="compact"), lab.app(lab.fresh("app"))
    out = app.topic(target)

    async def send(value: int) -> None:
        await out.send(key=None if value in (AT, 7) else "k", value=value)

    program(app, topic, send)
    lab.produce(topic, range(COUNT))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"count": COUNT - 2}
    letters = errors(drain(f"{topic}.dlq"))
    assert letters.keys() == {AT, 7}
    assert "Broker failed to validate record" in letters[AT]
    assert [int(m.value()) for m in drain(target)] == [n for n in GOOD if n != 7]


async def test_a_policy_of_fail_names_the_record_and_a_start_after_a_fix_has_the_whole_total(lab, table_of) -> None:
    topic, target, name = lab.topic(), lab.topic(1, "out", cleanup_policy="compact"), lab.fresh("app")

    def made(key: str | None) -> Any:
        app = lab.app(name)
        out = app.topic(target)

        async def send(value: int) -> None:
            await out.send(key=key if value == AT else "k", value=value)

        program(app, topic, send, policy="fail")
        return app

    lab.produce(topic, range(COUNT))
    stop = str(await lab.stopped_by(made(None)))
    assert f"agent sender failed at {topic}[0]@{AT}: BadRecord: a record without a key for topic {target}" in stop
    app = made("k")
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"count": COUNT}


async def test_small_records_that_are_too_much_together_go_in_several_batches(lab, drain) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    target = lab.topic(1, "out", max_message_bytes="1000")
    texts = app.Table("texts", value_type=str, extra_topic_configs={"max.message.bytes": "1000"})
    out = app.topic(target, value_type=str)
    odd = [chr(300 + n) for n in range(5_000)]  # does not become smaller to speak of

    @app.agent(app.topic(topic), name="sender")
    async def sender(stream):
        async for value in stream:
            texts[value] = "".join(odd[value * 150 : value * 150 + 150])
            await out.send(key="k", value=texts[value])

    lab.produce(topic, range(20))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert len(drain(target)) == 20
    assert len(drain(f"{app.conf.id}-texts-changelog")) == 20
    assert not lab.admin.partitions([f"{topic}.dlq"])


async def test_topics_that_agents_name_and_that_cannot_be_are_their_records_failure(lab, drain, table_of) -> None:
    topic, app, stem = lab.topic(), lab.app(lab.fresh("app")), lab.fresh("to")
    lab.admin.create([lab.spec(f"{stem}.a")])
    names = {AT: "no good", 5: "x" * 250, 7: f"{stem}_a"}  # the last is too like another to Kafka

    async def send(value: int) -> None:
        await app.topic(names.get(value, f"{stem}.a")).send(key="k", value=value)

    program(app, topic, send)
    lab.produce(topic, range(COUNT))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"count": COUNT - 3}
    assert errors(drain(f"{topic}.dlq")).keys() == names.keys()
    assert [int(m.value()) for m in drain(f"{stem}.a")] == [n for n in range(COUNT) if n not in names]


def test_a_program_that_names_an_impossible_topic_is_refused(lab) -> None:
    with pytest.raises(Usage, match="no topic can be called 'my topic'"):
        lab.app("app").topic("my topic")


async def test_topics_that_are_not_there_and_must_not_be_made_are_their_records_failure(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"), topic_allow_declare=False)
    lab.admin.create([lab.spec(f"{topic}.dlq"), lab.spec(f"{app.conf.id}-sums-changelog", cleanup_policy="compact")])
    there, nowhere = lab.topic(1, "there"), lab.fresh("nowhere")

    async def send(value: int) -> None:
        await app.topic(nowhere if value == AT else there).send(key="k", value=value)

    program(app, topic, send)
    lab.produce(topic, range(COUNT))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert f"no such topic: {nowhere}" in errors(drain(f"{topic}.dlq"))[AT]
    assert [int(m.value()) for m in drain(there)] == GOOD


async def test_what_a_timer_sends_in_vain_is_a_dead_letter_of_its_topic_and_nobody_else_minds(lab, drain, table_of):
    topic, target, app = lab.topic(), lab.topic(1, "out", cleanup_policy="compact"), lab.app(lab.fresh("app"))
    out, go_on = app.topic(target), asyncio.Event()

    async def send(value: int) -> None:
        await out.send(key="k", value=value)

    program(app, topic, send)

    @app.task
    async def tells() -> None:
        await go_on.wait()
        for value in range(100, 110):
            await out.send(key=None if value == 105 else "t", value=value)

    async with lab.running(app):
        go_on.set()
        lab.produce(topic, range(COUNT))
        await lab.caught_up(topic, app)
        await lab.until(lambda: len(drain(target)) == COUNT + 9)
    assert {int(m.value()) for m in drain(target)} == {*range(COUNT), *range(100, 105), *range(106, 110)}
    (letter,) = drain(f"{target}.dlq")
    headers = {name: value.decode() for name, value in letter.headers()}
    assert letter.value() == b"105"
    assert headers["anabranch-reason"] == "refused"
    assert "without a key" in headers["anabranch-error"]
    assert table_of(app, "sums") == {"count": COUNT}


async def test_letters_that_no_topic_takes_stop_the_worker_and_say_so(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    lab.admin.create([lab.spec(f"{topic}.dlq", cleanup_policy="compact")])

    @app.agent(app.topic(topic), name="picky")
    async def picky(stream):
        async for _ in stream:
            raise ValueError

    lab.produce(topic, [1])
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert f"the dead letter of {topic}[0]@0 does not fit: a record without a key for topic {topic}.dlq" in str(stop)


async def test_what_is_sent_at_once_and_refused_raises_for_who_waits_and_fails_its_record(lab, drain, table_of) -> None:
    topic, target, app = lab.topic(), lab.topic(1, "out", cleanup_policy="compact"), lab.app(lab.fresh("app"))
    out = app.topic(target)

    async def send(value: int) -> None:
        await (await out.send(key=None if value == AT else "k", value=value, force=True))

    program(app, topic, send)
    lab.produce(topic, range(COUNT))
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert errors(drain(f"{topic}.dlq")).keys() == {AT}
    assert table_of(app, "sums") == {"count": COUNT - 1}


def test_rules_are_those_of_the_topic_s_configuration() -> None:
    config = {"max.message.bytes": "1000", "cleanup.policy": "compact,delete", "message.timestamp.type": "CreateTime"}
    rules = Rules.of(config | {"message.timestamp.difference.max.ms": "5000"}, 3)
    assert rules == Rules(1000, needs_key=True, partitions=3, before_ms=5_000, after_ms=5_000)
    assert Rules.of(config | {"message.timestamp.type": "LogAppendTime"}, 3).takes_time(1, NOON_MS)
    assert [rules.takes_time(NOON_MS + away, NOON_MS) for away in (-5_001, -5_000, 5_000, 5_001)] == [0, 1, 1, 0]
