"""A round: workers run, records flow, faults happen, everything comes to rest, the auditor looks."""

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
from audit import Truth, audit, read
from bank import SESSION_MS
from confluent_kafka import Consumer, Producer, TopicPartition
from crew import End, Worker
from history import RUN, Replay, Run, write
from plan import BrokerDown, Cable, Damage, Fault, Join, Kill, KillReplay, Leave, NodeDown, Plan, Stop, Trap, records
from proxy import Proxy, free_port
from trio import Trio

__all__ = ["Report", "World"]

READY_S = 30.0
REST_S = 120.0
TICK_S = 0.01
FEED_S = 150.0
FLUSH_S = 20.0
PARTITIONS = 4
SLOW_S = 0.2  # each way, of whatever passes the cable while it is slow
_SHOWN = 10


@dataclass
class Report:
    """How a round went.

    Attributes:
        wrong: what must not be; empty for a round that passes.
        ends: workers that ended by themselves and said why, for their supervisor to start again.
        starts: of worker processes.
    """

    plan: Plan
    folder: Path
    wrong: list[str] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    starts: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        lines = [str(self.plan), f"  {self.starts} starts, {self.took_s:.1f} s, logs in {self.folder}"]
        lines += [f"  ended: {end}" for end in self.ends]
        lines += [f"  WRONG: {what}" for what in self.wrong[:_SHOWN]]
        lines += [f"  … and {len(self.wrong) - _SHOWN} more"] if len(self.wrong) > _SHOWN else []
        return "\n".join(lines)


class World:
    """A broker that may be killed, one cable to it that may be cut, and, where a plan wants them, three brokers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        client, controller, inner = free_port(), free_port(), free_port()
        self.cable = Proxy(inner)
        listeners = {"CLIENT": client, "CABLE": inner, "CONTROLLER": controller}
        advertised = {"CLIENT": client, "CABLE": self.cable.port}
        self.broker = EmbeddedBroker(
            folder / "kafka",
            port=client,
            settings={
                # With the embedded broker's own 1 s it ends old transactions while it is still starting, and then
                # forgets to write their markers: see `plan.FAULTS`.
                "transaction.abort.timed.out.transaction.cleanup.interval.ms": "10000",
                # Its own 3 s make it lose its only broker on a machine with more to do than it can.
                "broker.session.timeout.ms": "9000",
                # A member's, by KIP-848's protocol; by the classic one it is the bank's.
                "group.consumer.session.timeout.ms": str(SESSION_MS),
                "group.consumer.heartbeat.interval.ms": str(SESSION_MS // 5),
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "listeners": _addresses(listeners),
                "advertised.listeners": _addresses(advertised),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            },
        )
        self._restarting = threading.Lock()
        self._trio: Trio | None = None

    def __enter__(self) -> World:
        self.cable.__enter__()
        self.broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop()
        self.cable.__exit__()
        if self._trio is not None:
            self._trio.__exit__()

    def restart(self, after_s: float) -> None:
        """Stop the broker and start it again; one that is down already is not stopped a second time (blocking)."""
        with self._restarting:
            self.broker.stop()
            time.sleep(after_s)
            self.broker.start()

    @property
    def trio(self) -> Trio:
        """Three brokers, started by the first who asks."""
        if self._trio is None:
            self._trio = Trio(self._folder / "trio")
            self._trio.__enter__()
        return self._trio

    def cluster(self, plan: Plan) -> Cluster:
        """What the driver uses, and the auditor: never through the cable."""
        servers = self.trio.bootstrap_servers if plan.trio else self.broker.bootstrap_servers
        return Cluster(servers, {"log_level": "0"})

    def servers(self, plan: Plan) -> str:
        """What the workers use."""
        return f"127.0.0.1:{self.cable.port}" if plan.wired else self.cluster(plan).bootstrap_servers

    def run(self, plan: Plan) -> Report:
        """Play a plan, wait until all is at rest, audit."""
        name = f"bank-{uuid.uuid4().hex[:8]}"
        report = Report(plan, Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder)))
        began_s = time.monotonic()
        with _Round(self, name, plan, report) as playing:
            playing.play()
        report.took_s = time.monotonic() - began_s
        return report


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


class _Round:
    def __init__(self, world: World, name: str, plan: Plan, report: Report) -> None:
        self._world, self._name, self._plan, self._report = world, name, plan, report
        self._cluster, self._replicas = world.cluster(plan), 3 if plan.trio else 1
        # A run's app has a name of its own, and so have all of its topics.
        self._tables = f"{name}-run-{RUN}" if plan.feed == "run" else name
        self._topics = f"{self._tables}-{name}" if plan.feed == "run" else name
        self._replay: Replay | None = None
        self._sent_again = False
        self._sent = Truth()
        self._workers: list[Worker] = []
        self._faults: list[Fault] = [fault for fault in plan.faults if not isinstance(fault, Trap)]
        self._restarts: list[threading.Thread] = []
        self._feeder: threading.Thread | None = None

    def __enter__(self) -> _Round:
        admin = Admin(self._cluster)
        admin.create(
            [TopicSpec(f"{self._topics}-{t}", PARTITIONS, self._replicas) for t in ("transfers", "deposits", "done")]
        )
        admin.create([TopicSpec(f"{self._topics}-{t}.dlq", 1, self._replicas) for t in ("transfers", "deposits")])
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.destroy()
        for thread in [*self._restarts, *([self._feeder] if self._feeder else [])]:
            thread.join()

    def play(self) -> None:
        plan, report = self._plan, self._report
        made = records(plan)
        for _, value in made:
            self._sent.add(value)
        if plan.feed == "driver":
            self._feed(made[: len(made) // 2], 0.0)
        else:
            write(report.folder / "transfers.jsonl", [value for _, value in made])
        if plan.feed == "run":
            self._replay = self._add([], Run)
        else:
            for who in range(plan.workers):
                self._add([f for f in plan.faults if isinstance(f, Trap) and f.who == who])
        self._until_ready()
        if plan.feed == "replay":
            self._replay = self._add([], Replay)
        elif plan.feed == "driver":
            self._feeder = threading.Thread(target=self._feed, args=(made[len(made) // 2 :], plan.for_s))
            self._feeder.start()
        self._until_at_rest()
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            report.ends += worker.ends
            report.wrong += worker.wrong
            report.starts += worker.starts
        values = [value for _, value in made]
        try:
            if self._sent_again:  # what was on its way when the driver took a new client may be there twice
                found = Counter(message.value() for message in read(self._cluster, f"{self._topics}-transfers"))
                for value in (found - Counter(values)).elements():
                    self._sent.add(value)
                    values.append(value)
            report.wrong += audit(self._cluster, self._topics, self._sent, values, self._tables)
        except AssertionError as exc:
            report.wrong.append(str(exc))

    def _add(self, traps: list[Trap], kind: type[Worker] = Worker) -> Any:
        bank = {
            "BANK": self._name,
            "BANK_FOLDER": str(self._report.folder),
            "BANK_STORE": self._plan.store,
            "BANK_PROTOCOL": self._plan.protocol,
            "BANK_REPLICAS": str(self._replicas),
            "BANK_RATE": str(round(self._plan.transfers / self._plan.for_s)),
            "KAFKA_BOOTSTRAP_SERVERS": self._world.servers(self._plan),
        }
        self._workers.append(kind(len(self._workers), bank, self._report.folder, traps))
        return self._workers[-1]

    def _until_ready(self) -> None:
        """The plan's clock starts when each worker has been ready: faults shall hit workers that work."""
        deadline_s = time.monotonic() + READY_S
        while not all(worker.ready for worker in self._workers) and time.monotonic() < deadline_s:
            for worker in self._workers:
                worker.supervise()
            time.sleep(TICK_S)

    def _until_at_rest(self) -> None:
        began_s = time.monotonic()
        deadline_s = began_s + REST_S + max([fault.at_s for fault in self._plan.faults], default=0.0)
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
                    self._report.wrong.append(f"not at rest {REST_S:.0f} s after the last fault")
                    return
                time.sleep(TICK_S)

    def _inject(self, fault: Fault) -> None:
        match fault:
            case Kill() if isinstance(self._replay, Run):
                self._replay.kill_worker(fault.who)
            case KillReplay():
                self._replay.kill(0.0)
            case Kill():
                self._workers[fault.who].kill(fault.again_s)
            case Stop():
                self._workers[fault.who].freeze(fault.for_s)
            case Leave():
                if sum(worker.wanted for worker in self._workers) > 1:
                    self._workers[fault.who].leave()
            case Join():
                self._add([])
            case BrokerDown():
                if fault.crash:
                    self._world.broker.kill()
                self._later(partial(self._world.restart, fault.for_s))
            case NodeDown():
                self._world.trio.kill(fault.which)
                self._later(fault.for_s, partial(self._world.trio.launch, fault.which))
            case Cable():
                cable = self._world.cable
                {"cut": cable.cut, "hush": cable.hush, "slow": lambda: cable.slow(SLOW_S)}[fault.how]()
                self._later(fault.for_s, cable.mend)
            case Damage():
                self._workers[fault.who].damage(fault.how, self._plan.seed)
            case Trap():
                raise AssertionError("traps are laid when a worker starts")

    def _later(self, *steps: float | Callable[[], object]) -> None:
        """Beside everything else: wait for so many seconds, or do something, one after the other."""

        def go() -> None:
            for step in steps:
                step() if callable(step) else time.sleep(step)

        self._restarts.append(threading.Thread(target=go))
        self._restarts[-1].start()

    def _feed(self, made: list[tuple[str, bytes]], for_s: float) -> None:
        producer, topic = self._producer(), f"{self._name}-transfers"
        began_s, steps = time.monotonic(), 50
        for i in range(steps):
            for key, value in made[i * len(made) // steps : (i + 1) * len(made) // steps]:
                producer.produce(topic, value, key)
            producer.poll(max(0.0, began_s + for_s * (i + 1) / steps - time.monotonic()) if for_s else 0.0)
            while for_s and time.monotonic() < began_s + for_s * (i + 1) / steps:
                producer.poll(0.01)
        deadline_s = time.monotonic() + FEED_S
        while producer.flush(FLUSH_S):
            if time.monotonic() > deadline_s:
                self._report.wrong.append("the driver could not send its records")
                return
            if client_watchdog.answers(self._cluster):  # not only down: this client has lost it for good
                producer.purge()
                producer.flush(1)
                producer, self._sent_again = self._producer(), True
                there = {message.value() for message in read(self._cluster, topic)}
                for key, value in made:
                    if value not in there:
                        producer.produce(topic, value, key)

    def _producer(self) -> Producer:
        # A broker that is down for a while is no reason to lose or repeat a record: idempotent, and in no hurry.
        return self._cluster.producer(message_timeout_ms=0)

    @contextmanager
    def _watched(self) -> Iterator[Any]:
        """Gives a function that says whether a committed result of every record is there."""
        name = self._topics
        topics = {f"{name}-done": PARTITIONS, f"{name}-transfers.dlq": 1, f"{name}-deposits.dlq": 1}
        expected = len(self._sent.done) + sum(map(len, self._sent.letters.values()))
        at = [TopicPartition(topic, p, 0) for topic, count in topics.items() for p in range(count)]
        consumer, heard_s = self._watcher(at), time.monotonic()
        counts: set[tuple[str, Any]] = set()

        def complete() -> bool:
            nonlocal consumer, heard_s
            messages = consumer.consume(10_000, 0)
            counts.update((message.topic(), message.value()) for message in messages if message.error() is None)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() > heard_s + FLUSH_S:  # it may be that only this client hears nothing any more
                client_watchdog.leave_behind(consumer.close)
                consumer, heard_s = self._watcher(at), time.monotonic()
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
