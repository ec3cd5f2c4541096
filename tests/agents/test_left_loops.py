"""An agent that leaves a loop over its stream, and begins another one, sees each record once.

The stream takes whole batches: the rest of one that was left in the middle is for the next loop, and for the outer loop
where one is inside of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anabranch import App, Retry, World

Values = AsyncIterator[list[int]]
N = 40


async def left_and_begun_again(stream: Any) -> Values:
    async for value in stream:
        yield [value]
        if value % 8 == 2:
            break
    async for value in stream:
        yield [value]


async def errors_that_are_caught_outside(stream: Any) -> Values:
    while True:
        try:
            async for value in stream:
                yield [value]
                if value % 8 == 4:
                    raise LookupError
        except LookupError:
            continue


async def next_of_a_new_loop(stream: Any) -> Values:
    while True:
        yield [await anext(aiter(stream))]


async def one_inside_of_another(stream: Any) -> Values:
    async for outer in stream:
        yield [outer]
        async for inner in stream:
            yield [inner]
            if inner % 3 == 0:
                break


async def events_behind_values(stream: Any) -> Values:
    async for value in stream:
        yield [value]
        if value % 8 == 1:
            break
    async for event in stream.events():
        yield [event.value]


async def groups_that_are_left(stream: Any) -> Values:
    while True:
        async for group in stream.take(3, within=1):
            yield group
            break


async def groups_inside_of_a_loop(stream: Any) -> Values:
    async for value in stream:
        yield [value]
        async for group in stream.take(2, within=1):
            yield group
            break


async def a_loop_inside_of_groups(stream: Any) -> Values:
    async for group in stream.take(5, within=1):
        yield group
        async for value in stream:
            yield [value]
            break


async def batches_and_values(stream: Any) -> Values:
    async for value in stream:
        yield [value]
        if value % 8 == 3:
            async for batch in stream.batches():
                yield list(batch.values)
                break


LOOPS = [
    left_and_begun_again,
    errors_that_are_caught_outside,
    next_of_a_new_loop,
    one_inside_of_another,
    events_behind_values,
    groups_that_are_left,
    groups_inside_of_a_loop,
    a_loop_inside_of_groups,
    batches_and_values,
]


def declared(*, partitions: int = 2, **table: Any) -> tuple[App, Any, Any]:
    """Return an app, its topic `numbers`, and its table `seen`, which counts how often a number was seen."""
    app = App("loops")
    numbers = app.topic("numbers", key_type=str, value_type=int, partitions=partitions)
    return app, numbers, app.Table("seen", default=int, **table)


def app_of(loop: Callable[[Any], Values], kind: str) -> App:
    app, numbers, seen = declared(local=True)
    hours = app.Table("hours", default=int).tumbling(3600) if kind == "windows" else None

    @app.agent(numbers)
    async def see(stream: Any) -> None:
        if kind == "processors":
            stream = stream.filter(lambda value: value >= 0)
        async for values in loop(stream):
            for value in values:
                seen[str(value)] += 1
                if hours is not None:
                    hours["all"] += 1
                if kind == "timers":
                    app.at(datetime(2026, 1, 1, tzinfo=UTC), key=str(value), name="due")

    if kind == "timers":

        @see.on_timer("due")
        async def due(timer: Any) -> None:
            seen[f"due {timer.key}"] += 1

    return app


CASES = [(loop, kind) for loop in LOOPS for kind in ("plain", "packed")]
CASES += [(loop, kind) for loop in LOOPS[:3] for kind in ("processors", "windows", "timers")]


@pytest.mark.parametrize(("loop", "kind"), CASES)
def test_each_record_is_seen_once(loop: Callable[[Any], Values], kind: str, tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text("".join(f"{n}\n" for n in range(N)))
    with World(app_of(loop, kind)) as world:
        world.replay(tmp_path / "numbers.txt", "numbers", pack="lz4" if kind == "packed" else None)
        world.settle()
        due = {f"due {n}": 1 for n in range(N)} if kind == "timers" else {}
        assert world.table("seen") == {str(n): 1 for n in range(N)} | due
        assert world.dead_letters("numbers") == []


@pytest.mark.parametrize("loop", LOOPS)
def test_records_that_come_one_by_one_are_seen_once_too(loop: Callable[[Any], Values]) -> None:
    with World(app_of(loop, "plain")) as world:
        for number in range(8):
            world.send("numbers", number, key=str(number))
            world.settle()
        assert world.table("seen") == {str(n): 1 for n in range(8)}


def values_behind_groups() -> App:
    app, numbers, seen = declared(local=True)

    @app.agent(numbers)
    async def see(stream: Any) -> None:
        async for values in stream.take(7, within=1000):
            for value in values:
                seen[str(value)] += 1
            if any(value < N for value in values):
                break  # in the middle of a packed batch, while records of the other partition are held back
        async for value in stream:
            seen[str(value)] += 1
            if value >= N:
                await asyncio.sleep(100)  # a commit is due behind it

    return app


def test_a_packed_batch_that_was_left_is_committed_whole(tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text("".join(f"{n}\n" for n in range(N)))
    with World(values_behind_groups) as world:
        for n in range(N, N + 4):
            world.send("numbers", n, partition=n % 2)
        world.advance("1s")
        world.replay(tmp_path / "numbers.txt", "numbers", pack="lz4")
        world.advance("150s")
        world.worker().kill()
        world.worker().start()
        world.settle()
        assert world.table("seen") == {str(n): 1 for n in range(N + 4)}


def test_groups_are_there_after_a_timeout_around_their_loop() -> None:
    app, numbers, seen = declared(local=True)

    @app.agent(numbers)
    async def see(stream: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(5):
                    async for values in stream.take(3, within=1000):
                        for value in values:
                            seen[str(value)] += 1
            except TimeoutError:
                continue

    with World(app) as world:
        for n in range(3):
            world.send("numbers", n, partition=n % 2)
        world.advance("1m")
        assert world.table("seen") == {}
        world.send("numbers", 4, partition=0)
        world.send("numbers", 5, partition=1)
        world.advance("1m")
        assert world.table("seen") == {"0": 1, "2": 1, "4": 1}
        world.send("numbers", 7, partition=1)
        world.advance("1m")
        assert world.table("seen") == {str(n): 1 for n in (0, 1, 2, 4, 5, 7)}


def test_groups_are_there_after_the_retry_of_a_record_of_another_partition() -> None:
    app, numbers, seen = declared(local=True)

    @app.agent(numbers, on_failure=Retry(times=2, first_s=5.0))
    async def see(stream: Any) -> None:
        async for values in stream.take(3, within=100):
            for value in values:
                if value < 0:
                    raise LookupError
                seen[str(value)] += 1

    with World(app) as world:
        for n in (-1, 1, 2):
            world.send("numbers", n, partition=0)
        world.advance("1s")
        world.send("numbers", 3, partition=1)  # a commit, and from then on no record comes alone
        world.advance("1s")
        world.send("numbers", 4, partition=1)
        world.send("numbers", 5, partition=1)
        world.settle()
        assert world.table("seen") == {str(n): 1 for n in range(1, 6)}
        assert [letter.value for letter in world.dead_letters("numbers")] == [-1]


def test_values_behind_batches_have_a_time_for_a_table_with_a_time_to_live() -> None:
    app, numbers, seen = declared(partitions=1, ttl=86_400)

    @app.agent(numbers)
    async def see(stream: Any) -> None:
        async for _ in stream.batches():
            break
        async for value in stream:
            seen[str(value)] += 1

    with World(app) as world:
        for n in range(3):
            world.send("numbers", n)
            world.settle()
        assert world.table("seen") == {"1": 1, "2": 1}


@pytest.mark.parametrize("kind", ["timers", "windows"])
def test_what_a_timeout_around_the_loop_interrupts_between_two_records_is_begun_again(kind: str) -> None:
    app, numbers, seen = declared(partitions=1)
    begin, calls = datetime(2026, 1, 1, tzinfo=UTC), list[int]()

    async def fired(*_: object) -> None:
        seen["begun"] += 1
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(10)
        seen["done"] += 1

    hours = app.Table("hours", default=int, on_window_close=fired if kind == "windows" else None)
    in_hours = hours.tumbling(3600, expires=3600)

    @app.agent(numbers)
    async def see(stream: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(5):
                    async for value in stream:
                        seen[str(value)] += 1
                        if kind == "windows":
                            in_hours["all"] += 1
                        elif value == 0:
                            app.at(begin + timedelta(hours=1), key="all", name="due")
            except TimeoutError:
                continue

    if kind == "timers":
        see.on_timer("due")(fired)

    with World(app) as world:
        for n in range(10):
            world.send("numbers", n, at=begin + timedelta(hours=0 if n < 3 else 5))
        world.advance("1m")
        assert world.table("seen") == {str(n): 1 for n in range(10)} | {"begun": 1, "done": 1}
        assert len(calls) == 2


def test_a_record_at_whose_processor_a_timeout_around_the_loop_ends_is_processed_again() -> None:
    app, numbers, seen = declared(partitions=1)
    calls = list[int]()

    async def wanted(value: int) -> bool:
        calls.append(value)
        if calls.count(2) == 1 and value == 2:
            await asyncio.sleep(10)
        return True

    @app.agent(numbers)
    async def see(stream: Any) -> None:
        stream = stream.filter(wanted)
        while True:
            try:
                async with asyncio.timeout(5):
                    async for value in stream:
                        seen[str(value)] += 1
            except TimeoutError:
                continue

    with World(app) as world:
        for n in range(5):
            world.send("numbers", n)
        world.advance("1m")
        assert world.table("seen") == {str(n): 1 for n in range(5)}
