"""A worker: runs an app until it is told to stop, and says how it ended.

Exit codes: 0 after SIGTERM or SIGINT (drained, committed, left the group), 1 when a human has to look (the broker is
gone, fenced, an agent's policy is `fail`), 2 when the program or its configuration has to change.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..topics import clock
from ..topics.errors import AnabranchError, Stop, described
from ..topics.garbage_collector import collect_seldom
from .app import App
from .runtime import runtime_of
from .tables.restoration import RestoreProgress

__all__ = ["run_worker", "work"]

logger = logging.getLogger(__name__)

# Beyond `stuck_s`: leaving the group, closing clients and stores.
_SPARE_S = 10.0
_TELL_S = 0.2
# Signals that come within it are one: a terminal and a supervisor may both send it.
_ONE_SIGNAL_S = 1.0

_M_ARENA_MAX = -8  # of glibc's mallopt
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
        on_progress: called a few times a second while tables are restored, and with None at the end of it.
        on_hard_end: says why, where the process ends although parts of it hang; without it, a line on stderr does.

    Raises:
        AnabranchError: why it ended otherwise; also where a task of the program raised `SystemExit`.
    """
    collect_seldom()
    _save_memory()
    try:
        asyncio.run(work(app, on_ready=on_ready, on_progress=on_progress, on_hard_end=on_hard_end, signals=True))
    except (SystemExit, KeyboardInterrupt) as exc:
        # Signals come another way: the program has raised it where no agent's record could take it. All tasks were
        # cancelled then, and what the engine says of that is not the reason.
        raise Stop(
            f"a task of the program has ended the worker: {described(exc)}",
            hint="nothing of the running epoch is committed; an agent that raises it itself gives up its record alone",
        ) from exc


def _save_memory() -> None:
    """What one thread takes is given back by another here, which allocators keep for the first: 100 MB of batches.

    An operator's own `MALLOC_ARENA_MAX` and `ARROW_DEFAULT_MEMORY_POOL` count.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # for Arrow, where it is loaded later
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


async def work(
    app: App,
    *,
    on_ready: Callable[[App], None] | None = None,
    on_progress: Callable[[RestoreProgress | None], None] | None = None,
    on_hard_end: Callable[[BaseException], object] | None = None,
    signals: bool = False,
) -> None:
    """Run `app` until a signal, an error or `Runtime.stop_requested` ends it."""
    runtime = runtime_of(app)
    app.in_worker = runtime.supervised = True
    app.finalize()
    if signals:
        _listen(app, asyncio.get_running_loop())
    stopping = asyncio.ensure_future(runtime.stop_requested.wait())
    starting = asyncio.ensure_future(app.start())
    crashed = asyncio.ensure_future(_crashed(app))
    telling = None if on_progress is None else asyncio.ensure_future(_tell(app, on_progress))
    try:
        await asyncio.wait({starting, stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            if on_ready is not None and runtime.stopped_by is None and not crashed.done():
                on_ready(app)
        await asyncio.wait({stopping, crashed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        crashed.cancel()
        if telling is not None:
            telling.cancel()
        if signals:
            _watch_the_end(app, on_hard_end or _say)
        await _end(app, starting)
    runtime.raise_if_stopped()


async def _tell(app: App, on_progress: Callable[[RestoreProgress | None], None]) -> None:
    runtime = runtime_of(app)
    told = False
    while True:
        await asyncio.sleep(_TELL_S)
        progress = runtime.status.restoring if runtime.engine_runs else None
        if progress is not None or told:
            on_progress(progress)
        told = progress is not None


async def _crashed(app: App) -> None:
    """A part of Faust ended with an error: so does the worker."""
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


def _say(error: BaseException) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def _watch_the_end(app: App, say: Callable[[BaseException], object]) -> None:
    """A worker that was told to end does: calls into librdkafka can hang, or wait minutes for a broker that is away.

    What is not committed is done again by the next start, as after a `kill -9`.
    """
    runtime = runtime_of(app)
    after_s = runtime.settings.stuck_s + _SPARE_S

    def end_hard() -> None:
        error = runtime.stopped_by or AnabranchError(
            f"ended before the last epoch was known to be committed: the end took more than {after_s:.0f} s",
            hint="is the broker up? Nothing is lost: the next start goes on from what was committed",
        )
        try:
            say(error)
        finally:
            os._exit(1)

    overdue = threading.Timer(after_s, end_hard)
    overdue.daemon = True
    overdue.start()


def _listen(app: App, loop: asyncio.AbstractEventLoop) -> None:
    """The first signal stops the worker; a later one ends the process at once, also while an agent blocks the loop."""
    first_s: list[float] = []

    def note(number: int, _: Any) -> None:
        if first_s and clock.now_s() - first_s[0] > _ONE_SIGNAL_S:
            os.write(2, b"\nended at once (a second signal came); the next start goes on from what was committed\n")
            os._exit(128 + number)
        first_s.append(clock.now_s())
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker has ended
            loop.call_soon_threadsafe(_stop, app, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)


def _stop(app: App, number: int) -> None:
    logger.info("%s: ending at record boundaries", signal.Signals(number).name)
    runtime_of(app).stop_requested.set()
