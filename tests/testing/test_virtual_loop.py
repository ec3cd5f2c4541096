"""The event loop under a virtual clock."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from anabranch.replay.testing.virtual_clock import VirtualClock
from anabranch.replay.testing.virtual_loop import Deadlock, Owner, VirtualLoop, owning


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop(VirtualClock())
    yield made
    made.close()


def test_waiting_moves_the_clock_and_takes_no_time(loop: VirtualLoop) -> None:
    async def main() -> list[float]:
        late = asyncio.create_task(asyncio.sleep(3600, "late"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(late), 60)
        early = loop.time()
        assert await late == "late"
        return [early, loop.time()]

    began = time.monotonic()
    early, late = loop.run_until_complete(main())
    assert early == pytest.approx(60, abs=0.01)
    assert late == pytest.approx(3600, abs=0.01)
    assert time.monotonic() - began < 60
    assert loop.clock.now.isoformat() == "2026-01-01T01:00:00+00:00"


def test_the_clock_counts_whole_milliseconds() -> None:
    clock = VirtualClock()
    for _ in range(1000):
        clock.sleep(0.001)
    assert clock.now_ms() % 1000 == 0, "a sum of floats is below the second"
    clock.wait(threading.Event(), 2)
    assert clock.now_s() == pytest.approx(3)
    stopped = threading.Event()
    stopped.set()
    clock.wait(stopped, 2)
    assert clock.now_s() == pytest.approx(3)
    clock.move_to(1)
    assert clock.now_s() == pytest.approx(3), "never back"


def test_a_task_that_only_yields_sees_time_pass(loop: VirtualLoop) -> None:
    async def main() -> None:
        end_s = loop.time() + 0.01
        while loop.time() < end_s:
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_a_deadlock_is_an_error_that_names_the_tasks(loop: VirtualLoop) -> None:
    async def main() -> None:
        forever = asyncio.create_task(asyncio.Event().wait(), name="waits for ever")
        await forever

    with pytest.raises(Deadlock, match=r"nothing is scheduled.*waits for ever"):
        loop.run_until_complete(main())


def test_run_until_ends_at_its_deadline(loop: VirtualLoop) -> None:
    assert not loop.run_until(lambda: False, deadline_s=5)
    assert loop.time() == 5
    assert loop.run_until(lambda: True)
    loop.call_later(1, loop.stop)
    loop.run_forever()
    assert loop.time() == pytest.approx(6)


def test_callbacks_run_in_the_order_of_asyncio(loop: VirtualLoop) -> None:
    seen: list[object] = []
    loop.call_later(2, seen.append, "second")
    loop.call_later(1, seen.append, "first")
    cancelled = loop.call_later(1.5, seen.append, "never")
    for number in range(3):
        loop.call_soon(seen.append, number)
    loop.call_soon(cancelled.cancel)
    loop.run_until(lambda: len(seen) == 5)
    assert seen == [0, 1, 2, "first", "second"]


def test_blocking_functions_run_in_this_thread(loop: VirtualLoop) -> None:
    async def main() -> tuple[int, BaseException | None]:
        failed = loop.run_in_executor(None, int, "x")
        await asyncio.wait([failed])
        return await asyncio.to_thread(threading.get_ident), failed.exception()

    ident, error = loop.run_until_complete(main())
    assert ident == threading.get_ident()
    assert isinstance(error, ValueError)


def test_the_network_is_refused(loop: VirtualLoop) -> None:
    async def main() -> None:
        await asyncio.open_connection("localhost", 1)

    with pytest.raises(NotImplementedError, match="has no network"):
        loop.run_until_complete(main())


def test_it_runs_inside_of_another_loop_which_stands_still(loop: VirtualLoop) -> None:
    async def outer() -> tuple[float, asyncio.AbstractEventLoop]:
        loop.run_until_complete(asyncio.sleep(100))
        await asyncio.sleep(0)
        return loop.time(), asyncio.get_running_loop()

    at_s, running = asyncio.run(outer())
    assert at_s >= 100
    assert running is not loop


# Idle timers ----------------------------------------------------------------------------------------------------------


async def look(loop: VirtualLoop, looked: list[float]) -> None:
    while True:
        await loop.idle(0.005)
        looked.append(loop.time())


def test_idle_timers_are_timers(loop: VirtualLoop) -> None:
    looked: list[float] = []
    loop.create_task(look(loop, looked))
    loop.run_until(lambda: False, deadline_s=1)
    assert 150 < len(looked) <= 200


def test_in_a_coasting_loop_idle_timers_are_late_and_others_exact(loop: VirtualLoop) -> None:
    looked: list[float] = []
    rang: list[float] = []
    loop.create_task(look(loop, looked))
    loop.call_later(2.5, lambda: rang.append(loop.time()))
    loop.coast = lambda: bool(looked)
    loop.run_until(lambda: False, deadline_s=4)
    assert rang == [2.5]
    assert [round(at, 1) for at in looked] == [0.0, 1.0, 2.0, 3.0]


def test_idle_timers_that_are_late_fire_as_soon_as_the_loop_coasts_no_more(loop: VirtualLoop) -> None:
    looked: list[float] = []
    busy: list[bool] = []
    loop.create_task(look(loop, looked))
    loop.call_later(2.5, busy.append, True)
    loop.coast, loop.coast_s = lambda: not busy, 100.0
    loop.run_until(lambda: bool(looked))
    assert looked == [pytest.approx(2.5, abs=0.001)]


# Owners ---------------------------------------------------------------------------------------------------------------


def test_what_is_dropped_runs_no_more_and_does_not_clean_up(loop: VirtualLoop) -> None:
    seen: list[str] = []

    async def child(name: str) -> None:
        try:
            while True:
                await asyncio.sleep(1)
                seen.append(name)
        finally:
            seen.append(f"{name} ends")

    async def parent(name: str) -> None:
        await asyncio.gather(child(f"{name}1"), child(f"{name}2"))

    a, b = Owner("a"), Owner("b")
    for owner in (a, b):
        with owning(owner):
            loop.create_task(parent(owner.name))
    loop.run_until(lambda: len(seen) >= 4)
    assert sorted(seen) == ["a1", "a2", "b1", "b2"]
    seen.clear()
    a.drop()
    gc.collect()
    loop.run_until(lambda: len(seen) >= 4)
    assert set(seen) == {"b1", "b2"}
    seen.clear()
    a.close()
    assert sorted(seen) == ["a1 ends", "a2 ends"]


def test_what_is_dropped_from_inside_ends_at_its_next_await(loop: VirtualLoop) -> None:
    seen: list[int] = []
    owner = Owner("a")

    async def main() -> None:
        for number in range(5):
            seen.append(number)
            if number == 2:
                owner.drop()
            await asyncio.sleep(0)

    with owning(owner):
        loop.create_task(main())
    loop.run_until(lambda: False, deadline_s=1)
    assert seen == [0, 1, 2]
    owner.close()


def test_what_is_paused_goes_on_later_in_its_order(loop: VirtualLoop) -> None:
    seen: list[tuple[str, float]] = []
    a = Owner("a")
    a.paused_until_s = 5.0

    def note(name: str) -> None:
        seen.append((name, loop.time()))

    with owning(a):
        loop.call_soon(note, "a1")
        loop.call_later(1, note, "a2")
        loop.call_later(7, note, "a3")
    loop.call_later(2, note, "other")
    loop.run_until(lambda: len(seen) == 4)
    assert [name for name, _ in seen] == ["other", "a1", "a2", "a3"]
    assert [round(at, 2) for _, at in seen] == [2, 5, 5, 7]


def test_a_seed_orders_callbacks_of_different_owners_only() -> None:
    def order(seed: int) -> list[str]:
        seen: list[str] = []
        loop = VirtualLoop(VirtualClock(), choose=random.Random(seed).randrange)
        for name in "ab":
            with owning(Owner(name)):
                for number in range(4):
                    loop.call_soon(seen.append, f"{name}{number}")
        loop.run_until(lambda: len(seen) == 8)
        loop.close()
        return seen

    orders = [order(seed) for seed in range(10)]
    assert orders == [order(seed) for seed in range(10)]
    assert len({tuple(one) for one in orders}) > 5
    for one in orders:
        for name in "ab":
            assert [entry for entry in one if entry[0] == name] == [f"{name}{n}" for n in range(4)]


def test_an_error_that_nobody_catches_is_kept_and_logged(loop: VirtualLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop.call_soon(lambda: 1 / 0)
    loop.run_until(lambda: bool(loop.failures))
    assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)
    assert "Exception in callback" in caplog.text


def test_an_interrupt_loses_no_callback(loop: VirtualLoop) -> None:
    seen: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    loop.call_soon(seen.append, 1)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until(lambda: bool(seen))
    loop.run_until(lambda: bool(seen))
    assert seen == [1]


def test_coroutines_of_an_owner_that_is_gone_end_in_silence_although_they_never_began(loop: VirtualLoop) -> None:
    async def inner() -> None:
        raise AssertionError("it runs")

    async def outer(coroutine: Any) -> None:
        await coroutine

    owner = Owner("worker")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with owning(owner):
            loop.create_task(outer(inner()))
        owner.close()
        gc.collect()
    assert told == []
