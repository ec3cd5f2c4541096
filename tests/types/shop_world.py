# pyright: strict
from datetime import datetime, timedelta
from typing import reveal_type

from anabranch import App, World

app = App("shop")


def make() -> App:
    return App("other")


def test_totals() -> None:
    with World(app, workers=2, partitions={"orders": 4}) as world:
        reveal_type(world)  # World
        world.send("orders", {"user": "ann"}, key="ann", at="2026-01-01T10:00Z", headers={"from": "web"})
        world.send("orders", {"user": "ann"}, at=datetime(2026, 1, 1), partition=2)
        world.settle()
        world.settle(within="5m")
        world.advance("1h")
        world.advance(timedelta(hours=1))
        world.advance_to("2026-01-02")
        reveal_type(world.table("totals"))  # dict[Any, Any]
        reveal_type(world.topic("alerts").values)  # list[Any]
        reveal_type(world.topic("alerts").records[0].timestamp)  # datetime
        reveal_type(world.dead_letters("orders")[0].reason)  # str
        reveal_type(world.worker(1).running)  # bool
        world.worker(1).kill()
        world.worker(1).start(identity=False)
        reveal_type(world.replay("orders.csv", "orders", key="user", time="at").sent)  # int
        reveal_type(world.run({"orders": ["a.csv", "b.csv"]}, where="amount > 3").tables)  # dict[str, dict[Any, Any]]
        world.replay("orders.csv", "orders", keys="user")  # error
        reveal_type(world.now)  # datetime
    World(make)
    World("shop:app")
    World(7)  # error
