"""Apps whose agents write windowed tables (Faust's), for worlds and simulations, and what a plain computation makes of
the same records."""

from __future__ import annotations

from typing import Any

import anabranch
import faust
from anabranch import Hopping, Tumbling
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.event_time.channel import END_MS, Channel, watermark
from anabranch.agents.event_time.windows import Windows
from window_programs import GRACE_S, PARTITIONS, partition_of

SIZE_S, STEP_S = 10, 4
EXPIRES_S = SIZE_S + GRACE_S
KINDS: dict[str, Windows] = {"tumbling": Tumbling(SIZE_S), "hopping": Hopping(SIZE_S, STEP_S)}


class Sale(faust.Record, validation=False):
    user: str
    at: Any
    price: Any
    number: int


def app_of(
    kind: str, *, by_key: bool = False, idle_after: str | None = None, beside: bool = True, store: str = "memory://"
) -> anabranch.App:
    """Collect the prices of sales by user and window; what closes is sent, and counted by user in another table.

    Args:
        by_key: the records come by shop, and are sent on by user.
    """
    app = anabranch.App(
        "windowed", topic_partitions=PARTITIONS, store=store, settings=EngineSettings(commit_beside=beside)
    )
    sales = app.topic("sales", value_type=Sale, partitions=PARTITIONS, idle_after=idle_after, max_jump="1h")
    finals = app.topic("finals")
    closed = app.Table("closed", default=int)

    async def report(key: Any, value: Any) -> None:
        user, (start, end) = key
        closed[user] += 1
        await finals.send(key=user, value={"user": user, "start": start, "end": end, "prices": value})

    table = app.Table("by-user", default=list, on_window_close=report)
    windowed = (
        table.tumbling(SIZE_S, expires=EXPIRES_S)
        if kind == "tumbling"
        else table.hopping(SIZE_S, STEP_S, expires=EXPIRES_S, key_index=True)
    )
    by_user = windowed.relative_to_field(Sale.at)

    @app.agent(sales)
    async def count(stream: Any) -> None:
        async for sale in stream.group_by(Sale.user) if by_key else stream:
            if sale.price == 13:
                continue  # moves time, and counts nowhere
            by_user[sale.user].apply(lambda prices, price: sorted([*prices, price]), int(sale.price))

    return app


def expected(
    kind: str, records: list[dict[str, Any]], *, end: bool
) -> tuple[dict[Any, list[int]], list[int], list[Any]]:
    """Return what the windows hold, the numbers of the late sales, and the windows that are closed, in each partition's
    order of closing."""
    windows, grace_ms = KINDS[kind], GRACE_S * 1000
    rows: dict[Any, list[int]] = {}
    late: list[int] = []
    closed: list[Any] = []
    for partition in range(PARTITIONS):
        channel: Channel | None = None
        own: dict[Any, list[int]] = {}
        for sale in records:
            if partition_of(sale, by_key=False) != partition:
                continue
            timed = isinstance(sale["at"], int)
            at_ms = sale["at"] * 1000 if timed else 0
            writes = timed and sale["price"] != 13 and isinstance(sale["price"], int)
            if channel is None and writes:
                channel = Channel(3_600_000)  # an input begins when it first writes
            if channel is None or not timed:
                continue
            channel.advance(at_ms)
            if not writes:
                continue
            pane = windows.pane(at_ms)
            if watermark(channel.time_ms, grace_ms) > windows.horizon_ms(pane):
                late.append(sale["number"])
                continue
            for span in windows.of_pane(pane):
                own.setdefault((sale["user"], *span), []).append(sale["price"])
        time_ms = END_MS if end else channel.time_ms if channel else 0
        closed += [row for row in own if windows.closes_after_ms(row[2]) < watermark(time_ms, grace_ms)]
        rows |= {row: sorted(prices) for row, prices in own.items()}
    return rows, sorted(late), closed
