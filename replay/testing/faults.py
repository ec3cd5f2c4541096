"""Faults of a simulated world, and the plan of faults that a seed draws.

A fault happens to one worker at one moment: before or after the n-th call of an operation, or at a time. Operations are
the calls of the Kafka clients, by their names in confluent_kafka, and the writes of the stores (`STORE`). Calls are
counted per worker, over all of its restarts.

A plan has a text form, which a failing test prints and which `Plan.parse` reads:

    kill:restart w0 after commit_transaction 3; broker-away:5s w1 before produce 12; rebalance:leave w1 at 0.8s
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...topics.errors import Usage

__all__ = ["FAULT_KINDS", "STORE", "Census", "Fault", "Moment", "Plan", "draw", "fault_kinds"]

STORE = "store"
"""The operation that stands for a write to a table's store."""

Census = Mapping[tuple[int, str], int]
"""(worker, operation) -> number of its calls in a world without faults."""

_TRANSACTION = ("produce", "send_offsets_to_transaction", "commit_transaction")

# Where workers are killed: around each step of a commit, of a start and of a restore, and around a store's write.
_COMMIT_POINTS = (
    "begin_transaction",
    "produce",
    "flush",
    "send_offsets_to_transaction",
    "commit_transaction",
    "commit",
    "abort_transaction",
    STORE,
    "init_transactions",
    "committed",
    "consume",
)
_ANSWERED = ("send_offsets_to_transaction", "commit_transaction", "commit", "init_transactions", "committed")


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of fault.

    Attributes:
        what: what happens, for the documentation.
        variants: how it happens; one is drawn.
        operations: the operations that it can hit.
        when: `before` and `after` an operation; the sides that make sense.
        timed: whether it can also happen at a time.
        on_disk: whether it needs tables on disk.
        drawn: whether it is drawn where no kinds are named.
    """

    what: str
    variants: tuple[str, ...]
    operations: tuple[str, ...]
    when: tuple[str, ...] = ("before", "after")
    timed: bool = False
    on_disk: bool = False
    drawn: bool = True


FAULT_KINDS: Mapping[str, _Kind] = {
    "kill": _Kind(
        "a worker ends like with kill -9; it is started again at once, after its session has ended, or with an empty "
        "data folder and therefore another identity",
        ("restart", "restart", "later", "moved"),
        _COMMIT_POINTS,
        timed=True,
    ),
    "abort": _Kind(
        "the broker refuses a step of a transaction, which has to be aborted; or it has aborted the transaction "
        "already, because it took too long",
        ("error", "timeout"),
        _TRANSACTION,
        ("before",),
    ),
    "lost-request": _Kind("a request is lost, and the call times out", ("1s", "10s"), _ANSWERED, ("before",)),
    "lost-answer": _Kind(
        "the broker acts, its answer is lost, and the call times out", ("1s", "10s"), _ANSWERED, ("after",)
    ),
    "fence": _Kind(
        "another process begins to use the worker's identity, and ends: a producer with its transactional id, or a "
        "consumer with its group.instance.id",
        ("producer", "consumer"),
        ("begin_transaction", *_TRANSACTION, "consume"),
        timed=True,
    ),
    "rebalance": _Kind(
        "a worker joins, a worker leaves and comes back, or a worker stands still until its session has ended",
        ("join", "leave", "expire"),
        ("consume", "produce", "send_offsets_to_transaction", "commit_transaction", STORE),
        timed=True,
    ),
    "broker-away": _Kind(
        "no broker answers for some seconds",
        ("0.5s", "3s", "15s"),
        (*_ANSWERED, "produce", "flush", "consume"),
        timed=True,
    ),
    "compact": _Kind("the broker compacts all compacted topics", ("",), ("consume", "commit_transaction"), timed=True),
    "slow-disk": _Kind("a store's write takes seconds", ("2s", "20s"), (STORE,), ("before",)),
    "full-disk": _Kind("a store's write fails: the disk is full", ("",), (STORE,), ("before",), on_disk=True),
    "damage": _Kind(
        "a worker is killed, and bytes of its stores on disk are changed, cut off or lost before it starts again",
        ("flip", "cut", "lose"),
        (STORE, "commit_transaction", "consume"),
        on_disk=True,
    ),
    "cut": _Kind(
        "the first half of each changelog is deleted: a worker whose store is not beyond it has to stop with an error",
        ("",),
        ("consume", "commit_transaction"),
        drawn=False,
    ),
    "lost-record": _Kind(
        "a record is lost although the client reports it as delivered, without an offset: the next one that is the "
        "first of its producer in its partition",
        ("",),
        ("produce",),
        ("before",),
        drawn=False,
    ),
    "abort-all": _Kind(
        "the broker refuses all commits of a worker for some time: the worker has to stop with an error, and starts "
        "again",
        ("5s", "30s"),
        ("commit_transaction",),
        ("before",),
        drawn=False,
    ),
}
"""The kinds of faults by name, as `faults=` names them."""


def fault_kinds(asked: str | Iterable[str], *, on_disk: bool = False) -> tuple[str, ...]:
    """Return the kinds that `faults=` asks for: names, or a text with commas between them; `all` are those that fit.

    Args:
        on_disk: whether the app has tables on disk.

    Raises:
        Usage: there is no such kind, or it needs tables on disk.
    """
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    found: dict[str, None] = {}
    for name in filter(None, names):
        if name == "all":
            found |= dict.fromkeys(k for k, kind in FAULT_KINDS.items() if kind.drawn and (on_disk or not kind.on_disk))
        elif name not in FAULT_KINDS:
            raise Usage(f"no kind of fault {name!r}", hint=f"all, or one of {', '.join(FAULT_KINDS)}")
        elif FAULT_KINDS[name].on_disk and not on_disk:
            raise Usage(f"the fault {name} needs a table on disk", hint='App(…, store="rocksdb://")')
        else:
            found[name] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a fault happens.

    Attributes:
        operation: name of the operation; empty for a time.
        nth: the number of the call, from 1.
        after: whether it happens after the call instead of before it.
        at_s: the time, in seconds since the world began.
    """

    operation: str = ""
    nth: int = 0
    after: bool = False
    at_s: float = 0.0

    def __str__(self) -> str:
        if not self.operation:
            return f"at {self.at_s:g}s"
        return f"{'after' if self.after else 'before'} {self.operation} {self.nth}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: a key of `FAULT_KINDS`.
        variant: one of the kind's variants.
        worker: number of the worker, from 0.
    """

    kind: str
    variant: str
    worker: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.kind}{':' if self.variant else ''}{self.variant} w{self.worker} {self.moment}"

    @property
    def seconds(self) -> float:
        """How long the fault lasts, of a kind whose variants are durations."""
        return float(self.variant.removesuffix("s"))


_FAULT = re.compile(
    r"(?P<kind>[a-z-]+)(?::(?P<variant>[a-z0-9.]+))? w(?P<worker>\d+) "
    r"(?:at (?P<at>\d+(?:\.\d+)?)s|(?P<side>before|after) (?P<operation>[a-z_]+) (?P<nth>\d+))"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one world."""

    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults)) or "no faults"

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read the text form of a plan.

        >>> str(Plan.parse("kill:restart w0 after commit_transaction 3; rebalance:leave w1 at 0.8s"))
        'kill:restart w0 after commit_transaction 3; rebalance:leave w1 at 0.8s'

        Raises:
            Usage: the text is not a plan.
        """
        parts = [part.strip() for part in text.split(";")]
        return cls(tuple(_parsed(part) for part in parts if part and part != "no faults"))


def _parsed(text: str) -> Fault:
    found = _FAULT.fullmatch(text)
    kind = FAULT_KINDS.get(found["kind"]) if found else None
    if found is None or kind is None or (found["variant"] or "") not in kind.variants:
        raise Usage(f"not a fault: {text!r}", hint="kill:restart w0 after commit_transaction 3")
    if found["at"] is not None:
        moment = Moment(at_s=float(found["at"]))
    else:
        moment = Moment(found["operation"], int(found["nth"]), found["side"] == "after")
    return Fault(found["kind"], found["variant"] or "", int(found["worker"]), moment)


_MOST_FAULTS = 4
_TIMED_SHARE = 0.25


def draw(seed: int, kinds: Sequence[str], *, census: Census, workers: int, seconds: float) -> Plan:
    """Draw the faults of a world.

    Args:
        kinds: the kinds to choose from.
        census: calls of a world without faults, so that most faults meet a call.
        workers: number of workers.
        seconds: how long a world without faults takes, in virtual seconds.
    """
    rng = random.Random(seed)  # noqa: S311 (a test's)
    faults: list[Fault] = []
    for _ in range(rng.randint(1, _MOST_FAULTS) if kinds else 0):
        name, worker = rng.choice(kinds), rng.randrange(workers)
        kind = FAULT_KINDS[name]
        variant = rng.choice(kind.variants)
        called = [operation for operation in kind.operations if census.get((worker, operation))]
        if not called or (kind.timed and rng.random() < _TIMED_SHARE):
            moment = Moment(at_s=round(rng.uniform(0.0, seconds), 3))
            if not kind.timed:
                continue
        else:
            operation = rng.choice(called)
            moment = Moment(operation, _nth(rng, census[worker, operation]), rng.choice(kind.when) == "after")
        faults.append(Fault(name, variant, worker, moment))
    return Plan(tuple(faults))


def _nth(rng: random.Random, calls: int) -> int:
    """Draw which call is hit. The first ones differ from all others, so they are drawn more often."""
    return rng.randint(1, min(calls, 3)) if rng.random() < 0.25 else rng.randint(1, calls)
