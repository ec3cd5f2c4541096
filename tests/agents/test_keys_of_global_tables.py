"""Keys of global tables that records of several partitions write."""

from __future__ import annotations

import anabranch
import pytest
from anabranch import World


def app() -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=3)
    app.topic("orders", value_type=int, partitions=3).reduce(sum, app.GlobalTable("totals", default=int))
    app.topic("clicks", value_type=int, partitions=3).map(lambda click: click).to("seen")
    return app


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at_once", [True, False])
def test_workers_that_write_a_key_at_the_same_moment_go_on_and_each_record_counts_or_is_a_dead_letter(
    workers: int, at_once: bool
) -> None:
    with World(app, workers=workers) as world:
        for number in range(30):
            world.send("orders", number, key=f"item {number % 4}", partition=number % 3)
            world.send("clicks", number, key=f"item {number % 4}")
            if not at_once:
                world.settle()
        world.settle()
        world.advance("5s")
        held = [world.worker(w).table("totals", partition=p) for w in range(workers) for p in range(3)]
        counted = sum(sum(of_partition.values()) for of_partition in held)
        refused = [letter.value for letter in world.dead_letters("orders")]
        assert refused
        assert counted + sum(refused) == sum(range(30))
        assert sorted(world.topic("seen").values) == list(range(30))
