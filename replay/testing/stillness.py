"""Detects that a group of workers is still, and that it has processed everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ...agents.tables.agent_window_table import AgentWindowTable
from ...agents.tables.global_table import GlobalTable
from ...agents.tables.window_table import WindowTable, window_contents
from ...topics.topic_partition import TopicPartition
from .environment import Environment
from .worker_life import WorkerLife

if TYPE_CHECKING:
    from ...agents.runtime import Runtime

__all__ = ["Stillness", "tables_that_close"]

# Waits of the loop in which nothing happens, for each worker, before the workers count as still. A worker polls about
# once in a wait of its own.
_STILL_WAITS = 6


class Stillness:
    """Looks at workers of one group while the event loop runs.

    Args:
        lives: returns the workers that have been started, and neither killed nor stopped.
    """

    def __init__(self, environment: Environment, lives: Callable[[], Iterable[WorkerLife]]) -> None:
        self._environment, self._lives = environment, lives
        self._version = -1
        self._waits = 0

    @property
    def failed(self) -> bool:
        """True if a worker has ended, which it was not asked to."""
        for life in self._lives():  # noqa: SIM110 (called in each turn of the loop)
            if life.ended:
                return True
        return False

    def is_still(self) -> bool:
        """Return whether nothing happens: no worker is busy, and nothing has changed in Kafka for some turns."""
        version, lives = self._environment.kafka.version, list(self._lives())
        if version != self._version or any(_is_busy(life) for life in lives):
            self._version, self._waits = version, 0
            return False
        self._waits += 1
        return self._waits > _STILL_WAITS * (1 + len(lives))

    def is_settled(self) -> bool:
        """Return whether all records are processed and committed, and the workers wait for more."""
        return not self._environment.loop.has_ready and next(self.unsettled(), None) is None

    def unsettled(self) -> Iterator[str]:
        """Yield what is not processed and committed yet, in words."""
        positions: dict[TopicPartition, int] = {}
        groups: set[str] = set()
        for life in self._lives():
            if not life.ready:
                yield f"{life.owner.name} is not ready: its group has no assignment, or its tables are being restored"
                continue
            runtime = life.runtime
            groups.add(runtime.conf.id)
            yield from _unsettled_in(life.owner.name, runtime)
            yield from self._behind(life.owner.name, runtime)
            positions |= {at: runtime.status.committed.get(at, 0) for at in runtime.status.active}
        for topic, partition in self._read(groups):
            log = self._environment.kafka.topics[topic].logs[partition]
            position = positions.get(TopicPartition(topic, partition))
            if position is None:
                yield f"no worker reads {topic}[{partition}]"
            elif position < log.end:
                if log.last_stable < log.end:
                    yield f"a transaction is open in {topic}[{partition}]"
                elif log.read(position, 1, committed=True)[0]:
                    yield f"{topic}[{partition}] is committed up to {position}, and its end is {log.end}"

    def _behind(self, name: str, runtime: Runtime) -> Iterator[str]:
        """Yield the global tables of which a worker has not read everything."""
        for table in runtime.tables:
            if isinstance(table, GlobalTable) and table.changelog_name in self._environment.kafka.topics:
                logs = self._environment.kafka.topics[table.changelog_name].logs
                for partition, state in table.remote_states.items():
                    if logs[partition].read(state.store.position, 1, committed=True)[0]:
                        yield f"{name} has not read all of table {table.name}"

    def _read(self, groups: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Yield the partitions that the groups read."""
        kafka = self._environment.kafka
        members = [member for name in sorted(groups) for member in kafka.members(name)]
        for topic in sorted({topic for member in members for topic in member.topics}):
            if topic in kafka.topics:
                yield from ((topic, partition) for partition in range(len(kafka.topics[topic].logs)))


def _is_busy(life: WorkerLife) -> bool:
    return not life.ended and (not life.ready or next(_unsettled_in("", life.runtime), None) is not None)


def _unsettled_in(name: str, runtime: Runtime) -> Iterator[str]:
    context = runtime.context
    if runtime.status.rebalancing:
        yield f"{name} is in a rebalance"
    if context.barrier.running:
        agents = {runner.name for runner in context.runners if runner.stream is not None and runner.stream.running}
        yield f"{name} has records in process: {', '.join(sorted(agents))}"
    if context.epoch.dirty:
        yield f"{name} has an epoch to commit"
    for table in tables_that_close(runtime):
        yield f"{name} has windows of table {table} to close"
    if "sender" in runtime.__dict__ and runtime.sender.outstanding:
        yield f"{name} has records that are not delivered"


def tables_that_close(runtime: Runtime) -> Iterator[str]:
    """Yield the names of the flows' window tables that hold complete windows which are not closed yet.

    Where the source is the table's own partition, no record waits behind them: many windows close in several epochs,
    also after the worker has been started again in between.
    """
    for table in runtime.tables:
        if not isinstance(table, WindowTable) or isinstance(table, AgentWindowTable):
            continue
        for content in window_contents(table).values():
            content.load()
            if content.open.has_due(content.watermark_ms):
                yield table.name
