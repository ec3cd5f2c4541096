# pyright: strict
"""The README's first agent, and another agent that answers."""

from collections.abc import AsyncIterator
from typing import reveal_type

import msgspec
from anabranch import Agent, App, Stream, Topic


class Order(msgspec.Struct):
    user: str
    amount: int


class Receipt(msgspec.Struct):
    user: str
    total: int


app = App("shop", topic_partitions=4, processing_guarantee="exactly_once", web_port=6067)
orders = app.topic("orders", value_type=Order, partitions=4)
receipts = app.topic("receipts", key_type=str, value_type=Receipt)
totals = app.Table("totals", default=int)

reveal_type(orders)  # Topic[Any, Order]
reveal_type(receipts)  # Topic[str, Receipt]


@app.agent(orders)
async def total(stream: Stream[Order]) -> None:
    reveal_type(stream)  # Stream[Order]
    async for order in stream:
        reveal_type(order)  # Order
        reveal_type(order.amount)  # int
        totals[order.user] += order.amount
        reveal_type(totals[order.user])  # int
        await receipts.send(key=order.user, value=Receipt(order.user, totals[order.user]))


@app.agent(orders, name="doubled", on_failure="skip", concurrency=2)
async def doubled(stream: Stream[Order]) -> AsyncIterator[int]:
    async for order in stream:
        yield 2 * order.amount


@app.agent(value_type=Order)
async def own(stream: Stream[Order]) -> AsyncIterator[Receipt]:
    async for order in stream:
        yield Receipt(order.user, order.amount)


@app.agent()
async def unknown(stream: Stream[str]) -> None:
    async for text in stream:
        print(text.upper())


reveal_type(total)  # Agent[Order, None]
reveal_type(doubled)  # Agent[Order, int]
reveal_type(own)  # Agent[Order, Receipt]
reveal_type(unknown)  # Agent[str, None]


@app.task
async def first(app: App) -> None:
    answer = await doubled.ask(Order("ann", 3))
    reveal_type(answer)  # int
    reveal_type(await own.ask(Order("ann", 3)))  # Any
    await total.cast(Order("bob", 4))
    await total.send(key="bob", value=Order("bob", 4))
    reveal_type(await doubled.join([Order("ann", 1)]))  # list[int]


@app.timer(interval=10.0)
async def every_ten_seconds() -> None:
    await orders.send(value=Order("ann", 1))


@app.crontab("0 * * * *", on_leader=True)
async def every_hour() -> None:
    await orders.send(key="ann", value=Order("ann", 1), headers={"source": b"cron"})


@app.task(on_leader=True)
async def on_the_leader() -> None:
    await every_hour()


def forwarded(topic: Topic[str, Receipt], agent: Agent[Order, None]) -> str:
    return topic.get_topic_name() + agent.name


async def test_doubled() -> None:
    async with doubled.test_context() as agent:
        reveal_type(agent)  # AgentTestWrapper[Order, int]
        event = await agent.put(Order("ann", 3), key="ann")
        reveal_type(event)  # Event[Order]
        await agent.put("ann")  # error
        assert agent.results[event.message.offset] == 6
