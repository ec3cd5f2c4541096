"""What the result of a bounded run depends on, by the program alone."""

from __future__ import annotations

from typing import Any

import anabranch
import pytest
from anabranch import Count, Max, Mean, Stream, Sum, Tumbling
from anabranch.agents.event_time.channel import Channel
from anabranch.agents.order_dependence import OrderDependence, has_float_sum, order_dependence
from anabranch.agents.runtime import runtime_of
from anabranch.replay.runs.run_verification import RunVerification


def depends(app: anabranch.App, *aligned: str, **phases: int) -> OrderDependence:
    return order_dependence(runtime_of(app), {topic: [phase] for topic, phase in phases.items()}, aligned)


def shop(*, tables: bool = True) -> anabranch.App:
    app = anabranch.App("shop")
    orders, payments = app.topic("orders"), app.topic("payments")
    if tables:
        app.Table("totals", default=int)

    @app.agent(orders, name="order")
    async def order(stream: Stream[Any]) -> None:
        async for _ in stream:
            pass

    @app.agent(payments, name="pay")
    async def pay(stream: Stream[Any]) -> None:
        async for _ in stream:
            pass

    return app


def test_flows_and_windows_do_not_depend_on_the_order_of_records() -> None:
    app = anabranch.App("flows")
    sales = app.topic("sales", grace="0s")
    sales.key_by("user").aggregate("totals", n=Count(), spent=Sum("price"))
    sales.key_by("user").window(Tumbling("10s")).aggregate("windows", n=Count()).final().to("finals")
    sales.filter(lambda sale: sale["price"] > 3).to("dear")
    assert depends(app, sales=0) == ([], [])


def test_agents_depend_on_the_order_in_their_partitions_and_several_topics_on_each_other() -> None:
    assert depends(shop(tables=False), orders=0, payments=0) == (["order", "pay"], [])
    assert depends(shop(), orders=0, payments=1) == (["order", "pay"], [])
    assert depends(shop(), "orders", "payments", orders=0, payments=0) == (["order", "pay"], [])
    _, (reason,) = depends(shop(), orders=0, payments=0)
    assert reason.startswith("orders, payments are read in no particular order")


def test_topics_that_the_app_writes_global_tables_and_tables_behind_key_by_depend_on_commits() -> None:
    _, (reason,) = depends(shop(), orders=0)
    assert reason.startswith("agent pay reads payments, which the app writes")
    app = shop()
    app.GlobalTable("rates", default=int)
    app.topic("sales").key_by("user").aggregate("by-user", n=Count())
    _, reasons = depends(app, "orders", "payments", orders=0, payments=0, sales=0)
    assert [reason.partition(":")[0] for reason in reasons] == [
        "GlobalTable rates",
        "table by-user is filled behind key_by",
    ]


def test_sums_of_floats_are_found_in_results_and_in_states() -> None:
    app = anabranch.App("sums")
    sales = app.topic("sales")
    sales.key_by("user").aggregate("totals", n=Count(), spent=Sum("price"), mean=Mean("price"), most=Max("price"))
    sales.map("price").key_by(lambda price: price).reduce(sum, "reduced")
    sales.map("price").key_by(lambda price: price).reduce(max, "greatest")
    assert [flow.sums for flow in runtime_of(app).flows] == [("spent", "mean"), ("",), ()]
    assert not has_float_sum({"n": 1, "spent": 3, "mean": 1.5, "_mean": [3, 2], "most": 1.5}, ("spent", "mean"))
    assert has_float_sum({"n": 1, "spent": 3, "mean": 1.5, "_mean": [3.0, 2], "most": 2}, ("spent", "mean"))
    assert has_float_sum(1.5, ("",))
    assert not has_float_sum(3, ("",))


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (RunVerification(), "any order"),
        (RunVerification(held_jumps=3), "any order"),
        (RunVerification(late=1), "this log"),
        (RunVerification(dropped=["by-user"]), "this log"),
        (RunVerification(agents=["pay"]), "this log"),
        (RunVerification(late=1, closed=1), "nothing"),
        (RunVerification(reasons=["because"], agents=["pay"]), "nothing"),
    ],
)
def test_the_sentence_says_the_most_that_holds(found: RunVerification, holds: str) -> None:
    assert found.holds == holds
    assert bool(found.order_matters) == (holds != "any order")


def test_held_jumps_are_counted_and_kept_with_the_state() -> None:
    channel = Channel(60)
    for time_ms in (0, 10, 20, 99_999):
        channel.advance(time_ms)
    channel = Channel(60, channel.state)
    assert channel.before_each([30, 40], lambda _: -1) is None
    assert (channel.time_ms, channel.held_jumps) == (40, 1)
    channel = Channel(60, channel.state)
    for time_ms in (5_000, 5_010, 90_000, 5_020):  # a gap that a second record confirms, and another wrong clock
        channel.advance(time_ms)
    assert (channel.time_ms, channel.held_jumps) == (5_020, 2)
    channel.end()
    assert Channel(60, channel.state).held_jumps == 2
