"""Reports payments above the limit of their card, and cards with more than three payments in a minute.

Limits and payments are two topics with the same key, the card, and the same number of partitions. So the limit of a
card is in the partition that processes its payments, and looking it up is reading a dict. The payments of a minute
are a window of event time: each window is reported once, when it is complete.
"""

from collections.abc import AsyncIterator

import msgspec
from anabranch import App, Count, Stream, Tumbling, col


class Limit(msgspec.Struct):
    card: str
    amount: int


class Payment(msgspec.Struct):
    card: str
    amount: int
    shop: str


class Alert(msgspec.Struct):
    card: str
    amount: int
    limit: int
    shop: str


app = App("fraud")
limit_changes = app.topic("limits", value_type=Limit, partitions=4)
payments = app.topic("payments", value_type=Payment, grace="10s", partitions=4)
alerts = app.topic("alerts", key_type=str, value_type=Alert, partitions=4)
limits = app.Table("limits", key_type=str, value_type=int)
alert_counts = app.Table("alert-counts", default=int)

NO_LIMIT = 1_000


@app.agent(limit_changes)
async def remember(stream: Stream[Limit]) -> None:
    async for limit in stream:
        limits[limit.card] = limit.amount


@app.agent(payments)
async def check(stream: Stream[Payment]) -> AsyncIterator[bool]:
    async for payment in stream:
        limit = limits.get(payment.card, NO_LIMIT)
        refused = payment.amount > limit
        if refused:
            alert_counts[payment.card] += 1
            await alerts.send(key=payment.card, value=Alert(payment.card, payment.amount, limit, payment.shop))
        yield not refused  # the answer to `await check.ask(payment, key=payment.card)`


minutes = payments.window(Tumbling("1m")).aggregate("per-minute", payments=Count())
minutes.final().filter(col("payments") > 3).to("bursts")
