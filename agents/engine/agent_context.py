"""The engine as agents and streams see it: where they wait, whose tables are open, where their outputs go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ...topics import clock
from ...topics.errors import BadRecord, Usage
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition
from ..tables.uncommitted_writes import end_record
from .barrier import Barrier
from .epoch import Epoch
from .failure import Failures
from .outbox import Partials, inherited_ms
from .protocols import EngineLoop, Host, RecordFeed
from .retry_topics import RetryTopics
from .router import Router
from .runner import Runner, acting_runner
from .settings import EngineSettings

__all__ = ["AgentContext"]


class AgentContext:
    """The parts of the engine that agents act on.

    Args:
        loop: stops the worker, and says whether it stops.

    Attributes:
        current: runner whose coroutine runs right now; None between steps.
        asking: number of agents that wait for the answer of an agent: no commit can come before it.
        exited: names of agents that ended although the worker did not stop them.
        retries: topics that bring dead letters back to one agent each.
        router, barrier, epoch, failures, runners: the parts themselves.
    """

    def __init__(self, host: Host, settings: EngineSettings, loop: EngineLoop) -> None:
        self._host, self._loop = host, loop
        self.current: Runner | None = None
        self.asking = 0
        self.router = Router(settings.packed)
        self.barrier = Barrier()
        self.epoch = Epoch(host, self.router, settings)
        self.retries = RetryTopics(host, self.router)
        self.failures = Failures(host, self.epoch.outbox, self.retries)
        self.runners: list[Runner] = []
        self.exited: list[str] = []

    # Streams --------------------------------------------------------------------------------------------------------

    def add_stream(self, stream: RecordFeed) -> None:
        """Register a stream that begins to iterate."""
        self.router.add(stream)
        self.route()

    def route(self) -> None:
        """Find the streams of each active partition anew."""
        index: Mapping[Any, Any] = {**self._host.channels(), **self.retries.routes(self.router.active)}
        self.router.route(index, self.epoch.committed, group=self._host.conf.id)

    def wake(self) -> bool:
        """Resume every stream that has records; return whether any was resumed."""
        woken = False
        self.router.release(clock.now_s())
        for stream in self.router.streams:
            if not stream.running and stream.queue.has_work:
                woken = self.barrier.resume(stream) or woken
        return woken

    async def park(self, stream: RecordFeed, timeout_s: float | None = None) -> None:
        """Wait at the barrier: the stream has no records, or a commit is due."""
        await self.barrier.park(stream, timeout_s)

    def at(self, stream: RecordFeed, at: TopicPartition) -> None:
        """Show the tables' content of this partition: the current agent turns to its records."""
        runner = self.current
        if runner is None:
            raise BadRecord("a stream of a topic can only be iterated by an agent")
        runner.stream, runner.at = stream, at
        stream.runner = runner
        for table in self._host.tables:
            table.open(at.topic, at.partition, runner.handed)

    def end_record(self, stream: RecordFeed) -> None:
        """Take back the table values that the agent got for its record: from here on they are its own.

        Raises:
            BadRecord: a table cannot keep one of them.
        """
        runner: Runner = stream.runner
        end_record(runner.handed, [other.handed for other in self.runners if other is not runner and other.handed])

    def record_time_ms(self) -> int:
        """Timestamp of the record that the current agent works on, in milliseconds; -1 where there is none.

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

    # Runners --------------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the worker ends."""
        return self._loop.stopping

    @property
    def ended(self) -> bool:
        """Whether the engine's loop is over, or was cancelled."""
        return self._loop.ended

    async def stop_with(self, error: BaseException) -> None:
        """Stop the worker with an error."""
        await self._loop.stop_with(error)

    def add_runner(self, runner: Runner) -> None:
        """Register the runner of an agent that starts."""
        self.runners.append(runner)

    def remove_runner(self, runner: Runner, *, expected: bool) -> None:
        """Forget the runner of an agent that has ended; `expected` where the worker ends."""
        if runner in self.runners:
            self.runners.remove(runner)
        if runner.stream is not None and runner.stream.running:
            self.barrier.abandon(runner.stream)  # in the middle of a record: its work must not be committed
            self.epoch.rollback_wanted = True
        if not expected:
            self.exited.append(runner.name)

    def enter(self, runner: Runner) -> None:
        """Open the tables at the agent's partition: the stepper is about to resume it."""
        runner.steps += 1
        self.current = runner
        at = runner.at
        if at is not None:
            for table in self._host.tables:
                table.open(at.topic, at.partition, runner.handed)

    def leave_agent(self) -> None:
        """Close the tables: the agent is suspended."""
        self.current = None
        for table in self._host.tables:
            table.close()

    # Outputs and failures -------------------------------------------------------------------------------------------

    def send(self, output: Output) -> None:
        """Keep a record for the barrier; without a timestamp of its own it takes that of the record at hand."""
        runner = self.current or acting_runner()
        if runner is None or (stream := runner.stream) is None:
            self.epoch.outside.append(output)
            return
        message, failures = stream.message, self.failures
        if output.timestamp_ms is None and message is not None:
            output = output._replace(timestamp_ms=inherited_ms(message))
        if failures.rules:
            failures.check(output, isolating=stream.queue.isolating)
        self.epoch.outbox.add(output)
        if stream.queue.isolating and message is not None:
            failures.own(stream, message)
        if self.epoch.full:
            self.router.cut()

    def combine(self, topic: str, states: dict[Any, Any], partials: Callable[[], Partials]) -> None:
        """Keep partial results of the records at hand for the barrier, merged with those that the epoch has.

        Args:
            partials: makes the container for those of a topic. A result that cannot be sent is found at the barrier;
                then the records come again one by one, and are to send their results themselves.
        """
        runner = self.current
        assert runner is not None
        assert runner.stream is not None
        kept = self.epoch.outbox.partials
        if topic not in kept:
            kept[topic] = partials()
        kept[topic].add(states, inherited_ms(runner.stream.message))
        if self.epoch.full:
            self.router.cut()

    def apply_policy(
        self, stream: RecordFeed, message: Any, error: BaseException, reason: str, records: int = 1
    ) -> None:
        """Apply the agent's failure policy to a record; see `Failures`."""
        self.failures.apply_policy(stream, message, error, reason, records)

    def savepoint(self, stream: RecordFeed) -> None:
        """Take a savepoint, before and after each record while records are isolated; see `Failures`."""
        if stream.message is not None and self.current is not None and self.current.cancelled:
            raise asyncio.CancelledError
        self.failures.savepoint(self.current)

    def failed(self, runner: Runner, error: BaseException) -> bool:
        """Handle an agent's exception.

        Returns:
            True: its record is rolled back and went to its policy, start the agent anew; False: wait for the rollback
            of the epoch.

        Raises:
            Stop: the agent failed outside of a record, or on purpose.
        """
        if self.failures.roll_back_record(runner, error):
            return True
        self.epoch.rollback_wanted = True
        assert runner.stream is not None
        self.barrier.abandon(runner.stream)
        return False
