"""Blocking calls beside the event loop that nobody has to wait for.

`asyncio.to_thread` keeps a process from ending until its calls return, and a Kafka client's may never (`topics.pulse`).
Threads of these calls end with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["daemon_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def daemon_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a blocking call in a thread of its own and wait for it; who is cancelled meanwhile leaves it behind."""
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
        except BaseException as exc:  # noqa: BLE001 (raised again by who waits)
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=make, name="anabranch-aside", daemon=True).start()
    return await future
