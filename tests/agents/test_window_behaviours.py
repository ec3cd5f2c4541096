"""Windows behave as `window_behaviours.py` lists: on the live topic, and in a bounded run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anabranch import Count, Tumbling, World
from anabranch.replay.testing.topic_content import content_of
from anabranch.topics.producer import TransactionalProducer
from window_behaviours import BEHAVIOURS, app_of, closed_windows, records_of

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from anabranch.topics.producer import TransactionalProducer
from window_behaviours import BEHAVIOURS, app_of
app = app_of("behaviours", {{behaviour.name: behaviour.name for behaviour in BEHAVIOURS}}, by_key={by_key})
"""

by_key_or_not = pytest.mark.parametrize("by_key", [True, False], ids=["by-key", "in-place"])


@by_key_or_not
async def test_on_the_live_topic(by_key: bool, lab, drain, record) -> None:
    topics = {behaviour.name: lab.topic(1, behaviour.name) for behaviour in BEHAVIOURS}
    lab.admin.create([lab.spec(f"{topic}.closed") for topic in topics.values()])
    name = lab.fresh("app")
    app = app_of(name, topics, by_key=by_key, app=lab.app(name, topic_partitions=1))
    async with lab.running(app):
        for behaviour in BEHAVIOURS:
            values = records_of(behaviour)
            lab.produce(topics[behaviour.name], [record(value, value["key"]) for value in values])
        for behaviour in BEHAVIOURS:
            await lab.caught_up(topics[behaviour.name], app)
            await lab.until(lambda b=behaviour: len(drain(f"{topics[b.name]}.closed")) >= b.before_end, behaviour.name)
    found = {b.name: _values(drain(f"{topics[b.name]}.closed")) for b in BEHAVIOURS}
    assert {name: closed_windows(values) for name, values in found.items()} == {
        behaviour.name: list(behaviour.closed[: behaviour.before_end]) for behaviour in BEHAVIOURS
    }
    existing = lab.admin.partitions()
    late = {b.name: f"{topics[b.name]}.late" for b in BEHAVIOURS}
    assert {name: [v["at"] for v in _values(drain(topic))] for name, topic in late.items() if topic in existing} == {
        behaviour.name: list(behaviour.late) for behaviour in BEHAVIOURS if behaviour.late
    }


async def test_an_open_transaction_keeps_its_partition_from_being_idle(lab, drain, record) -> None:
    topic, out = lab.topic(2), lab.topic(1, "out")
    app = lab.app(lab.fresh("app"), topic_partitions=2)
    sales = app.topic(topic, time="at", time_unit="s", grace=0, max_jump=None, idle_after="1s", partitions=2)
    sales.key_by("key").window(Tumbling("10s")).aggregate("windows", n=Count()).final().to(app.topic(out, partitions=1))
    # On a busy machine the transaction is open for longer than the usual timeout.
    upstream = TransactionalProducer(lab.cluster, lab.fresh("upstream"), transaction_timeout_ms=120_000)
    upstream.open()
    upstream.begin()
    upstream.produce(topic, b'{"at": 3, "key": "a"}', b"a", 1)
    upstream.flush()
    async with lab.running(app):
        lab.produce(topic, [record({"at": at, "key": "a"}, "a", partition=0) for at in (1, 100)])
        # Nothing happens that could be waited for. If what is in partition 1 did not count, it would be idle by then,
        # and the window closed.
        await asyncio.sleep(3)
        upstream.commit()
        (final,) = await lab.until(lambda: drain(out))
    upstream.close()
    assert msgspec.json.decode(final.value())["n"] == 2
    assert f"{topic}.late" not in lab.admin.partitions()


@by_key_or_not
def test_after_each_record(by_key: bool) -> None:
    topics = {behaviour.name: behaviour.name for behaviour in BEHAVIOURS}
    with World(lambda: app_of("behaviours", topics, by_key=by_key)) as world:
        closed: dict[str, list[int]] = {behaviour.name: [] for behaviour in BEHAVIOURS}
        for number in range(max(len(behaviour.records) for behaviour in BEHAVIOURS)):
            at_hand = [behaviour for behaviour in BEHAVIOURS if number < len(behaviour.records)]
            for behaviour in at_hand:
                value = records_of(behaviour)[number]
                world.send(behaviour.name, value, key=value["key"])
            world.settle()
            for behaviour in at_hand:
                closed[behaviour.name].append(len(world.topic(f"{behaviour.name}.closed")))
        assert closed == {behaviour.name: list(behaviour.closed_after) for behaviour in BEHAVIOURS}
        (late,) = world.topic("behind-the-watermark-is-late.late").records
        headers = {name: text.decode() for name, text in late.headers}
        number = [behaviour.name for behaviour in BEHAVIOURS].index("behind-the-watermark-is-late")
        assert headers["anabranch-operator"] == f"table-{number}"
        assert headers["anabranch-window"] == "1970-01-01T00:00:00.000Z/1970-01-01T00:00:10.000Z"
        assert headers["anabranch-watermark"] == "1970-01-01T00:00:10.000Z"
        assert (headers["anabranch-reason"], headers["anabranch-app"]) == ("late", "behaviours")


def _values(messages: list[Any]) -> list[Any]:
    return [msgspec.json.decode(message.value()) for message in messages]


@by_key_or_not
@pytest.mark.parametrize("pack", [None, "lz4"])
def test_in_a_bounded_run(by_key: bool, pack: Any, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent), by_key=by_key))
    files = {behaviour.name: tmp_path / f"{behaviour.name}.jsonl" for behaviour in BEHAVIOURS}
    for behaviour in BEHAVIOURS:
        files[behaviour.name].write_text("".join(json.dumps(value) + "\n" for value in records_of(behaviour)))
    with World(str(program)) as world:
        run = world.run(files, key="key", pack=pack)
        topics = world.environment.kafka.topics
        in_run = {b.name: topics.get(f"behaviours-run-world1-{b.name}.late") for b in BEHAVIOURS}
        late = {
            name: [v["at"] for v in content_of(name, topic, None).values] for name, topic in in_run.items() if topic
        }
    assert {b.name: closed_windows(run.topics[f"{b.name}.closed"].values) for b in BEHAVIOURS} == {
        behaviour.name: list(behaviour.closed) for behaviour in BEHAVIOURS
    }
    assert late == {behaviour.name: list(behaviour.late) for behaviour in BEHAVIOURS if behaviour.late}
