"""One world of a simulation: workers under a supervisor, records that arrive, faults that happen, and the end."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...agents.flows.combiner import small_batches_by_column
from ...agents.runtime import runtime_of
from ...agents.tables.store import Store
from ...agents.tables.store_directory import StorePlace, wrapped
from ..run_state import RUNS_TOPIC
from .app_source import AppSource
from .audit import Outcome
from .environment import Environment, without_logs
from .fault_injector import FaultInjector
from .faults import Fault, Plan
from .own_clients import own_clients_noticed
from .simulated_worker import SimulatedWorker
from .stillness import tables_that_close
from .store_faults import WatchedStore, full_disk
from .temporary_folder import temporary_folder
from .virtual_clock import START
from .virtual_loop import Owner
from .worker_life import WorkerLife
from .world_feed import FEED_S, Input, WorldFeed
from .world_log import WorldLog
from .world_outcome import lags, outcome_of, store_faults

if TYPE_CHECKING:
    from ...agents.app import App

__all__ = ["Input", "SimulatedWorld", "WorldSettings"]

# A call of a client takes up to this long.
_LATENCY_S = 0.002
# How long calls in threads wait until their thread runs. The next epoch fills while a commit is such a call.
_THREAD_DELAYS_S = (0.0, 0.0, 0.0, 0.005, 0.05)
# A world counts as at rest after two looks that agree, for a commit may be on its way from Kafka to the stores.
_LOOK_S = 0.1
_LOOKS = 2
_REST_S = 240.0
# How late workers see a record after nothing has happened for a while.
_COAST_S = 0.2
_PARTITIONS = 4
_MORE_WORKERS = 2
# When a killed worker is started again: at once, after its session of 10 s has ended, or with another identity.
_RESTART_S, _LATER_S, _MOVED_S = 0.2, 12.0, 1.0


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """The settings that all worlds of a simulation share; see `Simulation`.

    Attributes:
        app: an app that never runs, for the types of topics and tables.
        bounded: the inputs are the history of a bounded run.
        packed: topics whose inputs arrive as packed batches.
        aligned: the inputs are processed in the order of their times.
    """

    source: AppSource
    app: App
    inputs: Mapping[str, list[Input]]
    workers: int
    partitions: Mapping[str, int]
    ignore: frozenset[str]
    bounded: bool = False
    packed: frozenset[str] = frozenset()
    aligned: bool = False


class SimulatedWorld:
    """A world; it runs once.

    Args:
        later: how much later than in other worlds its time of day is.

    Attributes:
        log: what has happened.
        unread: topics with inputs that no worker reads at the end.
        seconds: how long it took to come to rest, in virtual seconds.
    """

    def __init__(self, settings: WorldSettings, seed: int, plan: Plan, *, later: timedelta = timedelta()) -> None:
        self._settings, self._seed, self._plan = settings, seed, plan
        self._rng = random.Random(seed)  # noqa: S311 (a test's)
        self.log = WorldLog()
        self.seconds = 0.0
        self.unread: list[str] = []
        self._runtime = runtime_of(settings.app)
        self._group = self._runtime.group_id
        self._changelogs = {table.name: table.changelog_name for table in self._runtime.tables}
        delays = random.Random(f"delays of {seed}")  # noqa: S311 (a test's)
        self._environment = Environment(
            start=START + later, seed=seed, choose=self._rng.randrange, delay_s=lambda: delays.choice(_THREAD_DELAYS_S)
        )
        self._loop, self._kafka = self._environment.loop, self._environment.kafka
        self._injector = FaultInjector(plan, self, self.log, seed, _LATENCY_S)
        self._environment.interceptor = self._injector
        self._workers: list[SimulatedWorker] = []
        self._numbers: dict[Owner, int] = {}
        self._committed: dict[tuple[str, int], int] = {}
        self._wrong: dict[str, None] = {}
        self._timed = 0
        self._full_disks: set[int] = set()
        self._feed = WorldFeed(self._kafka, self._loop, self._rng.randrange, bounded=settings.bounded)
        self._version = -1
        self._folder = Path()

    @property
    def census(self) -> Mapping[tuple[int, str], int]:
        """(worker, operation) -> number of its calls."""
        return self._injector.census

    @property
    def names(self) -> set[str]:
        """The tables and topics of the app, and the topics that were created."""
        return {*self._runtime.described, *self._changelogs, *self._kafka.topics}

    @property
    def happened(self) -> list[Fault]:
        """The faults that have happened."""
        return self._injector.happened

    def run(self) -> Outcome:
        """Run the world until it is at rest, and return its outcome."""
        self._folder = temporary_folder()
        try:
            with ExitStack() as stack:
                stack.enter_context(without_logs())
                stack.enter_context(own_clients_noticed())
                stack.enter_context(self._environment.entered())
                stack.enter_context(wrapped(self._watched))
                if self._settings.packed:
                    stack.enter_context(small_batches_by_column())
                try:
                    return self._play()
                finally:
                    for worker in self._workers:
                        worker.close()
                    self._environment.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    # The play -------------------------------------------------------------------------------------------------------

    def _play(self) -> Outcome:
        loop, settings = self._loop, self._settings
        loop.coast, loop.coast_s = self._is_quiet, _COAST_S
        self._create_topics()
        for _ in range(settings.workers):
            self._add_worker()
        for topic, inputs in settings.inputs.items():
            self._feed.add(topic, self._runtime.described.get(topic), inputs, packed=topic in settings.packed)
        for fault in self._plan.faults:
            if not fault.moment.operation:
                self._timed += 1
                loop.call_at(fault.moment.at_s, self._happen_now, fault)
        deadline_s = max(FEED_S, *(fault.moment.at_s for fault in self._plan.faults), 0.0) + _REST_S
        looks = 0
        while looks < _LOOKS and loop.time() < deadline_s:
            loop.run_until(_never, loop.time() + _LOOK_S)
            looks = looks + 1 if self._is_at_rest() else 0
        self.seconds = loop.time()
        self.log.note(None, "at rest" if looks == _LOOKS else "not at rest")
        # How much is left in repartition topics depends on the time that the world takes: see `repartition_purge.py`.
        runtimes = [runtime_of(worker.app) for worker in self._workers if worker.app is not None]
        own = {name for runtime in runtimes for name in runtime.repartition_topics}
        outcome = outcome_of(self._kafka, settings.app, [*settings.inputs, RUNS_TOPIC], settings.ignore | own)
        outcome.wrong = [*self._wrong, *self._injector.wrong, *outcome.wrong]
        if looks < _LOOKS:
            outcome.wrong.insert(0, self._unrest())
        else:
            outcome.wrong += store_faults(self._kafka, self._workers)
            read = {topic for member in self._kafka.members(self._group) for topic in member.topics}
            self.unread = [topic for topic, inputs in settings.inputs.items() if inputs and topic not in read]
        return outcome

    def _is_quiet(self) -> bool:
        version, self._version = self._version, self._kafka.version
        return version == self._kafka.version

    def _create_topics(self) -> None:
        described = self._runtime.described
        for name in dict.fromkeys([*self._settings.inputs, *self._settings.partitions]):
            declared = described.get(name)
            spec = None if declared is None else self._runtime.provisioner.spec_of(declared, name)
            count = self._settings.partitions.get(name, _PARTITIONS if spec is None else spec.partitions)
            self._kafka.create_topic(name, count, None if spec is None else spec.config)

    def _add_worker(self) -> None:
        worker = SimulatedWorker(
            len(self._workers), self._settings.source, self._environment, self._folder, self.log, self._began
        )
        self._workers.append(worker)
        worker.start_after(self._rng.random() * 0.05)

    def _began(self, worker: SimulatedWorker, life: WorkerLife) -> None:
        self._numbers[life.owner] = worker.number
        if self._settings.bounded:
            runtime = life.runtime
            runtime.history_complete, runtime.history_ends = self._feed.complete, self._feed.ends
            runtime.change_settings(notice_ends=True)
            if self._settings.aligned:
                runtime.aligned = [list(self._settings.inputs)]

    def _is_at_rest(self) -> bool:
        now_s = self._loop.time()
        if self._timed or self._feed.waiting or now_s < FEED_S + _LOOK_S:
            return False
        if not all(worker.is_up for worker in self._workers if worker.wanted) or lags(self._kafka, self._group):
            return False
        runtimes = [runtime_of(worker.app) for worker in self._workers if worker.app is not None]
        if any(runtime.engine.rebalance.rebalancing or runtime.context.epoch.dirty for runtime in runtimes):
            return False
        if any(next(tables_that_close(runtime), None) for runtime in runtimes):
            return False
        if any(self._was_expelled(worker) for worker in self._workers):
            return False
        return self._kafka.group_state(self._group) == "STABLE"

    def _was_expelled(self, worker: SimulatedWorker) -> bool:
        """Return whether a worker has partitions, but has not noticed that it is no member of the group any more."""
        if worker.life is None or not worker.life.runtime.status.active:
            return False
        return all(member.client.owner is not worker.life.owner for member in self._kafka.members(self._group))

    def _unrest(self) -> str:
        states = ", ".join(
            f"worker {worker.number} {'runs' if worker.is_up else 'is down'} after {worker.starts} starts"
            + (f" (ended: {worker.ends[-1].partition(chr(10))[0]})" if worker.ends else "")
            for worker in self._workers
        )
        left = lags(self._kafka, self._group).items()
        listed = ", ".join(f"{topic}[{number}]: {count}" for (topic, number), count in left)
        return f"not at rest {_REST_S:.0f} s after the last fault: {states}; records left: {listed or 'none'}"

    # Faults: `Workers` of the injector ------------------------------------------------------------------------------

    def number(self, owner: object) -> int | None:
        """Return the number of the worker with this owner of clients; None for clients of no worker."""
        return self._numbers.get(owner) if isinstance(owner, Owner) else None

    def is_dead(self, owner: object) -> bool:
        """Return whether this life of a worker was killed."""
        return isinstance(owner, Owner) and owner.dropped

    def committed(self, number: int) -> None:
        """Check, after a commit of a worker, that no committed offset was set back."""
        for at, (offset, _) in self._kafka.offsets(self._group).committed.items():
            before = self._committed.get(at, -1)
            if offset < before:
                self._wrong[f"worker {number} set the offset of {at[0]}[{at[1]}] back from {before} to {offset}"] = None
            self._committed[at] = offset

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
                if len(self._workers) < self._settings.workers + _MORE_WORKERS:
                    self._add_worker()
            case _:
                worker = self._workers[fault.worker] if fault.worker < len(self._workers) else None
                if worker is not None and worker.life is not None:
                    self._happen_to(worker, worker.life, fault)

    def _happen_to(self, worker: SimulatedWorker, life: WorkerLife, fault: Fault) -> None:
        match fault.kind, fault.variant:
            case "kill", how:
                again_s = {"restart": _RESTART_S, "later": _LATER_S, "moved": _MOVED_S}[how]
                worker.kill(again_s, moved=how == "moved")
            case "damage", how:
                worker.kill(_RESTART_S, damage=how, seed=self._seed)
            case "rebalance", "leave":
                life.ask_to_stop()
            case "rebalance", "expire":
                life.owner.paused_until_s = self._loop.time() + _LATER_S
                self._silence(life.owner)
            case "fence", what:
                self._fence(life, what)
            case _:
                raise AssertionError(fault)

    def _silence(self, owner: Owner) -> None:
        for group in self._kafka.groups.values():
            for member in group.members.values():
                if member.client.owner is owner:
                    member.client.fall_silent()

    def _cut(self) -> None:
        for name in self._changelogs.values():
            for log in self._kafka.topics[name].logs if name in self._kafka.topics else ():
                log.delete_before(log.start + (log.last_stable - log.start) // 2)

    def _fence(self, life: WorkerLife, what: str) -> None:
        """Let a copy of a worker's process take its identity, and end."""
        cluster, name = self._kafka.cluster(), life.runtime.engine.rebalance.instance
        if not name:
            return
        if what == "producer":
            cluster.producer(transactional_id=name).init_transactions()
            return
        topics = next((list(m.topics) for m in self._kafka.members(self._group) if m.instance == name), [])
        if topics:
            copy: Any = cluster.consumer(group_id=self._group, group_instance_id=name, session_timeout_ms=10_000)
            copy.subscribe(topics)
            copy.consume(1, 0)
            copy.fall_silent()

    # Stores ---------------------------------------------------------------------------------------------------------

    def _watched(self, store: Store, place: StorePlace) -> Store:
        owner: object = getattr(place.cluster, "owner", None)
        return WatchedStore(store, place, _StoreGate(self._injector, owner, partial(self._write, store, place, owner)))

    def _write(self, store: Store, place: StorePlace, owner: object, act: Callable[[], None]) -> None:
        number = self.number(owner)
        if number is not None and number in self._full_disks:
            self._full_disks.discard(number)
            raise full_disk(place)
        act()
        name = self._changelogs.get(place.table, "")
        if name in self._kafka.topics and store.position > (end := self._kafka.topics[name].logs[place.partition].end):
            what = f"the store of {place.table}[{place.partition}] is at {store.position}, ahead of its changelog's end"
            self._wrong[f"worker {number}: {what} {end}"] = None


class _StoreGate:
    """The interceptor of one store."""

    def __init__(self, injector: FaultInjector, owner: object, write: Callable[[Callable[[], None]], None]) -> None:
        self.owner, self._injector, self._write = owner, injector, write

    def call(self, client: StorePlace, operation: str, act: Callable[[], None]) -> None:
        """Perform a write, or let it fail."""
        self._injector.call(self, operation, lambda: self._write(act))


def _never() -> bool:
    return False
