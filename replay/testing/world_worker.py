"""A worker of a world, through all its lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...topics.errors import Usage
from .app_source import AppSource, LoadedApp
from .environment import Environment
from .worker_life import WorkerLife

if TYPE_CHECKING:
    from ...agents.app import App

__all__ = ["WorldWorker"]

# A worker stops within its `stuck_s` and some seconds for its clients.
_STOP_S = 120.0


class WorldWorker:
    """A worker. It is started once its world runs, and again by `start` after it has ended.

    Args:
        folder: returns the data folder for the worker's next life, given whether it keeps its identity.
        prepare: called with each app before it runs.

    Attributes:
        index: its number in the world.
    """

    def __init__(
        self,
        environment: Environment,
        source: AppSource,
        index: int,
        folder: Callable[[int, bool], Path],
        prepare: Callable[[App], None],
    ) -> None:
        self.index = index
        self._environment, self._source = environment, source
        self._folder, self._prepare = folder, prepare
        self._loaded = self._load()
        self._keeps_identity = True
        self._past: list[WorkerLife] = []
        self.life: WorkerLife | None = None
        self._wanted = True

    def _load(self) -> LoadedApp:
        with self._environment.loading():
            loaded = self._source.load()
            self._prepare(loaded.app)
        return loaded

    @property
    def app(self) -> App:
        """The app of the current life, or of the next one before it has begun."""
        return self._loaded.app

    @property
    def module(self) -> ModuleType:
        """The module of the app: a copy of its own for each life."""
        return self._loaded.module

    @property
    def running(self) -> bool:
        """True if it has been started and has not ended."""
        return self.life is not None and not self.life.ended

    def begin(self) -> None:
        """Start it if it is to run and does not."""
        if self.life is None and self._wanted:
            folder = self._folder(self.index, self._keeps_identity)
            self.life = WorkerLife(self._environment, self.app, f"worker {self.index}", folder)
            self.life.start()

    def start(self, *, identity: bool = True) -> None:
        """Start it again after it has ended, with a fresh copy of its app.

        Args:
            identity: with its former data folder, and so its identity in the group; else with an empty folder.

        Raises:
            Usage: it runs, or there is only one app, which has run.
        """
        if self.life is not None:
            if not self.life.ended:
                raise Usage(f"worker {self.index} runs already", hint="stop() or kill() it first")
            self._past.append(self.life)
            self._loaded, self.life = self._load(), None
        self._keeps_identity, self._wanted = identity, True
        self.begin()

    def stop(self, *, keep_identity: bool = False) -> None:
        """Stop it as SIGTERM does: it ends at a record boundary, commits and leaves its group.

        Args:
            keep_identity: do not leave the group, as `anabranch worker --keep-identity`.

        Raises:
            AnabranchError: it ended with an error.
        """
        life = self._need_life("stop")
        life.ask_to_stop(keep_identity=keep_identity)
        deadline_s = self._environment.clock.now_s() + _STOP_S
        if not self._environment.run_until(lambda: life.ended, deadline_s):
            raise TimeoutError(f"worker {self.index} has not stopped within {_STOP_S:.0f} s of virtual time")
        if life.error is not None:
            raise life.error
        self._wanted = False

    def kill(self) -> None:
        """End it as `kill -9` does: it commits nothing more, and its group learns it by the session timeout."""
        life = self._need_life("kill")
        life.kill()
        self._wanted = False

    def table(self, name: str, *, partition: int | None = None) -> dict[Any, Any]:
        """Return the committed pairs of a table that this worker holds; for a global table, all that it sees.

        Args:
            partition: only those of this partition, which is empty if the worker does not hold it.
        """
        self._need_life("read the tables of")
        from .world_tables import pairs_of, table_of

        with self._environment.loading():
            return pairs_of(table_of(self.app, name), partition)

    def _need_life(self, what: str) -> WorkerLife:
        if self.life is None or self.life.ended:
            raise Usage(f"cannot {what} worker {self.index}: it does not run", hint="world.settle() starts workers")
        return self.life

    def close(self) -> None:
        """End all that is left of it."""
        for life in (*self._past, self.life):
            if life is not None:
                life.close()
