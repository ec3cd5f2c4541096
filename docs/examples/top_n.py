"""Keeps the three largest orders of each shop, and some figures beside them.

The aggregates of a flow are computed by column for packed batches (`anabranch run --pack`), with the same result.
"""

import msgspec
from anabranch import App, ApproxDistinct, Count, Mean, Sum, Top


class Order(msgspec.Struct):
    shop: str
    user: str
    amount: int


app = App("top-n")
orders = app.topic("orders", value_type=Order, partitions=4)

shops = orders.key_by("shop").aggregate(
    "shops",
    orders=Count(),
    revenue=Sum("amount"),
    mean=Mean("amount"),
    users=ApproxDistinct("user"),
    largest=Top("amount", 3),
)
