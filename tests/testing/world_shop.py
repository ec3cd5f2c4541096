"""An app whose tests are in test_world.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from anabranch import App, Stream


class Order(msgspec.Struct):
    user: str
    amount: int


app = App("shop")
orders = app.topic("orders", value_type=Order)
alerts = app.topic("alerts")
totals = app.Table("totals", default=int)
LIMIT = 100
ticks: list[float] = []


@app.agent(orders)
async def total(stream: Stream[Order]) -> None:
    async for order in stream:
        if order.amount < 0:
            raise ValueError(f"amount {order.amount}")
        totals[order.user] += order.amount
        if order.amount > LIMIT:
            await alerts.send(key=order.user, value={"amount": order.amount})


@app.agent()
async def double(stream: Stream[int]) -> AsyncIterator[int]:
    async for number in stream:
        yield number * 2


@app.timer(600)
async def tick() -> None:
    ticks.append(1)
