"""A worker that runs one agent of an app on a Kafka in memory, in the caller's event loop; see `agent_test_wrapper`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from ..topics.errors import BadRecord, Usage
from ..topics.memory.failure import Refused
from ..topics.memory.memory_kafka import MemoryKafka
from ..topics.topic_partition import TopicPartition
from .app import App
from .faust_adapter.faust_settings import change_settings
from .runtime import runtime_of
from .tables.store import MemoryStore
from .worker import work

if TYPE_CHECKING:
    from ..topics.memory.partition_log import PartitionLog
    from ..topics.output import Output
    from .engine.protocols import RecordFeed

__all__ = ["OneAgentWorker"]

_STUCK_S = 5.0


class OneAgentApp(App):
    """An app that runs one agent of another app, with the topics and tables of that one."""

    def __init__(self, app: App) -> None:
        tested = runtime_of(app)
        settings = replace(tested.base_settings, stuck_s=min(tested.base_settings.stuck_s, _STUCK_S))
        super().__init__(tested.app_id, settings=settings)
        conf: Any = copy(app.conf)
        object.__setattr__(conf, "given", set(conf.given))
        self._conf, self.configured, self.finalized = conf, True, True
        change_settings(conf, {"web_enabled": False})
        runtime = runtime_of(self)
        runtime.provisioner.written |= tested.provisioner.written
        runtime.partitioners |= tested.partitioners
        for table in tested.tables:
            self.tables.add(cast(Any, table))
        runtime.waiting += tested.waiting


class OneAgentWorker:
    """The worker. It runs once.

    Args:
        tested: the app whose agent is tested.

    Attributes:
        app: the app that runs in its place; the agent has to be made for it and added to its `agents`.
        kafka: the Kafka in memory.
        is_open: whether it is started and not stopped. It may have ended by an error.
    """

    def __init__(self, tested: App) -> None:
        self._tested = tested
        self._resources = ExitStack()
        self.app = OneAgentApp(tested)
        self.kafka = MemoryKafka()
        self.is_open = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            Usage: another worker runs the app.
            AnabranchError: it cannot start.
        """
        tested, own = runtime_of(self._tested), runtime_of(self.app)
        if tested.engine_runs:
            raise Usage(
                f"a worker or another test context of app {tested.app_id} runs already",
                hint="leave it first; several agents that work together are tested in a World",
            )
        folder = self._resources.enter_context(TemporaryDirectory(prefix="anabranch-test-"))
        own.cluster = self.kafka.cluster()
        own.configure(datadir=folder)
        for table in own.tables:
            table.suspend_others(set())  # what a worker before this one has left
            table.take_suspended()
        self._resources.enter_context(tested.represented_by(own))
        ready = asyncio.Event()
        self._task = asyncio.ensure_future(work(self.app, on_ready=lambda _: ready.set()))
        waiting = asyncio.ensure_future(ready.wait())
        try:
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.is_set():
                await self._task
        except BaseException:
            self._task.cancel()
            self._resources.close()
            raise
        finally:
            waiting.cancel()
        self.is_open = True

    async def stop(self) -> None:
        """Stop the worker as at SIGTERM. Tables in memory can be read afterwards."""
        assert self._task is not None
        self.is_open = False
        own = runtime_of(self.app)
        states = [(table, dict(table.states)) for table in own.tables]
        try:
            own.stop_requested.set()
            await asyncio.wait({self._task})
            for table, content in states:
                table.states |= {p: state for p, state in content.items() if isinstance(state.store, MemoryStore)}
        finally:
            self._resources.close()

    def check_open(self) -> None:
        """Check that the worker is started and not stopped.

        Raises:
            Usage: it is not.
        """
        if not self.is_open:
            raise Usage("the test context is not open", hint="async with agent.test_context() as agent: …")

    @property
    def ended(self) -> bool:
        """True if it has ended, by an error or by `stop`."""
        return self._task is not None and self._task.done()

    @property
    def error(self) -> BaseException | None:
        """The error that has ended it."""
        return self._task.exception() if self._task is not None and self._task.done() else None

    # Records --------------------------------------------------------------------------------------------------------

    def append(self, output: Output) -> int:
        """Append a record to its topic and return its offset.

        Raises:
            BadRecord: the topic does not take it.
            Usage: there is no such partition.
        """
        partitions = len(self.kafka.topics[output.topic].logs)
        if not 0 <= output.partition < partitions:
            raise Usage(f"partition {output.partition}: topic {output.topic} has {partitions} partitions, from 0 on")
        key, value, headers, time_ms = output.key, output.value, output.headers, output.timestamp_ms
        assert time_ms is not None
        for stream in self._streams:
            if not stream.grouped:
                stream.queue.isolate()  # a failing record is known at once, and reaches the agent once
        with self.kafka.lock:
            try:
                return self.kafka.append(output.topic, output.partition, key, value, headers, time_ms)[0]
            except Refused as exc:
                raise BadRecord(f"topic {output.topic} does not take the record: {exc.error.str()}") from None

    @property
    def _streams(self) -> list[RecordFeed]:
        return runtime_of(self.app).context.router.streams

    @property
    def settled(self) -> bool:
        """True if all records of the topics that the agent reads are committed, or held back for later records."""
        committed = runtime_of(self.app).status.committed
        return all(
            self._has_settled(stream, TopicPartition(name, log.partition), _end_of_records(log), committed)
            for stream in self._streams
            for name in stream.topic.topics
            for log in self.kafka.topics[name].logs
        )

    @staticmethod
    def _has_settled(stream: RecordFeed, at: TopicPartition, end: int, committed: Mapping[TopicPartition, int]) -> bool:
        partition = stream.queue.at(at)
        if stream.running or partition.offset < end or partition.retries.until_s is not None:
            return False
        if partition.held_back is not None and stream.timer is not None:
            return False
        return committed.get(at, 0) >= min(end, partition.progress)

    def held_back(self, topic: str) -> Iterator[tuple[int, int]]:
        """Return partition and offset of the first record of each group that an agent waits to complete (`take`)."""
        for stream in self._streams:
            for at, partition in stream.queue.partitions.items():
                if at.topic == topic and partition.held_back is not None:
                    yield at.partition, partition.held_back


def _end_of_records(log: PartitionLog) -> int:
    """Return the offset after the last record that readers get; behind it there may be transaction markers."""
    for record in reversed(log.records):
        hidden = record.transaction is not None and (record.transaction.aborted or record.transaction.open)
        if not (record.is_marker or hidden):
            return record.offset + 1
    return 0
