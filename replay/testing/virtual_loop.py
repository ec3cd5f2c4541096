"""An event loop under a virtual clock: it never waits, and has no threads, sockets or processes.

Where the loop of asyncio waits for the next timer, this one moves the clock to it. Callbacks run in the order that
asyncio promises, one after the other, so a program that draws no random numbers runs the same way each time.

Each callback, timer and task belongs to the `Owner` in whose `owning` block it was made, directly or by another
callback: to one worker, say. What belongs to an owner can be paused and dropped, as the operating system pauses and
kills a process, while the callbacks of other owners go on.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from inspect import CORO_CREATED, getcoroutinelocals, getcoroutinestate, iscoroutine
from itertools import count
from types import CoroutineType
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack, cast

from .virtual_clock import VirtualClock

__all__ = ["Deadlock", "Owner", "VirtualLoop", "owning"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# What a turn of the loop takes while something is ready. Without it a task that only awaits `sleep(0)` until some time
# has passed would never end.
TURN_S = 20e-6

# After this many turns in a row in which something was ready, turns take longer and longer: an agent that never waits
# reaches the deadline of its test in seconds of real time instead of hours.
_MANY_TURNS = 100_000
_DOUBLED_EVERY = 1_000
_MOST_DOUBLINGS = 16  # 1.3 s

_log = logging.getLogger("asyncio")


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set, so what is waited for never happens."""


class Owner:
    """The owner of callbacks, timers and tasks.

    Attributes:
        name: shown in `repr`.
        dropped: none of its callbacks runs any more.
        paused_until_s: none of its callbacks runs before this time of the loop.
        tasks: the tasks that were made and are not gone yet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dropped = False
        self.paused_until_s = 0.0
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._kept: list[asyncio.Task[Any]] = []

    def drop(self) -> None:
        """Run none of its callbacks from now on. Its coroutines stay where they are; `close` ends them."""
        self._kept = list(self.tasks)  # a coroutine that nothing refers to would run its `finally` blocks now
        self.dropped = True

    def close(self) -> None:
        """End its coroutines. Their `finally` blocks run; they cannot await."""
        self.drop()
        for task in self._kept:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio's own loop does
                _end(cast("CoroutineType[Any, Any, Any]", task.get_coro()))
        self._kept.clear()

    def __repr__(self) -> str:
        return f"<owner {self.name}{' (dropped)' if self.dropped else ''}>"


def _end(coroutine: CoroutineType[Any, Any, Any]) -> None:
    """End a coroutine, and those that it was given and would have awaited: Python warns of one that never began."""
    given = list(getcoroutinelocals(coroutine).values()) if getcoroutinestate(coroutine) == CORO_CREATED else []
    with suppress(BaseException):
        coroutine.close()
    for other in filter(iscoroutine, given):
        other.close()


_NOBODY = Owner("the loop")
_owner: ContextVar[Owner] = ContextVar("anabranch_owner", default=_NOBODY)


@contextmanager
def owning(owner: Owner) -> Generator[None]:
    """Let what is scheduled inside of the block, and by this, belong to an owner."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


def _no_network(self: VirtualLoop, *args: object, **options: object) -> NoReturn:
    del self, args, options
    raise NotImplementedError("an app in a test has no network, no processes and no signals: patch what uses them")


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module's docstring.

    Args:
        clock: the loop's time is this clock's, in seconds.
        choose: decides whose callback runs next where several owners have some: called with their number, returns the
            index of one. The order of one owner's callbacks stays. None runs them in the order of their registration.

    Attributes:
        coast: called when nothing is ready; while it returns True, timers of `idle` are late by `coast_s`, as if what
            looks for work were slow. Other timers are exact.
        coast_s: that time, in seconds.
        failures: descriptions of exceptions that no code has caught, as `call_exception_handler` gets them.
    """

    def __init__(self, clock: VirtualClock, *, choose: Callable[[int], int] | None = None) -> None:
        self.clock, self._choose = clock, choose
        self.coast: Callable[[], bool] | None = None
        self.coast_s = 1.0
        self._coast_until_s = 0.0
        self._busy_turns = 0
        self.failures: list[dict[str, Any]] = []
        self._numbers = count()
        self._ready: deque[tuple[asyncio.Handle, Owner]] = deque()
        self._timers: list[tuple[float, int, asyncio.Handle, Owner]] = []
        self._idle: list[tuple[float, int, asyncio.Handle, Owner]] = []
        self._stopping = self._running = self._closed = self._debug = False
        self._task_factory: Any = None
        self._exception_handler: Any = None

    # Running --------------------------------------------------------------------------------------------------------

    def run_until(self, condition: Callable[[], bool], deadline_s: float | None = None) -> bool:
        """Run callbacks until `condition` is true, or until the clock has reached a time.

        Args:
            condition: called before each turn; must be cheap.
            deadline_s: in seconds of the loop; None for no limit.

        Returns:
            Whether the condition is true.

        Raises:
            Deadlock: nothing is scheduled, and there is no deadline.
        """
        with self._being_run():
            while not condition():
                if deadline_s is not None and self.time() >= deadline_s:
                    return False
                self._turn(deadline_s)
        return True

    def run_until_complete(self, future: Any) -> Any:
        """Run until a future or coroutine is done; return its result."""
        self._check_closed()
        task: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        self.run_until(task.done)
        return task.result()

    def run_forever(self) -> None:
        """Run until `stop` is called."""
        self.run_until(self._take_stop)

    def _take_stop(self) -> bool:
        stopping, self._stopping = self._stopping, False
        return stopping

    @contextmanager
    def _being_run(self) -> Generator[None]:
        self._check_closed()
        if self._running:
            raise RuntimeError("This event loop is already running")
        # A test that is a coroutine itself runs in another loop, which stands still meanwhile.
        outer, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()  # pyright: ignore[reportPrivateUsage]
        self._running = True
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_generator)
        asyncio._set_running_loop(self)  # pyright: ignore[reportPrivateUsage]
        try:
            yield
        finally:
            asyncio._set_running_loop(outer)  # pyright: ignore[reportPrivateUsage]
            sys.set_asyncgen_hooks(*hooks)
            self._running = False

    def _turn(self, deadline_s: float | None) -> None:
        if self._ready:
            self._busy_turns += 1
            self.clock.move_to(self.time() + self._turn_s())
        else:
            self._busy_turns = 0
            self._move_to_next(deadline_s)
        now_s = self.time()
        for heap in (self._timers,) if now_s < self._coast_until_s else (self._timers, self._idle):
            while heap and heap[0][0] <= now_s:
                _, _, handle, owner = heapq.heappop(heap)
                self._ready.append((handle, owner))
        batch, self._ready = self._ready, deque()
        if self._choose is not None:
            batch = self._interleaved(batch, self._choose)
        try:
            while batch:
                handle, owner = batch.popleft()
                if handle.cancelled() or owner.dropped:
                    continue
                if owner.paused_until_s > self.time():
                    heapq.heappush(self._timers, (owner.paused_until_s, next(self._numbers), handle, owner))
                    continue
                handle._run()  # pyright: ignore[reportPrivateUsage]
        finally:
            self._ready.extendleft(reversed(batch))  # a KeyboardInterrupt

    def _turn_s(self) -> float:
        if self._busy_turns < _MANY_TURNS:
            return TURN_S
        doublings = min(_MOST_DOUBLINGS, (self._busy_turns - _MANY_TURNS) // _DOUBLED_EVERY)
        return TURN_S * 2**doublings

    def _move_to_next(self, deadline_s: float | None) -> None:
        """Move the clock to the next timer, or to the deadline."""
        for heap in (self._timers, self._idle):
            while heap and (heap[0][2].cancelled() or heap[0][3].dropped):
                heapq.heappop(heap)
        times = [self._timers[0][0]] if self._timers else []
        if self._idle:
            coasting = self.coast is not None and self.coast()
            self._coast_until_s = self._idle[0][0] + self.coast_s if coasting else 0.0
            times.append(self._coast_until_s or self._idle[0][0])
        if deadline_s is not None:
            times.append(deadline_s)
        if not times:
            waiting = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(self)))
            raise Deadlock(f"nothing is scheduled, so nothing will ever happen; waiting tasks: {waiting or 'none'}")
        self.clock.move_to(min(times))

    def _interleaved(
        self, batch: deque[tuple[asyncio.Handle, Owner]], choose: Callable[[int], int]
    ) -> deque[tuple[asyncio.Handle, Owner]]:
        by_owner: dict[Owner, deque[tuple[asyncio.Handle, Owner]]] = {}
        for entry in batch:
            by_owner.setdefault(entry[1], deque()).append(entry)
        if len(by_owner) < 2:
            return batch
        queues, merged = list(by_owner.values()), deque[tuple[asyncio.Handle, Owner]]()
        while queues:
            index = choose(len(queues)) if len(queues) > 1 else 0
            merged.append(queues[index].popleft())
            if not queues[index]:
                del queues[index]
        return merged

    @property
    def has_ready(self) -> bool:
        """True if callbacks wait for the next turn."""
        return bool(self._ready)

    def stop(self) -> None:
        """Let `run_forever` return after this turn."""
        self._stopping = True

    def is_running(self) -> bool:
        """Return whether callbacks are being run."""
        return self._running

    def is_closed(self) -> bool:
        """Return whether the loop is closed."""
        return self._closed

    def close(self) -> None:
        """Drop all callbacks and timers, and end all coroutines."""
        if self._running:
            raise RuntimeError("Cannot close a running event loop")
        self._closed = True
        for task in asyncio.all_tasks(self):
            _NOBODY.tasks.add(task)
        self._ready.clear()
        self._timers.clear()
        self._idle.clear()

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    # Scheduling -----------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the clock's seconds."""
        return self.clock.now_s()

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in the next turn."""
        self._check_closed()
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((handle, context.get(_owner, _NOBODY)))
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback after so many seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback at a time of the loop."""
        return self._schedule(self._timers, when, callback, args, context)

    def _schedule(
        self,
        heap: list[tuple[float, int, asyncio.Handle, Owner]],
        when: float,
        callback: Callable[..., object],
        args: Any,
        context: Context | None,
    ) -> asyncio.TimerHandle:
        self._check_closed()
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(heap, (when, next(self._numbers), handle, context.get(_owner, _NOBODY)))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are skipped."""

    async def idle(self, seconds: float) -> None:
        """Wait for so many seconds, or longer while nothing happens (`coast`)."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = self.create_future()
        handle = self._schedule(self._idle, self.time() + seconds, _fulfil, (future,), None)
        try:
            await future
        finally:
            handle.cancel()

    def create_future(self) -> asyncio.Future[Any]:
        """Return a new future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Run a coroutine as a task."""
        self._check_closed()
        if self._task_factory is not None:
            task: asyncio.Task[Any] = self._task_factory(self, coro, **({"context": context} if context else {}))
        else:
            task = asyncio.Task(coro, loop=self, name=name, context=context, **options)
        (_owner.get() if context is None else context.get(_owner, _NOBODY)).tasks.add(task)
        return task

    def run_in_executor(self, executor: object, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        """Call a blocking function in the next turn, in this thread."""
        del executor
        future: asyncio.Future[T] = self.create_future()

        def make() -> None:
            try:
                result = func(*args)
            except Exception as exc:  # noqa: BLE001 (raised again in the caller)
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(make)
        return future

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """End an asynchronous generator that nothing refers to any more."""
        if not self._closed and not _owner.get().dropped:
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: generators end with the coroutines that use them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there is no executor."""

    # Settings -------------------------------------------------------------------------------------------------------

    def get_debug(self) -> bool:
        """Return whether the debug mode is on."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Set the debug mode, which has no effect on this loop."""
        self._debug = enabled

    def set_task_factory(self, factory: Any) -> None:
        """Set the factory of tasks; None for asyncio's own class."""
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        """Return the factory of tasks."""
        return self._task_factory

    def set_exception_handler(self, handler: Any) -> None:
        """Set what is called with exceptions that no code catches."""
        self._exception_handler = handler

    def get_exception_handler(self) -> Any:
        """Return what is called with exceptions that no code catches."""
        return self._exception_handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an exception that no code has caught."""
        if self._closed or _owner.get().dropped:
            return
        self.failures.append(context)
        if self._exception_handler is not None:
            self._exception_handler(self, context)
        else:
            self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log an exception that no code has caught."""
        _log.error("%s", context.get("message", "exception in a callback"), exc_info=context.get("exception"))

    def add_reader(self, fd: object, callback: object, *args: object) -> NoReturn:
        """Refuse: there are no sockets."""
        _no_network(self, fd, callback, *args)

    add_writer = add_reader
    create_connection = create_server = create_datagram_endpoint = create_unix_connection = _no_network
    getaddrinfo = getnameinfo = sock_connect = connect_read_pipe = _no_network
    subprocess_exec = subprocess_shell = add_signal_handler = _no_network  # type: ignore[assignment]


def _fulfil(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
