"""Digests of tables of windows depend on their content, not on partitions or on how far they are in event time."""

from __future__ import annotations

import anabranch
from anabranch import Count, Tumbling, World
from anabranch.replay.sources.format import Format
from anabranch.replay.verify.comparison import digest_of
from anabranch.replay.verify.comparison_side import find_side

NOON_S = 1_769_860_800


def app_of(partitions: int) -> anabranch.App:
    app = anabranch.App("shop", topic_partitions=partitions)
    sales = app.topic("sales", time="at", time_unit="s", grace="0s", idle_after=None, partitions=partitions)
    sales.key_by("user").window(Tumbling("10s")).aggregate("by-user", n=Count()).final().to("finals")
    return app


def digest(partitions: int, seconds: list[int], side: str = "table://shop/by-user") -> tuple[int, str]:
    with World(lambda: app_of(partitions), start="2026-02-01T00:00Z") as world:
        for second in seconds:
            for user in ("ann", "bob", "cem"):
                world.send("sales", {"at": NOON_S + second, "user": user}, key=user)
        world.settle()
        with world.environment.entered():
            return digest_of(find_side(side, Format(), world.environment.kafka.cluster()))


def test_tables_of_windows_have_digests_of_their_content_alone() -> None:
    table = digest(1, [1, 2, 11, 12, 21])
    assert table[0] == 9
    assert digest(1, [2, 1, 12, 11, 25]) == table
    assert digest(3, [1, 2, 11, 12, 21]) == table
    assert digest(3, [1, 2, 11, 21, 22]) != table


def test_closed_windows_have_digests_that_do_not_depend_on_the_order_of_records() -> None:
    finals = digest(1, [1, 2, 11, 12, 21], "topic://finals")
    assert finals[0] == 6
    assert digest(1, [2, 1, 12, 11, 25], "topic://finals") == finals
    assert digest(1, [2, 1, 12, 21], "topic://finals") != finals
