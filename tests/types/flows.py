# pyright: strict
"""Flows: of functions, of fields and expressions."""

from dataclasses import dataclass
from decimal import Decimal
from typing import reveal_type

from anabranch import App, Count, Flow, Max, Sum, Top, col


@dataclass
class Sale:
    user: str
    item: str
    price: float
    n: int


def parse(line: str) -> tuple[str, int]:
    key, _, number = line.partition(",")
    return key, int(number)


def amount(sale: Sale) -> Decimal:
    return Decimal(sale.n) * Decimal(str(sale.price))


app = App("flows")
lines = app.topic("lines", value_type=str)
sales = app.topic("sales", key_type=str, value_type=Sale)
by_user = app.Table("by-user", key_type=str, default=int)

parsed = lines.map(parse)
reveal_type(parsed)  # Flow[tuple[str, int]]
reveal_type(parsed.key_by())  # KeyedFlow[str, int]
reveal_type(parsed.key_by().reduce(sum))  # Table[str, int]
reveal_type(sales.filter(col("price") > 0))  # Flow[Sale]
reveal_type(sales.filter(lambda sale: sale.n > 1).map(amount))  # Flow[Decimal]
reveal_type(sales.filter("n").key_by(lambda sale: sale.item, amount).reduce(max))  # Table[str, Decimal]
reveal_type(sales.map(amount).reduce(lambda a, b: a + b, "amounts"))  # Table[Any, Decimal]
reveal_type(lines.flat_map(str.split))  # Flow[str]
reveal_type(sales.select("user", cost=col("price") * col("n")))  # Flow[dict[str, Any]]
reveal_type(sales.with_columns(cost=amount))  # Flow[dict[str, Any]]
reveal_type(sales.aggregate("all", sales=Count(), most=Max("price")))  # Table[str, dict[str, Any]]
items = sales.key_by("item").aggregate("by-item", spent=Sum(col("price")), best=Top("price", 3))
reveal_type(items)  # Table[Any, dict[str, Any]]
reveal_type(sales.key_by(lambda sale: sale.user, lambda sale: sale.n).reduce(sum, by_user))  # Table[str, int]
reveal_type(lines.map(str.upper).to(app.topic("upper", value_type=str)))  # Topic[Any, str]


def of(flow: Flow[Sale]) -> Flow[Decimal]:
    return flow.map(amount)


of(sales.flow(on_failure="skip"))
