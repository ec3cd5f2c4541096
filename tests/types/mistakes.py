# pyright: strict
# ruff: noqa
"""Mistakes: each marked line must be an error, and no other line."""

import msgspec
from anabranch import App, Stream
from anabranch import Tabel  # error: a misspelled name


class Order(msgspec.Struct):
    user: str
    amount: int


App("a", processing_guarntee="exactly_once")  # error: a misspelled option
App("b", topic_partitions="4")  # error: a number as text
App("c", consumer_auto_offset_reset="newest")  # error: an unknown value
App("d", standby_replica=1)  # error: a misspelled option of our own

app = App("mistakes")
orders = app.topic("orders", key_type=str, value_type=Order)
texts = app.topic("texts", value_type=str)
totals = app.Table("totals", key_type=str, default=int)
seen = app.SetTable("seen", value_type=str)

app.topic("x", partitons=4)  # error: a misspelled option
app.topic("x", compacting="yes")  # error: text for a flag
app.Table("x", defualt=int)  # error: a misspelled option
app.Table("x", ttl=[1])  # error: a list for a time
app.agnet(orders)  # error: a misspelled method


@app.agent(orders)
async def total(stream: Stream[Order]) -> None:
    async for order in stream:
        totals[order.usr] += 1  # error: a wrong field
        totals[order.user] += order.amount
        totals[order.user] = "many"  # error: a wrong value of a table
        totals[order.amount] = 1  # error: a wrong key of a table
        order.amount.upper()  # error: a wrong method
        seen["a"].add(1)  # error: a wrong element of a set
        await orders.send(value="text")  # error: a wrong value
        await orders.send(value=order, key=3)  # error: a wrong key
        await orders.send(value=order, partion=3)  # error: a misspelled option
        await texts.send(value=order)  # error: a wrong value
    async for batch in stream.batchs():  # error: a wrong method
        pass
    async for some in stream.take(10, 1.0):
        print(some.user)  # error: a list has no such field
    async for event in stream.events():
        print(event.value.usr)  # error: a wrong field


@app.agent(texts)  # error: the stream is of another type
async def wrong(stream: Stream[Order]) -> None:
    async for order in stream:
        print(order)


@app.agent(orders, on_failure="ignore")  # error: an unknown policy
async def ignored(stream: Stream[Order]) -> None:
    async for order in stream:
        print(order)


@app.agent(orders, concurency=2)  # error: a misspelled option
async def misspelled(stream: Stream[Order]) -> None:
    async for order in stream:
        print(order)


@app.timer(interval=None)  # error: no time
async def often() -> None:
    await total.ask("text")  # error: a wrong value
    await total.cast(3)  # error: a wrong value


orders.map(lambda order: order.usr)  # error: a wrong field
orders.filter(lambda order: order.amount > 0).key_by("user").map(print)  # error: nothing may follow key_by
orders.key_by("user").aggregate(total=sum)  # error: not an aggregate
orders.map(lambda order: order.amount).to(texts)  # error: a topic of another type
