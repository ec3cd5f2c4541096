"""Removes the copies of payments that a producer has sent more than once.

A payment has an id. The first agent brings equal ids together, forwards the first payment of each id, and remembers the
id for a day of event time. The second agent adds up what is left.

What has been seen is kept in a table: a global variable would be lost in a restart, and not be rolled back with the
records of a failed commit.
"""

from datetime import timedelta

import msgspec
from anabranch import App, Stream


class Payment(msgspec.Struct):
    id: str
    account: str
    amount: int


app = App("dedup")
payments = app.topic("payments", value_type=Payment, partitions=4)
unique = app.topic("unique-payments", key_type=str, value_type=Payment, partitions=4)
seen = app.Table("seen", default=bool, ttl=timedelta(days=1))
balances = app.Table("balances", default=int)


@app.agent(payments)
async def remove_copies(stream: Stream[Payment]) -> None:
    async for payment in stream.group_by(Payment.id):
        if not seen[payment.id]:
            seen[payment.id] = True
            await unique.send(key=payment.account, value=payment)


@app.agent(unique)
async def add_up(stream: Stream[Payment]) -> None:
    async for payment in stream:
        balances[payment.account] += payment.amount
