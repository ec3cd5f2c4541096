"""Runs a scenario: workers process records while faults happen; then everything settles and the totals are audited."""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anabranch.topics import client_watchdog
from anabranch.topics.admin import Admin, TopicSpec
from anabranch.topics.cluster import Cluster
from anabranch.topics.devbroker.broker import EmbeddedBroker
from audit import Expected, audit, read
from bank import SESSION_MS
from confluent_kafka import Consumer, Producer, TopicPartition
from proxy import Proxy, free_port
from replay_processes import RUN, Replay, Run, write
from scenario import (
    BrokerDown,
    Damage,
    Fault,
    Freeze,
    Join,
    Kill,
    KillReplay,
    Leave,
    NetworkFault,
    NodeDown,
    Scenario,
    Trap,
    transfer_records,
)
from supervised_process import Worker, WorkerExit
from three_brokers import ThreeBrokers
from window_audit import FINALS, WindowAudit

__all__ = ["FaultRunner", "Report"]

READY_S = 30.0
SETTLE_S = 120.0
TICK_S = 0.01
FEED_S = 150.0
FLUSH_S = 20.0
PARTITIONS = 4
SLOW_S = 0.2  # delay in each direction
_SHOWN = 10


@dataclass
class Report:
    """The result of a round.

    Attributes:
        wrong: violations; empty for a round that passes.
        ends: workers that ended by themselves with an error and were restarted.
        starts: number of worker processes that were started.
    """

    scenario: Scenario
    folder: Path
    wrong: list[str] = field(default_factory=list)
    ends: list[WorkerExit] = field(default_factory=list)
    starts: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        lines = [str(self.scenario), f"  {self.starts} starts, {self.took_s:.1f} s, logs in {self.folder}"]
        lines += [f"  ended: {end}" for end in self.ends]
        lines += [f"  WRONG: {what}" for what in self.wrong[:_SHOWN]]
        lines += [f"  … and {len(self.wrong) - _SHOWN} more"] if len(self.wrong) > _SHOWN else []
        return "\n".join(lines)


class FaultRunner:
    """A broker that can be killed, a proxy to it that can be cut, and three brokers for scenarios that need them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        client, controller, inner = free_port(), free_port(), free_port()
        self.proxy = Proxy(inner)
        listeners = {"CLIENT": client, "PROXY": inner, "CONTROLLER": controller}
        advertised = {"CLIENT": client, "PROXY": self.proxy.port}
        self.broker = EmbeddedBroker(
            folder / "kafka",
            port=client,
            settings={
                # With its 3 s, the controller loses its only broker on a busy machine.
                "broker.session.timeout.ms": "9000",
                # For members with KIP-848's protocol; with the classic one, the bank sets it.
                "group.consumer.session.timeout.ms": str(SESSION_MS),
                "group.consumer.heartbeat.interval.ms": str(SESSION_MS // 5),
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "listeners": _addresses(listeners),
                "advertised.listeners": _addresses(advertised),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            },
        )
        self._restarting = threading.Lock()
        self._three_brokers: ThreeBrokers | None = None

    def __enter__(self) -> FaultRunner:
        self.proxy.__enter__()
        self.broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop()
        self.proxy.__exit__()
        if self._three_brokers is not None:
            self._three_brokers.__exit__()

    def restart(self, after_s: float) -> None:
        """Stop the broker, if it is up, and start it after `after_s` (blocking)."""
        with self._restarting:
            self.broker.stop()
            time.sleep(after_s)
            self.broker.start()

    @property
    def three_brokers(self) -> ThreeBrokers:
        """The cluster of three brokers, started at the first use."""
        if self._three_brokers is None:
            self._three_brokers = ThreeBrokers(self._folder / "three-brokers")
            self._three_brokers.__enter__()
        return self._three_brokers

    def cluster(self, scenario: Scenario) -> Cluster:
        """The cluster for the driver and the auditor, without the proxy."""
        servers = (
            self.three_brokers.bootstrap_servers if scenario.needs_three_brokers else self.broker.bootstrap_servers
        )
        return Cluster(servers, {"log_level": "0"})

    def servers(self, scenario: Scenario) -> str:
        """The bootstrap servers for the workers."""
        return f"127.0.0.1:{self.proxy.port}" if scenario.uses_proxy else self.cluster(scenario).bootstrap_servers

    def run(self, scenario: Scenario) -> Report:
        """Run a scenario, wait until everything settles, and audit the totals."""
        name = f"bank-{uuid.uuid4().hex[:8]}"
        report = Report(scenario, Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder)))
        began_s = time.monotonic()
        with _Round(self, name, scenario, report) as current:
            current.run()
        report.took_s = time.monotonic() - began_s
        return report


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


class _Round:
    def __init__(self, runner: FaultRunner, name: str, scenario: Scenario, report: Report) -> None:
        self._runner, self._name, self._scenario, self._report = runner, name, scenario, report
        self._cluster, self._replicas = runner.cluster(scenario), 3 if scenario.needs_three_brokers else 1
        # The app of a bounded run and its topics have names of their own.
        self._tables = f"{name}-run-{RUN}" if scenario.feed == "run" else name
        self._topics = f"{self._tables}-{name}" if scenario.feed == "run" else name
        self._replay: Replay | None = None
        self._duplicates_possible = False
        self._expected = Expected()
        self._workers: list[Worker] = []
        self._faults: list[Fault] = [fault for fault in scenario.faults if not isinstance(fault, Trap)]
        self._restarts: list[threading.Thread] = []
        self._feeder: threading.Thread | None = None

    def __enter__(self) -> _Round:
        admin = Admin(self._cluster)
        admin.create(
            [TopicSpec(f"{self._topics}-{t}", PARTITIONS, self._replicas) for t in ("transfers", "deposits", "done")]
        )
        admin.create([TopicSpec(f"{self._topics}-{t}.dlq", 1, self._replicas) for t in ("transfers", "deposits")])
        if self._scenario.windows:
            admin.create([TopicSpec(f"{self._topics}-{t}", PARTITIONS, self._replicas) for t in FINALS])
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.destroy()
        for thread in [*self._restarts, *([self._feeder] if self._feeder else [])]:
            thread.join()

    def run(self) -> None:
        scenario, report = self._scenario, self._report
        records = transfer_records(scenario)
        for _, value in records:
            self._expected.add(value)
        if scenario.feed == "driver":
            self._feed(records[: len(records) // 2], 0.0)
        else:
            write(report.folder / "transfers.jsonl", [value for _, value in records])
        if scenario.feed == "run":
            self._replay = self._add([], Run)
        else:
            for worker in range(scenario.workers):
                self._add([f for f in scenario.faults if isinstance(f, Trap) and f.worker == worker])
        self._until_ready()
        if scenario.feed == "replay":
            self._replay = self._add([], Replay)
        elif scenario.feed == "driver":
            self._feeder = threading.Thread(target=self._feed, args=(records[len(records) // 2 :], scenario.for_s))
            self._feeder.start()
        self._until_settled()
        windows = self._audit_of_windows() if scenario.windows and not report.wrong else None
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            report.ends += worker.ends
            report.wrong += worker.wrong
            report.starts += worker.starts
        values = [value for _, value in records]
        try:
            # Records that were in flight when the broker stopped, or when the driver replaced its client, may be
            # duplicated: an idempotent client that gets a new producer id sends them again. A replay sends each once.
            broker_down = any(isinstance(fault, BrokerDown) for fault in scenario.faults)
            if self._duplicates_possible or (scenario.feed == "driver" and broker_down):
                found = Counter(message.value() for message in read(self._cluster, f"{self._topics}-transfers"))
                for value in (found - Counter(values)).elements():
                    self._expected.add(value)
                    values.append(value)
            report.wrong += audit(self._cluster, self._topics, self._expected, values, self._tables)
            report.wrong += windows.differences() if windows is not None else []
        except AssertionError as exc:
            report.wrong.append(str(exc))

    def _audit_of_windows(self) -> WindowAudit:
        """Wait until all windows are sent that have to be, and return their audit."""
        audit = WindowAudit(self._cluster, self._topics, self._tables, ended=self._scenario.feed == "run")
        deadline_s = time.monotonic() + SETTLE_S
        while not audit.complete_within(1.0) and time.monotonic() < deadline_s:
            for worker in self._workers:
                worker.supervise()
        return audit

    def _add(self, traps: list[Trap], kind: type[Worker] = Worker) -> Any:
        bank = {
            "BANK": self._name,
            "BANK_FOLDER": str(self._report.folder),
            "BANK_STORE": self._scenario.store,
            "BANK_PROTOCOL": self._scenario.protocol,
            "BANK_COMMIT_BESIDE": "1" if self._scenario.commit_beside else "",
            "BANK_WINDOWS": "1" if self._scenario.windows else "",
            "BANK_REPLICAS": str(self._replicas),
            "BANK_RATE": str(round(self._scenario.transfers / self._scenario.for_s)),
            "KAFKA_BOOTSTRAP_SERVERS": self._runner.servers(self._scenario),
        }
        self._workers.append(kind(len(self._workers), bank, self._report.folder, traps))
        return self._workers[-1]

    def _until_ready(self) -> None:
        """Wait until each worker has been ready: the times of faults count from then."""
        deadline_s = time.monotonic() + READY_S
        while not all(worker.ready for worker in self._workers) and time.monotonic() < deadline_s:
            for worker in self._workers:
                worker.supervise()
            time.sleep(TICK_S)

    def _until_settled(self) -> None:
        began_s = time.monotonic()
        deadline_s = began_s + SETTLE_S + max([fault.at_s for fault in self._scenario.faults], default=0.0)
        with self._watched() as seen:
            while True:
                now_s = time.monotonic()
                while self._faults and began_s + self._faults[0].at_s <= now_s:
                    self._inject(self._faults.pop(0))
                for worker in self._workers:
                    worker.supervise()
                threads = [*self._restarts, *([self._feeder] if self._feeder else [])]
                busy = self._faults or any(thread.is_alive() for thread in threads)
                busy = busy or (self._replay is not None and not self._replay.complete)
                if not busy and seen() and all(worker.settled for worker in self._workers if worker.wanted):
                    return
                if now_s > deadline_s:
                    for worker in self._workers:
                        worker.show()
                    self._report.wrong.append(f"not settled {SETTLE_S:.0f} s after the last fault")
                    return
                time.sleep(TICK_S)

    def _inject(self, fault: Fault) -> None:
        match fault:
            case Kill() if isinstance(self._replay, Run):
                self._replay.kill_worker(fault.worker)
            case KillReplay():
                self._replay.kill(0.0)
            case Kill():
                self._workers[fault.worker].kill(fault.restart_after_s)
            case Freeze():
                self._workers[fault.worker].freeze(fault.for_s)
            case Leave():
                if sum(worker.wanted for worker in self._workers) > 1:
                    self._workers[fault.worker].leave()
            case Join():
                self._add([])
            case BrokerDown():
                if fault.crash:
                    self._runner.broker.kill()
                self._later(partial(self._runner.restart, fault.for_s))
            case NodeDown():
                self._runner.three_brokers.kill(fault.number)
                self._later(fault.for_s, partial(self._runner.three_brokers.launch, fault.number))
            case NetworkFault():
                proxy = self._runner.proxy
                {"cut": proxy.cut, "blackhole": proxy.blackhole, "slow": lambda: proxy.slow(SLOW_S)}[fault.kind]()
                self._later(fault.for_s, proxy.restore)
            case Damage():
                self._workers[fault.worker].damage(fault.kind, self._scenario.seed)
            case Trap():
                raise AssertionError("traps are set when a worker starts")

    def _later(self, *steps: float | Callable[[], object]) -> None:
        """Run steps in a thread, one after the other: a number of seconds to wait, or a function to call."""

        def run_steps() -> None:
            for step in steps:
                step() if callable(step) else time.sleep(step)

        self._restarts.append(threading.Thread(target=run_steps))
        self._restarts[-1].start()

    def _feed(self, records: list[tuple[str, bytes]], for_s: float) -> None:
        producer, topic = self._producer(), f"{self._name}-transfers"
        began_s, steps = time.monotonic(), 50
        for i in range(steps):
            for key, value in records[i * len(records) // steps : (i + 1) * len(records) // steps]:
                producer.produce(topic, value, key)
            producer.poll(max(0.0, began_s + for_s * (i + 1) / steps - time.monotonic()) if for_s else 0.0)
            while for_s and time.monotonic() < began_s + for_s * (i + 1) / steps:
                producer.poll(0.01)
        deadline_s = time.monotonic() + FEED_S
        while producer.flush(FLUSH_S):
            if time.monotonic() > deadline_s:
                self._report.wrong.append("the driver could not send its records")
                return
            if client_watchdog.answers(self._cluster):  # the broker is up, so this client hangs
                producer.purge()
                producer.flush(1)
                producer, self._duplicates_possible = self._producer(), True
                present = {message.value() for message in read(self._cluster, topic)}
                for key, value in records:
                    if value not in present:
                        producer.produce(topic, value, key)

    def _producer(self) -> Producer:
        # Without a message timeout: an outage of the broker must not lose records.
        return self._cluster.producer(message_timeout_ms=0)

    @contextmanager
    def _watched(self) -> Iterator[Any]:
        """Yield a function that returns whether each record has a committed result."""
        name = self._topics
        topics = {f"{name}-done": PARTITIONS, f"{name}-transfers.dlq": 1, f"{name}-deposits.dlq": 1}
        expected = len(self._expected.done) + sum(map(len, self._expected.dead_letters.values()))
        at = [TopicPartition(topic, p, 0) for topic, count in topics.items() for p in range(count)]
        consumer, received_s = self._watcher(at), time.monotonic()
        counts: set[tuple[str, Any]] = set()

        def complete() -> bool:
            nonlocal consumer, received_s
            messages = consumer.consume(10_000, 0)
            counts.update((message.topic(), message.value()) for message in messages if message.error() is None)
            if messages:
                received_s = time.monotonic()
            elif time.monotonic() > received_s + FLUSH_S:  # this client may hang
                client_watchdog.leave_behind(consumer.close)
                consumer, received_s = self._watcher(at), time.monotonic()
            return len(counts) >= expected

        try:
            yield complete
        finally:
            consumer.close()

    def _watcher(self, at: list[TopicPartition]) -> Consumer:
        consumer = Consumer(
            self._cluster.config(
                group_id="watch", enable_auto_commit=False, auto_offset_reset="earliest", fetch_wait_max_ms=20
            )
        )
        consumer.assign(at)
        return consumer
