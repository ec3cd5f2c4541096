"""The interface between the engine and the agents: barrier, tables, outputs and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ...topics import clock
from ...topics.errors import BadRecord, Usage
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition
from ..tables.open_partition import end_record
from .barrier import Barrier
from .epoch import Epoch
from .failed_records import Failures
from .firing import FiringRecord
from .outbox import Partials, inherited_ms
from .protocols import EngineLoop, Host, RecordFeed
from .replayed_dead_letters import RetryTopics
from .router import Router
from .runner import Runner, acting_runner
from .settings import EngineSettings
from .task import Tasks

__all__ = ["AgentContext"]


class AgentContext:
    """The parts of the engine that agents use.

    Args:
        loop: stops the worker; knows whether it is stopping.

    Attributes:
        current: the runner whose coroutine is being executed; None between steps.
        asking: number of agents that wait for the answer of an agent; no commit is possible before the answer.
        unpolled_s: seconds that agents have worked in this turn of the loop on something else than polled records.
        exited: names of agents that ended although the worker did not stop them.
        retries: the retry topics; each returns dead letters to one agent.
        tasks: the tasks of this worker.
        router: the router.
        barrier: the barrier.
        epoch: the current epoch.
        failures: applies failure policies.
        runners: the runners of all agents.
    """

    def __init__(self, host: Host, settings: EngineSettings, loop: EngineLoop) -> None:
        self._host, self._loop, self._step = host, loop, host.agent_step
        self.current: Runner | None = None
        self.asking = 0
        streams: list[RecordFeed] = []
        self.tasks = Tasks(lambda: host.tables, streams)
        self.router = Router(
            self.tasks, streams, settings.packed, host, wait_s=None if host.run_id else settings.align_s
        )
        self.barrier = Barrier()
        self.epoch = Epoch(host, self.tasks, self.router, settings)
        self.retries = RetryTopics(host, self.router)
        self.failures = Failures(host, self.epoch.outbox, self.retries)
        self.runners: list[Runner] = []
        self.exited: list[str] = []
        self.unpolled_s = 0.0

    # Streams --------------------------------------------------------------------------------------------------------

    def add_stream(self, stream: RecordFeed) -> None:
        """Register a stream that begins to iterate."""
        self.router.add(stream)
        self.route()

    def route(self) -> None:
        """Update the routes from active partitions to streams."""
        index: Mapping[Any, Any] = {**self._host.channels(), **self.retries.routes(self.tasks.active)}
        self.router.route(index, group=self._host.conf.id)

    def wake(self) -> bool:
        """Resume all parked streams that have records; return whether any was resumed."""
        woken = False
        self.router.release(clock.now_s())
        for stream in self.router.streams:
            if not stream.running and stream.queue.has_work:
                woken = self.barrier.resume(stream) or woken
        return woken

    async def park(self, stream: RecordFeed, timeout_s: float | None = None) -> None:
        """Wait at the barrier, because the stream has no records or a commit is due.

        Args:
            timeout_s: seconds after which the stream is resumed in any case.
        """
        await self.barrier.park(stream, timeout_s)

    def at(self, stream: RecordFeed, at: TopicPartition) -> None:
        """Show the tables at this partition, whose records the current agent begins to process.

        Raises:
            BadRecord: the stream is not iterated by an agent.
        """
        runner = self.current
        if runner is None:
            raise BadRecord("a stream of a topic can only be iterated by an agent")
        runner.stream, runner.at = stream, at
        stream.runner = runner
        self._begin_step(runner, stream, at)

    def end_record(self, stream: RecordFeed) -> None:
        """Detach the table values that the agent received for its record: agent and tables share none from now on.

        Raises:
            BadRecord: a table cannot keep one of the values.
        """
        runner: Runner = stream.runner
        end_record(runner.handed, [other.handed for other in self.runners if other is not runner and other.handed])

    def record_time_ms(self) -> int:
        """Return the timestamp of the record that the current agent works on, in milliseconds; -1 if there is none.

        Raises:
            Usage: the agent takes batches, which have no timestamp of their own.
        """
        stream = self.current.stream if self.current is not None else None
        if stream is None or stream.message is None or (stream.by_batch and type(stream.message) is FiringRecord):
            return -1
        if stream.by_batch:
            raise Usage(
                f"agent {stream.name} takes batches and uses a table with a time-to-live",
                hint="a batch has no time of its own: iterate the stream itself",
            )
        return stream.message.timestamp()[1]

    def is_silent(self, stream: RecordFeed, at: TopicPartition) -> bool:
        """Return whether a partition has no record that the stream has not processed, as far as it is known."""
        input = self.tasks.active.get(at)
        waits = input is not None and (bool(input.waiting) or input.held is not None)
        return not waits and stream.queue.at(at).is_empty and self._loop.is_silent(at)

    # Runners --------------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """True if the worker is stopping."""
        return self._loop.stopping

    @property
    def ended(self) -> bool:
        """True if the engine's loop has ended or was cancelled."""
        return self._loop.ended

    async def stop_with(self, error: BaseException) -> None:
        """Stop the worker with an error."""
        await self._loop.stop_with(error)

    def add_runner(self, runner: Runner) -> None:
        """Register the runner of an agent that starts."""
        self.runners.append(runner)

    def remove_runner(self, runner: Runner, *, expected: bool) -> None:
        """Remove the runner of an agent that has ended; `expected` if the worker is stopping."""
        if runner in self.runners:
            self.runners.remove(runner)
        if runner.stream is not None and runner.stream.running:
            self.barrier.abandon(runner.stream)  # in the middle of a record: its writes must not be committed
            self.epoch.want_rollback()
        if not expected:
            self.exited.append(runner.name)

    def enter(self, runner: Runner) -> None:
        """Show the tables at the partition of an agent that is about to be resumed."""
        runner.steps += 1
        self.current = runner
        if runner.at is not None and runner.stream is not None:
            self._begin_step(runner, runner.stream, runner.at)

    def _begin_step(self, runner: Runner, stream: RecordFeed, at: TopicPartition) -> None:
        self._step.begin(at.topic, at.partition, runner.handed, runner.writer if stream.queue.isolating else None)

    def leave_agent(self) -> None:
        """Close the tables after the agent has suspended."""
        self.current = None
        self._step.end()

    # Outputs and failures -------------------------------------------------------------------------------------------

    def send(self, output: Output) -> None:
        """Add a record to the outbox; without a timestamp it inherits that of the record being processed."""
        runner = self.current or acting_runner()
        if runner is None or (stream := runner.stream) is None:
            self.epoch.outside.append(output)
            return
        message, failures = stream.message, self.failures
        if output.timestamp_ms is None and message is not None:
            output = output._replace(timestamp_ms=inherited_ms(message))
        if failures.rules:
            failures.check(output, isolating=stream.queue.isolating)
        self.epoch.outbox.add(output, runner.at)
        if stream.queue.isolating and message is not None:
            failures.own(stream, message)
        if self.epoch.full:
            self.router.cut()

    def checks_each(self, stream: RecordFeed) -> bool:
        """Return whether each record that a stream's agent sends has to go through `send`, not `send_all`."""
        return bool(self.failures.rules) or stream.queue.isolating

    def send_all(self, outputs: list[Output]) -> None:
        """Add many records of the running agent to the outbox; each has a timestamp. See `checks_each`."""
        assert self.current is not None
        self.epoch.outbox.add_all(outputs, self.current.at)
        if self.epoch.full:
            self.router.cut()

    def combine(self, topic: str, reduce: Callable[[dict[Any, Any]], object], partials: Callable[[], Partials]) -> None:
        """Reduce the current records into the partial results of the epoch in the outbox.

        A result that cannot be sent is detected at the barrier. The records are then reprocessed one at a time, and the
        agent must send the result of each itself.

        Args:
            topic: the topic that receives the results.
            reduce: reduces the records into the results, key -> partial result. Where it raises, the results hold a
                part of the records, which the rollback discards.
            partials: creates the container for the partial results of a topic.
        """
        runner = self.current
        assert runner is not None
        assert runner.stream is not None
        kept = self.epoch.outbox.partials
        if topic not in kept:
            kept[topic] = partials()
        kept[topic].note_time(inherited_ms(runner.stream.message))
        reduce(kept[topic].states)
        if self.epoch.full:
            self.router.cut()

    def apply_policy(
        self, stream: RecordFeed, message: Any, error: BaseException, reason: str, records: int = 1
    ) -> None:
        """Apply the agent's failure policy to a record; see `Failures`."""
        self.failures.apply_policy(stream, message, error, reason, records)

    def note_unpolled(self, spent_s: float) -> None:
        """Note that an agent has worked on something that fewer polled records would not have made shorter."""
        self.unpolled_s += spent_s

    def savepoint(self, stream: RecordFeed) -> None:
        """Take a savepoint; called before and after each record while isolating. See `Failures`."""
        if stream.message is not None and self.current is not None and self.current.cancelled:
            raise asyncio.CancelledError
        if self.current is not None:
            self.failures.savepoint(self.current)

    def roll_back_to_savepoint(self) -> bool:
        """Discard what the current agent has done since its savepoint; False if the epoch has to be rolled back."""
        return self.current is not None and self.failures.roll_back_to_savepoint(self.current)

    def count_fired(self, stream: RecordFeed) -> None:
        """Count something that has fired in the epoch, which is then committed although no record was processed."""
        self.epoch.outbox.fired[stream.name] += 1

    def failed(self, runner: Runner, error: BaseException) -> bool:
        """Handle an agent's exception.

        Returns:
            True: the record is rolled back and is retried or goes to the failure policy; restart the agent now.
            False: the agent must wait for the rollback of the epoch.

        Raises:
            Stop: the agent failed outside of a record, or raised `Stop`.
        """
        if self.failures.roll_back_record(runner, error):
            return True
        self.epoch.want_rollback(runner.at)
        assert runner.stream is not None
        self.barrier.abandon(runner.stream)
        return False
