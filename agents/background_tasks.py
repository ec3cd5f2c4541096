"""Tasks, timers and cron jobs of an app: a failure in one of them stops the worker, with an error that names it.

Faust does the same: its app crashes. A failed task has no record that a failure policy could set aside, and a worker
without one of its timers would look healthy but do only part of its work. Nothing of the running epoch is committed. A
task that should survive a failure has to catch its errors itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime, tzinfo
from functools import wraps
from typing import TYPE_CHECKING, Any

from ..topics import clock
from ..topics.errors import Stop, Usage, described
from .runtime import runtime_of

if TYPE_CHECKING:
    from .app import App

__all__ = ["async_function", "called", "cron_job", "ends_the_worker", "now_s", "seconds_until"]

logger = logging.getLogger(__name__)


_WHAT = "_anabranch_what"


def now_s() -> float:
    """Return seconds that only grow, by the clock that the process goes by when this is called."""
    return clock.now_s()


def seconds_until(cron_format: str, timezone: tzinfo | None) -> float:
    """Return the seconds until the next time that a cron line names.

    Args:
        timezone: of the line; None for UTC.
    """
    from croniter.croniter import croniter  # not every app has cron jobs

    at_s = clock.now_ms() / 1000
    times: Any = croniter(cron_format, start_time=datetime.fromtimestamp(at_s, timezone) if timezone else at_s)
    return times.get_next(float) - at_s


def cron_job(cron_format: object, timezone: object, decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `decorate` as the decorator of a cron job; see `called`.

    Raises:
        Usage: it has no cron line, or none that there is; or the zone is no `tzinfo`.
    """
    if not isinstance(cron_format, str):
        raise Usage("@app.crontab without a cron line", hint='@app.crontab("0 * * * *")')
    if timezone is not None and not isinstance(timezone, tzinfo):
        raise Usage(f"crontab(timezone={timezone!r})", hint='a tzinfo: zoneinfo.ZoneInfo("Europe/Berlin")')
    try:
        seconds_until(cron_format, timezone)
    except ValueError as exc:
        raise Usage(f"crontab({cron_format!r}): {exc}", hint='for example "0 * * * *", every hour') from None
    return called("cron job", decorate)


def _check_async(what: str, fun: Any) -> None:
    """Refuse a plain function: it would run once, and then end the worker.

    Raises:
        Usage: it is one.
    """
    # A decorator may make an async function of a plain one, or, without `wraps`, call an async one and return what it
    # awaits: such a function has that one in its closure.
    inner = inspect.unwrap(fun, stop=inspect.iscoroutinefunction)
    plain = inspect.isfunction(inner) and inner.__name__ != "<lambda>"
    if plain and not inspect.iscoroutinefunction(inner) and not any(map(callable, _closure(inner))):
        raise Usage(f"{what} {inner.__name__} is no async function", hint=f"async def {inner.__name__}(): …")


def _closure(fun: Any) -> Iterable[object]:
    for cell in fun.__closure__ or ():
        with suppress(ValueError):  # it is assigned later
            yield cell.cell_contents


def called(what: str, decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `decorate` as a decorator that names its functions `what` in errors, such as "timer".

    Functions of other decorators are named tasks.

    Raises:
        Usage: by the decorator: the function is not async.
    """

    def named(fun: Any) -> Any:
        _check_async(what, fun)
        if inspect.ismethod(fun):  # a bound method has no attributes of its own
            fun = _function_of(fun)
        setattr(fun, _WHAT, what)
        return decorate(fun)

    return named


def _function_of(method: Any) -> Any:
    @wraps(method)
    async def run(*args: Any) -> object:
        return await method(*args)

    return run


def async_function(fun: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    """Return a function that calls a plain function when it is awaited."""

    @wraps(fun)
    async def run(*args: Any, **values: Any) -> object:
        return fun(*args, **values)

    return run


def ends_the_worker(app: App, fun: Any) -> Callable[..., Awaitable[None]]:
    """Wrap a task's function so that it does not raise: if it fails, the worker stops with an error that names it.

    Only `GeneratorExit` and the cancellation at the end of the worker are raised.

    Raises:
        Usage: the function is not async.
    """
    _check_async("task", fun)
    what = f"{getattr(fun, _WHAT, 'task')} {fun.__module__}.{getattr(fun, '__qualname__', fun)}"

    @wraps(fun)
    async def run(*args: Any) -> None:
        try:
            await fun(*args)
        except BaseException as exc:  # includes SystemExit and a cancellation while the worker runs
            if isinstance(exc, GeneratorExit) or (isinstance(exc, asyncio.CancelledError) and app.should_stop):
                raise
            logger.error("%s failed: the worker ends", what, exc_info=exc)
            await runtime_of(app).engine.stop_with(
                exc
                if isinstance(exc, Stop)
                else Stop(
                    f"{what} failed: {described(exc)}",
                    hint="the traceback is in the log; catch the exceptions that it can recover from",
                )
            )

    return run
