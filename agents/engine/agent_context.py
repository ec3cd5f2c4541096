"""What agents and streams see of the engine: where they wait, whose tables are open, where their effects go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ...topics import clock
from ...topics.errors import BadRecord, Usage
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition
from ..tables.uncommitted_writes import end_record
from .barrier import Barrier
from .consumer import FaustConsumer
from .epoch import Epoch
from .failure import Failures
from .outbox import Partials, inherited_ms
from .protocols import Host, RecordFeed
from .retry_topics import RetryTopics
from .router import Router
from .runner import Runner, acting_runner
from .settings import EngineSettings

__all__ = ["AgentContext"]


class AgentContext(FaustConsumer):
    """The part of the engine that agents act on.

    Attributes:
        current: whose coroutine runs right now; None between steps.
        asking: agents that wait for the answer of an agent: no commit can come before it.
        active: partitions of this worker whose tables are restored, so that their records flow.
        gone: agents that have ended although the worker has not been told to.
        retries: topics that bring dead letters back to one agent each.
    """

    def __init__(self, host: Host, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._host = host
        self.app = host.app
        self.settings: EngineSettings = host.settings
        self.current: Runner | None = None
        self.asking = 0
        self.stopping = False
        self._dispatch = Router(self.settings.packed)
        self._gate = Barrier()
        self._epoch = Epoch(host, self._dispatch, self.settings)
        self.retries = RetryTopics(host, self._dispatch)
        self._failures = Failures(host, self._epoch.effects, self.retries)
        self._runners: list[Runner] = []
        self._redo_wanted = False
        self.active: set[TopicPartition] = set()
        self.gone: list[str] = []

    async def stop_with(self, error: BaseException) -> None:
        """A human has to change something: the app ends with this error."""
        raise NotImplementedError

    @property
    def committed(self) -> dict[TopicPartition, int]:
        """Partition -> committed offset."""
        return self._epoch.committed

    @property
    def commits_total(self) -> int:
        """Epochs committed since the start."""
        return self._epoch.commits_total

    @property
    def dead_letters_total(self) -> int:
        """Records given up as dead letters since the start."""
        return self._epoch.dead_letters_total

    @property
    def skipped_total(self) -> int:
        """Records given up without a dead letter since the start."""
        return self._epoch.skipped_total

    @property
    def records_total(self) -> int:
        """Records handed to agents since the start."""
        return self._dispatch.records_total

    def add_stream(self, stream: RecordFeed) -> None:
        """A stream begins to iterate."""
        self._dispatch.add(stream)
        self._route()

    def _route(self) -> None:
        index = {**self._host.app.topics._tp_index, **self.retries.routes(self.active)}
        self._dispatch.route(index, self.active, self.committed, group=self._host.conf.id)

    def add_runner(self, runner: Runner) -> None:
        """An agent starts."""
        self._runners.append(runner)

    def remove_runner(self, runner: Runner, *, expected: bool) -> None:
        """An agent is gone; `expected` as the worker ends."""
        if runner in self._runners:
            self._runners.remove(runner)
        if runner.stream is not None and runner.stream.running:
            self._gate.fell(runner.stream)  # in the middle of a record: what it did must not be committed
            self._redo_wanted = True
        if not expected:
            self.gone.append(runner.name)

    def enter(self, runner: Runner) -> None:
        """The stepper is about to resume an agent."""
        runner.steps += 1
        self.current = runner
        at = runner.at
        if at is not None:
            for table in self._host.tables:
                table.open(at.topic, at.partition, runner.handed)

    def leave_agent(self) -> None:
        """The agent is suspended."""
        self.current = None
        for table in self._host.tables:
            table.close()

    def at(self, stream: RecordFeed, at: TopicPartition) -> None:
        """The current agent turns to records of this partition."""
        runner = self.current
        if runner is None:
            raise BadRecord("a stream of a topic can only be iterated by an agent")
        runner.stream, runner.at = stream, at
        stream.runner = runner
        for table in self._host.tables:
            table.open(at.topic, at.partition, runner.handed)

    def end_record(self, stream: RecordFeed) -> None:
        """The agent is through with its record, and has values of tables: from here on they are its own.

        Raises:
            BadRecord: a table cannot keep one of them.
        """
        runner: Runner = stream.runner
        end_record(runner.handed, [other.handed for other in self._runners if other is not runner and other.handed])

    def record_time_ms(self) -> int:
        """Timestamp of the record that the current agent works on; -1 where there is none.

        Raises:
            Usage: the agent takes batches, which have no time of their own.
        """
        stream = self.current.stream if self.current is not None else None
        if stream is None or stream.message is None:
            return -1
        if stream.by_batch:
            raise Usage(
                f"agent {stream.name} takes batches and uses a table with a time-to-live",
                hint="a batch has no time of its own: iterate the stream itself",
            )
        return stream.message.timestamp()[1]

    def _wake(self) -> bool:
        """Let every stream with records go on; whether any did."""
        woken = False
        self._dispatch.release(clock.now_s())
        for stream in self._dispatch.streams:
            if not stream.running and stream.inbox.has_work:
                woken = self._gate.resume(stream) or woken
        return woken

    async def park(self, stream: RecordFeed, timeout_s: float | None = None) -> None:
        """A stream has nothing to do, or must wait for a commit."""
        await self._gate.park(stream, timeout_s)

    def send(self, output: Output) -> None:
        """Keep a record for the gate; without a time of its own it takes that of the record being handled."""
        runner = self.current or acting_runner()
        if runner is None or (stream := runner.stream) is None:
            self._epoch.outside.append(output)
            return
        message, failures = stream.message, self._failures
        if output.timestamp_ms is None and message is not None:
            output = output._replace(timestamp_ms=inherited_ms(message))
        if failures.rules:
            failures.check(output, careful=stream.inbox.careful)
        self._epoch.effects.add(output)
        if stream.inbox.careful and message is not None:
            failures.own(stream, message)
        if self._epoch.full:
            self._dispatch.cut()

    def combine(self, topic: str, states: dict[Any, Any], partials: Callable[[], Partials]) -> None:
        """Keep partial results of the records being handled for the gate, merged with those that the epoch has.

        Args:
            partials: makes the place for those of a topic. What cannot be sent is found at the gate; then the records
                come again one by one, and are to send their results themselves (`inbox.careful`).
        """
        runner = self.current
        assert runner is not None
        assert runner.stream is not None
        kept = self._epoch.effects.partials
        if topic not in kept:
            kept[topic] = partials()
        kept[topic].add(states, inherited_ms(runner.stream.message))
        if self._epoch.full:
            self._dispatch.cut()

    def give_up(self, stream: RecordFeed, message: Any, error: BaseException, reason: str, records: int = 1) -> None:
        """A record goes to the policy of its agent; see `Failures`."""
        self._failures.give_up(stream, message, error, reason, records)

    def savepoint(self, stream: RecordFeed) -> None:
        """In careful mode, before and after each record; see `Failures`."""
        if stream.message is not None and self.current is not None and self.current.cancelled:
            raise asyncio.CancelledError
        self._failures.savepoint(self.current)

    def failed(self, runner: Runner, error: BaseException) -> bool:
        """An agent raised. True: its record is undone and given up, start the agent anew; False: wait for the redo.

        Raises:
            Stop: the agent failed outside of a record, or on purpose.
        """
        if self._failures.undo(runner, error):
            return True
        self._redo_wanted = True
        assert runner.stream is not None
        self._gate.fell(runner.stream)
        return False
