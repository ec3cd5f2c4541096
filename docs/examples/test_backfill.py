from pathlib import Path

import backfill
from anabranch import World

HERE = Path(__file__).parent
FILES = [HERE / "backfill_2025.csv", HERE / "backfill_today.csv"]


def test_past_and_present_are_the_whole():
    with World(backfill.app) as world:
        world.replay(FILES[1], "orders", key="user")
        world.settle()
        for user, total in world.run({"orders": FILES[0]}, key="user").tables["totals"].items():
            world.send("past-totals", {"key": user, "value": total}, key=user)
        world.settle()
        whole = world.run({"orders": FILES}, key="user").tables["totals"]
        assert world.table("totals") == {"ann": 3, "cid": 8}  # as before
        assert world.table("past") == {"ann": 120, "bob": 50}
        last = {record.key: record.value for record in world.topic("all-time")}
        assert last == whole == {"ann": 123, "bob": 50, "cid": 8}
