"""A task, timer or cron job that fails ends the worker, and the error names it.

Nothing half done is committed.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from anabranch.agents import background_tasks
from anabranch.agents.runtime import runtime_of
from anabranch.topics.errors import Stop


def fails_with(error: BaseException) -> Any:
    async def notices() -> None:
        raise error

    return notices


async def awaits_what_is_cancelled() -> None:
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


@pytest.mark.parametrize(
    ("kind", "fun", "said"),
    [
        ("task", fails_with(ZeroDivisionError("by nought")), "ZeroDivisionError: by nought"),
        ("task", fails_with(SystemExit(3)), "SystemExit: 3"),
        ("timer", fails_with(KeyError("k")), "KeyError: 'k'"),
        ("timer", awaits_what_is_cancelled, "CancelledError: something that was awaited has been cancelled"),
        ("cron job", fails_with(ValueError()), "ValueError"),
    ],
)
async def test_what_fails_beside_agents_ends_the_worker_by_name(lab, monkeypatch, caplog, kind, fun, said) -> None:
    app = lab.app(lab.fresh("app"))
    monkeypatch.setattr(background_tasks, "seconds_until", lambda *_: 0.01)
    decorate = {"task": app.task, "timer": app.timer(0.01), "cron job": app.crontab("* * * * *")}[kind]
    decorate(fun)
    stop = await lab.stopped_by(app)
    assert isinstance(stop, Stop)
    assert stop.args[0] == f"{kind} {fun.__module__}.{fun.__qualname__} failed: {said}"
    (logged,) = [r for r in caplog.records if r.name == "anabranch.agents.background_tasks"]
    assert logged.getMessage() == f"{kind} {fun.__module__}.{fun.__qualname__} failed: the worker ends"
    assert logged.exc_info


async def test_a_timer_that_fails_leaves_an_epoch_that_the_next_start_does_again(lab, table_of) -> None:
    topic, name = lab.topic(), lab.fresh("app")

    def program(fails: bool) -> Any:
        app = lab.app(name)
        sums, inside = app.Table("sums", default=int), asyncio.Event()

        @app.agent(app.topic(topic), name="adder")
        async def adder(stream):
            async for value in stream:
                sums["all"] += value
                inside.set()
                if fails and value == 5:
                    await asyncio.Event().wait()

        @app.task
        async def breaks() -> None:
            await inside.wait()
            assert not fails

        return app

    lab.produce(topic, range(10))
    assert "breaks failed: AssertionError" in str(await lab.stopped_by(program(fails=True)))
    app = program(fails=False)
    async with lab.running(app):
        await lab.caught_up(topic, app)
    assert table_of(app, "sums") == {"all": 45}


async def test_tasks_that_return_and_timers_that_go_on_are_left_alone(lab) -> None:
    app, done = lab.app(lab.fresh("app")), list[Any]()

    @app.task
    async def once(given) -> None:
        done.append(given)

    @app.timer(0.01)
    async def again() -> None:
        done.append(datetime.now(UTC))

    async with lab.running(app):
        await lab.until(lambda: len(done) > 3)
    assert app in done
    assert runtime_of(app).stopped_by is None
