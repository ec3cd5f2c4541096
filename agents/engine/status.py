"""The state of the engine for probes, metrics and logs. Reading it has no side effects."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ...topics.topic_partition import TopicPartition
from ..histogram import Histogram
from ..tables.restoration import RestoreProgress
from ..task_groups import TaskId
from .agent_context import AgentContext
from .protocols import EngineLoop
from .rebalance import Rebalance
from .settings import EngineSettings

__all__ = ["EngineStatus"]


class EngineStatus:
    """A read-only view of the engine.

    Attributes:
        settings: the engine's settings.
    """

    def __init__(self, settings: EngineSettings, loop: EngineLoop, context: AgentContext, rebalance: Rebalance) -> None:
        self.settings = settings
        self._loop, self._context, self._rebalance = loop, context, rebalance

    # The loop -------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> asyncio.Event:
        """Event that is set once all partitions of the first assignment are active."""
        return self._rebalance.ready

    @property
    def ended(self) -> bool:
        """True if the loop has ended or was cancelled."""
        return self._loop.ended

    @property
    def exited(self) -> list[str]:
        """Names of agents that ended although the worker did not stop them."""
        return self._context.exited

    @property
    def first_record_at(self) -> float:
        """Wall-clock time of the first record, in seconds since 1970; 0 before it."""
        return self._loop.first_record_at

    @property
    def records_total(self) -> int:
        """Number of records delivered to agents since the start; records that a rollback repeats count once."""
        return self._context.router.records_total

    @property
    def waiting(self) -> int:
        """Number of consumed records that no agent has taken yet."""
        return self._context.router.waiting

    def busy_s(self, now_s: float) -> float:
        """Return the seconds since all agents were last at a record boundary; 0 while they are."""
        barrier = self._context.barrier
        return max(0.0, now_s - barrier.busy_since_s) if barrier.running else 0.0

    def waits_for(self, now_s: float) -> str:
        """Return which agents are not at a record boundary, their records, and since when; empty if all are.

        May be called in another thread, while an agent blocks the event loop.
        """
        if not self._context.barrier.running:
            return ""
        working: list[str] = []
        for runner in list(self._context.runners):
            stream, at = runner.stream, runner.at
            if stream is not None and stream.running:
                message = stream.message
                where = "" if at is None else f" at {at[0]}[{at[1]}]"
                working.append(f"agent {runner.name}{where}" + ("" if message is None else f"@{message.offset()}"))
        return f"{', '.join(working) or 'an agent'}, for {self.busy_s(now_s):.0f} s so far"

    @property
    def current_agent(self) -> str:
        """The name of the agent whose code runs at this moment; empty without one. For other threads."""
        runner = self._context.current
        return "" if runner is None else runner.name

    # Commits --------------------------------------------------------------------------------------------------------

    @property
    def committed(self) -> dict[TopicPartition, int]:
        """Partition -> committed offset."""
        return {at: input.committed for at, input in self._context.tasks.active.items()}

    @property
    def commits_total(self) -> int:
        """Number of epochs committed since the start."""
        return self._context.epoch.commits_total

    @property
    def commit_seconds(self) -> Histogram:
        """Durations of commits."""
        return self._context.epoch.commit_seconds

    @property
    def rollbacks_total(self) -> int:
        """Number of epochs rolled back and reprocessed since the start."""
        return self._loop.rollbacks_total

    @property
    def dead_letters_total(self) -> int:
        """Number of records sent to dead-letter topics since the start."""
        return self._context.epoch.dead_letters_total

    @property
    def skipped_total(self) -> int:
        """Number of records skipped without a dead letter since the start."""
        return self._context.epoch.skipped_total

    @property
    def left_uncommitted(self) -> bool:
        """True if the worker has stopped without committing its last epoch, or without knowing the outcome."""
        return self._loop.left_uncommitted

    @property
    def late_total(self) -> Mapping[tuple[str, str], int]:
        """(operator, reason) -> number of records that came too late for a window of it, since the start."""
        return self._context.epoch.late_total

    @property
    def fired_total(self) -> Mapping[str, int]:
        """Agent -> number of its timers that fired since the start."""
        return self._context.epoch.fired_total

    def epoch_age_s(self, now_s: float) -> float:
        """Return the age of the oldest uncommitted work in seconds; 0 if there is nothing to commit."""
        epoch = self._context.epoch
        began_s = max(epoch.committed_s, self._context.barrier.busy_since_s)
        return max(0.0, now_s - began_s) if epoch.dirty else 0.0

    # The group ------------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """Name of this worker in the group, and its transactional id; empty before it has started."""
        return self._rebalance.instance

    @property
    def owned(self) -> set[TopicPartition]:
        """Partitions assigned to this worker."""
        return self._rebalance.owned

    @property
    def active(self) -> set[TopicPartition]:
        """Partitions of this worker whose tables are restored, so that their records are consumed."""
        return set(self._context.tasks.active)

    @property
    def missing(self) -> dict[TaskId, list[TopicPartition]]:
        """Tasks of this worker that do not run because other workers have some of their partitions."""
        return self._context.tasks.missing()

    @property
    def partition_counts(self) -> dict[str, int]:
        """Topic -> number of its partitions, as last seen."""
        return self._rebalance.partition_counts

    @property
    def generation(self) -> int:
        """Generation of the group that this member has joined; -1 if it is not a member."""
        return self._rebalance.generation

    @property
    def rebalancing(self) -> bool:
        """True if a rebalance is in progress: partitions were revoked or assigned, and not all are active yet."""
        return self._rebalance.rebalancing

    @property
    def rebalances_total(self) -> int:
        """Number of assignments since the start whose partitions all became active."""
        return self._rebalance.rebalances_total

    @property
    def rebalance_seconds(self) -> Histogram:
        """Durations of rebalances: from the first partition revoked or assigned until all are active."""
        return self._rebalance.rebalance_seconds

    @property
    def restoring(self) -> RestoreProgress | None:
        """Progress of the running restore of tables; None if there is none."""
        return self._rebalance.restoring

    @property
    def restored_total(self) -> int:
        """Number of changelog records read by restores since the start."""
        return self._rebalance.restored_total

    def serves(self, table: str, partition: int) -> bool:
        """Return whether this worker holds a restored partition of a table and processes its records."""
        return self._context.tasks.serves(table, partition)

    def lags(self) -> dict[TopicPartition, int]:
        """Return partition -> lag: number of offsets from the committed offset to the end, where both are known."""
        return self._rebalance.lags(self.committed)
