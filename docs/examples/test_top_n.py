from pathlib import Path

import top_n
from anabranch import World

ORDERS = Path(__file__).with_name("top_n.csv")


def test_the_largest_orders_of_a_shop():
    with World(top_n.app) as world:
        books = world.run({"orders": ORDERS}).tables["shops"]["books"]
    assert [order["amount"] for order in books["largest"]] == [70, 50, 30]
    assert (books["orders"], books["revenue"], books["mean"], books["users"]) == (4, 160, 40.0, 3)


def test_packed_batches_give_the_same_result():
    with World(top_n.app) as world:
        plain = world.run({"orders": ORDERS}).tables
        assert world.run({"orders": ORDERS}, pack="lz4").tables == plain
