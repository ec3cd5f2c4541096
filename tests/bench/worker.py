"""Measures an agent, or a flow, that sums by key into a table with a changelog, as a worker runs it."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
from anabranch import App, Tumbling
from anabranch.agents.runtime import runtime_of
from anabranch.agents.worker import run_worker
from anabranch.topics.admin import Admin
from anabranch.topics.cluster import Cluster
from confluent_kafka import TopicPartition
from records import PARTITIONS
from run_outcome import Outcome

STYLES = ["record", "batch", "flow", "flow-key-by", "window", "window-field", "window-key-by"]
_LOOK_S = 0.01
_REST_S = 0.3


class Order(msgspec.Struct):
    user: str
    amount: int
    at: int


def shop(name: str, topic: str, guarantee: str, style: str, data: str, store: str, window: str = "1m") -> App:
    """The first program of the README, with the bench's topic. `flow` styles are flows with the same result, `window`
    styles are windows of it, of the given length."""
    app = App(name, processing_guarantee=guarantee, topic_partitions=PARTITIONS, datadir=data, store=store)
    orders = app.topic(topic, value_type=Order, partitions=PARTITIONS)
    if style == "flow":
        orders.map("amount").reduce(sum, "totals")
        return app
    if style == "flow-key-by":
        orders.key_by("user", "amount").reduce(sum, "totals")
        return app
    if style == "window":
        orders.map("amount").window(Tumbling(window), grace=0).reduce(sum, "totals")
        return app
    if style == "window-field":
        sales = orders.flow().with_time("at", grace=0)
        sales.map("amount").window(Tumbling(window)).reduce(sum, "totals")
        return app
    if style == "window-key-by":
        orders.key_by("user", "amount").window(Tumbling(window), grace=0).reduce(sum, "totals")
        return app
    totals = app.Table("totals", default=int)

    async def by_record(stream: Any) -> None:
        async for order in stream:
            totals[order.user] += order.amount

    async def by_batch(stream: Any) -> None:
        async for batch in stream.batches():
            for order in batch:
                totals[order.user] += order.amount

    app.agent(orders, name="total")({"record": by_record, "batch": by_batch}[style])
    return app


async def until_committed(app: App, topic: str, records: int) -> float:
    """When the group's committed offsets say that all is done; the topic holds nothing but the records."""

    def committed() -> int:
        return sum(offset for at, offset in runtime_of(app).status.committed.items() if at.topic == topic)

    while committed() < records and not runtime_of(app).stop_requested.is_set():
        await asyncio.sleep(_LOOK_S)
    return time.time()


async def until_total(app: App, total: int) -> tuple[float, float]:
    """When the table holds all that went through a repartition topic.

    A look at the whole table costs much, so there is one only after the committed offsets have not changed for a while.

    Returns:
        When they last changed, and the CPU seconds of the looks.
    """
    committed, changed_at, looks_s = dict(runtime_of(app).status.committed), time.time(), 0.0
    while not runtime_of(app).stop_requested.is_set():
        await asyncio.sleep(_LOOK_S)
        if runtime_of(app).status.committed != committed:
            committed, changed_at = dict(runtime_of(app).status.committed), time.time()
        elif time.time() - changed_at > _REST_S:
            began_s = time.process_time()
            found = sum(dict(app.tables["totals"].items()).values())
            looks_s += time.process_time() - began_s
            if found == total:
                break
            changed_at = time.time()
    return changed_at, looks_s


def by_user(table: dict[Any, int]) -> dict[str, int]:
    """Return the sums of a table, those of windows added up."""
    totals: dict[str, int] = {}
    for key, total in table.items():
        user = key[0] if isinstance(key, tuple) else key
        totals[user] = totals.get(user, 0) + total
    return totals


def measure(
    app: App, topic: str, records: int, out: Path, total: int | None = None, *, batches: int | None = None
) -> None:
    """Run the worker until all records are committed, then stop it as SIGTERM would.

    Args:
        total: the sum of the table's values when all is done; None where the committed offsets say so.
        batches: how many packed batches hold the records; None: they are not packed.
    """
    watching: list[asyncio.Task[None]] = []
    begun_at, begun_cpu_s = time.time(), time.process_time()

    async def watch() -> None:
        done_at = await until_committed(app, topic, records if batches is None else batches)
        looks_s = 0.0
        if total is not None:
            done_at, looks_s = await until_total(app, total)
        cpu_s = time.process_time() - begun_cpu_s - looks_s
        totals = by_user(dict(app.tables["totals"].items()))
        status = runtime_of(app).status
        # 0 of these are the point of the measure; with any of them the sums would be wrong as well.
        assert not (status.dead_letters_total or status.skipped_total), "records were given up"
        counted = status.records_total if total is None else records  # with those of the repartition topic
        Outcome.of(counted, begun_at, status.first_record_at, done_at, totals, cpu_s).write(out)
        runtime_of(app).stop_requested.set()

    run_worker(app, on_ready=lambda _: watching.append(asyncio.ensure_future(watch())))
    watching[0].result()


def share(app: App, out: Path) -> None:
    """Run the worker until SIGTERM; others of its group work beside it."""
    begun_at = time.time()
    run_worker(app)
    status = runtime_of(app).status
    assert not (status.dead_letters_total or status.skipped_total), "records were given up"
    Outcome.of(status.records_total, begun_at, status.first_record_at, time.time()).write(out)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bootstrap-server", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--records", type=int, required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--guarantee", choices=["exactly_once", "at_least_once"], default="exactly_once")
    arguments.add_argument("--style", choices=STYLES, default="record")
    arguments.add_argument("--window", default="1m", help="length of the windows")
    arguments.add_argument("--store", default="memory://")
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--total", type=int, help="the sum of all amounts")
    arguments.add_argument("--packed", action="store_true", help="offsets do not count records")
    arguments.add_argument("--share", action="store_true", help="one of several workers")
    a = arguments.parse_args()
    app = shop(a.name, a.topic, a.guarantee, a.style, a.data, a.store, a.window)
    runtime_of(app).cluster = Cluster.named(a.bootstrap_server)
    if a.share:
        share(app, a.out)
    else:
        total = a.total if a.packed or a.style.endswith("key-by") else None
        batches = None
        if a.packed:
            ends = Admin(Cluster.named(a.bootstrap_server)).ends(
                [TopicPartition(a.topic, p) for p in range(PARTITIONS)]
            )
            batches = sum(ends.values())
        measure(app, a.topic, a.records, a.out, total, batches=batches)


if __name__ == "__main__":
    main()
