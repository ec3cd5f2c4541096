"""An app on a real Kafka, with the methods of a `World`: the same test body runs on both.

Each world has topics, tables and a consumer group of its own, `<app>-run-<id>-…`, as a bounded run has. They are
deleted when it is closed. Time is the machine's: `settle` waits, and there is no `advance`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from confluent_kafka import Message
from confluent_kafka import TopicPartition as KafkaPartition

from ...agents.app import App
from ...agents.engine.settings import EngineSettings
from ...agents.runtime import runtime_of
from ...agents.topic import HeadersGiven, Topic
from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import dead_letter_topic
from ...topics.errors import Usage
from ...topics.headers import Headers, all_headers
from ...topics.identifiers import random_hex
from ...topics.memory.partition_log import Record
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition
from .app_source import AppSource, run_named
from .duration import Duration, Time, seconds_of
from .record_sender import RecordSender
from .thread_worker import ThreadWorker
from .topic_content import RejectedRecord, TopicContent, content_of, dead_letters_of
from .world_names import agent_of, declared_topic, topics_to_create
from .world_tables import merged_table

__all__ = ["KafkaWorld"]

_READY_S = 60.0
_LOOK_S = 0.02


class KafkaWorld:
    """See the module's docstring.

    Args:
        cluster: where the topics are made.
        program: as for `World`; an app that was made inside of a test needs a function that returns it.
        workers: number of workers, in one group, each in a thread.
        partitions: of topics that declare no number, 4 by default; or topic -> number, for topics to create at once.

    Raises:
        Usage: the program is no app, or cannot be loaded.
        AnabranchError: a worker does not get ready.
    """

    def __init__(
        self,
        cluster: Cluster,
        program: App | str | Callable[[], App],
        *,
        workers: int = 1,
        partitions: int | Mapping[str, int] | None = None,
    ) -> None:
        self.cluster, self.admin = cluster, Admin(cluster)
        self._closed = False
        self._workers: list[ThreadWorker] = []
        self._folder = Path(tempfile.mkdtemp(prefix="anabranch-kafka-"))
        self._id = random_hex(8)
        try:
            with run_named(self._id):
                source = AppSource(program)
                loaded = [source.load() for _ in range(workers)]
            self.app, self.module = loaded[0].app, loaded[0].module
            self._check_names(program)
            for spec, _ in topics_to_create(self.app, partitions, resolve=self._name):
                self.admin.create([spec])
            for number, one in enumerate(loaded):
                runtime = runtime_of(one.app)
                runtime.cluster = cluster
                runtime.configure(web_enabled=False, datadir=str(self._folder / str(number)))
                if isinstance(partitions, int):
                    runtime.configure(topic_partitions=partitions)
                runtime.change_settings(epoch_s=EngineSettings().epoch_s)
                self._workers.append(ThreadWorker(one.app))
            self._sender = RecordSender(cluster, self._name)
            self._await(lambda: all(worker.ready for worker in self._workers), _READY_S, "no worker is ready")
        except BaseException:
            self.close()
            raise

    def _check_names(self, program: object) -> None:
        if runtime_of(self.app).run_id != self._id:
            raise Usage(
                f"{program!r} was made before the test, so its topics have no names of their own",
                hint="give an app of a module, or a function that returns a new app",
            )

    def _name(self, topic: str) -> str:
        return runtime_of(self.app).resolve_topic(topic)

    # Time -----------------------------------------------------------------------------------------------------------

    def settle(self, within: Duration = "1m") -> None:
        """Wait until the workers have processed and committed everything.

        Raises:
            AnabranchError: a worker has ended with this error.
            TimeoutError: it takes longer.
        """
        self._check_open()
        self._await(self._is_settled, seconds_of(within), "not everything is processed")

    def _await(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        deadline_s = clock.now_s() + within_s
        while not condition():
            for worker in self._workers:
                worker.raise_error()
            if clock.now_s() > deadline_s:
                raise TimeoutError(f"{what} within {within_s:.0f} s")
            clock.sleep(_LOOK_S)

    def _is_settled(self) -> bool:
        commits = [worker.commits_at_rest for worker in self._workers]
        if None in commits:
            return False
        positions: dict[TopicPartition, int] = {}
        for worker in self._workers:
            positions |= worker.positions()
        ends = self.admin.ends([KafkaPartition(*at) for at in positions])
        # Behind the last record there may be transaction markers, so what lies behind is read.
        left = {at: position for at, position in positions.items() if position < ends[at]}
        if any(run.messages for run in read_to_end(self.cluster, left, {at: ends[at] for at in left})):
            return False
        return commits == [worker.commits_at_rest for worker in self._workers]

    def advance(self, duration: Duration) -> NoReturn:
        """Refuse to move the time.

        Raises:
            Usage: always.
        """
        raise Usage(f"advance({duration!r}): on a real Kafka the time is the machine's", hint="test it in a World")

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
        """Send a record to a topic; see `World.send`.

        Raises:
            Usage: the app knows no such topic, or the topic has no such partition or does not take the record.
        """
        self._check_open()
        name, declared = self._name(topic), self._declared(topic)
        count = self.admin.existing([name]).get(name, 0)
        if not count:
            assert declared is not None
            self.admin.create([runtime_of(self.app).provisioner.spec_of(declared, name)])
            count = self.admin.existing([name])[name]
        self._sender.send(self.app, topic, declared, count, value, key=key, at=at, headers=headers, partition=partition)

    def topic(self, name: str) -> TopicContent:
        """Return the committed records of a topic, by partition; see `World.topic`."""
        self._check_open()
        return content_of(name, self._stored(self._name(name)), self._declared(name))

    def dead_letters(self, topic: str) -> list[RejectedRecord]:
        """Return the dead letters of a topic."""
        self._check_open()
        return dead_letters_of(self._stored(dead_letter_topic(self._name(topic))), self._declared(topic))

    def table(self, name: str) -> dict[Any, Any]:
        """Return the committed content of a table, of all workers together, as plain Python."""
        self._check_open()
        return merged_table([worker.app for worker in self._workers], name)

    def ask(self, agent: object, value: object, *, key: object = None, within: Duration = "1m") -> Any:
        """Ask an agent, as `agent.ask` does from worker 0, and return its answer."""
        self._check_open()
        return self._workers[0].result(agent_of(self.app, agent).ask(value, key=key), seconds_of(within))

    def _declared(self, topic: str) -> Topic | None:
        name = self._name(topic)
        return declared_topic(self.app, topic, self.admin.existing([name]), name=name)

    def _stored(self, name: str) -> Any:
        count = self.admin.existing([name]).get(name, 0)
        if not count:
            return None
        partitions = [TopicPartition(name, number) for number in range(count)]
        begins, ends = self.admin.spans(partitions)
        copies = {at: _Copy(at[1], begins[at], ends[at], []) for at in partitions}
        for run in read_to_end(self.cluster, begins, ends):
            headers, _ = all_headers(run.messages)
            copies[run.at].records.extend(map(_record, run.messages, headers))
        return _CopiedTopic(list(copies.values()))

    # The end --------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Usage("this world has ended", hint="make another one")

    def close(self) -> None:
        """Stop the workers and delete the topics."""
        if self._closed:
            return
        self._closed = True
        try:
            for worker in self._workers:
                worker.ask_to_stop()
            for worker in self._workers:
                worker.join()
            if self._workers:
                prefix = f"{self.app.conf.id}-"
                self.admin.delete([name for name in self.admin.partitions() if name.startswith(prefix)])
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Copy:
    """The records that were read of a partition."""

    partition: int
    start: int
    end: int
    records: list[Record]

    def read(self, position: int, most: int, *, committed: bool) -> tuple[list[Record], int]:
        """Return the records, as a `PartitionLog` does."""
        del position, most, committed
        return self.records, self.end


@dataclass(frozen=True, slots=True)
class _CopiedTopic:
    logs: list[_Copy]


def _record(message: Message, headers: Headers | None) -> Record:
    kind, time_ms = message.timestamp()
    offset = message.offset()
    assert offset is not None
    return Record(offset, time_ms, kind, message.key(), message.value(), headers, None, False, 0)
