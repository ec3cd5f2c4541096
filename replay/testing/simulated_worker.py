"""A worker of a simulated world: its lives, one after the other, under a supervisor, and its data folder."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...topics.errors import described
from .app_source import AppSource
from .environment import Environment
from .store_faults import spoil
from .virtual_loop import Owner, owning
from .worker_life import WorkerLife
from .world_log import WorldLog

if TYPE_CHECKING:
    from ...agents.app import App

__all__ = ["SimulatedWorker"]

# When a supervisor starts a worker again that has ended with an error, and one that was asked to stop.
_AGAIN_S, _BACK_S = 0.5, 2.0
_MOST_ENDS = 20
_LOOK_S = 0.05


class SimulatedWorker:
    """A worker under a supervisor that starts it again when it has ended.

    Args:
        began: called with each new life before it starts.

    Attributes:
        number: its number in the world, from 0.
        life: the running life; None between two.
        starts: number of lives so far.
        ends: errors with which lives have ended by themselves.
        wanted: whether the supervisor keeps it running.
        starts_at_s: when it is started next, or was last.
    """

    def __init__(
        self,
        number: int,
        source: AppSource,
        environment: Environment,
        folder: Path,
        log: WorldLog,
        began: Callable[[SimulatedWorker, WorkerLife], None],
    ) -> None:
        self.number = number
        self._source, self._environment, self._log, self._began = source, environment, log, began
        self._supervisor = Owner(f"supervisor of w{number}")
        self._data = folder / f"w{number}"
        self._before_start: list[Callable[[], object]] = []
        self._past: list[WorkerLife] = []
        self.life: WorkerLife | None = None
        self.starts = 0
        self.ends: list[str] = []
        self.wanted = True
        self.starts_at_s = 0.0

    @property
    def app(self) -> App | None:
        """The app of the running life."""
        return None if self.life is None else self.life.app

    @property
    def is_up(self) -> bool:
        """True if a life runs that does not stand still."""
        life, now_s = self.life, self._environment.loop.time()
        return life is not None and life.ready and life.owner.paused_until_s <= now_s and now_s >= self.starts_at_s

    def start_after(self, seconds: float) -> None:
        """Start a life after so many seconds."""
        loop = self._environment.loop
        self.starts_at_s = loop.time() + seconds
        with owning(self._supervisor):
            loop.call_later(seconds, self._start)

    def _start(self) -> None:
        if not self.wanted or self.life is not None:
            return
        for prepare in self._before_start:
            prepare()
        self._before_start.clear()
        self.starts += 1
        self._log.note(self.number, "start", str(self.starts))
        with self._environment.loading():
            app = self._source.load().app
        self.life = WorkerLife(self._environment, app, f"w{self.number}.{self.starts}", self._data)
        self._began(self, self.life)
        self.life.start()
        self._watch(self.life)

    def _watch(self, life: WorkerLife) -> None:
        if self.life is not life:
            return
        if not life.ended:
            with owning(self._supervisor):
                self._environment.loop.call_later(_LOOK_S, self._watch, life)
            return
        self._environment.kill(life.owner)  # the process is gone, with clients that could not be closed
        error = life.error
        self._log.note(self.number, "ended", "" if error is None else described(error).partition("\n")[0])
        if error is not None:
            self.ends.append(described(error))
        self._bury()
        self.wanted = self.wanted and len(self.ends) <= _MOST_ENDS
        self.start_after(_BACK_S if error is None else _AGAIN_S)

    def _bury(self) -> None:
        if self.life is not None:
            self._past.append(self.life)
            self.life = None

    def kill(self, again_s: float, *, moved: bool = False, damage: str = "", seed: int = 0) -> None:
        """Kill the worker, as `kill -9` does, and start it again after a while. May be called from its own code.

        Args:
            moved: it starts with an empty data folder, and so with another identity.
            damage: how its stores are damaged meanwhile; empty for not at all.
        """
        if self.life is None:
            return
        self.life.kill()
        self._bury()
        if moved:
            self._before_start.append(lambda: shutil.rmtree(self._data, ignore_errors=True))
        if damage:
            self._before_start.append(lambda: list(spoil(self._data, damage, random.Random(seed))))  # noqa: S311
        self.start_after(again_s)

    def close(self) -> None:
        """End all that is left of it."""
        self.wanted = False
        self._bury()
        for life in self._past:
            life.close()
