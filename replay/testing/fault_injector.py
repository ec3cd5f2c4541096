"""Lets the faults of a plan happen in a world: at the seams of the Kafka clients and of the stores.

What a fault looks like to a client follows librdkafka. A call that is repeated after its answer was lost gets the
outcome of the first one, as librdkafka resumes a transactional call that timed out. While no broker answers, calls that
need one wait for it and time out, `consume` returns nothing, and records stay in the producer's queue.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from ...topics import clock
from ...topics.memory.memory_producer import MemoryProducer
from ...topics.producer import TRANSACTION_TIMEOUT_MS
from .environment import Dead
from .faults import STORE, Fault, Plan
from .world_log import WorldLog

__all__ = ["FaultInjector", "Workers"]

T = TypeVar("T")

# A call waits this long for a broker that is away, at most.
_PATIENCE_S = 5.0
_LONGER_S = 0.5

# A worker that cannot commit has to stop with an error instead of trying for ever. The engine repeats an epoch 5 times,
# and stops after 5 epochs.
_MOST_REFUSED = 50

# Calls that reach no broker.
_LOCAL = frozenset(
    {
        *("assign", "unassign", "incremental_assign", "incremental_unassign", "assignment", "pause", "resume", "seek"),
        *("position", "consumer_group_metadata", "memberid", "get_watermark_offsets", "subscribe", "unsubscribe"),
        *("poll", "purge", "begin_transaction", STORE),
    }
)
# Calls that are resumed when they are repeated.
_RESUMED = ("init_transactions", "send_offsets_to_transaction", "commit_transaction", "abort_transaction")
_OF_TRANSACTIONS = frozenset({*_RESUMED, "begin_transaction", "produce"})
_STATE = KafkaError._STATE  # pyright: ignore[reportPrivateUsage]
_COMMITS = frozenset({"commit", "commit_transaction"})
_UNLOGGED = frozenset({*_LOCAL, "produce"}) - {"assign", "incremental_assign", "incremental_unassign", STORE}


class Client(Protocol):
    """The caller of an operation, as an injector sees it."""

    owner: object


class Workers(Protocol):
    """The workers of a world, as faults need them."""

    def number(self, owner: object) -> int | None:
        """Return the number of the worker with this owner of clients; None for clients of no worker."""
        ...

    def is_dead(self, owner: object) -> bool:
        """Return whether this process of a worker was killed."""
        ...

    def committed(self, number: int) -> None:
        """Look at the group's offsets after a commit of a worker."""
        ...

    def happen(self, fault: Fault) -> None:
        """Let a fault happen that concerns the worker as a whole, or the broker."""
        ...


class FaultInjector:
    """Plays a plan; it is the interceptor of Kafka in memory and of stores.

    Attributes:
        census: (worker, operation) -> number of its calls so far.
        happened: the faults that have happened.
        wrong: what workers have done that they must not do, as the keys.
    """

    def __init__(self, plan: Plan, workers: Workers, log: WorldLog, seed: int, latency_s: float = 0.0) -> None:
        self._workers, self._log = workers, log
        self._rng, self._latency_s = random.Random(seed), latency_s  # noqa: S311 (a test's)
        self._due: dict[tuple[int, str, int, bool], list[Fault]] = {}
        for fault in plan.faults:
            at = fault.moment
            if at.operation:
                self._due.setdefault((fault.worker, at.operation, at.nth, at.after), []).append(fault)
        self._outcomes: dict[tuple[Client, str], object] = {}
        self._away_until_s = 0.0
        self._refused_until_s: dict[int, float] = {}
        self._refused: Counter[object] = Counter()  # owner -> commits in a row
        self.wrong: dict[str, None] = {}
        self.census: Counter[tuple[int, str]] = Counter()
        self.happened: list[Fault] = []

    @property
    def pending(self) -> int:
        """Number of faults whose operation has not been called so often yet."""
        return sum(map(len, self._due.values()))

    def away(self, seconds: float) -> None:
        """Let no broker answer for so many seconds."""
        self._away_until_s = max(self._away_until_s, clock.now_s() + seconds)

    def call(self, client: Client, operation: str, act: Callable[[], T]) -> T:
        """Carry out an operation of a client, with the faults that are due."""
        owner = client.owner
        number = self._workers.number(owner)
        if number is None:
            return act()
        if self._workers.is_dead(owner):
            raise Dead
        if self._latency_s and operation not in _LOCAL:
            clock.sleep(self._rng.random() * self._latency_s)
        if operation == "consume":
            return self._consume(client, number, act)
        self.census[number, operation] += 1
        nth = self.census[number, operation]
        faults = self._due.pop((number, operation, nth, False), ())
        for fault in faults:
            self._happen(fault, client, operation)
        if operation == "commit_transaction" and self._refused_until_s:
            self._refuse(number, owner)
        if operation not in _LOCAL:
            self._wait_for_broker(operation)
        if self._outcomes and operation in _OF_TRANSACTIONS:
            resumed = self._resumed(client, operation)
            if resumed:
                return resumed[0]
        result = self._acted(number, operation, act, owner)
        for fault in self._due.pop((number, operation, nth, True), ()):
            if fault.kind == "lost-answer":
                self._lose_answer(fault, client, operation, result)
            self._happen(fault, client, operation)
        return result

    def _resumed(self, client: Client, operation: str) -> tuple[Any, ...]:
        """Return the outcome of the call that a client resumes; empty if it resumes none.

        Raises:
            KafkaException: the client has to resume another call first.
        """
        waiting = next((other for other in _RESUMED if (client, other) in self._outcomes), None)
        if waiting is None:
            return ()
        if waiting != operation:
            raise KafkaException(KafkaError(_STATE, f"injected: {waiting} has not returned yet", False, False, False))
        return (self._outcomes.pop((client, operation)),)

    def _refuse(self, number: int, owner: object) -> None:
        """Refuse the commit of a worker, while all its commits are refused."""
        if clock.now_s() >= self._refused_until_s.get(number, 0.0):
            self._refused[owner] = 0
            return
        self._refused[owner] += 1
        if self._refused[owner] > _MOST_REFUSED:
            text = f"worker {number} still runs after {_MOST_REFUSED} commits in a row that the broker has refused"
            self.wrong[text] = None
        raise KafkaException(_REFUSED)

    def _acted(self, number: int, operation: str, act: Callable[[], T], owner: object) -> T:
        try:
            result = act()
        except Dead:
            raise
        except BaseException as exc:
            self._log.note(number, operation, _described(exc))
            raise
        if self._workers.is_dead(owner):
            raise Dead  # inside of a callback
        if operation in _COMMITS:
            self._workers.committed(number)
        if operation and operation not in _UNLOGGED:
            self._log.note(number, operation, "")
        return result

    def _consume(self, client: Client, number: int, act: Callable[[], T]) -> T:
        """Only polls that return something count: idle workers poll all the time."""
        if clock.now_s() < self._away_until_s:
            return []  # type: ignore[return-value]
        result = self._acted(number, "", act, client.owner)
        if result:
            self._log.note(number, "consume", str(len(result)))  # type: ignore[arg-type]
            self.census[number, "consume"] += 1
            for after in (False, True):
                for fault in self._due.pop((number, "consume", self.census[number, "consume"], after), ()):
                    self._happen(fault, client, "consume")
        return result

    def _wait_for_broker(self, operation: str) -> None:
        left_s = self._away_until_s - clock.now_s()
        if left_s <= 0:
            return
        if operation in ("produce", "flush"):  # records wait in the client's queue
            clock.sleep(left_s)
            return
        clock.sleep(min(left_s, _PATIENCE_S))
        if left_s > _PATIENCE_S:
            raise _timed_out()

    def _lose_answer(self, fault: Fault, client: Client, operation: str, result: object) -> None:
        self._note(fault)
        if operation in _RESUMED:
            self._outcomes[client, operation] = result
        clock.sleep(fault.seconds)
        raise _timed_out()

    def _happen(self, fault: Fault, client: Client, operation: str) -> None:
        self._note(fault)
        match fault.kind:
            case "lost-request":
                clock.sleep(fault.seconds)
                raise _timed_out()
            case "abort" if fault.variant == "timeout":
                clock.sleep(TRANSACTION_TIMEOUT_MS / 1000 + _LONGER_S)
            case "abort":
                raise KafkaException(_REFUSED)
            case "abort-all":
                self._refused_until_s[fault.worker] = clock.now_s() + fault.seconds
            case "lost-record":
                assert isinstance(client, MemoryProducer)
                client.lose_record()
            case "slow-disk":
                clock.sleep(fault.seconds)
            case "broker-away":
                self.away(fault.seconds)
            case _:
                self._workers.happen(fault)
                if self._workers.is_dead(client.owner):
                    raise Dead

    def happen_now(self, fault: Fault) -> None:
        """Let a fault happen that has a time; not inside of a call."""
        self._note(fault)
        if fault.kind == "broker-away":
            self.away(fault.seconds)
        else:
            self._workers.happen(fault)

    def _note(self, fault: Fault) -> None:
        self.happened.append(fault)
        self._log.note(fault.worker, "fault", str(fault))


_REFUSED = KafkaError(KafkaError.INVALID_TXN_STATE, "injected: current transaction must be aborted", False, False, True)


def _timed_out() -> KafkaException:
    code = KafkaError._TIMED_OUT  # pyright: ignore[reportPrivateUsage]
    return KafkaException(KafkaError(code, "injected: timed out", False, True, False))


def _described(error: BaseException) -> str:
    return f"raised {type(error).__name__}: {error}"
