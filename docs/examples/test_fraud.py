from pathlib import Path

import fraud
from anabranch import World

HERE = Path(__file__).parent


def test_payments_above_the_limit_are_reported():
    with World(fraud.app) as world:
        world.replay(HERE / "fraud_limits.csv", "limits", key="card", types=(("card", "text"),))
        world.settle()  # all limits are known before the first payment
        world.replay(HERE / "fraud_payments.csv", "payments", key="card", time="at", types=(("card", "text"),))
        world.settle()
        assert sorted((alert["card"], alert["limit"]) for alert in world.topic("alerts").values) == [
            ("4711", 100),
            ("4713", 1000),
        ]


def test_the_check_answers():
    with World(fraud.app) as world:
        world.send("limits", {"card": "4711", "amount": 100}, key="4711")
        world.settle()
        assert world.ask(world.module.check, fraud.Payment("4711", 80, "books"), key="4711") is True
        assert world.ask(world.module.check, fraud.Payment("4711", 101, "books"), key="4711") is False


def test_a_burst_of_payments_is_reported_once():
    with World(fraud.app) as world:
        for second in range(5):
            payment = {"card": "4711", "amount": 1, "shop": "games"}
            world.send("payments", payment, key="4711", at=f"2026-01-01T10:00:0{second}Z")
        world.send("payments", payment, key="4711", at="2026-01-01T10:05:00Z")
        world.settle()
        [burst] = world.topic("bursts").values
        assert (burst["key"], burst["payments"]) == ("4711", 5)
