"""A worker of a simulated world: its processes, one after the other, and its data folder."""

from __future__ import annotations

import random
import shutil
from asyncio import Task
from collections.abc import Callable
from pathlib import Path

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...agents.worker import work
from ...topics.errors import described
from ...topics.memory.memory_kafka import MemoryKafka
from .store_faults import spoil
from .virtual_loop import Owner, VirtualLoop, owning
from .world_log import WorldLog

__all__ = ["SimulatedWorker", "WorkerProcess"]

# How a supervisor starts a worker again that has ended by itself.
AGAIN_S = 0.5
_MOST_ENDS = 20


class WorkerProcess:
    """A process: an app that runs as a worker, with clients, timers and tasks of its own.

    Attributes:
        number: number of the worker, from 0.
        killed: whether it was killed.
    """

    def __init__(self, number: int, name: str, app: App, loop: VirtualLoop, kafka: MemoryKafka, folder: Path) -> None:
        self.number, self.app, self.killed = number, app, False
        self._kafka = kafka
        self.owner = Owner(name)
        runtime = runtime_of(app)
        with owning(self.owner):
            runtime.cluster = kafka.cluster(owner=self)
            runtime.configure(datadir=str(folder), web_enabled=False)
            self.task: Task[None] = loop.create_task(work(app), name=name)

    @property
    def runs(self) -> bool:
        """Whether it has neither been killed nor ended by itself."""
        return not self.killed and not self.task.done()

    @property
    def identity(self) -> str:
        """Its transactional id and group.instance.id; empty before it has one."""
        runtime = runtime_of(self.app)
        return runtime.engine.rebalance.instance if "engine" in runtime.__dict__ else ""

    def ask_to_stop(self) -> None:
        """Let it end as after SIGTERM."""
        with owning(self.owner):
            runtime_of(self.app).stop_requested.set()

    def stand_still(self, until_s: float) -> None:
        """Do nothing, and send no heartbeats, until a time of the loop."""
        self.owner.paused_until_s = until_s
        self._silence()

    def kill(self) -> None:
        """End it like kill -9: from now on it does nothing any more."""
        self.killed = True
        self.owner.drop()
        self._silence()

    def _silence(self) -> None:
        for group in self._kafka.groups.values():
            for member in group.members.values():
                if member.client.owner is self:
                    member.client.fall_silent()

    def free(self) -> None:
        """Free what the operating system would: files and locks. Not inside of one of its own calls."""
        self.owner.close()
        runtime = runtime_of(self.app)
        member = runtime.engine._member if "engine" in runtime.__dict__ else None  # pyright: ignore[reportPrivateUsage]
        if member is not None:
            member.stores.close()
            member._identity.release()  # pyright: ignore[reportPrivateUsage]


class SimulatedWorker:
    """A worker under a supervisor that starts it again when it has ended.

    Attributes:
        process: the running process; None between two.
        starts: number of processes so far.
        ends: errors with which processes have ended by themselves.
        wanted: whether the supervisor keeps it running.
    """

    def __init__(
        self,
        number: int,
        make_app: Callable[[], App],
        loop: VirtualLoop,
        kafka: MemoryKafka,
        folder: Path,
        log: WorldLog,
    ) -> None:
        self.number = number
        self._supervisor = Owner(f"supervisor of w{number}")
        self._make_app, self._loop, self._kafka, self._folder, self._log = make_app, loop, kafka, folder, log
        self.process: WorkerProcess | None = None
        self.starts = 0
        self.ends: list[str] = []
        self.wanted = True
        self.starts_at_s = 0.0
        self._before_start: list[Callable[[], object]] = []

    @property
    def is_up(self) -> bool:
        """Whether a process runs that does not stand still."""
        process = self.process
        return process is not None and process.runs and process.owner.paused_until_s <= self._loop.time()

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._folder / f"w{self.number}"

    def start(self) -> None:
        """Start a process, unless one runs."""
        if not self.wanted or self.process is not None:
            return
        for prepare in self._before_start:
            prepare()
        self._before_start.clear()
        self.starts += 1
        self._log.note(self.number, "start", str(self.starts))
        self.data.mkdir(parents=True, exist_ok=True)
        process = WorkerProcess(
            self.number, f"w{self.number}.{self.starts}", self._make_app(), self._loop, self._kafka, self.data
        )
        self.process = process
        process.task.add_done_callback(lambda _: self._soon(self._ended, process))

    def start_after(self, seconds: float) -> None:
        """Start a process after so many seconds."""
        self.starts_at_s = self._loop.time() + seconds
        with owning(self._supervisor):
            self._loop.call_later(seconds, self.start)

    def _soon(self, call: Callable[..., object], *args: object) -> None:
        with owning(self._supervisor):
            self._loop.call_soon(call, *args)

    def _ended(self, process: WorkerProcess) -> None:
        if process.killed or self.process is not process:
            return
        error = process.task.exception()
        self._log.note(self.number, "ended", "" if error is None else described(error).partition("\n")[0])
        if error is not None:
            self.ends.append(described(error))
        process.killed = True  # whatever it left behind does nothing any more
        process.owner.drop()
        process.free()
        self.process = None
        if len(self.ends) > _MOST_ENDS:
            self.wanted = False
        self.start_after(AGAIN_S if error is not None else 2.0)

    def kill(self, again_s: float, *, moved: bool = False, damage: str = "", seed: int = 0) -> None:
        """Kill the process; start another after a while.

        Args:
            moved: the next one has an empty data folder.
            damage: how its stores are damaged meanwhile; empty for not at all.
        """
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        self._soon(process.free)
        if moved:
            self._before_start.append(lambda: shutil.rmtree(self.data, ignore_errors=True))
        if damage:
            self._before_start.append(lambda: list(spoil(self.data, damage, random.Random(seed))))  # noqa: S311
        self.start_after(again_s)
