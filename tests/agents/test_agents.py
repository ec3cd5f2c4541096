"""Everything that one agent does with its records, in one world: a table, an output, an answer, a dead letter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from anabranch import App, Stream, World


class Order(msgspec.Struct):
    user: str
    amount: int


def shop() -> App:
    app = App("shop")
    orders = app.topic("orders", value_type=Order, partitions=2)
    large = app.topic("large", value_type=Order, partitions=2)
    totals = app.Table("totals", default=int)

    @app.agent(orders)
    async def total(stream: Stream[Order]) -> AsyncIterator[int]:
        async for order in stream:
            totals[order.user] += order.amount
            if order.amount < 0:
                raise ValueError(f"amount {order.amount}")
            if order.amount >= 100:
                await large.send(key=order.user, value=order)
            yield totals[order.user]

    return app


def test_an_agent_adds_up_sends_on_and_answers() -> None:
    with World(shop) as world:
        for user, amount in (("ann", 3), ("bob", 100), ("ann", 4)):
            world.send("orders", {"user": user, "amount": amount}, key=user)
        world.settle()
        assert world.table("totals") == {"ann": 7, "bob": 100}
        assert world.topic("large").values == [{"user": "bob", "amount": 100}]
        assert world.dead_letters("orders") == []


def test_a_record_that_fails_is_a_dead_letter_and_leaves_nothing_else() -> None:
    with World(shop) as world:
        for amount in (3, -5, 4):
            world.send("orders", {"user": "ann", "amount": amount}, key="ann")
        world.settle()
        assert world.table("totals") == {"ann": 7}
        [letter] = world.dead_letters("orders")
        assert "amount -5" in letter.error
