"""A runner drives one agent function: it steps it, and starts it anew after a failure or a redo.

The stepper is what makes tables belong to somebody: before each resumption of the agent's coroutine the engine opens
the tables at the partition of the agent's record, and closes them when the coroutine suspends. That serves several
agents and any concurrency, and needs no context variables.
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
from ..tables.uncommitted_writes import TrackedValue
from .protocols import RecordFeed, RunnerHost

__all__ = ["Runner", "acting_runner", "halt_all", "this_runner"]

_runner: contextvars.ContextVar[Runner | None] = contextvars.ContextVar("anabranch-runner", default=None)


def acting_runner() -> Runner | None:
    """Whose record a task works on that an agent started (`asyncio.gather`, …); None between records."""
    runner = _runner.get()
    return runner if runner is not None and runner.stream is not None and runner.stream.running else None


def this_runner() -> Runner | None:
    """Whose task this is, or who started it; None outside of agents."""
    return _runner.get()


class Runner:
    """One agent instance.

    Args:
        make: makes a fresh coroutine of the agent function; called again after each failure.
        source: the stream it is given.
        leaving: whether the agent was told to end.

    Attributes:
        begun: whether the agent has come to its loop, once in its life.
        stream: the stream whose record the agent works on; None before the first.
        at: partition of that record.
        steps: how often the coroutine was resumed; equal counts mean that nothing else can have run in between.
        handed: values of tables that the agent has of its record.
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
        self._again: asyncio.Future[None] | None = None
        self._cancelled_by_redo = False
        self.closed = False

    async def main(self) -> None:
        """The agent's task: run until the worker ends; a failing record goes to the engine.

        Whatever the agent raises is its record's failure: also what is no `Exception` (a panic of a Rust library,
        `SystemExit`), and a cancellation that neither the engine nor the end of the worker has asked for.
        """
        self.task = asyncio.current_task()
        _runner.set(self)
        RUNNING_AGENT.set(self.name)
        self.context.add_runner(self)
        gone: Stop | None = None
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
                            hint="an agent iterates its stream for ever: `async for value in stream`",
                        )
                await self._resumed()
        except Stop as exc:
            gone = exc
        except BaseException as exc:
            if not self._worker_ends:
                gone = Stop(f"agent {self.name} is gone: {described(exc)}")
            raise
        finally:
            if not self.closed:
                self.context.remove_runner(self, expected=gone is None)
                if gone is not None:
                    await self.context.stop_with(gone)

    async def _settled(self) -> None:
        """Of a cancellation that was taken back something may be left, which belongs to no later record."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            if not self._left_for_redo() and self._is_the_end(exc):
                raise

    async def _resumed(self) -> None:
        """Wait for `resume`, where the agent was halted or its failure undoes the epoch."""
        while (again := self._again) is not None:
            try:
                await again
            except asyncio.CancelledError as exc:
                if self._is_the_end(exc):
                    raise
                if self._again is again:  # else `resume` was faster
                    self._again = asyncio.get_running_loop().create_future()
            else:
                self._again = None

    @property
    def _worker_ends(self) -> bool:
        return self.context.stopping or self.context.ended

    def _is_the_end(self, error: BaseException) -> bool:
        """Whether the agent was cancelled because it, or the worker, ends; any other cancellation is taken back."""
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
        """Whether somebody has cancelled the agent, and it goes on until it has to wait.

        `cancelling()` cannot tell: before Python 3.13 a TaskGroup that has failed leaves it above 0.
        """
        ours = self._cancelled_by_redo or self._worker_ends or self._leaving()
        return not ours and getattr(self.task, "_must_cancel", False)

    def _left_for_redo(self) -> bool:
        """Whether the coroutine ended because `halt` cancelled it, however it took that."""
        left, self._cancelled_by_redo = self._cancelled_by_redo, False
        if left:
            assert self.task is not None
            self.task.uncancel()
        return left

    def halt(self) -> None:
        """For a redo: leave the record, wait for `resume`."""
        if self._again is None:
            self._again = asyncio.get_running_loop().create_future()
            self._cancelled_by_redo = True
            assert self.task is not None
            self.task.cancel()

    @property
    def halted(self) -> bool:
        """Whether the agent's coroutine is gone and the runner waits for `resume`."""
        return self._again is not None and not self._cancelled_by_redo

    def resume(self) -> None:
        """Start the agent function anew."""
        self.stream = self.at = None
        self.handed.clear()
        if self._again is not None and self._again.cancelled():
            self._again = None
        elif self._again is not None and not self._again.done():
            self._again.set_result(None)


async def halt_all(runners: Iterable[Runner], alive: Container[Runner], within_s: float) -> None:
    """Halt runners and wait until their agents are gone.

    Raises:
        Stop: one does not go.
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
        except GeneratorExit:  # the task is gone, with its loop; an agent's own never comes this way
            runner.closed = True
            coro.close()
            raise
        except BaseException as exc:  # noqa: BLE001 (cancellation is the coroutine's to handle)
            thrown = exc
