"""One world of a simulation: workers under a supervisor, records that arrive, faults that happen, and the end."""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.tables.store_directory import MEMORY, StorePlace, wrapped
from ...topics import clock, identifiers, threads
from ...topics.memory.memory_kafka import MemoryKafka
from .audit import Outcome
from .fault_injector import FaultInjector
from .faults import Fault, Plan
from .simulated_worker import SimulatedWorker, WorkerProcess
from .store_faults import WatchedStore, full_disk
from .virtual_clock import VirtualClock
from .virtual_loop import VirtualLoop
from .world_log import WorldLog
from .world_outcome import lags, outcome_of, store_faults

__all__ = ["AppSource", "Input", "SimulatedWorld", "WorldSettings"]

AppSource = Callable[[], App]

PARTITIONS = 4

FEED_S = 1.5
_CHUNKS = 8
_LOOK_S = 0.1
_REST_S = 240.0
_LATENCY_S = 0.002
_COAST_S = 0.2
# Beyond a session timeout of 10 s.
_LATER_S, _RESTART_S, _MOVED_S = 12.0, 0.2, 1.0


@dataclass(frozen=True, slots=True)
class Input:
    """A record of an input topic.

    Attributes:
        value: bytes, or what is encoded as JSON.
        key: bytes, text or None; anything else is encoded as JSON.
        timestamp_ms: 0 for the time at which it arrives.
    """

    value: object
    key: object = None
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What all worlds of a simulation have in common; see `Simulation`."""

    make_app: AppSource
    inputs: Mapping[str, list[Input]]
    workers: int
    partitions: Mapping[str, int]
    ignore: frozenset[str]


class SimulatedWorld:
    """A world; it runs once.

    Attributes:
        log: what has happened.
        happened: the faults that have happened.
        seconds: how long it took to come to rest, in virtual seconds.
        exactly_once: whether its app works exactly once; known after `run`.
    """

    def __init__(self, settings: WorldSettings, seed: int, plan: Plan) -> None:
        self._settings, self._seed, self._plan = settings, seed, plan
        self._rng = random.Random(seed)  # noqa: S311 (a test's)
        self.log = WorldLog()
        self.seconds = 0.0
        self.exactly_once = True
        self._workers: list[SimulatedWorker] = []
        self._committed: dict[tuple[str, int], int] = {}
        self._wrong: dict[str, None] = {}
        self._timed = 0
        self._full_disks: set[int] = set()

    @staticmethod
    def is_on_disk(settings: WorldSettings) -> bool:
        """Whether the app has a table on disk."""
        return any(table.store_scheme != MEMORY for table in runtime_of(settings.make_app()).tables)

    @property
    def census(self) -> Mapping[tuple[int, str], int]:
        """(worker, operation) -> number of its calls."""
        return self._injector.census

    @property
    def happened(self) -> list[Fault]:
        """The faults that have happened."""
        return self._injector.happened

    def run(self) -> Outcome:
        """Run the world until it is at rest, and return its outcome."""
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="anabranch-world-"))
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            virtual = VirtualClock()
            self._loop = loop = VirtualLoop(virtual, choose=self._rng.randrange)
            stack.enter_context(clock.use(virtual))
            stack.enter_context(threads.inline(idle=loop.idle))
            stack.enter_context(identifiers.seeded(self._seed))
            stack.enter_context(wrapped(self._watched))
            stack.enter_context(_quiet())
            self._kafka = kafka = MemoryKafka()
            self._injector = FaultInjector(self._plan, self, self.log, self._seed, _LATENCY_S)
            kafka.interceptor = self._injector  # type: ignore[assignment]
            loop.coast, loop.coast_s = self._is_quiet, _COAST_S
            self._version = -1
            stack.callback(loop.close)
            try:
                return self._play()
            finally:
                for worker in self._workers:
                    worker.wanted = False
                    if worker.process is not None:
                        worker.process.kill()
                        worker.process.free()

    def _is_quiet(self) -> bool:
        version, self._version = self._version, self._kafka.version
        return version == self._kafka.version

    # The play -------------------------------------------------------------------------------------------------------

    def _play(self) -> Outcome:
        settings, loop = self._settings, self._loop
        for topic in settings.inputs:
            self._kafka.create_topic(topic, settings.partitions.get(topic, PARTITIONS))
        for topic, count in settings.partitions.items():
            if topic not in self._kafka.topics:
                self._kafka.create_topic(topic, count)
        app = settings.make_app()
        self._group = runtime_of(app).group_id
        self.exactly_once = runtime_of(app).settings.exactly_once
        for _ in range(settings.workers):
            self._add_worker()
        self._feed()
        for fault in self._plan.faults:
            if not fault.moment.operation:
                self._timed += 1
                loop.call_at(fault.moment.at_s, self._happen_now, fault)
        deadline_s = max(FEED_S, *(fault.moment.at_s for fault in self._plan.faults), 0.0) + _REST_S
        rests = 0  # a commit may be on its way from Kafka to the stores, so two looks have to agree
        while rests < 2 and loop.time() < deadline_s:
            loop.run_until(_never, loop.time() + _LOOK_S)
            rests = rests + 1 if self._is_at_rest() else 0
        rested = rests == 2
        self.seconds = loop.time()
        self.log.note(None, "at rest" if rested else "not at rest")
        outcome = outcome_of(self._kafka, app, settings.inputs, settings.ignore)
        outcome.wrong = list(self._wrong)
        if not rested:
            outcome.wrong.append(self._unrest())
        else:
            outcome.wrong += store_faults(self._kafka, self._processes())
        self.exactly_once = runtime_of(app).settings.exactly_once
        return outcome

    def _add_worker(self) -> None:
        worker = SimulatedWorker(
            len(self._workers), self._settings.make_app, self._loop, self._kafka, self._folder, self.log
        )
        self._workers.append(worker)
        worker.start_after(self._rng.random() * 0.05)

    def _feed(self) -> None:
        """Let the records arrive: some before the workers have started, the others in chunks."""
        producer = self._kafka.cluster().producer()

        def send(topic: str, records: list[Input]) -> None:
            for record in records:
                producer.produce(topic, _value(record.value), _key(record.key), timestamp=record.timestamp_ms)
            producer.flush()

        for topic, records in self._settings.inputs.items():
            cuts = sorted(self._rng.randrange(len(records) + 1) for _ in range(_CHUNKS - 1))
            for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
                at_s = 0.0 if start == 0 else self._rng.random()
                if start < end:
                    self._loop.call_at(
                        FEED_S * end / len(records) * (1 if start else at_s), send, topic, records[start:end]
                    )

    def _processes(self) -> list[WorkerProcess]:
        return [worker.process for worker in self._workers if worker.process is not None and worker.process.runs]

    def _is_at_rest(self) -> bool:
        loop = self._loop
        if self._timed or loop.time() < FEED_S + _LOOK_S:
            return False
        for worker in self._workers:
            if worker.wanted and not (worker.is_up and loop.time() >= worker.starts_at_s):
                return False
        if lags(self._kafka, self._group):
            return False
        if self._kafka.group_state(self._group) != "STABLE":
            return False
        return all(
            (status := runtime_of(process.app).engine.rebalance).ready.is_set() and not status.rebalancing
            for process in self._processes()
        )

    def _unrest(self) -> str:
        states = ", ".join(
            f"worker {worker.number} {'runs' if worker.is_up else 'is down'} after {worker.starts} starts"
            + (f" (ended: {worker.ends[-1].partition(chr(10))[0]})" if worker.ends else "")
            for worker in self._workers
        )
        left = ", ".join(
            f"{topic}[{number}]: {count}" for (topic, number), count in lags(self._kafka, self._group).items()
        )
        return f"not at rest {_REST_S:.0f} s after the last fault: {states}; records left: {left or 'none'}"

    # Workers of the injector ----------------------------------------------------------------------------------------

    def number(self, owner: object) -> int | None:
        """Return the number of the worker with this owner of clients; None for clients of no worker."""
        return owner.number if isinstance(owner, WorkerProcess) else None

    def is_dead(self, owner: object) -> bool:
        """Return whether this process of a worker was killed."""
        return isinstance(owner, WorkerProcess) and owner.killed

    def _happen_now(self, fault: Fault) -> None:
        self._timed -= 1
        self._injector.happen_now(fault)

    def happen(self, fault: Fault) -> None:
        """Let a fault happen that concerns a worker as a whole, or the broker."""
        match fault.kind, fault.variant:
            case "compact", _:
                self._kafka.compact()
            case "cut", _:
                self._cut()
            case "full-disk", _:
                self._full_disks.add(fault.worker)
            case "rebalance", "join":
                if len(self._workers) < self._settings.workers + 2:
                    self._add_worker()
            case _:
                worker = self._workers[fault.worker] if fault.worker < len(self._workers) else None
                if worker is not None and worker.process is not None:
                    self._happen_to(worker, worker.process, fault)

    def _happen_to(self, worker: SimulatedWorker, process: WorkerProcess, fault: Fault) -> None:
        match fault.kind, fault.variant:
            case "kill", how:
                again_s = {"restart": _RESTART_S, "later": _LATER_S, "moved": _MOVED_S}[how]
                worker.kill(again_s, moved=how == "moved")
            case "damage", how:
                worker.kill(_RESTART_S, damage=how, seed=self._seed)
            case "rebalance", "leave":
                process.ask_to_stop()
            case "rebalance", "expire":
                process.stand_still(self._loop.time() + _LATER_S)
            case "fence", what:
                self._fence(process, what)
            case _:
                raise AssertionError(fault)

    def _cut(self) -> None:
        for name, topic in self._kafka.topics.items():
            if name.endswith("-changelog"):
                for log in topic.logs:
                    log.delete_before(log.start + (log.last_stable - log.start) // 2)

    def _fence(self, process: WorkerProcess, what: str) -> None:
        name, cluster = process.identity, self._kafka.cluster()
        if not name:
            return
        if what == "producer":
            cluster.producer(transactional_id=name).init_transactions()
            return
        topics = next((list(m.topics) for m in self._kafka.members(self._group) if m.instance == name), [])
        if topics:
            copy = cluster.consumer(group_id=self._group, group_instance_id=name, session_timeout_ms=10_000)
            copy.subscribe(topics)
            copy.consume(1, 0)
            copy.fall_silent()  # type: ignore[attr-defined]

    # Stores and offsets ---------------------------------------------------------------------------------------------

    def _watched(self, store: object, place: StorePlace) -> WatchedStore:
        return WatchedStore(store, place, _StoreGate(self, place, place.cluster.owner))  # type: ignore[arg-type, attr-defined]

    def write_store(self, gate: _StoreGate, operation: str, act: Callable[[], None]) -> None:
        """Write to a store of a worker, with the faults that are due."""
        owner = gate.owner

        def write() -> None:
            if isinstance(owner, WorkerProcess) and owner.number in self._full_disks:
                self._full_disks.discard(owner.number)
                raise full_disk(gate.place)
            act()

        self._injector.call(gate, operation, write)

    def _note_wrong(self, what: str) -> None:
        self._wrong[what] = None


class _StoreGate:
    """The interceptor of one store."""

    def __init__(self, world: SimulatedWorld, place: StorePlace, owner: object) -> None:
        self.world, self.place, self.owner = world, place, owner

    def call(self, client: StorePlace, operation: str, act: Callable[[], None]) -> None:
        """Perform a write, or let it fail."""
        self.world.write_store(self, operation, act)


def _quiet() -> ExitStack:
    """Log nothing inside of the block: worlds make thousands of lines about what is meant to go wrong."""
    stack, root = ExitStack(), logging.root.manager.disable
    stack.callback(logging.disable, root)
    logging.disable(logging.CRITICAL)
    return stack


def _never() -> bool:
    return False


def _value(value: object) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)


def _key(key: object) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    return key.encode() if isinstance(key, str) else msgspec.json.encode(key)
