"""Threads: the one file of `topics` and `agents` that starts them (`tests/test_tidy.py`).

All of them are daemon threads. `asyncio.to_thread` keeps a process from ending until its calls return, and those of a
Kafka client may never return (see `client_watchdog`).

Inside of `inline()` no thread is started. A call of `daemon_thread`, a `BackgroundCall` and the steps of `Background`
run in the event loop's own thread, between other callbacks, and so in an order that a test can repeat. `call_within`
makes its call at once. Like `clock`, this module is used with its name: `threads.idle()`, since `inline` binds the
function anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, ParamSpec, TypeVar

from . import clock

__all__ = [
    "Background",
    "BackgroundCall",
    "are_inline",
    "call_later",
    "call_unless",
    "call_within",
    "daemon_thread",
    "idle",
    "inline",
]

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that a thread waits for another call before it ends.
_WAITS_S = 1.0

_inline = False
_delay_s: Callable[[], float] | None = None

idle: Callable[[float], Awaitable[object]] = asyncio.sleep
"""Await so many seconds before looking again for something that is not announced, such as a record in a client."""


def are_inline() -> bool:
    """Return whether blocking calls run in the event loop's own thread."""
    return _inline


@contextmanager
def inline(
    *, idle: Callable[[float], Awaitable[object]] = asyncio.sleep, delay_s: Callable[[], float] | None = None
) -> Generator[None]:
    """Start no threads inside of the block, in the whole process.

    What would run in a thread must not wait for the event loop. Waiting for time needs a clock that does not wait
    itself (`clock.use`).

    Args:
        idle: replaces `threads.idle`.
        delay_s: returns how long the next call of `daemon_thread` waits before it is made, in seconds of the event
            loop; None makes all of them in the loop's next iteration.
    """
    global _inline, _delay_s
    names = globals()
    before = _inline, _delay_s, names["idle"]
    _inline, _delay_s, names["idle"] = True, delay_s, idle
    try:
        yield
    finally:
        _inline, _delay_s, names["idle"] = before


async def daemon_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a blocking call in a daemon thread and return its result. Cancellation does not end the call."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # pyright: ignore[reportArgumentType]

    def make() -> None:
        result, error = None, None
        try:
            result = call(*args, **kwargs)
        except BaseException as exc:  # noqa: BLE001 (raised again in the caller)
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    if _inline:  # in a callback, so that the cancellation of the caller does not prevent it either
        delay_s = 0.0 if _delay_s is None else _delay_s()
        if delay_s > 0:
            loop.call_later(delay_s, make)
        else:
            loop.call_soon(make)
    else:
        _hand_over(make)
    return await future


class BackgroundCall(Generic[T]):
    """A blocking call in a daemon thread, for whose end the event loop can wait, and also code that cannot await.

    Inline, the call is made in a callback, or by `result` if that comes first.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._returned: list[T] = []
        self._error: BaseException | None = None
        self._made = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._announced: asyncio.Future[None] = self._loop.create_future()
        if not _inline:
            _hand_over(self._make)
        else:
            self._loop.call_later(0.0 if _delay_s is None else _delay_s(), self._make)

    def _make(self) -> None:
        call, self._call = self._call, None
        if call is None:  # inline, `result` has made it
            return
        try:
            self._returned.append(call())
        except BaseException as exc:  # noqa: BLE001 (raised again by `result`)
            self._error = exc
        self._made.set()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        if not self._announced.done():
            self._announced.set_result(None)

    @property
    def done(self) -> bool:
        """True if the call has ended."""
        return self._made.is_set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the call has ended, at most `timeout_s` seconds; return whether it has."""
        if not self.done:
            await asyncio.wait((self._announced,), timeout=timeout_s)
        return self.done

    def result(self) -> T:
        """Wait until the call has ended (blocking), and return or raise its outcome."""
        if _inline:
            self._make()
        self._made.wait()
        if self._error is not None:
            raise self._error
        return self._returned[0]


def call_within(within_s: float, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Make a blocking call. A call that does not return in time is left to a daemon thread.

    Raises:
        TimeoutError: it did not return in time.
    """
    if _inline:
        began_s = clock.now_s()
        call(*args, **kwargs)
        if clock.now_s() - began_s > within_s > 0:
            raise TimeoutError
        return
    _ended(_begun(call, *args, **kwargs), within_s)


def call_unless(given_up: Callable[[], bool], every_s: float, call: Callable[[], object]) -> None:
    """Make a blocking call; while it has not returned, ask every `every_s` seconds whether to leave it to its thread.

    Raises:
        TimeoutError: it was left to its thread.
    """
    if _inline:
        call()
        return
    outcome = _begun(call)
    while True:
        try:
            _ended(outcome, every_s)
            return
        except TimeoutError:
            if given_up():
                raise


_Outcome = SimpleQueue["BaseException | None"]


def _begun(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> _Outcome:
    """Begin a call in a daemon thread; return the queue that will hold its error, or None if it has none."""
    outcome: _Outcome = SimpleQueue()

    def make() -> None:
        try:
            call(*args, **kwargs)
            outcome.put(None)
        except BaseException as exc:  # noqa: BLE001 (raised again in the caller)
            outcome.put(exc)

    _hand_over(make)
    return outcome


def _ended(outcome: _Outcome, within_s: float) -> None:
    try:
        error = outcome.get(timeout=within_s)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error


def call_later(after_s: float, call: Callable[[], object]) -> None:
    """Make a call in a daemon thread after `after_s` seconds, unless the process has ended by then."""
    timer = threading.Timer(after_s, call)
    timer.daemon = True
    timer.start()


class Background:
    """A daemon thread that takes steps until they end.

    Args:
        steps: a generator function. Each step does a piece of work and yields a pause in seconds. In a thread a step
            may also wait itself; inline, where a task of the running event loop takes the steps, it must not.
        name: of the thread.
    """

    def __init__(self, steps: Callable[[], Generator[float]], name: str) -> None:
        self._steps = steps()
        self._joining = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        if _inline:
            self._task = asyncio.get_running_loop().create_task(self._take_inline(), name=name)
        else:
            self._thread = _start(self._take, name)

    def _take(self) -> None:
        for pause_s in self._steps:
            if pause_s:
                clock.wait(self._joining, pause_s)

    async def _take_inline(self) -> None:
        try:
            for pause_s in self._steps:
                await idle(pause_s)
        finally:
            self._steps.close()

    def join(self) -> None:
        """End the current pause and wait until the steps have ended (blocking). Inline, take no further step."""
        self._joining.set()
        if self._thread is not None:
            self._thread.join()
        if self._task is not None:
            self._task.cancel()
            self._steps.close()


def _start(run: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


# Threads whose call has ended, each by the queue in which it waits for the next one. A thread that waits takes a call
# in half the time that a new one needs to start, and a worker makes some hundred calls a second.
_waiting: list[SimpleQueue[Callable[[], None]]] = []
os.register_at_fork(after_in_child=_waiting.clear)


def _hand_over(call: Callable[[], None]) -> None:
    """Make a call, which raises nothing, in a daemon thread."""
    try:
        calls = _waiting.pop()
    except IndexError:
        calls = SimpleQueue[Callable[[], None]]()
        _start(partial(_serve, calls), "anabranch-call")
    calls.put(call)


def _serve(calls: SimpleQueue[Callable[[], None]]) -> None:
    call = calls.get()
    while True:
        call()
        del call  # it may hold the records of an epoch
        _waiting.append(calls)
        try:
            call = calls.get(timeout=_WAITS_S)
        except Empty:
            try:
                _waiting.remove(calls)
                return
            except ValueError:  # a caller has taken it from the list meanwhile
                call = calls.get()
