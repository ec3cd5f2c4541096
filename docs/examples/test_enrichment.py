from pathlib import Path

import enrichment
from anabranch import World

HERE = Path(__file__).parent


def test_orders_are_converted():
    with World(enrichment.app, workers=2) as world:
        world.replay(HERE / "enrichment_rates.csv", "rates", key="currency")
        world.settle()
        world.replay(HERE / "enrichment_orders.csv", "orders", key="user")
        world.settle()
        assert world.table("totals") == {"ann": 14.0, "bob": 9.0}


def test_an_order_without_a_rate_is_a_dead_letter():
    with World(enrichment.app) as world:
        world.send("orders", {"user": "ann", "amount": 1.0, "currency": "XXX"}, key="ann")
        world.settle()
        [letter] = world.dead_letters("orders")
        assert "KeyError" in letter.error
        assert world.table("totals") == {}
