"""Blocking calls in daemon threads, and without any thread."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import TypeVar

import pytest
from anabranch.topics import clock, threads

T = TypeVar("T")


class Jumping(clock.Clock):
    """A clock that jumps instead of waiting."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


def here() -> int:
    return threading.get_ident()


def test_a_call_runs_in_a_thread_and_inline_in_the_callers() -> None:
    async def where() -> int:
        return await threads.daemon_thread(here)

    assert asyncio.run(where()) != here()
    with threads.inline():
        assert threads.are_inline()
        assert asyncio.run(where()) == here()
    assert not threads.are_inline()


async def gathered(*calls: Callable[[], T]) -> list[T]:
    return list(await asyncio.gather(*(threads.daemon_thread(call) for call in calls)))


def test_a_thread_takes_one_call_after_another_and_calls_at_the_same_time_have_threads_of_their_own() -> None:
    meet = threading.Barrier(2, timeout=30)

    def met() -> int:
        meet.wait()
        return here()

    first = asyncio.run(gathered(met, met))
    assert len(set(first)) == 2
    for _ in range(3):
        (again,) = asyncio.run(gathered(here))
        assert again in first


def test_a_thread_that_waits_for_a_call_keeps_nothing_of_its_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_WAITS_S", 30)

    class Records:
        pass

    async def main() -> weakref.ref[Records]:
        free, records = threading.Event(), Records()
        waiting = len(threads._waiting)  # pyright: ignore[reportPrivateUsage]
        busy = [asyncio.ensure_future(threads.daemon_thread(free.wait)) for _ in range(waiting)]
        await asyncio.sleep(0)
        await threads.daemon_thread(id, records)  # a thread is started for it
        free.set()
        await asyncio.gather(*busy)
        return weakref.ref(records)

    kept = asyncio.run(main())
    for _ in range(500):  # the thread may not be back from the call
        gc.collect()
        if kept() is None:
            break
        time.sleep(0.001)
    assert kept() is None


def test_a_thread_ends_that_has_waited_for_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_WAITS_S", 0.05)
    (used,) = asyncio.run(gathered(threading.current_thread))
    used.join(30)
    assert not used.is_alive()
    assert asyncio.run(gathered(threading.current_thread)) != [used]


def test_a_forked_process_does_not_hand_calls_to_threads_that_it_does_not_have() -> None:
    (used,) = asyncio.run(gathered(threading.current_thread))
    assert used.is_alive(), "it waits for the next call"
    pid = os.fork()
    if pid == 0:
        try:
            threads.call_within(20, lambda: None)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_an_inline_call_lets_other_tasks_run_before_it_and_raises_its_error() -> None:
    seen: list[str] = []

    def fail() -> None:
        seen.append("call")
        raise KeyError("x")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(seen.append, "other")
        with pytest.raises(KeyError):
            await threads.daemon_thread(fail)

    with threads.inline():
        asyncio.run(main())
    assert seen == ["other", "call"]


def test_cancellation_does_not_prevent_an_inline_call() -> None:
    made: list[int] = []

    async def main() -> None:
        task = asyncio.ensure_future(threads.daemon_thread(made.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with threads.inline():
        asyncio.run(main())
    assert made == [1]


def test_a_call_that_takes_too_long_is_left_behind() -> None:
    release = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            threads.call_within(0.01, release.wait)
    finally:
        release.set()
    with threads.inline(), clock.use(Jumping()):
        threads.call_within(1.0, clock.sleep, 0.5)
        with pytest.raises(TimeoutError):
            threads.call_within(1.0, clock.sleep, 1.5)
        assert clock.now_s() == 2.0


def test_errors_of_a_call_are_raised_in_the_caller() -> None:
    for context in (threads.inline, lambda: clock.use(clock.Clock())):
        with context(), pytest.raises(ZeroDivisionError):
            threads.call_within(5.0, lambda: 1 / 0)


def test_background_steps_end_when_they_are_joined() -> None:
    stop = threading.Event()
    ran_in: list[int] = []

    def steps() -> Generator[float]:
        while not stop.is_set():
            ran_in.append(here())
            yield 600.0  # `join` ends the pause

    background = threads.Background(steps, "test")
    while not ran_in:
        clock.sleep(0.001)
    stop.set()
    background.join()
    assert ran_in[0] != here()


def test_inline_background_steps_are_taken_by_the_loop_until_the_join() -> None:
    seen: list[object] = []

    def steps() -> Generator[float]:
        try:
            while True:
                seen.append(here())
                yield 0.0
        finally:
            seen.append("closed")

    async def main() -> None:
        background = threads.Background(steps, "test")
        assert seen == []
        while len(seen) < 3:
            await asyncio.sleep(0)
        background.join()
        taken = len(seen)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(seen) == taken
        assert seen[-1] == "closed"
        assert set(seen[:-1]) == {here()}

    before = set(threading.enumerate())
    with threads.inline():
        asyncio.run(main())
    assert set(threading.enumerate()) <= before


def test_inline_calls_may_be_delayed_and_idling_replaced() -> None:
    slept: list[float] = []

    async def idle(seconds: float) -> None:
        slept.append(seconds)

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        at = await threads.daemon_thread(loop.time)
        await threads.idle(5.0)
        return began, at

    machine = threads.idle
    with threads.inline(idle=idle, delay_s=lambda: 0.02):
        began, at = asyncio.run(main())
    assert at - began >= 0.019
    assert slept == [5.0]
    assert threads.idle is machine


def test_a_background_call_can_be_awaited_and_waited_for() -> None:
    may_end = threading.Event()

    def call() -> int:
        may_end.wait()
        return here()

    async def main() -> int:
        made = threads.BackgroundCall(call)
        assert not await made.wait(0)
        may_end.set()
        assert await made.wait()
        assert made.done
        return made.result()

    assert asyncio.run(main()) != here()


def test_an_inline_background_call_is_made_in_a_callback_or_when_its_result_is_asked_for() -> None:
    made: list[str] = []

    def fail(name: str) -> None:
        made.append(name)
        raise KeyError(name)

    async def main() -> None:
        first = threads.BackgroundCall(lambda: fail("first"))
        assert not made
        with pytest.raises(KeyError):
            first.result()
        second = threads.BackgroundCall(lambda: fail("second"))
        assert await second.wait()
        with pytest.raises(KeyError):
            second.result()

    with threads.inline():
        asyncio.run(main())
    assert made == ["first", "second"]


def test_a_call_is_left_to_its_thread_when_it_is_given_up() -> None:
    release, asked = threading.Event(), list[int]()

    def given_up() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    try:
        with pytest.raises(TimeoutError):
            threads.call_unless(given_up, 0.01, release.wait)
    finally:
        release.set()
    assert asked == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        threads.call_unless(lambda: False, 0.01, lambda: 1 / 0)
