"""Apps with windows that worlds and simulations run, their records, and what a plain computation makes of these."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import anabranch
from anabranch import Count, Cumulating, Hopping, Max, Sessions, Sum, Tumbling, col
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.event_time.channel import END_MS, Channel, watermark
from anabranch.agents.event_time.windows import Windows
from anabranch.topics.partitioners import HashPartitioner

KINDS: dict[str, Callable[[], Windows]] = {
    "tumbling": lambda: Tumbling("10s"),
    "hopping": lambda: Hopping("10s", "4s"),
    "cumulating": lambda: Cumulating("12s", "4s"),
    "sessions": lambda: Sessions("3s"),
}
GRACE_S = 4
PARTITIONS = 3


def app_of(
    kind: str, *, by_key: bool, beside: bool = True, store: str = "memory://", idle_after: str | None = None
) -> anabranch.App:
    """Counts sales by user and window: behind a repartition topic, or where they are."""
    app = anabranch.App(
        "windows", topic_partitions=PARTITIONS, store=store, settings=EngineSettings(commit_beside=beside)
    )
    sales = app.topic(
        "sales", time="at", time_unit="s", grace=GRACE_S, max_jump="1h", idle_after=idle_after, partitions=PARTITIONS
    )
    flow = sales.filter(col("price") != 13)
    keyed = flow.key_by("user") if by_key else flow
    table = keyed.window(KINDS[kind](), keep="1h").aggregate(
        "by-user", n=Count(), spent=Sum("price"), most=Max("price")
    )
    table.final().to("finals")
    return app


def sales(count: int = 240, seed: int = 5) -> list[dict[str, Any]]:
    """Sales of some users, about one a second in each partition, out of order by up to twice the grace. Some have no
    time, and one clock is wrong for a moment."""
    rng, made = random.Random(seed), list[dict[str, Any]]()
    for number in range(count):
        at: Any = number // PARTITIONS - rng.choice((0, 0, 0, 0, 1, 2, 3, 5, 9))
        if rng.random() < 0.02:
            at = rng.choice((None, "soon", 4_000_000_000))
        price = rng.choice((13, 2, 3, 5, "free")) if rng.random() < 0.1 else rng.randint(1, 9)
        made.append({"user": f"u{rng.randrange(7)}", "at": at, "price": price, "number": number})
    return made


def key_of(sale: dict[str, Any], *, by_key: bool) -> str:
    """Return the key of a sale's record: the user, if the flow does not move it."""
    return f"shop {sale['number'] % 5}" if by_key else sale["user"]


def partition_of(sale: dict[str, Any], *, by_key: bool) -> int:
    return HashPartitioner(PARTITIONS).partition(key_of(sale, by_key=by_key).encode())


def inputs(records: list[dict[str, Any]], *, by_key: bool) -> dict[str, list[Any]]:
    """Return the records as a simulation takes them."""
    return {"sales": [(key_of(sale, by_key=by_key), sale) for sale in records]}


def expected(
    kind: str, records: list[dict[str, Any]], *, by_key: bool, end: bool
) -> tuple[dict[Any, dict[str, int]], list[int], set[Any]]:
    """Return what the table holds, the numbers of the late sales, and which windows are closed."""
    windows, grace_ms = KINDS[kind](), GRACE_S * 1000
    channels = [Channel(3_600_000) for _ in range(PARTITIONS)]
    in_time: list[tuple[str, int, int]] = []
    late: list[int] = []
    for sale in records:
        channel = channels[partition_of(sale, by_key=by_key)]
        if not isinstance(sale["at"], int):
            continue
        at_ms = sale["at"] * 1000
        behind = watermark(channel.time_ms, grace_ms) > windows.horizon_ms(windows.pane(at_ms))
        channel.advance(at_ms)
        if sale["price"] == 13 or not isinstance(sale["price"], int):
            continue
        if behind:
            late.append(sale["number"])
        else:
            in_time.append((sale["user"], at_ms, sale["price"]))
    rows = _sessions(windows.gap_ms, in_time) if windows.gap_ms is not None else _windows(windows, in_time)
    least = END_MS if end else min(channel.time_ms for channel in channels)
    closed = {row for row in rows if windows.closes_after_ms(row[2]) < watermark(least, grace_ms)}
    return rows, sorted(late), closed


def _row(prices: list[int]) -> dict[str, int]:
    return {"n": len(prices), "spent": sum(prices), "most": max(prices)}


def _windows(windows: Windows, records: list[tuple[str, int, int]]) -> dict[Any, dict[str, int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for user, at_ms, price in records:
        for start, end in windows.of_pane(windows.pane(at_ms)):
            found[user, start, end].append(price)
    return {row: _row(prices) for row, prices in found.items()}


def _sessions(gap_ms: int, records: list[tuple[str, int, int]]) -> dict[Any, dict[str, int]]:
    made: dict[Any, dict[str, int]] = {}
    for user in {user for user, _, _ in records}:
        start, last, prices = 0, 0, list[int]()
        for _, at_ms, price in sorted(record for record in records if record[0] == user):
            if prices and at_ms - last > gap_ms:
                made[user, start, last + 1] = _row(prices)
                prices = []
            start, last = at_ms if not prices else start, at_ms
            prices.append(price)
        made[user, start, last + 1] = _row(prices)
    return made
