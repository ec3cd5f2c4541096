"""Partial results of several batches wait for each other, and nobody can see that they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import anabranch
import pytest
from anabranch import Count, Sum, Tumbling, World
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.flows import partial_records, window_states
from anabranch.agents.flows.window_states import Joining, PendingWindows
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.window_table import window_contents
from anabranch.topics.packed import Rows

# Epochs are longer than a test sends.
PATIENT = EngineSettings(epoch_s=60.0, commit_share=1e-6)
Windows = dict[tuple[str, int, int], dict[str, Any]]


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the partial results that were pending, each time that they were applied."""
    sizes: list[int] = []
    apply = PendingWindows.apply_to

    def counted(pending: PendingWindows, partition: Any) -> None:
        sizes.append(sum(map(len, pending.states.values())))
        apply(pending, partition)

    monkeypatch.setattr(PendingWindows, "apply_to", counted)
    return sizes


def sums(app: anabranch.App, *, by_key: bool = False, function: Any = None, told: bool = True) -> Any:
    sales = app.topic("sales", time="at", time_unit="s", grace=0, max_jump=None, idle_after=None, partitions=1)
    flow = sales.flow() if function is None else sales.map(function)
    keyed = flow.key_by("user") if by_key else flow
    made = keyed.window(Tumbling("10s")).aggregate("sums", n=Count(), total=Sum("price"))
    if told:
        made.final().to("finals")
    return made


def app_of_sums(**options: Any) -> anabranch.App:
    app = anabranch.App("pending", topic_partitions=1, settings=PATIENT)
    sums(app, **options)
    return app


def sale(number: int, at_s: float) -> dict[str, Any]:
    return {"user": f"u{number % 3}", "at": at_s, "price": number}


def counted(sales: list[dict[str, Any]]) -> Windows:
    rows: Windows = {}
    for one in sales:
        start = int(one["at"]) // 10 * 10_000
        row = rows.setdefault((one["user"], start, start + 10_000), {"n": 0, "total": 0})
        row["n"] += 1
        row["total"] += one["price"]
    return rows


def send(world: World, sales: list[dict[str, Any]], batch: int = 4) -> None:
    """Send batches of a few records each, within an epoch, and have it committed."""
    for number, one in enumerate(sales, 1):
        world.send("sales", one, key=one["user"])
        if number % batch == 0:
            world.advance("20ms")
    world.advance("20ms")
    runtime_of(world.app).engine.hurry()
    world.settle()


def test_the_batches_of_an_epoch_are_joined_with_the_table_together(applied: list[int]) -> None:
    sales = [sale(number, 1 + number / 100) for number in range(40)]
    with World(app_of_sums) as world:
        send(world, sales)
        assert world.table("sums") == counted(sales)
    assert applied == [3]


def test_a_window_that_is_complete_closes_with_what_was_pending(applied: list[int]) -> None:
    sales = [sale(number, number / 2) for number in range(64)]
    with World(app_of_sums) as world:
        send(world, sales)
        assert world.table("sums") == counted(sales)
        finals = {(v["key"], v["start"], v["end"]): v["total"] for v in world.topic("finals").values}
    assert finals == {row: value["total"] for row, value in counted(sales).items() if row[2] < 31_500}
    assert len(applied) == 4  # three times because a window was complete, and at the barrier


@pytest.mark.parametrize("by_key", [False, True])
def test_windows_of_which_nobody_is_told_close_with_the_epoch(applied: list[int], by_key: bool) -> None:
    sales = [sale(number, number / 2) for number in range(127)]  # the second epoch begins in the middle of windows
    with World(lambda: app_of_sums(by_key=by_key, told=False)) as world:
        for part, epochs in ((sales[:64], 1), (sales[64:], 2)):
            send(world, part, batch=8)
            assert len(applied) == epochs
            content = window_contents(cast(Any, world.app.tables["sums"]))[0]
            assert content.open.closed_ms == content.watermark_ms == part[-1]["at"] * 1000
            assert len(content.open) == 3
        assert world.table("sums") == counted(sales)


def test_a_function_that_reads_the_table_sees_all_batches_before_and_none_counts_twice(applied: list[int]) -> None:
    seen: list[int] = []

    def app() -> anabranch.App:
        app = anabranch.App("pending", topic_partitions=1, settings=PATIENT)
        made: list[Any] = []

        def look(sale: dict[str, Any]) -> dict[str, Any]:
            seen.append(sum(value["n"] for value in made[0].table.values()))
            return sale

        made.append(sums(app, function=look))
        return app

    sales = [sale(number, 1) for number in range(12)]
    with World(app) as world:
        send(world, sales)
        assert world.table("sums") == counted(sales)
    assert seen == sorted(seen)
    assert set(seen) - {0}, "there was one batch only"
    assert len(applied) > 1


@pytest.mark.parametrize("reads", ["map", "reduce"])
@pytest.mark.parametrize("kind", ["windows", "windows-by-key", "no-windows"])
def test_a_function_that_reads_the_table_in_the_middle_of_a_batch_loses_nothing(kind: str, reads: str) -> None:
    def app() -> anabranch.App:
        # Four batches and the end take 25 s of the world's time. An epoch that nobody hurries is waited for.
        app = anabranch.App("pending", topic_partitions=1, settings=replace(PATIENT, epoch_s=30.0))
        tables: list[Any] = []

        def price(sale: dict[str, Any]) -> int:
            assert reads != "map" or len(tables[0]) <= 3
            return sale["price"]

        def add(a: int, b: int) -> int:
            assert reads != "reduce" or len(tables[0]) <= 3
            return a + b

        sales = app.topic("sales", time="at", time_unit="s", grace=0, max_jump=None, idle_after=None, partitions=1)
        flow = sales.key_by("user", price) if kind == "windows-by-key" else sales.map(price)
        if kind == "no-windows":
            tables.append(sales.map(price).reduce(add, "sums"))
        else:
            tables.append(flow.window(Tumbling("10s")).reduce(add, "sums").table)
        return app

    sales = [sale(number, 1) for number in range(12)]
    totals = {row: value["total"] for row, value in counted(sales).items()}
    for first in (6, 12):  # records of the first epoch
        with World(app) as world:
            send(world, sales[:first], batch=3)
            send(world, sales[first:], batch=2)
            assert world.table("sums") == ({row[0]: n for row, n in totals.items()} if kind == "no-windows" else totals)


def test_no_more_is_pending_than_a_partition_may_have(applied: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_states, "_MOST_PENDING", 5)

    sales = [{"user": f"u{number}", "at": 1, "price": number} for number in range(40)]
    with World(app_of_sums) as world:
        send(world, sales)
        assert world.table("sums") == counted(sales)
    assert len(applied) > 3
    assert max(applied) <= 9


@pytest.mark.parametrize("windows", [True, False], ids=["windows", "no-windows"])
def test_a_price_that_cannot_be_joined_goes_to_the_dead_letters_alone(windows: bool) -> None:
    def joined(a: int, b: int) -> int:
        if {a, b} & {13}:
            raise ValueError("not this one")
        return a + b

    def app() -> anabranch.App:
        app = anabranch.App("pending", topic_partitions=1, settings=replace(PATIENT, epoch_s=10.0))
        sales = app.topic("sales", time="at", grace=0, max_jump=None, idle_after=None, partitions=1)
        prices = sales.map("price")
        _ = prices.window(Tumbling("10s")).reduce(joined, "sums") if windows else prices.reduce(joined, "sums")
        return app

    def sales(*prices: int, at: int = 1) -> list[dict[str, Any]]:
        return [{"user": "ann", "at": at, "price": price} for price in prices]

    with World(app) as world:
        send(world, sales(1, 2))
        send(world, sales(13))  # alone in its epoch: it meets the table's value at the barrier
        send(world, sales(3, 13) + sales(4, at=20_000), batch=1)
        send(
            world, sales(5, at=20_000) + sales(13, at=20_000) + sales(6, at=40_000), batch=1
        )  # or when a window closes
        rows = {("ann", 0, 10_000): 6, ("ann", 20_000, 30_000): 9, ("ann", 40_000, 50_000): 6}
        assert world.table("sums") == (rows if windows else {"ann": 21})
        assert [letter.value["price"] for letter in world.dead_letters("sales")] == [13, 13, 13]


def test_partial_results_of_many_keys_travel_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_records, "LEAST_ROWS", 32)
    packed: list[bool] = []
    gather = Joining.gather

    def looked_at(joining: Joining, batch: Any, late: Any) -> Any:
        packed.append(isinstance(batch.messages, Rows))
        return gather(joining, batch, late)

    monkeypatch.setattr(Joining, "gather", looked_at)

    def app() -> anabranch.App:
        app = anabranch.App("pending", topic_partitions=1)
        sums(app, by_key=True)
        return app

    sales = [{"user": f"u{number % 100}", "at": number / 10, "price": number} for number in range(200)]
    with World(app) as world:
        send(world, sales, batch=1_000)
        assert world.table("sums") == counted(sales)
        assert len(world.topic("finals").values) == 100
    assert any(packed)
