"""Tasks, timers and cron jobs of an app: one that fails ends the worker, and says which it was.

As in Faust, where the app crashes: what a program does beside its agents is not a record that could be set aside, and a
worker whose timer is gone would look healthy and do half of its work. Nothing of the running epoch is committed; a
task that may fail and go on catches its errors itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from ..topics.errors import Stop, described
from .runtime import runtime_of

if TYPE_CHECKING:
    from .app import App

__all__ = ["called", "ends_the_worker"]

logger = logging.getLogger(__name__)


_WHAT = "_anabranch_what"


def called(what: str, decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator whose functions go by this word in errors; those of others are tasks."""

    def named(fun: Any) -> Any:
        setattr(fun, _WHAT, what)
        return decorate(fun)

    return named


def ends_the_worker(app: App, fun: Any) -> Callable[..., Awaitable[None]]:
    """A task's function that does not raise: if it fails the worker stops, with an error that names it."""
    what = f"{getattr(fun, _WHAT, 'task')} {fun.__module__}.{getattr(fun, '__qualname__', fun)}"

    @wraps(fun)
    async def run(*args: Any) -> None:
        try:
            await fun(*args)
        except BaseException as exc:  # also an exit, and a cancellation that is not the end of the worker
            if isinstance(exc, GeneratorExit) or (isinstance(exc, asyncio.CancelledError) and app.should_stop):
                raise
            logger.error("%s failed: the worker ends", what, exc_info=exc)
            await runtime_of(app).engine.stop_with(
                exc
                if isinstance(exc, Stop)
                else Stop(
                    f"{what} failed: {described(exc)}",
                    hint="the traceback is in the log; let it catch what it can go on after",
                )
            )

    return run
