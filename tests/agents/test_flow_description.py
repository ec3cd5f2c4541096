"""Flows as `anabranch describe` shows them."""

from __future__ import annotations

import pytest
from anabranch import App, Count, Top, Tumbling, col
from anabranch.agents.flows.description import value_text
from anabranch.agents.runtime import runtime_of


def parse(line: str) -> dict[str, object]:
    return {"line": line}


def test_a_flow_is_shown_with_its_operators_its_end_and_the_topic_between() -> None:
    app = App("shop")
    orders = app.topic("orders")
    orders.map(parse).key_by("key", "number").reduce(sum, "sums")
    kept = orders.filter((col("amount") > 0) & col("paid")).select("user", cost=col("price") * (col("n") + 1))
    kept.aggregate("by-user", n=Count(), best=Top("amount", 3))
    orders.flat_map(lambda order: [order]).key_by(lambda order: order).to("copies")
    assert [(str(flow), flow.repartition) for flow in runtime_of(app).flows] == [
        ("orders → map(parse) → key_by('key', 'number') → reduce(sum) → table sums", "shop-sums-repartition"),
        (
            "orders → filter((col('amount') > 0) & col('paid')) → select('user', cost=col('price') * (col('n') + 1)) "
            "→ aggregate(n=Count(), best=Top('amount', 3)) → table by-user",
            None,
        ),
        ("orders → flat_map(function) → key_by(function) → topic copies", None),
    ]


def test_what_is_sent_of_windows_is_shown() -> None:
    app = App("shop")
    windows = app.topic("orders").key_by("user").window(Tumbling("5m"), grace="0s").aggregate("by-user", n=Count())
    windows.final().filter(col("n") > 1).to("busy")
    windows.updates("10s").to("dashboard")
    assert [str(flow) for flow in runtime_of(app).flows[1:]] == [
        "final() of table by-user → filter(col('n') > 1) → topic busy",
        "updates(every=10 s) of table by-user → topic dashboard",
    ]


def test_tables_and_agents_of_flows_have_the_same_names_live_and_in_a_bounded_run(monkeypatch) -> None:
    def names() -> tuple[list[str], list[str]]:
        app = App("shop")
        orders = app.topic("orders")
        orders.key_by("user", "amount").reduce(sum)
        orders.aggregate(n=Count())
        orders.filter("paid").to("paid-orders")
        return [table.name for table in runtime_of(app).tables], sorted(app.agents)

    live = names()
    assert live[0] == ["orders-sum", "orders-aggregates"]
    monkeypatch.setenv("ANABRANCH_RUN", "r1")
    assert names() == live


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("user", "'user'"),
        (0, "0"),
        (len, "len"),
        (Count("a"), "Count('a')"),
        (Top("a"), "Top('a')"),
        (Count(), "Count()"),
    ],
)
def test_values_are_shown_as_they_are_written(what, text) -> None:
    assert value_text(what) == text
