"""One life of a worker: from the start of its app to its stop or its kill."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.worker import work
from .environment import Environment, without_logs
from .virtual_loop import Owner, owning

if TYPE_CHECKING:
    from ...agents.runtime import Runtime

__all__ = ["WorkerLife"]


class WorkerLife:
    """An app that runs as a worker, in the event loop of its environment. It lives once.

    Args:
        app: an app that has not run before.
        name: in errors and logs.
        folder: the worker's data folder. A worker that is started with the folder of another one has its identity.

    Attributes:
        owner: what its callbacks, tasks and clients belong to.
        killed: whether `kill` has ended it.
        stopping: whether `ask_to_stop` was called.
    """

    def __init__(self, environment: Environment, app: App, name: str, folder: Path) -> None:
        self.app, self.owner = app, Owner(name)
        self.killed = self.stopping = False
        self._environment = environment
        self._task: asyncio.Task[None] | None = None
        self._ready = False
        runtime = self.runtime
        runtime.cluster = environment.kafka.cluster(owner=self.owner)
        runtime.configure(web_enabled=False, datadir=str(folder))

    @property
    def runtime(self) -> Runtime:
        """The internal state of the app."""
        return runtime_of(self.app)

    def start(self) -> None:
        """Begin to run the app; `ready` becomes true while the event loop runs."""
        assert self._task is None, "a worker lives once"
        with self._environment.loading(), owning(self.owner):
            self._task = self._environment.loop.create_task(work(self.app, on_ready=self._note_ready))

    def _note_ready(self, _: App) -> None:
        self._ready = True

    @property
    def ready(self) -> bool:
        """True if its tables are restored and it processes records."""
        return self._ready and not self.ended

    @property
    def ended(self) -> bool:
        """True if it has ended by itself, after `ask_to_stop` or by `kill`."""
        return self.killed or (self._task is not None and self._task.done())

    @property
    def error(self) -> BaseException | None:
        """The error that ended it; None while it runs and after a normal stop."""
        if self.killed or self._task is None or not self._task.done():
            return None
        return asyncio.CancelledError("cancelled") if self._task.cancelled() else self._task.exception()

    def ask_to_stop(self, *, keep_identity: bool = False) -> None:
        """Begin to stop as at SIGTERM: commit, leave the group, end."""
        self.stopping, self.runtime.keep_identity = True, keep_identity
        with self._environment.loading(), owning(self.owner):
            self.runtime.stop_requested.set()

    def kill(self) -> None:
        """End it as `kill -9` does: none of its code has any effect from now on. May be called from its own code."""
        if self.ended:
            return
        self.killed = True
        self._environment.kill(self.owner)
        with suppress(Exception):
            self.runtime.engine.rebalance.abandon()

    def close(self) -> None:
        """End its coroutines, whose `finally` blocks reach neither Kafka nor other workers."""
        with without_logs(), self._environment.loading():  # Faust's services report that they are ended
            self.kill()
            self.owner.close()
