"""What is to happen in a round: everything random about it, decided beforehand from one seed.

A seed fixes who is hit by what and when, to the millisecond. It does not fix what the scheduler makes of it, so a seed
that fails is run again a few times, not once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
from bank import MOST_BYTES, Transfer
from points import DISK_FULL, POINTS

__all__ = [
    "FAULTS",
    "BrokerDown",
    "Cable",
    "Damage",
    "Fault",
    "Join",
    "Kill",
    "KillReplay",
    "Leave",
    "NodeDown",
    "Plan",
    "Stop",
    "Trap",
    "mixed",
    "records",
]


@dataclass(frozen=True, slots=True)
class Kill:
    """kill -9 of worker `who`; its supervisor starts it again after a while."""

    at_s: float
    who: int
    again_s: float


@dataclass(frozen=True, slots=True)
class Trap:
    """Worker `who` is killed (`KILL`), or freezes (`STOP`), when it comes to a point of a commit for the nth time."""

    at_s: float
    who: int
    point: str
    nth: int
    signal: str = "KILL"
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Worker `who` freezes for a while and goes on as if nothing had happened."""

    at_s: float
    who: int
    for_s: float


@dataclass(frozen=True, slots=True)
class BrokerDown:
    """The broker goes, killed or in order, and comes back on what it has kept."""

    at_s: float
    for_s: float
    crash: bool = False


@dataclass(frozen=True, slots=True)
class NodeDown:
    """kill -9 of one of three brokers, which comes back after a while."""

    at_s: float
    which: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Cable:
    """The connections between all workers and the broker are cut, silent or slow (`how`) for a while."""

    at_s: float
    for_s: float
    how: str = "cut"


@dataclass(frozen=True, slots=True)
class Damage:
    """Worker `who` is killed, and before it comes back its stores on disk are damaged: bytes are turned over (`flip`),
    files are cut off (`cut`), or some are gone (`lose`)."""

    at_s: float
    who: int
    how: str


@dataclass(frozen=True, slots=True)
class Join:
    """One more worker."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Worker `who` gets SIGTERM and does not come back."""

    at_s: float
    who: int


@dataclass(frozen=True, slots=True)
class KillReplay:
    """kill -9 of what replays history, or runs over it; it is started again at once."""

    at_s: float


Fault = Kill | KillReplay | Trap | Stop | BrokerDown | NodeDown | Cable | Damage | Join | Leave


@dataclass(frozen=True, slots=True)
class Plan:
    """A round.

    Attributes:
        workers: started at the beginning.
        transfers: number of records; the first half is there before the workers are.
        for_s: how long the other half takes to arrive, from when the workers are ready; so do the faults' times.
        bad, slow: how many of them no agent can handle, and how many take longer than the session timeout.
        large: how many are as large as a record may be, or grow beyond it on their way.
        store: where the tables are.
        protocol: of the group, `classic` or `consumer`.
        feed: what brings the records: the `driver`, one by one; a `replay` of a file, as packed batches; or a bounded
            `run` over it, which has two workers of its own and no others.
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
    feed: str = "driver"
    kinds: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        faults = "".join(f"\n    {fault}" for fault in self.faults)
        odd = {"bad": self.bad, "slow": self.slow, "large": self.large}
        more = "".join(f", {count} {what}" for what, count in odd.items() if count)
        workers = f"{self.workers} workers, {self.protocol}, {self.store}, fed by {self.feed}"
        return f"seed {self.seed}: {workers}, {self.transfers} transfers{more}{faults}"

    @property
    def wired(self) -> bool:
        """Whether workers reach the broker through the cable."""
        return any(isinstance(fault, Cable) for fault in self.faults)

    @property
    def trio(self) -> bool:
        """Whether it needs three brokers."""
        return any(isinstance(fault, NodeDown) for fault in self.faults)


_OFTEN = ("kill", "trap", "freeze", "freeze-at", "join", "leave", "bad")
_SELDOM = ("broker", "broker-long", "slow", "cable", "damage", "disk", "large")

# A crash of the broker has to be asked for by name. A single Kafka 4.1 that is killed with transactions on their way
# sometimes notes them as complete when it is back without having written their markers everywhere (its log segments
# show it): then they are torn, or stay open for ever, and no client can mend that.
#
# Three brokers, and one that is away for longer than any request waits, take their time.
_FEEDS = {"packed": "replay", "run": "run"}
FAULTS = (*_OFTEN, *_SELDOM, *_FEEDS, "broker-crash", "broker-away", "node")
_DRAWN = (*_OFTEN, *_OFTEN, *_SELDOM, "packed")

# Workers of a run are its own: they are killed, and all else happens to the brokers and in the records.
_RUN = ("run", "kill", "bad", "slow", "broker", "broker-long", "broker-crash", "broker-away", "node")

# Quotes and name of the padding.
_AROUND = 13

# Which time a trap springs: the first commits of a worker are the big ones.
_NTH = (1, 1, 2, 3, 5, 8)


def mixed(seed: int, kinds: Iterable[str] = (), **chosen: int) -> Plan:
    """A round of some kinds of faults, of one to four at random where none is named."""
    rng = random.Random(seed)
    drawn = tuple(kinds) or tuple(dict.fromkeys(rng.choices(_DRAWN, k=rng.randint(1, 4))))
    workers = chosen.pop("workers", rng.choice((1, 2, 2, 3)))
    if "node" in drawn:  # one broker and three are two worlds
        drawn = tuple(kind for kind in drawn if not kind.startswith(("broker", "cable")))
    feed = next((_FEEDS[kind] for kind in drawn if kind in _FEEDS), "driver")
    if feed == "run":
        drawn = tuple(kind for kind in drawn if kind in _RUN)
    faults = [fault for kind in drawn for fault in _draw(kind, rng, workers)]
    on_disk = {"damage", "disk"} & set(drawn) or rng.random() < 0.3
    return Plan(
        seed,
        tuple(sorted(faults, key=lambda fault: fault.at_s)),
        workers=workers,
        transfers=chosen.pop("transfers", rng.choice((500, 4_000, 12_000))),
        bad=rng.randint(1, 4) if "bad" in drawn else 0,
        slow=rng.randint(1, 2) if "slow" in drawn else 0,
        large=rng.randint(1, 3) if "large" in drawn and feed == "driver" else 0,
        feed=feed,
        store="rocksdb://" if on_disk else "memory://",
        kinds=drawn,
    )


def _draw(kind: str, rng: random.Random, workers: int) -> Iterator[Fault]:
    who = rng.randrange(workers)
    # Of several the later ones hit workers as they start and restore, the last when all seems done.
    at_s = rng.uniform(0.0, 3.5)
    again_s = rng.choice((0.0, 0.0, 2.5))
    match kind:
        case "kill":
            for _ in range(rng.randint(1, 3)):
                yield Kill(rng.uniform(0.0, 4.0), rng.randrange(workers), rng.choice((0.0, 0.0, 2.5)))
        case "trap":
            for _ in range(rng.randint(1, 2)):
                yield Trap(0.0, rng.randrange(workers), rng.choice(POINTS), rng.choice(_NTH), "KILL", again_s)
        case "freeze":
            yield Stop(at_s, who, rng.choice((0.3, 2.5, 4.5)))
        case "freeze-at":
            yield Trap(0.0, who, rng.choice(POINTS), rng.choice(_NTH), "STOP", rng.choice((0.3, 2.5, 4.5)))
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
        case "cable":
            yield Cable(at_s, rng.choice((0.3, 3.0, 8.0)), rng.choice(("cut", "hush", "slow")))
        case "damage":
            yield Damage(rng.uniform(0.5, 4.0), who, rng.choice(("flip", "cut", "lose")))
        case "disk":
            yield Trap(0.0, who, DISK_FULL, rng.choice((32, 64, 128)))
        case "packed" | "run":
            for _ in range(rng.randint(1, 3)):
                yield KillReplay(rng.uniform(0.2, 4.0))
            if kind == "run":
                yield Kill(rng.uniform(0.0, 4.0), who, 0.0)
        case "join":
            yield Join(at_s)
        case "leave":
            if workers > 1:
                yield Leave(at_s, who)
        case _:
            return


def records(plan: Plan) -> list[tuple[str, bytes]]:
    """Key and value of each record to send."""
    rng = random.Random(plan.seed + 1)
    odd = rng.sample(range(plan.transfers), plan.bad + plan.slow + plan.large)
    bad, slow, large = odd[: plan.bad], odd[plan.bad : plan.bad + plan.slow], odd[plan.bad + plan.slow :]
    made: list[tuple[str, bytes]] = []
    for i in range(plan.transfers):
        source, target = (f"a{rng.randrange(plan.accounts)}" for _ in range(2))
        transfer = Transfer(i + 1, source, target, rng.randint(1, 100))
        if i in bad:
            kind = rng.randrange(3)
            if kind == 0 and plan.feed == "driver":
                made.append((source, b'{"number": %d, "source' % transfer.number))
                continue
            transfer.trouble = ("deposit", "withdraw", "deposit")[kind]
            # Money that is set aside between its two halves would be missing in the total.
            transfer.amount = 0
        elif i in slow:
            if rng.random() < 0.5:
                transfer.awaits_s = rng.choice((2.5, 5.5))
            else:
                transfer.blocks_s = rng.choice((2.5, 5.5))  # longer than a session; longer than a member may be silent
        elif i in large:
            kind = rng.randrange(3)
            transfer.amount = transfer.amount if kind == 0 else 0
            transfer.trouble = ("", "grow", "withdraw")[kind]
            room = MOST_BYTES - len(msgspec.json.encode(transfer)) - max(len(source), len(target)) - _AROUND
            transfer.padding = "x" * room
        made.append((source, msgspec.json.encode(transfer)))
    return made
