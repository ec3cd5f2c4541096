"""Converts orders into euros with exchange rates that change.

Each worker holds the table of rates whole (`GlobalTable`): an order can be in any currency, whatever its own key is.
Orders in a currency without a rate fail and become dead letters, instead of being counted wrongly.
"""

import msgspec
from anabranch import App, Stream


class Rate(msgspec.Struct):
    currency: str
    euros: float


class Order(msgspec.Struct):
    user: str
    amount: float
    currency: str


class EuroOrder(msgspec.Struct):
    user: str
    euros: float


app = App("enrichment")
rate_changes = app.topic("rates", value_type=Rate, partitions=1)
orders = app.topic("orders", value_type=Order, partitions=4)
converted = app.topic("orders-in-euros", key_type=str, value_type=EuroOrder, partitions=4)
rates = app.GlobalTable("rates", key_type=str, value_type=float, partitions=1)
totals = app.Table("totals", default=float, partitions=4)


@app.agent(rate_changes)
async def remember(stream: Stream[Rate]) -> None:
    async for rate in stream:
        rates[rate.currency] = rate.euros


@app.agent(orders)
async def convert(stream: Stream[Order]) -> None:
    async for order in stream:
        euros = round(order.amount * rates[order.currency], 2)  # KeyError: a dead letter
        totals[order.user] = round(totals[order.user] + euros, 2)
        await converted.send(key=order.user, value=EuroOrder(order.user, euros))
