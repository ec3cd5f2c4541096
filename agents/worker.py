"""Runs an app as a worker until it is stopped, and reports how it ended.

Exit codes: 0 after SIGTERM or SIGINT (it has committed and left the group); 1 if an operator has to intervene (the
broker is unreachable, the worker is fenced, an agent's policy is `fail`); 2 if the program or its configuration has to
change.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..topics import clock, threads
from ..topics.errors import AnabranchError, Stop, described
from ..topics.garbage_collector import collect_seldom
from .app import App
from .runtime import runtime_of
from .tables.restoration import RestoreProgress

__all__ = ["run_worker", "work"]

logger = logging.getLogger(__name__)

# Time after `stuck_s` for leaving the group and for closing clients and stores.
_SPARE_S = 10.0
_REPORT_S = 0.2
# Signals within this time count as one: a terminal and a supervisor may both send it.
_ONE_SIGNAL_S = 1.0
# Agents that are through with their records by then need no mention.
_SAY_AFTER_S = 0.5

_M_ARENA_MAX = -8  # a parameter of glibc's mallopt
_ARENAS = 2


def run_worker(
    app: App,
    *,
    on_ready: Callable[[App], None] | None = None,
    on_progress: Callable[[RestoreProgress | None], None] | None = None,
    on_hard_end: Callable[[BaseException], object] | None = None,
) -> None:
    """Run `app` in this process until SIGTERM or SIGINT (blocking).

    Args:
        on_ready: called once the app has started.
        on_progress: called every 0.2 s while tables are restored, and with None when the restore is complete.
        on_hard_end: called with the error when the process exits although parts of it hang; the default prints a line
            to stderr.

    Raises:
        AnabranchError: the worker ended for another reason; also if a task of the program raised `SystemExit`.
    """
    collect_seldom()
    _save_memory()
    # Before the event loop runs, so that no signal raises an exception in the middle of a start.
    signals = _Signals(app, on_hard_end or _log_error)
    try:
        asyncio.run(work(app, on_ready=on_ready, on_progress=on_progress, on_hard_end=on_hard_end, signals=signals))
    except (SystemExit, KeyboardInterrupt) as exc:
        # Signals do not raise here: the program raised the exception outside of an agent's record. All tasks were
        # cancelled then, so an error that the engine reports is a consequence and not the cause.
        raise Stop(
            f"a task of the program ended the worker: {described(exc)}",
            hint="the current epoch is not committed; if an agent raises the same error, only its record fails",
        ) from exc


def _save_memory() -> None:
    """Configure the memory allocators of glibc and Arrow so that they retain less freed memory.

    A worker allocates batches in one thread and frees them in another. Allocators keep such memory for the first
    thread: 100 MB of batches. `MALLOC_ARENA_MAX` and `ARROW_DEFAULT_MEMORY_POOL` of the environment have precedence.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # in case Arrow is loaded later
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


async def work(
    app: App,
    *,
    on_ready: Callable[[App], None] | None = None,
    on_progress: Callable[[RestoreProgress | None], None] | None = None,
    on_hard_end: Callable[[BaseException], object] | None = None,
    signals: _Signals | None = None,
) -> None:
    """Run `app` until a signal, an error or `Runtime.stop_requested` ends it.

    Args:
        on_ready, on_progress, on_hard_end: see `run_worker`.
        signals: stop at these signals, and limit the time that the stop may take; None for neither.

    Raises:
        AnabranchError: the worker ended with an error.
    """
    runtime = runtime_of(app)
    app.in_worker = runtime.supervised = True
    app.finalize()
    if signals is not None:
        signals.loop = asyncio.get_running_loop()
        if signals.first is not None:
            signals.stop(signals.first)
    stopping = asyncio.ensure_future(runtime.stop_requested.wait())
    starting = asyncio.ensure_future(app.start())
    crashed = asyncio.ensure_future(_crashed(app))
    reporting = None if on_progress is None else asyncio.ensure_future(_report_progress(app, on_progress))
    try:
        await asyncio.wait({starting, stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            if on_ready is not None and runtime.stopped_by is None and not crashed.done():
                on_ready(app)
        await asyncio.wait({stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        crashed.cancel()
        if reporting is not None:
            reporting.cancel()
        if signals is not None and signals.first is None:  # which starts the timer itself
            _watch_the_end(app, on_hard_end or _log_error)
        await _end(app, starting)
    runtime.raise_if_stopped()


async def _report_progress(app: App, on_progress: Callable[[RestoreProgress | None], None]) -> None:
    runtime = runtime_of(app)
    reported = False
    while True:
        await asyncio.sleep(_REPORT_S)
        progress = runtime.status.restoring if runtime.engine_runs else None
        if progress is not None or reported:
            on_progress(progress)
        reported = progress is not None


async def _crashed(app: App) -> None:
    """Stop the worker when a Faust service crashes."""
    await app._crashed.wait()  # pyright: ignore[reportPrivateUsage]
    runtime = runtime_of(app)
    runtime.stopped_by = runtime.stopped_by or app.crash_reason
    runtime.stop_requested.set()


async def _end(app: App, starting: asyncio.Future[Any]) -> None:
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    try:
        await app.stop()
    except AnabranchError:
        if runtime_of(app).stopped_by is None:
            raise


def _log_error(error: BaseException) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def _watch_the_end(app: App, on_error: Callable[[BaseException], object]) -> None:
    """Start a timer that exits the process with code 1 if the stop takes longer than `stuck_s` plus `_SPARE_S`.

    Calls into librdkafka can hang, or wait for minutes for an unreachable broker. Records that are not committed are
    reprocessed after the next start, as after a `kill -9`.
    """
    runtime = runtime_of(app)
    after_s = runtime.settings.stuck_s + _SPARE_S

    def end_hard() -> None:
        error = runtime.stopped_by or AnabranchError(
            f"ended before the last epoch was known to be committed: the end took more than {after_s:.0f} s",
            hint="is the broker up? Nothing is lost: the next start resumes from the last commit",
        )
        try:
            on_error(error)
        finally:
            os._exit(1)

    threads.call_later(after_s, end_hard)


class _Signals:
    """Handlers for SIGTERM and SIGINT.

    The first signal stops the worker. If agents are in the middle of records then, a log line says which, and since
    when. The time that the end may take runs from then on, even if an agent blocks the event loop. A second signal,
    more than `_ONE_SIGNAL_S` later, ends the process at once.

    Args:
        on_hard_end: called with the error when the end takes too long.

    Attributes:
        loop: the worker's event loop; None before it runs.
        first: number of the first signal; None before it.
    """

    def __init__(self, app: App, on_hard_end: Callable[[BaseException], object]) -> None:
        self._app, self._first_s, self._on_hard_end = app, 0.0, on_hard_end
        self.loop: asyncio.AbstractEventLoop | None = None
        self.first: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:
        if self.first is None:
            self.first, self._first_s = number, clock.now_s()
            threads.call_later(_SAY_AFTER_S, self._say_who_is_waited_for)
            _watch_the_end(self._app, self._on_hard_end)
        elif clock.now_s() - self._first_s > _ONE_SIGNAL_S:
            os.write(2, b"\nended at once (second signal); the next start resumes from the last commit\n")
            os._exit(128 + number)
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed because the worker has ended
                self.loop.call_soon_threadsafe(self.stop, number)

    def _say_who_is_waited_for(self) -> None:
        """Log which agents keep the worker from ending; in a thread, because one may block the event loop."""
        runtime = runtime_of(self._app)
        waits_for = runtime.status.waits_for(clock.now_s()) if runtime.engine_runs else ""
        if waits_for:
            logger.warning(
                "%s: waiting for %s; after %.0f s its epoch is rolled back, and the next start processes the records "
                "again (a second signal ends the process at once)",
                signal.Signals(self.first or 0).name,
                waits_for,
                runtime.settings.stuck_s,
            )

    def stop(self, number: int) -> None:
        """Stop the worker after its current records; in the thread of the event loop."""
        logger.info("%s: stopping after the current records", signal.Signals(number).name)
        runtime_of(self._app).stop_requested.set()
