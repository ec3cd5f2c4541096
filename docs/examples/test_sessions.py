from pathlib import Path

import sessions
from anabranch import World

VIEWS = Path(__file__).with_name("sessions.csv")


def test_a_visit_ends_after_half_an_hour_without_views():
    with World(sessions.app) as world:
        visits = world.run({"views": VIEWS}, key="user").tables["visits"]
    pages = sorted((user, values["pages"], values["first"]) for (user, _, _), values in visits.items())
    assert pages == [
        ("ann", 1, "2026-01-01T14:00:00Z"),
        ("ann", 3, "2026-01-01T10:00:00Z"),
        ("bob", 1, "2026-01-01T10:01:00Z"),
    ]


def test_a_finished_visit_is_sent_once():
    # A world begins on 2026-01-01 at 00:00, unless `start` is given: these views would be in the future.
    with World(sessions.app, partitions={"views": 1}, start="2026-01-02T00:00Z") as world:
        for at in ("10:00", "10:05", "10:50"):
            world.send("views", {"user": "ann", "page": "/", "at": f"2026-01-01T{at}:00Z"}, key="ann")
            world.settle()
        [visit] = world.topic("finished-visits").values
        assert (visit["key"], visit["pages"]) == ("ann", 2)
