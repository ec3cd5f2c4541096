"""A scenario: the records and faults of a round, chosen from one seed before the round begins.

A seed fixes which worker is hit by which fault at which millisecond. It does not fix the order in which the operating
system runs processes, so repeat a failing seed a few times.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
from bank import MOST_BYTES, Transfer
from commit_points import DISK_FULL, POINTS

__all__ = [
    "FAULTS",
    "BrokerDown",
    "Damage",
    "Fault",
    "Freeze",
    "Join",
    "Kill",
    "KillReplay",
    "Leave",
    "NetworkFault",
    "NodeDown",
    "Scenario",
    "Trap",
    "random_scenario",
    "transfer_records",
]


@dataclass(frozen=True, slots=True)
class Kill:
    """kill -9 of a worker; its supervisor restarts it after `restart_after_s`."""

    at_s: float
    worker: int
    restart_after_s: float


@dataclass(frozen=True, slots=True)
class Trap:
    """A worker is killed (`KILL`) or frozen (`STOP`) when it reaches a point of a commit for the nth time."""

    at_s: float
    worker: int
    point: str
    nth: int
    signal: str = "KILL"
    restart_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Freeze:
    """A worker is stopped for a while (SIGSTOP) and continues."""

    at_s: float
    worker: int
    for_s: float


@dataclass(frozen=True, slots=True)
class BrokerDown:
    """The broker is shut down, or killed, and restarted with its data."""

    at_s: float
    for_s: float
    crash: bool = False


@dataclass(frozen=True, slots=True)
class NodeDown:
    """kill -9 of one of three brokers, which is restarted after a while."""

    at_s: float
    number: int
    for_s: float


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """The connections of all workers are reset (`cut`), silent (`blackhole`) or `slow` for a while."""

    at_s: float
    for_s: float
    kind: str = "cut"


@dataclass(frozen=True, slots=True)
class Damage:
    """A worker is killed, and its stores on disk are damaged before it is restarted: bytes are inverted (`flip`), files
    are truncated (`cut`) or removed (`lose`)."""

    at_s: float
    worker: int
    kind: str


@dataclass(frozen=True, slots=True)
class Join:
    """One more worker is started."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Leave:
    """A worker gets SIGTERM and is not restarted."""

    at_s: float
    worker: int


@dataclass(frozen=True, slots=True)
class KillReplay:
    """kill -9 of the replay or the bounded run; it is restarted at once."""

    at_s: float


Fault = Kill | KillReplay | Trap | Freeze | BrokerDown | NodeDown | NetworkFault | Damage | Join | Leave


@dataclass(frozen=True, slots=True)
class Scenario:
    """The records and faults of a round.

    Attributes:
        workers: number of workers at the beginning.
        transfers: number of records; the first half is produced before the workers start.
        for_s: how long the second half takes to be produced. It begins when the workers are ready; the times of faults
            count from then, too.
        bad: number of records that no agent can process.
        slow: number of records that take longer than the session timeout.
        large: number of records that have the largest size, or exceed it in an agent.
        store: URL of the tables' store.
        protocol: the group protocol, `classic` or `consumer`.
        commit_beside: whether workers commit beside the next epoch.
        feed: how records arrive: from the `driver`, one by one; from a `replay` of a file, as packed batches; or in a
            bounded `run` over the file, which has two workers of its own and no others.
        windows: whether the bank counts transfers in windows as well.
    """

    seed: int
    faults: tuple[Fault, ...] = ()
    workers: int = 2
    transfers: int = 4_000
    for_s: float = 3.0
    accounts: int = 60
    bad: int = 0
    slow: int = 0
    large: int = 0
    store: str = "memory://"
    protocol: str = "classic"
    commit_beside: bool = True
    feed: str = "driver"
    windows: bool = False
    kinds: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        faults = "".join(f"\n    {fault}" for fault in self.faults)
        odd = {"bad": self.bad, "slow": self.slow, "large": self.large}
        more = "".join(f", {count} {what}" for what, count in odd.items() if count)
        workers = f"{self.workers} workers, {self.protocol}, {self.store}, fed by {self.feed}"
        windows = " and windows" if self.windows else ""
        return f"seed {self.seed}: {workers}, {self.transfers} transfers{windows}{more}{faults}"

    @property
    def uses_proxy(self) -> bool:
        """Whether workers connect to the broker through the proxy."""
        return any(isinstance(fault, NetworkFault) for fault in self.faults)

    @property
    def needs_three_brokers(self) -> bool:
        """Whether a fault kills one of three brokers."""
        return any(isinstance(fault, NodeDown) for fault in self.faults)


_OFTEN = ("kill", "trap", "freeze", "freeze-at", "join", "leave", "bad")
_SELDOM = ("broker", "broker-long", "slow", "network", "damage", "disk", "large")

# Not drawn at random, only by name, because they take long: a broker of Kafka 4.3 or 4.4 that is killed during
# transactions leaves some open for ever (KAFKA-20734), which no client can repair; the embedded 4.2.1 does not.
_FEEDS = {"packed": "replay", "run": "run"}
FAULTS = (*_OFTEN, *_SELDOM, *_FEEDS, "broker-crash", "broker-away", "node", "windows")
_DRAWN = (*_OFTEN, *_OFTEN, *_SELDOM, "packed")

# A bounded run starts its own workers, which can be killed but not frozen or damaged.
_RUN = ("run", "windows", "kill", "bad", "slow", "broker", "broker-long", "broker-crash", "broker-away", "node")

# The share of rounds in which transfers are counted in windows, too.
_WINDOWS = 0.3

# Bytes that the field `padding` adds beside its text.
_AROUND = 13

# The nth time at which a trap fires; the first commits of a worker are the large ones.
_NTH = (1, 1, 2, 3, 5, 8)


def random_scenario(seed: int, kinds: Iterable[str] = (), **chosen: int) -> Scenario:
    """A scenario with these kinds of faults; one to four kinds at random if none is named."""
    rng = random.Random(seed)
    drawn = tuple(kinds) or tuple(dict.fromkeys(rng.choices(_DRAWN, k=rng.randint(1, 4))))
    workers = chosen.pop("workers", rng.choice((1, 2, 2, 3)))
    if "node" in drawn:  # these faults are for the cluster of one broker
        drawn = tuple(kind for kind in drawn if not kind.startswith(("broker", "network")))
    feed = next((_FEEDS[kind] for kind in drawn if kind in _FEEDS), "driver")
    if feed == "run":
        drawn = tuple(kind for kind in drawn if kind in _RUN)
    faults = [fault for kind in drawn for fault in _draw(kind, rng, workers)]
    on_disk = {"damage", "disk"} & set(drawn) or rng.random() < 0.3
    return Scenario(
        seed,
        tuple(sorted(faults, key=lambda fault: fault.at_s)),
        workers=workers,
        transfers=chosen.pop("transfers", rng.choice((500, 4_000, 12_000))),
        bad=rng.randint(1, 4) if "bad" in drawn else 0,
        slow=rng.randint(1, 2) if "slow" in drawn else 0,
        large=rng.randint(1, 3) if "large" in drawn and feed == "driver" else 0,
        feed=feed,
        windows="windows" in drawn or random.Random(f"windows of {seed}").random() < _WINDOWS,
        store="rocksdb://" if on_disk else "memory://",
        kinds=drawn,
    )


def _draw(kind: str, rng: random.Random, workers: int) -> Iterator[Fault]:
    worker = rng.randrange(workers)
    # Late faults hit workers while they start and restore, or after the last record.
    at_s = rng.uniform(0.0, 3.5)
    restart_after_s = rng.choice((0.0, 0.0, 2.5))
    match kind:
        case "kill":
            for _ in range(rng.randint(1, 3)):
                yield Kill(rng.uniform(0.0, 4.0), rng.randrange(workers), rng.choice((0.0, 0.0, 2.5)))
        case "trap":
            for _ in range(rng.randint(1, 2)):
                yield Trap(0.0, rng.randrange(workers), rng.choice(POINTS), rng.choice(_NTH), "KILL", restart_after_s)
        case "freeze":
            yield Freeze(at_s, worker, rng.choice((0.3, 2.5, 4.5)))
        case "freeze-at":
            yield Trap(0.0, worker, rng.choice(POINTS), rng.choice(_NTH), "STOP", rng.choice((0.3, 2.5, 4.5)))
        case "broker":
            yield BrokerDown(at_s, 0.0)
        case "broker-long":
            yield BrokerDown(at_s, 5.0)
        case "broker-crash":
            yield BrokerDown(at_s, 0.0, crash=True)
        case "broker-away":
            yield BrokerDown(at_s, 70.0)
        case "node":
            yield NodeDown(at_s, rng.randrange(3), rng.choice((0.0, 5.0, 15.0)))
        case "network":
            yield NetworkFault(at_s, rng.choice((0.3, 3.0, 8.0)), rng.choice(("cut", "blackhole", "slow")))
        case "damage":
            yield Damage(rng.uniform(0.5, 4.0), worker, rng.choice(("flip", "cut", "lose")))
        case "disk":
            yield Trap(0.0, worker, DISK_FULL, rng.choice((32, 64, 128)))
        case "packed" | "run":
            for _ in range(rng.randint(1, 3)):
                yield KillReplay(rng.uniform(0.2, 4.0))
            if kind == "run":
                yield Kill(rng.uniform(0.0, 4.0), worker, 0.0)
        case "join":
            yield Join(at_s)
        case "leave":
            if workers > 1:
                yield Leave(at_s, worker)
        case _:
            return


def transfer_records(scenario: Scenario) -> list[tuple[str, bytes]]:
    """Return the key and value of each record to produce."""
    rng = random.Random(scenario.seed + 1)
    odd = rng.sample(range(scenario.transfers), scenario.bad + scenario.slow + scenario.large)
    bad, slow, large = (
        odd[: scenario.bad],
        odd[scenario.bad : scenario.bad + scenario.slow],
        odd[scenario.bad + scenario.slow :],
    )
    records: list[tuple[str, bytes]] = []
    for i in range(scenario.transfers):
        source, target = (f"a{rng.randrange(scenario.accounts)}" for _ in range(2))
        transfer = Transfer(i + 1, source, target, rng.randint(1, 100))
        if i in bad:
            kind = rng.randrange(3)
            if kind == 0 and scenario.feed == "driver":
                records.append((source, b'{"number": %d, "source' % transfer.number))
                continue
            transfer.trouble = ("deposit", "withdraw", "deposit")[kind]
            # The deposit of a failed half would be missing in the total.
            transfer.amount = 0
        elif i in slow:
            if rng.random() < 0.5:
                transfer.awaits_s = rng.choice((2.5, 5.5))
            else:
                transfer.blocks_s = rng.choice((2.5, 5.5))  # beyond the session timeout, or max.poll.interval.ms
        elif i in large:
            kind = rng.randrange(3)
            transfer.amount = transfer.amount if kind == 0 else 0
            transfer.trouble = ("", "grow", "withdraw")[kind]
            padding_bytes = MOST_BYTES - len(msgspec.json.encode(transfer)) - max(len(source), len(target)) - _AROUND
            transfer.padding = "x" * padding_bytes
        records.append((source, msgspec.json.encode(transfer)))
    return records
