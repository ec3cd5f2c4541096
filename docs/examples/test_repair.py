from pathlib import Path

import repair
from anabranch import World

HERE = Path(__file__).parent


def test_an_unknown_product_is_a_dead_letter_of_one_agent():
    with World(repair.app) as world:
        world.replay(HERE / "repair_products.csv", "products", key="product")
        world.settle()
        world.replay(HERE / "repair_orders.csv", "orders", key="product")
        world.settle()
        assert world.table("revenue") == {"pen": 6, "ink": 7}
        assert world.table("pieces") == {"pen": 3, "map": 1, "ink": 1}  # the other agent has counted it
        [letter] = world.dead_letters("orders")
        assert "no product map" in letter.error
