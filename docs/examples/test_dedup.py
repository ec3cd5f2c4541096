from pathlib import Path

import dedup
from anabranch import World

PAYMENTS = Path(__file__).with_name("dedup.jsonl")


def test_each_payment_counts_once():
    with World(dedup.app) as world:
        run = world.run({"payments": PAYMENTS}, key="account", time="at")
    assert run.tables["balances"] == {"ann": 34, "bob": 5}


def test_an_id_is_forgotten_a_day_later():
    with World(dedup.app) as world:
        payment = {"id": "p1", "account": "ann", "amount": 30}
        for day in ("2026-01-01T10:00Z", "2026-01-01T20:00Z", "2026-01-03T10:00Z"):
            world.send("payments", payment, key="ann", at=day)
            world.settle()
        assert world.table("balances") == {"ann": 60}
