"""A runner drives one agent function: it steps it, and starts it anew after a failure or a redo.

The stepper is what makes tables belong to somebody: before each resumption of the agent's coroutine the engine opens
the tables at the partition of the agent's record, and closes them when the coroutine suspends. That serves several
agents and any concurrency, and needs no context variables.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import types
from collections.abc import Callable, Container, Coroutine, Generator, Iterable
from typing import Any

from ...topics.errors import Stop
from .inbox import Position
from .ports import Engaged, Feed

__all__ = ["Runner", "acting_runner", "halt_all", "task_starter", "this_runner"]

_runner: contextvars.ContextVar[Runner | None] = contextvars.ContextVar("anabranch-runner", default=None)


def acting_runner() -> Runner | None:
    """Whose record a task works on that an agent started (`asyncio.gather`, …); None between records."""
    runner = _runner.get()
    return runner if runner is not None and runner.stream is not None and runner.stream.running else None


def task_starter() -> str | None:
    """Name of the agent that has started the running task, directly or not; None outside of agents."""
    runner = _runner.get()
    return None if runner is None else runner.name


def this_runner() -> Runner | None:
    """Whose task this is, or who started it; None outside of agents."""
    return _runner.get()


class Runner:
    """One agent instance.

    Args:
        make: makes a fresh coroutine of the agent function; called again after each failure.
        source: the stream it is given.

    Attributes:
        begun: whether the agent has come to its loop, once in its life.
        stream: the stream whose record the agent works on; None before the first.
        at: partition of that record.
        steps: how often the coroutine was resumed; equal counts mean that nothing else can have run in between.
    """

    def __init__(self, engine: Engaged, name: str, make: Callable[[], Coroutine[Any, Any, Any]], source: Feed) -> None:
        self.engine, self.name, self._make, self.source = engine, name, make, source
        self.begun = False
        self.stream: Feed | None = None
        self.at: Position | None = None
        self.task: asyncio.Task[None] | None = None
        self.steps = 0
        self._again: asyncio.Future[None] | None = None
        self._cancelled_by_redo = False

    async def main(self) -> None:
        """The agent's task: run until it is cancelled; a failing record goes to the engine."""
        self.task = asyncio.current_task()
        _runner.set(self)
        self.engine.add_runner(self)
        try:
            while True:
                try:
                    await _stepped(self, self._make())
                except asyncio.CancelledError:
                    if not self._left_for_redo():
                        raise
                except Exception as exc:  # noqa: BLE001 (whatever an agent raises belongs to its record)
                    if not self._left_for_redo() and not self.engine.failed(self, exc):
                        self._again = self._again or asyncio.get_running_loop().create_future()
                else:
                    if self._left_for_redo():
                        pass
                    elif self.engine.stopping:
                        return
                    else:
                        raise Stop(
                            f"agent {self.name} returned",
                            hint="an agent iterates its stream for ever: `async for value in stream`",
                        )
                if self._again is not None:
                    await self._again
                    self._again = None
        except Stop as exc:
            await self.engine.stop_with(exc)
        finally:
            self.engine.remove_runner(self)

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
        if self._again is not None and not self._again.done():
            self._again.set_result(None)


async def halt_all(runners: Iterable[Runner], alive: Container[Runner], within_s: float) -> None:
    """Halt runners and wait until their agents are gone.

    Raises:
        Stop: one does not go.
    """
    halting = list(runners)
    for runner in halting:
        runner.halt()
    deadline = time.monotonic() + within_s
    while not all(runner.halted for runner in halting if runner in alive):
        if time.monotonic() > deadline:
            raise Stop("an agent does not end when it is cancelled", hint="does it catch CancelledError?")
        await asyncio.sleep(0)


@types.coroutine
def _stepped(runner: Runner, coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    engine = runner.engine
    thrown: BaseException | None = None
    while True:
        engine.enter(runner)
        try:
            waits_for = coro.send(None) if thrown is None else coro.throw(thrown)
        except StopIteration as stop:
            return stop.value
        finally:
            engine.leave_agent()
        thrown = None
        try:
            yield waits_for
        except BaseException as exc:  # noqa: BLE001 (cancellation is the coroutine's to handle)
            thrown = exc
