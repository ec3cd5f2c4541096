"""An app with timers that worlds and simulations run, its records, and what a plain computation makes of these."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import anabranch
from anabranch.agents.engine.settings import EngineSettings
from anabranch.agents.event_time.channel import Channel, watermark
from anabranch.topics.partitioners import HashPartitioner

PARTITIONS, GRACE_S = 3, 4
REFUSED = "refused"


def app_of(
    *, beside: bool = True, store: str = "memory://", by_key: bool = False, topics: tuple[str, ...] = ("orders",)
) -> anabranch.App:
    """Users whose orders must be paid in time: timers are set, replaced, cancelled and set by timers; some fail.

    Args:
        by_key: the orders come in one partition, and `group_by` sends them on by user.
        topics: where orders come from.
    """
    app = anabranch.App(
        "timers", topic_partitions=PARTITIONS, store=store, settings=EngineSettings(commit_beside=beside)
    )
    partitions = 1 if by_key else PARTITIONS
    orders = app.topic(
        *topics, time="at", time_unit="s", grace=GRACE_S, max_jump="1h", idle_after=None, partitions=partitions
    )
    told = app.topic("told")
    seen = app.Table("seen", default=int)

    @app.agent(orders, name="watch")
    async def watch(stream):
        by_user = stream.group_by(lambda order: order["user"], name="user", partitions=PARTITIONS) if by_key else stream
        async for order in by_user:
            user = order["user"]
            seen[user] += 1
            await told.send(key=user, value=f"{order['number']}: {seen[user]}")
            if order["paid"]:
                app.cancel(key=user, name="unpaid")
            elif order["wait"] is not None:
                app.at((order["at"] + order["wait"]) * 1000, key=user, name="unpaid", payload=order["number"])
                app.at((order["at"] + 7) * 1000, key=user, name="again", payload=2)
            if order["number"] % 11 == 5:
                raise ValueError(REFUSED)

    @watch.on_timer("unpaid")
    async def unpaid(timer):
        seen[timer.key] += 100
        await told.send(key=timer.key, value=f"unpaid {timer.payload} at {timer.due_ms // 1000}: {seen[timer.key]}")
        if timer.payload % 7 == 3:
            raise ValueError(REFUSED)

    @watch.on_timer("again")
    async def again(timer):
        seen[timer.key] += 10_000
        await told.send(key=timer.key, value=f"again {timer.payload} at {timer.due_ms // 1000}")
        if timer.payload:
            app.at(timer.due_ms + 5_000, key=timer.key, name="again", payload=timer.payload - 1)

    return app


def orders(count: int = 150, seed: int = 3) -> list[dict[str, Any]]:
    """Orders of some users, about one a second in each partition, out of order; some have no time."""
    rng, made = random.Random(seed), list[dict[str, Any]]()
    for number in range(count):
        at: Any = number // PARTITIONS - rng.choice((0, 0, 0, 1, 3, 9))
        if rng.random() < 0.03:
            at = rng.choice((None, 4_000_000_000))
        wait = rng.choice((None, -3, 0, 5, 12))
        made.append(
            {"user": f"u{rng.randrange(7)}", "at": at, "wait": wait, "paid": rng.random() < 0.2, "number": number}
        )
    return made


def inputs(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the records as a simulation takes them."""
    return {"orders": [(order["user"], order) for order in records]}


class Twin:
    """Computes from the log of one partition, without an engine, what the app must do."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = defaultdict(int)
        self.told: dict[str, list[str]] = defaultdict(list)
        self.timers: dict[tuple[str, str], tuple[int, int]] = {}  # (user, name) -> (due, payload)
        self.failed = 0
        self._channel = Channel(3_600_000)

    def order(self, order: dict[str, Any]) -> None:
        if not isinstance(order["at"], int):
            self.failed += 1
            return
        self._channel.advance(order["at"] * 1000)
        self.fire()
        user, number = order["user"], order["number"]
        if number % 11 == 5:
            self.failed += 1
            return
        self.seen[user] += 1
        self.told[user].append(f"{number}: {self.seen[user]}")
        if order["paid"]:
            self.timers.pop((user, "unpaid"), None)
        elif order["wait"] is not None:
            self.timers[user, "unpaid"] = order["at"] + order["wait"], number
            self.timers[user, "again"] = order["at"] + 7, 2
        self.fire()

    def pass_time(self, at: int) -> None:
        """Take the time of a record of another partition into account."""
        self._channel.advance(at * 1000)
        self.fire()

    def fire(self) -> None:
        while True:
            now = watermark(self._channel.time_ms, GRACE_S * 1000)
            due = sorted((due, user, name) for (user, name), (due, _) in self.timers.items() if due * 1000 <= now)
            if not due:
                return
            at, user, name = due[0]
            _, payload = self.timers.pop((user, name))
            if name == "again":
                self.seen[user] += 10_000
                self.told[user].append(f"again {payload} at {at}")
                if payload:
                    self.timers[user, name] = at + 5, payload - 1
            elif payload % 7 == 3:
                self.failed += 1
            else:
                self.seen[user] += 100
                self.told[user].append(f"unpaid {payload} at {at}: {self.seen[user]}")


def expected(records: list[dict[str, Any]], *, by_key: bool = False) -> list[Twin]:
    """Return what happens in each partition.

    Args:
        by_key: time is that of one partition, from which the records come.
    """
    place, twins = HashPartitioner(PARTITIONS), [Twin() for _ in range(PARTITIONS)]
    for order in records:
        own = twins[place.partition(order["user"].encode())]
        own.order(order)
        if by_key and isinstance(order["at"], int):
            for other in twins:
                if other is not own:
                    other.pass_time(order["at"])
    return twins
