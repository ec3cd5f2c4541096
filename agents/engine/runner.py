"""Runs one agent function: steps its coroutine, and restarts it after a failure or a rollback.

Stepping connects tables to agents. Each time before the agent's coroutine is resumed, the engine opens the tables at
the partition of the agent's record; when the coroutine suspends, the engine closes them. This works for several agents
and any concurrency, without context variables.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Container, Coroutine, Generator, Iterable
from typing import Any

from ...topics import clock
from ...topics.errors import Stop, described
from ...topics.topic_partition import TopicPartition
from ..running_agent import RUNNING_AGENT
from ..tables.agent_step import IsolatedWriter
from ..tables.open_partition import TrackedValue
from .protocols import RecordFeed, RunnerHost

__all__ = ["Runner", "acting_runner", "halt_all", "this_runner"]

_runner: contextvars.ContextVar[Runner | None] = contextvars.ContextVar("anabranch-runner", default=None)


def acting_runner() -> Runner | None:
    """Return the runner on whose record the current task works; None between records and outside of agents.

    The task may be one that the agent has started (`asyncio.gather`, …).
    """
    runner = _runner.get()
    return runner if runner is not None and runner.stream is not None and runner.stream.running else None


def this_runner() -> Runner | None:
    """Return the runner of the agent that the current task belongs to; None outside of agents.

    The task is the agent's own or one that the agent has started.
    """
    return _runner.get()


class Runner:
    """The runner of one agent instance.

    Args:
        make: creates a new coroutine of the agent function; called again for each restart.
        source: the stream that the agent function receives.
        leaving: returns whether the agent has to end.

    Attributes:
        begun: whether the agent has ever reached its loop.
        stream: the stream whose record the agent works on; None before the first.
        at: partition of this record.
        steps: number of times the coroutine was resumed; if it is unchanged, no other code can have run in between.
        handed: table values that the agent has received for its record.
        writer: the agent as tables see it while its records are isolated.
        closed: whether the event loop has closed the task.
    """

    def __init__(
        self,
        context: RunnerHost,
        name: str,
        make: Callable[[], Coroutine[Any, Any, Any]],
        source: RecordFeed,
        leaving: Callable[[], bool],
    ) -> None:
        self.context, self.name, self._make, self.source, self._leaving = context, name, make, source, leaving
        self.begun = False
        self.stream: RecordFeed | None = None
        self.at: TopicPartition | None = None
        self.task: asyncio.Task[None] | None = None
        self.steps = 0
        self.handed: list[TrackedValue] = []
        self.writer = IsolatedWriter()
        self._again: asyncio.Future[None] | None = None
        self._cancelled_by_rollback = False
        self.closed = False

    async def main(self) -> None:
        """Run the agent until the worker ends, and pass its failures to the engine.

        Any exception that the agent raises is a failure of its record. This includes exceptions that are no `Exception`
        (a panic of a Rust library, `SystemExit`), and a cancellation that neither the engine nor the end of the worker
        has requested.
        """
        self.task = asyncio.current_task()
        _runner.set(self)
        RUNNING_AGENT.set(self.name)
        self.context.add_runner(self)
        error: Stop | None = None
        try:
            while True:
                try:
                    await _stepped(self, self._make())
                except BaseException as exc:
                    if self.closed or (not self._left_for_redo() and self._is_the_end(exc)):
                        raise
                    if self._again is None and not self.context.failed(self, exc):
                        self._again = asyncio.get_running_loop().create_future()
                    await self._settled()
                else:
                    if self._left_for_redo():
                        pass
                    elif self.context.stopping:
                        return
                    else:
                        raise Stop(
                            f"agent {self.name} returned",
                            hint="an agent has to iterate its stream without end: `async for value in stream`",
                        )
                await self._resumed()
        except Stop as exc:
            error = exc
        except BaseException as exc:
            if not self._worker_ends:
                error = Stop(f"agent {self.name} is gone: {described(exc)}")
            raise
        finally:
            if not self.closed:
                self.context.remove_runner(self, expected=error is None)
                if error is not None:
                    await self.context.stop_with(error)

    async def _settled(self) -> None:
        """Absorb the rest of a cancellation that was taken back, so that it does not reach a later record."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            if not self._left_for_redo() and self._is_the_end(exc):
                raise

    async def _resumed(self) -> None:
        """Wait for `resume` if the agent was halted or its failure rolls back the epoch."""
        while (again := self._again) is not None:
            try:
                await again
            except asyncio.CancelledError as exc:
                if self._is_the_end(exc):
                    raise
                if self._again is again:  # otherwise `resume` came first
                    self._again = asyncio.get_running_loop().create_future()
            else:
                self._again = None

    @property
    def _worker_ends(self) -> bool:
        return self.context.stopping or self.context.ended

    def _is_the_end(self, error: BaseException) -> bool:
        """Return whether the error is a cancellation because the agent or the worker ends; take back any other one."""
        assert self.task is not None
        if not isinstance(error, asyncio.CancelledError) or not self.task.cancelling():
            return False
        if self._worker_ends or self._leaving():
            return True
        while self.task.cancelling():
            self.task.uncancel()
        return False

    @property
    def cancelled(self) -> bool:
        """True if other code has cancelled the agent, and the agent continues until it next waits.

        `cancelling()` does not show this: before Python 3.13 a TaskGroup that has failed leaves it above 0.
        """
        expected = self._cancelled_by_rollback or self._worker_ends or self._leaving()
        return not expected and getattr(self.task, "_must_cancel", False)

    def _left_for_redo(self) -> bool:
        """Return whether the coroutine ended because `halt` cancelled it, and reset this state.

        The way in which the coroutine handled the cancellation does not matter.
        """
        left, self._cancelled_by_rollback = self._cancelled_by_rollback, False
        if left:
            assert self.task is not None
            self.task.uncancel()
        return left

    def halt(self) -> None:
        """Cancel the agent's coroutine for a rollback; the runner then waits for `resume`."""
        if self._again is None:
            self._again = asyncio.get_running_loop().create_future()
            self._cancelled_by_rollback = True
            assert self.task is not None
            self.task.cancel()

    @property
    def halted(self) -> bool:
        """True if the agent's coroutine has ended and the runner waits for `resume`."""
        return self._again is not None and not self._cancelled_by_rollback

    def resume(self) -> None:
        """Restart the agent function."""
        self.stream = self.at = None
        self.handed.clear()
        if self._again is not None and self._again.cancelled():
            self._again = None
        elif self._again is not None and not self._again.done():
            self._again.set_result(None)


async def halt_all(runners: Iterable[Runner], alive: Container[Runner], within_s: float) -> None:
    """Halt runners and wait until the coroutines of their agents have ended.

    Args:
        alive: runners that still exist; others are not waited for.
        within_s: seconds to wait.

    Raises:
        Stop: an agent does not end in time.
    """
    halting = list(runners)
    for runner in halting:
        runner.halt()
    deadline = clock.now_s() + within_s
    while not all(runner.halted for runner in halting if runner in alive):
        if clock.now_s() > deadline:
            raise Stop("an agent does not end when it is cancelled", hint="does it catch CancelledError?")
        await asyncio.sleep(0)


@types.coroutine
def _stepped(runner: Runner, coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    context = runner.context
    thrown: BaseException | None = None
    while True:
        context.enter(runner)
        try:
            waits_for = coro.send(None) if thrown is None else coro.throw(thrown)
        except StopIteration as stop:
            return stop.value
        finally:
            context.leave_agent()
        thrown = None
        try:
            yield waits_for
        except GeneratorExit:  # the task is destroyed with its event loop; an agent's own is not raised here
            runner.closed = True
            coro.close()
            raise
        except BaseException as exc:  # noqa: BLE001 (the coroutine handles cancellation)
            thrown = exc
