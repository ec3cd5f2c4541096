"""A program of three topics whose agents look into each other's tables, its records, and what it has to find."""

from __future__ import annotations

import random
from typing import Any

import anabranch
from anabranch import Stream

TOPICS = ("users", "orders", "payments")  # in the order in which the program declares them
NOON_S = 1_769_860_800

Record = tuple[str, int, dict[str, Any]]
"""Topic, time in seconds after noon, and value."""


def app_of(partitions: int = 3, store: str = "memory://") -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=partitions, store=store)
    users = app.topic("users", partitions=partitions)
    orders = app.topic("orders", partitions=partitions)
    payments = app.topic("payments", partitions=partitions)
    alerts = app.topic("alerts", partitions=partitions)
    tiers = app.Table("tiers", default=str)
    open_orders = app.Table("open", default=list)
    seen = app.Table("seen", default=list)

    @app.agent(payments)
    async def pay(stream: Stream[Any]) -> None:
        async for payment in stream:
            key = payment["user"]
            waiting = open_orders[key]
            if payment["order"] in waiting:
                open_orders[key] = [order for order in waiting if order != payment["order"]]
                seen[key] = [*seen[key], ["paid", payment["order"], tiers[key]]]
            else:
                seen[key] = [*seen[key], ["alert", payment["order"], tiers[key]]]
                await alerts.send(key=key, value={"order": payment["order"]})

    @app.agent(orders)
    async def order(stream: Stream[Any]) -> None:
        async for order in stream:
            key = order["user"]
            open_orders[key] = [*open_orders[key], order["order"]]
            seen[key] = [*seen[key], ["order", order["order"], tiers[key]]]

    @app.agent(users)
    async def user(stream: Stream[Any]) -> None:
        async for change in stream:
            if change["tier"] == "bad":
                raise ValueError("bad")
            tiers[change["user"]] = change["tier"]

    return app


def records(count: int = 200, seed: int = 3, *, bad: bool = False) -> list[Record]:
    """Records in the order of their times. Many times are equal, and some records are out of order in their topic."""
    rng, made = random.Random(seed), list[Record]()
    at, unpaid = 0, list[tuple[str, int]]()
    for number in range(count):
        at += rng.choice((0, 0, 1, 1, 2, 30))
        user = f"u{rng.randrange(6)}"
        kind = rng.choice(("users", "orders", "orders", "payments", "payments"))
        if kind == "users":
            tier = "bad" if bad and rng.random() < 0.2 else f"tier {number}"
            made.append((kind, at, {"user": user, "tier": tier}))
        elif kind == "orders":
            unpaid.append((user, number))
            made.append((kind, at, {"user": user, "order": number}))
        else:
            user, order = unpaid.pop(0) if unpaid and rng.random() < 0.8 else (user, -number)
            made.append((kind, at, {"user": user, "order": order}))
    return made


def expected(records: list[Record]) -> tuple[dict[str, Any], int]:
    """Return the content of the table `seen`, and the number of alerts."""
    tiers, waiting = dict[str, str](), dict[str, list[int]]()
    seen, alerts = dict[str, Any](), 0
    for topic, _, value in sorted(records, key=lambda one: (one[1], TOPICS.index(one[0]))):
        key = value["user"]
        if topic == "users":
            if value["tier"] != "bad":
                tiers[key] = value["tier"]
            continue
        told, order = seen.setdefault(key, []), value["order"]
        if topic == "orders":
            waiting.setdefault(key, []).append(order)
            told.append(["order", order, tiers.get(key, "")])
        elif order in waiting.get(key, []):
            waiting[key].remove(order)
            told.append(["paid", order, tiers.get(key, "")])
        else:
            alerts += 1
            told.append(["alert", order, tiers.get(key, "")])
    return seen, alerts
