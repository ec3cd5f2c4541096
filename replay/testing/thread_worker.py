"""A worker of a `KafkaWorld`: an app in a thread, with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.worker import work
from ...topics.errors import Usage
from ...topics.topic_partition import TopicPartition

__all__ = ["ThreadWorker"]

T = TypeVar("T")

_STOP_S = 60.0


class ThreadWorker:
    """The worker, which starts at once."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None
        self.ready = False
        self._thread = threading.Thread(target=self._run, name=f"anabranch-{app.conf.id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as exc:  # noqa: BLE001 (raised again in the test)
            self._error = exc

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        await work(self.app, on_ready=self._note_ready)

    def _note_ready(self, _: App) -> None:
        self.ready = True

    def raise_error(self) -> None:
        """Raise the error that has ended the worker, if there is one.

        Raises:
            AnabranchError: that error.
            Usage: the worker has stopped by itself.
        """
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise Usage("a worker has stopped")

    @property
    def commits_at_rest(self) -> int | None:
        """Number of commits so far; None while there is something to commit."""
        runtime = runtime_of(self.app)
        context, status = runtime.context, runtime.status
        busy = status.rebalancing or context.barrier.running or context.epoch.dirty or status.waiting
        return None if busy else status.commits_total

    def positions(self) -> dict[TopicPartition, int]:
        """Return partition -> committed offset, of the partitions that this worker reads."""
        status = runtime_of(self.app).status
        return {at: status.committed.get(at, 0) for at in list(status.active)}

    def result(self, coroutine: Coroutine[Any, Any, T], within_s: float) -> T:
        """Run a coroutine in the worker's event loop and return its result (blocking).

        Raises:
            TimeoutError: it takes longer.
        """
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(within_s)

    def ask_to_stop(self) -> None:
        """Begin to stop the worker as at SIGTERM."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(runtime_of(self.app).stop_requested.set)

    def join(self) -> None:
        """Wait until the worker has ended."""
        self._thread.join(_STOP_S)
