"""Repairs dead letters: orders of products that the catalogue did not know when they came.

An order of an unknown product fails. It becomes a dead letter, and the other orders go on. When the product is in the
catalogue, `anabranch dlq replay orders` re-publishes the order to the agent that failed at it, and to no other.
"""

import msgspec
from anabranch import App, Stream


class Product(msgspec.Struct):
    product: str
    price: int


class Order(msgspec.Struct):
    product: str
    pieces: int


app = App("repair")
catalogue = app.topic("products", value_type=Product, partitions=4)
orders = app.topic("orders", value_type=Order, partitions=4)
prices = app.Table("prices", key_type=str, value_type=int)
revenue = app.Table("revenue", default=int)
pieces = app.Table("pieces", default=int)


@app.agent(catalogue)
async def remember(stream: Stream[Product]) -> None:
    async for product in stream:
        prices[product.product] = product.price


@app.agent(orders)
async def earn(stream: Stream[Order]) -> None:
    async for order in stream:
        if order.product not in prices:
            raise LookupError(f"no product {order.product}")
        revenue[order.product] += order.pieces * prices[order.product]


@app.agent(orders)
async def count(stream: Stream[Order]) -> None:
    async for order in stream:
        pieces[order.product] += order.pieces
