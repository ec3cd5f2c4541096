"""Failure policies decide about failed records; errors without a record stop the worker."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop
from failing_records import BAD, Boom, good_sum, with_bad

pytestmark = pytest.mark.memory_suffices(
    "test_fail_stops_the_worker_at_the_record_and_commits_nothing_after_it",
    "test_a_worker_told_to_stop_while_a_record_fails_counts_nothing_twice",
)


async def test_skip_leaves_the_record_out_and_counts_it(lab, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(topic), name="adder", on_failure="skip")
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            if value == BAD:
                raise Boom

    values: list[Any] = [*with_bad(20, 3, 4, 11), "{"]
    lab.produce(topic, values)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": good_sum(values[:-1])}
    assert runtime_of(app).status.skipped_total == 4
    assert f"{topic}.dlq" not in lab.admin.partitions()


@pytest.mark.parametrize("bad", [BAD, "{"], ids=["raises", "undecodable"])
async def test_fail_stops_the_worker_at_the_record_and_commits_nothing_after_it(lab, table_of, bad) -> None:
    topic, name = lab.topic(), lab.fresh("app")

    def program(app, mended):
        sums = app.Table("sums", default=int)

        @app.agent(app.topic(topic), name="adder", on_failure="skip" if mended else "fail")
        async def adder(stream):
            async for value in stream:
                sums["all"] += value
                if value == BAD:
                    raise Boom("no")

    lab.produce(topic, [1, 2, bad, 4])
    app = lab.app(name)
    program(app, mended=False)
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert stop is runtime_of(app).stopped_by
    assert stop.exit_code == 1
    assert f"agent adder failed at {topic}[0]@2" in str(stop)
    assert lab.committed(name, topic).get(0, (0, ""))[0] <= 2

    app = lab.app(name)
    program(app, mended=True)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": 7}


async def test_a_worker_told_to_stop_while_a_record_fails_counts_nothing_twice(lab, drain, table_of) -> None:
    #  1 2 3 handled ── 4 raises ── stop, before the redo ──▶  the next worker: 1 2 3 5 once, 4 to the dead letters
    topic, target, name = lab.topic(), lab.topic(1, "out"), lab.fresh("app")

    def program(app, stops):
        sums, out = app.Table("sums", default=int), app.topic(target)

        @app.agent(app.topic(topic), name="adder")
        async def adder(stream):
            async for value in stream:
                sums["all"] += value
                await out.send(value=value)
                if value == 4:
                    if stops:
                        runtime_of(app).stop_requested.set()
                        runtime_of(app).engine.stopping = True
                    raise Boom

    lab.produce(topic, [1, 2, 3, 4, 5])
    app = lab.app(name)
    program(app, stops=True)
    async with lab.running(app):
        await runtime_of(app).stop_requested.wait()
    app = lab.app(name)
    program(app, stops=False)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": 11}
    assert [m.value() for m in drain(target)] == [b"1", b"2", b"3", b"5"]
    assert [m.value() for m in drain(f"{topic}.dlq")] == [b"4"]


async def test_an_agent_that_fails_before_its_loop_stops_the_worker(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="hasty")
    async def hasty(stream):
        raise Boom("no configuration")
        async for _ in stream:
            pass

    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert "agent hasty failed outside of a record: Boom: no configuration" in str(stop)


@pytest.mark.parametrize("when", ["at once", "after a record"])
async def test_an_agent_that_returns_stops_the_worker(lab, when) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="brief")
    async def brief(stream):
        if when == "at once":
            return
        async for _ in stream:
            break

    lab.produce(topic, [1])
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert "agent brief returned" in str(stop)


async def test_a_policy_that_does_not_exist_is_refused(lab) -> None:
    app = lab.app(lab.fresh("app"))
    with pytest.raises(Stop, match="on_failure='ignore'"):

        @app.agent(app.topic("t"), name="a", on_failure="ignore")
        async def a(stream):
            async for _ in stream:
                pass


async def test_a_failure_downstream_of_group_by_goes_to_the_agents_policy(lab, drain, table_of) -> None:
    topic, name = lab.topic(2), lab.fresh("app")
    app = lab.app(name)
    sums = app.Table("sums", default=int, partitions=2)
    keys: dict[str, int] = defaultdict(int)

    def key(value: int) -> str:
        keys["calls"] += 1
        if value == 13:
            raise Boom("no key")
        return f"k{value % 3}"

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for value in stream.group_by(key, name="key", partitions=2):
            sums[f"k{value % 3}"] += value
            if value == 20:
                raise Boom("no sum")

    lab.produce(topic, [(f"s{i % 5}", i) for i in range(30)])
    expected = {f"k{k}": sum(i for i in range(k, 30, 3) if i not in (13, 20)) for k in range(3)}
    async with lab.running(app):
        await lab.until(lambda: dict(sums.items()) == expected, "sums")
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == expected
    assert [m.value() for m in drain(f"{topic}.dlq")] == [b"13"]
    assert [m.value() for m in drain(f"{app.conf.id}-adder-{topic}-key-repartition.dlq")] == [b"20"]
