"""Apps that simulations run, with their inputs.

Each makes another part of the engine matter. The results of each do not depend on the order of records of different
partitions, so a world with faults has to end as one without.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import anabranch
from anabranch import Count, Max
from anabranch.agents.engine.settings import EngineSettings
from anabranch.replay.testing.simulation import Simulation

OPENING = 1_000

Records = list[tuple[str, Any]]


@dataclass(frozen=True)
class Program:
    """An app and its input.

    Attributes:
        app: makes the app.
        inputs: topic -> (key, value).
        on_disk: whether its tables are on disk.
        faults: kinds of faults with which it ends as without.
        ordered: topics in which the order of each key's records is compared.
        ignore: tables that are not compared.
        workers: number of workers.
        bounded: whether the inputs are the history of a bounded run.
    """

    app: Callable[[], anabranch.App]
    inputs: dict[str, Records] = field(default_factory=dict)
    on_disk: bool = False
    faults: str = "all"
    ordered: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    workers: int = 2
    bounded: bool = False

    def simulation(self, **options: Any) -> Simulation:
        """Return a simulation of the app over its input; options override those of the program."""
        chosen: dict[str, Any] = {
            "inputs": self.inputs,
            "faults": self.faults,
            "ordered": self.ordered,
            "ignore": self.ignore,
            "workers": self.workers,
            "bounded": self.bounded,
        }
        return Simulation(self.app, **{**chosen, **options})


class Unlucky(Exception):
    """A record that no agent can handle."""


def transfers(count: int = 300, accounts: int = 12, seed: int = 1) -> Records:
    """Transfers between accounts; some cannot be handled, some take a while."""
    rng, made = random.Random(seed), Records()
    for number in range(1, count + 1):
        source, target = (f"a{rng.randrange(accounts)}" for _ in range(2))
        trouble = rng.choice(("withdraw", "deposit")) if rng.random() < 0.02 else ""
        waits_s = rng.choice((0.03, 0.3)) if rng.random() < 0.02 else 0.0
        transfer = {"number": number, "source": source, "target": target, "amount": rng.randint(1, 100)}
        made.append((source, {**transfer, "trouble": trouble, "waits_s": waits_s}))
    return made


def bank(
    *,
    store: str = "memory://",
    partitions: int = 4,
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once",
    settings: EngineSettings | None = None,
) -> anabranch.App:
    """Transfers between accounts, whose total never changes: withdraw ─▶ deposits ─▶ deposit ─▶ done."""
    app = anabranch.App(
        "bank",
        topic_partitions=partitions,
        store=store,
        processing_guarantee=guarantee,
        settings=settings or EngineSettings(commit_beside=True),
    )
    incoming = app.topic("transfers", key_type=str)
    deposits = app.topic("deposits", key_type=str)
    receipts = app.topic("receipts", key_type=str)
    done = app.topic("done", key_type=str)
    balances = app.Table("balances", default=lambda: OPENING)
    moved = app.Table("moved", default=int)
    sent = app.Table("sent", default=list)
    received = app.SetTable("received", key_type=str, value_type=int)

    @app.agent(incoming, name="withdraw")
    async def withdraw(stream: Any) -> None:
        async for transfer in stream:
            balances[transfer["source"]] -= transfer["amount"]
            moved[transfer["source"]] += transfer["amount"]
            sent[transfer["source"]].append(transfer["number"])
            if transfer["waits_s"]:
                await asyncio.sleep(transfer["waits_s"])
            await receipts.send(key=transfer["source"], value=transfer["number"])
            await deposits.send(key=transfer["target"], value=transfer)
            if transfer["trouble"] == "withdraw":
                raise Unlucky(transfer["number"])

    @app.agent(deposits, name="deposit")
    async def deposit(stream: Any) -> None:
        async for transfer in stream:
            balances[transfer["target"]] += transfer["amount"]
            received[transfer["target"]].add(transfer["number"])
            await done.send(key=transfer["target"], value=transfer["number"])
            if transfer["trouble"] == "deposit":
                raise Unlucky(transfer["number"])

    return app


def clicks(count: int = 300, seed: int = 2) -> Records:
    """Clicks of users on pages, one a second, and a few that undo all of a page."""
    rng, made = random.Random(seed), Records()
    for _ in range(count):
        user = f"u{rng.randrange(9)}"
        made.append((user, {"user": user, "page": f"p{rng.randrange(6)}", "undo": rng.random() < 0.04}))
    return made


def pages() -> anabranch.App:
    """Repartition by page; sets of users, totals whose keys are deleted and come back, and a table with a time-to-live.

    What is deleted depends on the order of records of several partitions, so these tables are kept by the key of the
    input, and only sums by page.
    """
    app = anabranch.App("pages", topic_partitions=4, settings=EngineSettings(commit_beside=True))
    incoming = app.topic("clicks", key_type=str)
    views = app.Table("views", default=int)
    users = app.SetTable("users", key_type=str, value_type=str)
    since = app.Table("since", default=int)
    recent = app.Table("recent", default=int, ttl=3600)
    trail = app.Table("trail", default=list)

    @app.agent(incoming, name="count")
    async def count(stream: Any) -> None:
        async for click in stream.group_by(lambda click: click["page"], name="page"):
            views[click["page"]] += 1
            users[click["page"]].add(click["user"])

    @app.agent(incoming, name="follow")
    async def follow(stream: Any) -> None:
        async for key, click in stream.items():
            recent[key] += 1
            if click["undo"]:
                since.pop(key, None)
                trail.pop(key, None)
                len(trail[key])  # reading the default does not bring the key back
            else:
                since[key] += 1
                trail[key].append(click["page"])

    return app


def two_speeds() -> anabranch.App:
    """Two agents on one topic: one takes records one by one, the other in groups, so that their offsets differ."""
    app = anabranch.App("speeds", topic_partitions=4)
    incoming = app.topic("clicks", key_type=str)
    outgoing = app.topic("groups", key_type=str)
    ones = app.Table("ones", default=int)
    grouped = app.Table("grouped", default=int)

    @app.agent(incoming, name="one")
    async def one(stream: Any) -> None:
        async for key, _ in stream.items():
            ones[key] += 1

    @app.agent(incoming, name="many")
    async def many(stream: Any) -> None:
        async for clicks in stream.take(5, within=0.7):
            for click in clicks:
                grouped[click["user"]] += 1
                await outgoing.send(key=click["page"], value=click["user"])

    return app


def retries() -> anabranch.App:
    """Records that fail twice and are tried again; a global table; several tasks of an agent."""
    app = anabranch.App("retries", topic_partitions=4)
    incoming = app.topic("clicks", key_type=str)
    outgoing = app.topic("visits", key_type=str)
    counts = app.Table("counts", default=int)
    names = app.GlobalTable("names", default=int)
    tries: Counter[tuple[int, int]] = Counter()

    @app.agent(incoming, name="visit", on_failure=anabranch.Retry(times=3))
    async def visit(stream: Any) -> None:
        async for event in stream.events():
            counts[event.key] += 1
            await outgoing.send(key=event.key, value=event.value["page"])
            if event.value["undo"]:
                at = event.message.partition, event.message.offset
                tries[at] += 1
                if tries[at] <= 2:
                    raise Unlucky(at)

    @app.agent(incoming, name="name", concurrency=3)
    async def name(stream: Any) -> None:
        async for key, _ in stream.items():
            names[key] += 1

    return app


def sales(count: int = 300, seed: int = 5) -> Records:
    """Sales by user; some lack a price, which no sum takes."""
    rng, made = random.Random(seed), Records()
    for number in range(count):
        user, price = f"u{rng.randrange(9)}", None if rng.random() < 0.02 else rng.randint(1, 100)
        made.append((user, {"number": number, "user": user, "item": f"i{rng.randrange(6)}", "price": price}))
    return made


SOLD = sales(100)


def flows() -> anabranch.App:
    """Flows by the record's key, which reduce an epoch before they look at the table, and flows with another key."""
    app = anabranch.App("flows", topic_partitions=4)
    sold = app.topic("sales", key_type=str)
    sold.map(anabranch.col("price") * 2).reduce(sum, "doubled")
    sold.filter(~anabranch.col("price").is_null()).aggregate("of-users", n=Count(), most=Max("price"))
    sold.key_by("item", "price").reduce(sum, "of-items")
    spent = sold.map("price").reduce(max, "greatest")

    @app.agent(sold, name="look")
    async def look(stream: Any) -> None:
        async for key, _ in stream.items():
            assert spent.get(key, 1) > 0  # applies what is pending

    return app


def ticks() -> anabranch.App:
    """A timer that reports the last sale of each user. What it has reported is known to its worker alone."""
    app = anabranch.App("ticks", topic_partitions=4, settings=EngineSettings(commit_beside=True))
    incoming = app.topic("sales", key_type=str)
    reports = app.topic("reports", key_type=str)
    latest = app.Table("latest", default=int)
    last = {user: sale["number"] for user, sale in SOLD if sale["price"] is not None}
    reported: set[str] = set()

    @app.agent(incoming, name="sell")
    async def sell(stream: Any) -> None:
        async for user, sale in stream.items():
            latest[user] = sale["number"]
            if sale["price"] is None:
                raise Unlucky(sale["number"])

    @app.timer(0.05)
    async def report() -> None:
        for user, number in latest.items():
            if number == last[user] and user not in reported:
                reported.add(user)
                await reports.send(key=user, value=number)

    return app


def bounded() -> anabranch.App:
    """Records in groups, of which the last ones are not full: they are processed when history ends."""
    app = anabranch.App("bounded", topic_partitions=4)
    incoming = app.topic("clicks", key_type=str)
    outgoing = app.topic("groups", key_type=str)
    grouped = app.Table("grouped", default=int)

    @app.agent(incoming, name="many")
    async def many(stream: Any) -> None:
        async for clicks in stream.take(7):
            for click in clicks:
                grouped[click["user"]] += 1
                await outgoing.send(key=click["page"], value=click["user"])

    return app


PROGRAMS = {
    "bank": Program(bank, {"transfers": transfers()}, ordered=("receipts",)),
    "pages": Program(pages, {"clicks": clicks()}),
    "speeds": Program(two_speeds, {"clicks": clicks(200, seed=3)}),
    "retries": Program(retries, {"clicks": clicks(200, seed=4)}, ordered=("visits",)),
    "bank with KIP-848": Program(
        lambda: bank(settings=EngineSettings(group_protocol="consumer", commit_beside=True)), {"transfers": transfers()}
    ),
    # There is time for a rebalance between two commits, and between one that was too late and the next.
    "bank with KIP-848 and long epochs": Program(
        lambda: bank(settings=EngineSettings(group_protocol="consumer", epoch_s=4.0, commit_share=0.001)),
        {"transfers": transfers()},
    ),
    "bank at least once": Program(
        # A balance may be smaller after a transfer that counts twice, so only what grows is compared. No rebalances: at
        # least once, nothing fences a worker that stood still beyond its session, and its last epoch may overwrite
        # newer values in the changelog.
        lambda: bank(guarantee="at_least_once"),
        {"transfers": transfers()},
        faults="kill,abort,lost-request,lost-answer,fence,broker-away,compact,slow-disk",
        ignore=("balances",),
    ),
    "flows": Program(flows, {"sales": sales()}),
    # A worker that ends, or another one that takes partitions over, does not know what was reported.
    "ticks": Program(
        ticks, {"sales": SOLD}, faults="abort,lost-request,lost-answer,broker-away,compact,slow-disk", workers=1
    ),
    "bounded": Program(bounded, {"clicks": clicks(200, seed=6)}, bounded=True),
    "bank on disk": Program(
        lambda: bank(store="rocksdb://", partitions=2), {"transfers": transfers(150)}, on_disk=True
    ),
}
