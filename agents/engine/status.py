"""The state of the engine as probes, metrics and logs read it. Reading changes nothing."""

from __future__ import annotations

import asyncio

from ...topics.topic_partition import TopicPartition
from ..histogram import Histogram
from ..tables.restoration import RestoreProgress
from .agent_context import AgentContext
from .protocols import EngineLoop
from .rebalance import Rebalance
from .settings import EngineSettings

__all__ = ["EngineStatus"]


class EngineStatus:
    """A view of the engine's parts.

    Attributes:
        settings: the engine's settings.
        partition_counts: topic -> number of its partitions, as last seen.
    """

    def __init__(self, settings: EngineSettings, loop: EngineLoop, context: AgentContext, rebalance: Rebalance) -> None:
        self.settings = settings
        self._loop, self._context, self._rebalance = loop, context, rebalance

    # The loop -------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> asyncio.Event:
        """Set once the partitions of the first assignment are active."""
        return self._rebalance.ready

    @property
    def ended(self) -> bool:
        """Whether the loop is over, or was cancelled."""
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
        """Records handed to agents since the start; records that a rollback repeats count once."""
        return self._context.router.records_total

    @property
    def waiting(self) -> int:
        """Records polled that no agent has taken yet."""
        return self._context.router.waiting

    def busy_s(self, now_s: float) -> float:
        """Seconds since all agents were last at a record boundary; 0 while they are."""
        barrier = self._context.barrier
        return max(0.0, now_s - barrier.busy_since_s) if barrier.running else 0.0

    # Commits --------------------------------------------------------------------------------------------------------

    @property
    def committed(self) -> dict[TopicPartition, int]:
        """Partition -> committed offset."""
        return self._context.epoch.committed

    @property
    def commits_total(self) -> int:
        """Epochs committed since the start."""
        return self._context.epoch.commits_total

    @property
    def commit_seconds(self) -> Histogram:
        """Durations of commits."""
        return self._context.epoch.commit_seconds

    @property
    def rollbacks_total(self) -> int:
        """Epochs rolled back and reprocessed since the start."""
        return self._loop.rollbacks_total

    @property
    def dead_letters_total(self) -> int:
        """Records sent to dead-letter topics since the start."""
        return self._context.epoch.dead_letters_total

    @property
    def skipped_total(self) -> int:
        """Records skipped without a dead letter since the start."""
        return self._context.epoch.skipped_total

    def epoch_age_s(self, now_s: float) -> float:
        """Seconds that the oldest uncommitted work has waited for its commit; 0 where there is nothing to commit."""
        epoch = self._context.epoch
        began_s = max(epoch.committed_s, self._context.barrier.busy_since_s)
        return max(0.0, now_s - began_s) if epoch.dirty else 0.0

    # The group ------------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """Name of this worker in the group, which is its transactional id as well; empty before the start."""
        return self._rebalance.instance

    @property
    def owned(self) -> set[TopicPartition]:
        """Partitions assigned to this worker."""
        return self._rebalance.owned

    @property
    def active(self) -> set[TopicPartition]:
        """Partitions of this worker whose tables are restored, so that their records are consumed."""
        return self._context.router.active

    @property
    def partition_counts(self) -> dict[str, int]:
        """Topic -> number of its partitions, as last seen."""
        return self._rebalance.partition_counts

    @property
    def generation(self) -> int:
        """Generation of the group, as this member knows it; -1 outside of it."""
        return self._rebalance.generation

    @property
    def rebalancing(self) -> bool:
        """Whether some partitions were revoked or assigned a moment ago and are not active yet."""
        return self._rebalance.rebalancing

    @property
    def rebalances_total(self) -> int:
        """Assignments of which all partitions became active, since the start."""
        return self._rebalance.rebalances_total

    @property
    def rebalance_seconds(self) -> Histogram:
        """Durations of rebalances: from the first partition revoked or assigned until all are active."""
        return self._rebalance.rebalance_seconds

    @property
    def restoring(self) -> RestoreProgress | None:
        """Progress of the restore of tables; None while there is none."""
        return self._rebalance.restoring

    @property
    def restored_total(self) -> int:
        """Changelog records read by restores since the start."""
        return self._rebalance.restored_total

    def serves(self, partition: int) -> bool:
        """Whether this worker has the restored tables of a partition."""
        return any(active.partition == partition for active in self.active)

    def lags(self) -> dict[TopicPartition, int]:
        """Partition -> offsets between its committed offset and its end, where both are known."""
        return self._rebalance.lags(self.committed)
