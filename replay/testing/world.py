"""A world: an app with its workers on a Kafka in memory, under a virtual clock, for tests.

    with World(shop.app) as world:
        world.send("orders", {"user": "ann", "amount": 3}, key="ann", at="2026-01-01T10:00Z")
        world.settle()
        assert world.table("totals") == {"ann": 3}

The engine is the one that runs in production. There are no threads, sockets or waits: time passes in `settle`,
`advance` and the other calls that say so, and each of them ends with the workers at rest. The order of events is the
same each time.

Event time and processing time are independent: `at` gives a record's time, `advance` lets the time of timers pass.
`asyncio.sleep`, timers and cron jobs of the program go by the world's clock. What it reads from `time`, `datetime` or
`random` itself does not, and it has no network: patch `world.module` for these.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import get_ident
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast
from weakref import WeakSet

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.topic import HeadersGiven
from ...topics.dead_letter import dead_letter_topic
from ...topics.errors import Usage
from .app_source import AppSource
from .duration import Duration, Time, seconds_of, time_ms_of
from .environment import Environment
from .own_clients import own_clients_noticed
from .record_sender import RecordSender
from .stillness import Stillness
from .temporary_folder import WorkerFolders
from .topic_content import RejectedRecord, TopicContent, content_of, dead_letters_of
from .virtual_clock import START
from .worker_life import WorkerLife
from .world_names import agent_of, check_partitions, declared_topic, topics_to_create
from .world_questions import WebAnswer, ask_agent, ask_web
from .world_replay import ReplayOptions, play
from .world_run import WorldRun, run_bounded
from .world_tables import merged_table
from .world_worker import WorldWorker

if TYPE_CHECKING:
    from ...agents.topic import Topic
    from ..replay_report import Report

__all__ = ["World"]

Files = str | Path | Sequence[str | Path]

# After the clock was advanced, workers have this much time to process what has happened last.
_REST_S = 5.0
_LISTED = 5


class World:
    """See the module's docstring. Close it at its end, by `with` or `close`.

    Args:
        program: an app; `"module:attribute"` or `"path/to/file.py"`; or a function that returns a new app. The app of a
            module is loaded as a fresh copy of its module for each start of a worker: `module` is the copy.
        workers: number of workers, in one group.
        partitions: of topics that declare no number, 4 by default; or topic -> number, for topics to create at once.
        start: the time of day at which the world begins.
        seed: random identifiers, such as the workers' names, follow from it.

    Attributes:
        environment: clock, event loop and Kafka of this world, for what the methods do not do.

    Raises:
        Usage: the program is no app, or one that has run; or it cannot be loaded; or one number of partitions is given,
            and all topics of the app declare others.
    """

    def __init__(
        self,
        program: App | str | Callable[[], App],
        *,
        workers: int = 1,
        partitions: int | Mapping[str, int] | None = None,
        start: Time = START,
        seed: int = 0,
    ) -> None:
        if workers < 1:
            raise Usage(f"a world with {workers} workers")
        check_partitions(partitions)
        begin = time_ms_of(start)
        self.environment = Environment(start=datetime.fromtimestamp(begin / 1000, START.tzinfo), seed=seed)
        self._closed = False
        self._thread = get_ident()
        self._runs = 0
        # Nothing below refers to the world itself, so that one that is not closed is closed as soon as it is forgotten.
        self._folders = WorkerFolders()
        self._workers: list[WorldWorker] = []
        self._lives = partial(_lives, self._workers)
        self._prepare = partial(_prepare, partitions if isinstance(partitions, int) else None)
        self._stillness = Stillness(self.environment, self._lives)
        _open.add(self)
        try:
            with own_clients_noticed():
                with self.environment.loading():
                    self._source = source = AppSource(program)
                for index in range(workers):
                    self._workers.append(WorldWorker(self.environment, source, index, self._folders.of, self._prepare))
            for spec, declared in topics_to_create(self.app, partitions):
                self.environment.create_topic(spec, None if declared is None else declared.partitioner)
            with self.environment.entered():
                self._sender = RecordSender(self.environment.kafka.cluster())
        except BaseException:
            self.close()
            raise

    # Workers --------------------------------------------------------------------------------------------------------

    @property
    def app(self) -> App:
        """The app of worker 0."""
        return self._workers[0].app

    @property
    def module(self) -> ModuleType:
        """The module of worker 0's app: a copy that belongs to this world alone, for patches."""
        return self._workers[0].module

    def worker(self, index: int = 0) -> WorldWorker:
        """Return a worker, to stop, kill or start it.

        Raises:
            Usage: the world has fewer workers.
        """
        self._check_open()
        if not 0 <= index < len(self._workers):
            raise Usage(f"no worker {index}: the world has {len(self._workers)}", hint="World(…, workers=2)")
        return self._workers[index]

    # Time -----------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time of day in this world, in UTC."""
        return self.environment.clock.now

    def settle(self, within: Duration = "10m") -> None:
        """Let the workers process and commit everything, and return when they wait for more records.

        Records that an agent holds back for a time (`take` with `within`, retries) let that time pass.

        Args:
            within: the longest virtual time to wait.

        Raises:
            AnabranchError: a worker has ended with this error.
            TimeoutError: something is not processed within that time; the error lists it.
        """
        self._begin("settle")
        deadline_s = self.environment.clock.now_s() + seconds_of(within)
        stillness = self._stillness
        self._run_until(lambda: stillness.failed or stillness.is_settled(), deadline_s)
        self._raise_failed()
        if left := list(stillness.unsettled()):
            more = f"; and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
            raise TimeoutError(f"not settled within {within} of virtual time: {'; '.join(left[:_LISTED])}{more}")

    def advance(self, duration: Duration) -> None:
        """Let processing time pass: timers, cron jobs and delays are due; records are processed as they are.

        Raises:
            Usage: the duration is negative.
            AnabranchError: a worker has ended with this error.
        """
        self._begin("advance")
        self._run_to(self.environment.clock.now_s() + seconds_of(duration))

    def advance_to(self, time: Time) -> None:
        """Let processing time pass until a time of day.

        Raises:
            Usage: that time is in the past.
            AnabranchError: a worker has ended with this error.
        """
        self._begin("advance")
        clock = self.environment.clock
        seconds = (time_ms_of(time) - clock.now_ms()) / 1000
        if seconds < 0:
            raise Usage(f"time cannot run backwards: it is {self.now.isoformat()} in this world, after {time}")
        self._run_to(clock.now_s() + seconds)

    def _run_to(self, at_s: float) -> None:
        stillness = self._stillness
        self._run_until(lambda: stillness.failed, at_s)
        # Rest: only what is held back for a time is left.
        at_s = self.environment.clock.now_s() + _REST_S
        loop = self.environment.loop
        self.environment.run_until(lambda: stillness.failed or (not loop.has_ready and stillness.is_still()), at_s)
        self._raise_failed()

    def _run_until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Run the workers; while they are still, time passes at once."""
        self.environment.coast(self._stillness.is_still)
        try:
            with own_clients_noticed():
                return self.environment.run_until(condition, deadline_s)
        finally:
            self.environment.coast(None)

    def _begin(self, what: str) -> None:
        self._check_open()
        for worker in self._workers:
            worker.begin()
        if next(self._lives(), None) is None:
            raise Usage(f"cannot {what}: no worker runs", hint="world.worker(0).start()")

    def _raise_failed(self) -> None:
        for worker in self._workers:
            life = worker.life
            if life is not None and life.error is not None:
                error = life.error
                note = f"worker {worker.index} has ended with this error"
                if note not in getattr(error, "__notes__", ()):
                    error.add_note(note)
                raise error

    # Records --------------------------------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: object,
        *,
        key: object = None,
        at: Time | None = None,
        headers: HeadersGiven | None = None,
        partition: int | None = None,
    ) -> None:
        """Send a record to a topic; the workers process it in `settle` or `advance`.

        Args:
            value: encoded as the app declares the topic, else as JSON; bytes are sent as they are; None is a tombstone.
            key: as well; records without a key go to the partitions in turn.
            at: its event time; default: now.
            partition: default: chosen by the key.

        Raises:
            Usage: the app knows no such topic, or the topic has no such partition or does not take the record.
        """
        self._check_open()
        with self.environment.entered():
            declared = self._declared(topic)
            count = len(self._create(topic, declared).logs)
            self._sender.send(
                self.app, topic, declared, count, value, key=key, at=at, headers=headers, partition=partition
            )

    def topic(self, name: str) -> TopicContent:
        """Return the committed records of a topic, which is empty if the topic does not exist yet.

        Raises:
            Usage: the app knows no such topic.
        """
        self._check_open()
        with self.environment.loading():
            return content_of(name, self._stored(name), self._declared(name))

    def dead_letters(self, topic: str) -> list[RejectedRecord]:
        """Return the dead letters of a topic.

        Raises:
            Usage: the app knows no such topic.
        """
        self._check_open()
        with self.environment.loading():
            declared = self._declared(topic)
            return dead_letters_of(self._stored(dead_letter_topic(topic)), declared)

    def table(self, name: str) -> dict[Any, Any]:
        """Return the committed content of a table, all partitions of all workers together, as plain Python.

        Raises:
            Usage: the app has no such table, or no worker has its partitions.
        """
        self._check_open()
        with self.environment.loading():
            return merged_table([worker.app for worker in self._workers if worker.running] or [self.app], name)

    def _stored(self, topic: str) -> Any:
        return self.environment.kafka.topics.get(topic)

    def _declared(self, topic: str) -> Topic | None:
        """Return a topic as the app declares it; None if it only exists in Kafka.

        Raises:
            Usage: it is neither of them.
        """
        return declared_topic(self.app, topic, self.environment.kafka.topics)

    def _create(self, name: str, declared: Topic | None) -> Any:
        """Return a topic in Kafka; it is created as the app would."""
        if self._stored(name) is None:
            assert declared is not None
            spec = runtime_of(self.app).provisioner.spec_of(declared, name)
            self.environment.create_topic(spec, declared.partitioner)
        return self._stored(name)

    # Questions ------------------------------------------------------------------------------------------------------

    def ask(self, agent: object, value: object, *, key: object = None, within: Duration = "1m") -> Any:
        """Ask an agent, as `agent.ask` does from worker 0, and return its answer.

        Args:
            agent: an agent of the app, its function or its name.
            within: the longest virtual time to wait for the answer.

        Raises:
            Usage: the app has no such agent, or the agent has processed the value and has yielded nothing.
            TimeoutError: there is no answer within that time.
        """
        self.settle()
        worker = self._workers[0]
        if not worker.running:
            raise Usage("worker 0 asks, and it does not run")
        life = worker.life
        assert life is not None
        found = agent_of(worker.app, agent)
        answer = ask_agent(self.environment, self._stillness, life, found, value, key, within)
        self._raise_failed()
        return answer

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> WebAnswer:
        """Return the answer of a web view: of `@app.page`, a table (`/tables/totals/ann/`), `/readyz` or `/metrics`.

        Worker 0 is asked, or the first that runs. For the key of another worker's partition, it asks that one.

        Args:
            path: with its query.

        Raises:
            TimeoutError: there is no answer within a minute of virtual time.
        """
        return self._request("GET", path, None, headers)

    def post(self, path: str, value: object = None, *, headers: Mapping[str, str] | None = None) -> WebAnswer:
        """Send a request with a body, bytes or what is sent as JSON, to a web view; see `get`."""
        return self._request("POST", path, value, headers)

    def _request(self, method: str, path: str, value: object, headers: Mapping[str, str] | None) -> WebAnswer:
        self.settle()
        answer = ask_web(self.environment, list(self._lives()), method, path, value, headers)
        self._raise_failed()
        return answer

    # Files ----------------------------------------------------------------------------------------------------------

    def replay(self, source: Files, topic: str, **options: Unpack[ReplayOptions]) -> Report:
        """Replay files into a topic, as `anabranch replay` does; the workers process the records in `settle`.

        Args:
            source: a file, a glob, a folder, or several of them.
            options: such as `key`, `time`, `where`, `kind` and `speed`; see `ReplayOptions`.

        Returns:
            What `anabranch replay` reports.
        """
        self._check_open()
        with self.environment.entered():
            self._create(topic, self._declared(topic))
            return play(self.environment.kafka.cluster(), _specs(source), topic, options, work=self._work)

    def _work(self, seconds: float) -> None:
        """Let the workers run for so many seconds, and process what there is."""
        self._begin("replay at a pace")
        self._run_until(lambda: self._stillness.failed, self.environment.clock.now_s() + seconds)
        self._raise_failed()

    def run(self, inputs: Mapping[str, Files], *, workers: int = 1, **options: Unpack[ReplayOptions]) -> WorldRun:
        """Process files to their end, as `anabranch run` does: with a group, topics and tables of their own.

        Nothing is added to the topics and tables of this world's workers, and each call begins anew.

        Args:
            inputs: topic that the app reads -> a file, a glob, a folder, or several.
            workers: number of workers of the run.
            options: of all inputs; see `ReplayOptions`.

        Returns:
            Tables, topics and dead letters of the run.

        Raises:
            Usage: the app reads no such topic, or it was made inside of a function, so that there is only one of it.
            AnabranchError: a worker of the run has ended with this error.
        """
        self._check_open()
        if not isinstance(cast(object, inputs), Mapping):
            raise Usage("inputs are given by topic", hint='world.run({"orders": "orders.csv"}, key="user")')
        self._runs += 1
        return run_bounded(
            self.environment,
            self._source,
            self._folders.root / f"run-{self._runs}",
            f"world{self._runs}",
            {topic: _specs(source) for topic, source in inputs.items()},
            options,
            workers=workers,
            prepare=self._prepare,
        )

    # The end --------------------------------------------------------------------------------------------------------

    def __del__(self) -> None:
        # Otherwise its coroutines are destroyed while they wait, and each logs an error.
        if not getattr(self, "_closed", True) and self._thread == get_ident():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Usage("this world has ended", hint="make another one: World(…)")

    def close(self) -> None:
        """End the world: its workers are ended as by `kill`, and nothing of it is left in the process."""
        if self._closed:
            return
        self._closed = True
        for worker in self._workers:
            worker.close()
        self.environment.close()
        self._folders.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<world of {self.app.conf.id}, {'ended' if self._closed else self.now.isoformat()}>"


_open: WeakSet[World] = WeakSet()


@atexit.register
def _close_all() -> None:
    for world in list(_open):
        world.close()


def _prepare(partitions: int | None, app: App) -> None:
    if partitions is not None:
        runtime_of(app).configure(topic_partitions=partitions)


def _lives(workers: Sequence[WorldWorker]) -> Iterator[WorkerLife]:
    """Yield the lives of workers that were started, and neither killed nor stopped; called often."""
    for worker in workers:
        life = worker.life
        if life is not None and not life.killed and not (life.stopping and life.ended):
            yield life


def _specs(source: Files) -> list[str]:
    return [str(source)] if isinstance(source, str | Path) else list(map(str, source))
