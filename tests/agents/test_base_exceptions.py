"""Anything that an agent raises fails its record: panics of Rust libraries, SystemExit, cancelled awaits.

The worker goes on, the others of the batch count once, and what ends an agent for good ends the worker.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from anabranch.agents import worker
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.failure_policy import Retry
from anabranch.agents.runtime import runtime_of
from anabranch.agents.web.health import not_ready
from anabranch.topics.errors import Stop
from polars.exceptions import PanicException

pytestmark = pytest.mark.memory_suffices(
    "test_a_panic_stops_the_worker_where_the_policy_says_so_and_commits_nothing_of_it",
)

AT = 3
VALUES = list(range(10))
GOOD = sum(VALUES) - AT


async def raises(error: BaseException) -> None:
    raise error


async def waits_for_what_is_cancelled() -> None:
    waiting = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(waiting.cancel)
    await waiting


async def waits_for_a_task_that_is_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancels_itself_and_goes_on() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def waits_for_tasks_of_which_one_fails() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fails())
        tasks.create_task(asyncio.sleep(60))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit


async def exits() -> None:
    sys.exit("nothing to do with this one")


FAILURES: dict[str, Callable[[], Awaitable[None]]] = {
    "PanicException": lambda: raises(PanicException("index out of bounds")),
    "BaseException": lambda: raises(BaseException("base")),
    "SystemExit": exits,
    "KeyboardInterrupt": lambda: raises(KeyboardInterrupt()),
    "GeneratorExit": lambda: raises(GeneratorExit()),
    "StopAsyncIteration": lambda: raises(StopAsyncIteration()),
    "BaseExceptionGroup": lambda: raises(BaseExceptionGroup("both", [SystemExit(1), ValueError()])),
    "CancelledError": lambda: raises(asyncio.CancelledError()),
    "CancelledError of a future": waits_for_what_is_cancelled,
    "CancelledError of a task": waits_for_a_task_that_is_cancelled,
    "CancelledError of itself": cancels_itself,
    "CancelledError of itself, later": cancels_itself_and_goes_on,
    "ExceptionGroup of tasks": waits_for_tasks_of_which_one_fails,
    "Unspeakable": lambda: raises(Unspeakable()),
}


def letters_by_agent(letters: list[Any]) -> dict[str, list[tuple[int, str]]]:
    """Agent -> values and error types of its letters."""
    found: dict[str, list[tuple[int, str]]] = {}
    for letter in letters:
        headers = {name: value.decode() for name, value in letter.headers()}
        error = headers["anabranch-error"].partition(":")[0]
        found.setdefault(headers["anabranch-agent"], []).append((int(letter.value()), error))
    return found


async def test_what_is_no_exception_is_the_failure_of_its_record_alone(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums, source = app.Table("sums", default=int), app.topic(topic)

    def agent(name: str, fails: Callable[[], Awaitable[None]]) -> None:
        @app.agent(source, name=name)
        async def adder(stream):
            async for value in stream:
                sums[name] += value
                if value == AT:
                    await fails()

    for name, fails in FAILURES.items():
        agent(name, fails)
    lab.produce(topic, VALUES)
    async with lab.running(app):
        await lab.caught_up(topic, app)
        assert not runtime_of(app).status.exited
        lab.produce(topic, [100])
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == dict.fromkeys(FAILURES, GOOD + 100)
    expected = {name: [(AT, name.partition(" ")[0])] for name in FAILURES}
    assert letters_by_agent(drain(f"{topic}.dlq")) == expected


async def test_an_agent_that_handles_what_its_tasks_raise_loses_no_record(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            try:
                await waits_for_tasks_of_which_one_fails()
            except* ValueError:
                pass
            if value == AT:
                raise ValueError  # from here on, records go one by one

    lab.produce(topic, VALUES)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": GOOD}
    assert letters_by_agent(drain(f"{topic}.dlq")) == {"adder": [(AT, "ValueError")]}


@pytest.mark.parametrize("iterates", ["take", "batches", "events", "filter", "yields", "sink", "decodes"])
async def test_a_panic_is_found_in_whatever_way_an_agent_takes_its_records(lab, drain, table_of, iterates) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums = app.Table("sums", default=int)

    def panics(value: int) -> int:
        if value == AT:
            raise PanicException("not this one")
        return value

    class Model:
        """As much of a Faust record as its codec asks for."""

        _options = SimpleNamespace(serializer="json")

        @staticmethod
        def from_data(data: int, **_: Any) -> int:
            return panics(data)

    source = app.topic(topic, value_type=Model if iterates == "decodes" else None)

    async def adder(stream):
        match iterates:
            case "take":
                async for values in stream.take(4, within=0.05):
                    sums["all"] += sum(map(panics, values))
            case "batches":
                async for batch in stream.batches():
                    sums["all"] += sum(map(panics, batch))
            case "events":
                async for event in stream.events():
                    sums["all"] += panics(event.value)
            case "filter":
                async for value in stream.filter(lambda v: panics(v) >= 0):
                    sums["all"] += value
            case _:
                async for value in stream:
                    sums["all"] += value if iterates in ("sink", "decodes") else panics(value)

    async def yielder(stream):
        async for value in stream:
            sums["all"] += value
            yield value if iterates == "sink" else panics(value)

    sinks: list[Any] = [panics] if iterates == "sink" else []
    app.agent(source, name="adder", sink=sinks)(yielder if iterates in ("yields", "sink") else adder)
    lab.produce(topic, VALUES)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": GOOD}
    assert letters_by_agent(drain(f"{topic}.dlq")) == {"adder": [(AT, "PanicException")]}


async def test_a_cancelled_wait_is_tried_again_where_the_policy_says_so(lab, drain, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums, tries = app.Table("sums", default=int), [0]

    @app.agent(app.topic(topic), name="adder", on_failure=Retry(first_s=0.01))
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            if value == AT:
                tries[0] += 1
                if tries[0] < 3:
                    await waits_for_what_is_cancelled()

    lab.produce(topic, VALUES)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": sum(VALUES)}
    assert not lab.admin.partitions([f"{topic}.dlq"])


async def test_a_panic_stops_the_worker_where_the_policy_says_so_and_commits_nothing_of_it(lab, table_of) -> None:
    topic, name = lab.topic(), lab.fresh("app")

    def program(fails: bool) -> Any:
        app = lab.app(name)
        sums = app.Table("sums", default=int)

        @app.agent(app.topic(topic), name="adder", on_failure="fail")
        async def adder(stream):
            async for value in stream:
                sums["all"] += value
                if value == AT and fails:
                    raise PanicException("not this one")

        return app

    lab.produce(topic, VALUES)
    stop = await lab.stopped_by(program(fails=True))
    assert isinstance(stop, Stop)
    assert f"agent adder failed at {topic}[0]@{AT}: PanicException: not this one" in str(stop)
    app = program(fails=False)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": sum(VALUES)}


async def test_an_agent_that_is_cancelled_between_two_records_goes_on(lab, table_of) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))
    sums, tasks = app.Table("sums", default=int), list[Any]()

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        tasks.append(asyncio.current_task())
        async for value in stream:
            sums["all"] += value

    async with lab.running(app):
        lab.produce(topic, [1])
        await lab.caught_up(topic, app)
        tasks[0].cancel()
        lab.produce(topic, [2])
        await lab.caught_up(topic, app)
        assert len(tasks) == 2
        assert not runtime_of(app).status.exited
    assert table_of(app, "sums") == {"all": 3}


async def test_a_worker_whose_agent_is_stopped_by_the_program_is_not_ready_and_ends(lab) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for _ in stream:
            pass

    running = await lab.started(app)
    await app.agents["adder"].stop()
    with pytest.raises(Stop, match="agent adder is gone"):
        await asyncio.wait_for(running, 60)
    assert not_ready(runtime_of(app)) == "agent adder has ended"


async def test_a_worker_ends_within_seconds_while_an_agent_waits_for_what_was_cancelled(lab, table_of) -> None:
    topic, name = lab.topic(), lab.fresh("app")
    app = lab.app(name, settings=EngineSettings(stuck_s=5.0, session_timeout_ms=6_000))
    sums = app.Table("sums", default=int)

    @app.agent(app.topic(topic), name="adder", on_failure=Retry(times=1_000, first_s=0.001, most_s=0.001))
    async def adder(stream):
        async for value in stream:
            sums["all"] += value
            if value == AT:
                await waits_for_what_is_cancelled()

    lab.produce(topic, VALUES)
    async with lab.running(app):
        await lab.until(lambda: runtime_of(app).status.rollbacks_total > 3 and lab.committed(name, topic))
    assert runtime_of(app).stopped_by is None
    assert table_of(app, "sums") == {"all": sum(range(AT))}


def test_a_task_of_an_agent_that_exits_ends_the_worker_with_an_error_and_nothing_is_committed(lab, monkeypatch):
    # What a worker does to its process is not for this one.
    monkeypatch.setattr(worker, "_watch_the_end", lambda *_: None)
    monkeypatch.setattr(worker, "_save_memory", lambda: None)
    monkeypatch.setattr(worker, "collect_seldom", Mock())
    topic, app = lab.topic(), lab.app(lab.fresh("app"))

    @app.agent(app.topic(topic), name="adder")
    async def adder(stream):
        async for _ in stream:
            await asyncio.create_task(exits())

    lab.produce(topic, VALUES)
    with pytest.raises(Stop, match="SystemExit: nothing to do with this one"):
        worker.run_worker(app)
    assert lab.committed(app.conf.id, topic).get(0, (0, ""))[0] == 0
