"""What can be seen of the engine from outside: by probes, metrics and logs. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ...topics import clock
from ...topics.topic_partition import TopicPartition, listed
from ..assignment import Assignment
from ..histogram import Histogram
from ..tables.restoration import RestoreProgress
from .agent_context import AgentContext

if TYPE_CHECKING:
    from ..tables.restoration import Restoration
    from .membership import Membership

__all__ = ["EngineStatus"]

logger = logging.getLogger(__name__)


class EngineStatus(AgentContext):
    """The part of the engine that can be looked at.

    Attributes:
        ready: set once the first assignment is there, all of it restored.
        rebalances_total: assignments taken over; rebalance_seconds: from the first partition given up or got until the
            records flow.
        redos_total: epochs dropped and done again.
        first_record_at: wall clock; 0 before it.
    """

    def __init__(self, host: Any, **kwargs: Any) -> None:
        super().__init__(host, **kwargs)
        self.ready = asyncio.Event()
        self.rebalances_total = 0
        self.rebalance_seconds = Histogram()
        self.redos_total = 0
        self.first_record_at = 0.0
        self._member: Membership | None = None
        self._restoration: Restoration | None = None
        self._main_task: asyncio.Future[Any] | None = None

    @property
    def owned(self) -> set[TopicPartition]:
        """Partitions of this worker."""
        return self._member.group.owned if self._member is not None else set()

    @property
    def instance(self) -> str:
        """Name of this worker in the group and of its transactions; empty before the start."""
        return self._member.name if self._member is not None else ""

    @property
    def ended(self) -> bool:
        """Whether the loop is over, or was cancelled."""
        task = self._main_task
        return task is not None and (task.done() or (isinstance(task, asyncio.Task) and task.cancelling() > 0))

    @property
    def rebalancing(self) -> bool:
        """Whether partitions are on their way: given up, or not restored yet."""
        return self._member is not None and self._member.group.unsettled

    @property
    def restoring(self) -> RestoreProgress | None:
        """How far the tables' restore is; None while there is none."""
        return self._restoration.progress if self._restoration is not None else None

    @property
    def restored_total(self) -> int:
        """Records read by restores since the start."""
        return self._restoration.restored_total if self._restoration is not None else 0

    @property
    def waiting(self) -> int:
        """Records handed over that no agent has taken yet."""
        return self._dispatch.waiting

    @property
    def commit_seconds(self) -> Histogram:
        """How long commits took."""
        return self._epoch.commit_seconds

    def epoch_age_s(self, now_s: float) -> float:
        """How long what agents have done waits for its commit; 0 where there is nothing to commit."""
        began_s = max(self._epoch.committed_s, self._gate.busy_since_s)
        return max(0.0, now_s - began_s) if self._epoch.dirty else 0.0

    def busy_s(self, now_s: float) -> float:
        """How long agents have been at records without all of them being at a record boundary once."""
        return max(0.0, now_s - self._gate.busy_since_s) if self._gate.running else 0.0

    def serves(self, partition: int) -> bool:
        """Whether tables have this partition here, restored."""
        return any(at.partition == partition for at in self.active)

    def lags(self) -> dict[TopicPartition, int]:
        """Partition -> offsets between what is committed and its end, where both are known."""
        return self._member.group.lags(self.committed) if self._member is not None else {}

    def _rebalanced(self, assignment: Assignment) -> None:
        """The records of an assignment flow."""
        self.rebalances_total += 1
        seconds = clock.now_s() - assignment.began_s
        self.rebalance_seconds.observe(seconds)
        logger.info(
            "assigned %s in %.2f s",
            *(listed(self.owned), seconds),
            extra={"seconds": round(seconds, 3), "generation": self.generation, "partitions": len(self.owned)},
        )
        self.ready.set()
        self._host.worker_registry.announce()

    @property
    def generation(self) -> int:
        """Of the group, as this member knows it; -1 outside of it."""
        return self._member.group.generation if self._member is not None else -1
