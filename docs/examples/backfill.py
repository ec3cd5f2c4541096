"""Adds the totals of past years to live totals, without touching the live ones.

The app runs live and adds up the orders of today. A bounded run of the same program, under an identity of its own, adds
up the orders of the past from files. Its result is replayed into the topic `past-totals`, once, and an agent keeps it
in a table beside the live one. If the result was wrong, run and replay are repeated: the live totals stay.
"""

import msgspec
from anabranch import App, Stream


class Order(msgspec.Struct):
    user: str
    amount: int


class Total(msgspec.Struct):
    key: str
    value: int


app = App("backfill")
orders = app.topic("orders", value_type=Order, partitions=4)
past_totals = app.topic("past-totals", value_type=Total, partitions=4)
all_time = app.topic("all-time", key_type=str, value_type=int, partitions=4)
totals = app.Table("totals", default=int)
past = app.Table("past", default=int)


@app.agent(orders)
async def add_up(stream: Stream[Order]) -> None:
    async for order in stream:
        totals[order.user] += order.amount
        await all_time.send(key=order.user, value=past[order.user] + totals[order.user])


@app.agent(past_totals)
async def take_over(stream: Stream[Total]) -> None:
    async for total in stream:
        past[total.key] = total.value
        await all_time.send(key=total.key, value=past[total.key] + totals[total.key])
