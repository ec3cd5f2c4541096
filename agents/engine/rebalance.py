"""Handles the assignment and revocation of this worker's partitions.

- Rebalance callbacks run inside `consume()`. A revoke waits for the commit that is under way. If all agents are parked,
  it then commits the epoch and releases the partitions in the callback, because the client library unassigns them
  when the callback returns. If an agent is in the middle of a record, the epoch is rolled back instead: it is dropped,
  the agents restart, and nothing is committed.
- An assigned partition is owned at once and becomes *active* when its tables are restored. From then on its records are
  consumed, while other partitions may still be restoring. Only active partitions have progress, and only their progress
  is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from ...topics import clock
from ...topics.admin import Admin
from ...topics.errors import AnabranchError, Hung
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition, listed
from ..assigned_partitions import Assignment
from ..histogram import Histogram
from ..tables.restoration import Restoration, RestoreProgress, call_with_heartbeats
from ..tables.standby_placement import standby_partitions
from .agent_context import AgentContext
from .group_consumer import GroupConsumer
from .membership import Membership
from .protocols import EngineLoop, Host, RebalanceListener
from .settings import EngineSettings

__all__ = ["Rebalance"]

logger = logging.getLogger(__name__)

# Each time partitions become active, the fetches of all other partitions restart. Partitions that are restored at about
# the same time become active together, so that this happens once for all of them.
_LOOK_S = 0.1
_PLACE_AGAIN_S = 0.5


class Rebalance:
    """The part of the engine that responds to the consumer group.

    Args:
        loop: performs the commit of a revoke.

    Attributes:
        ready: set once all partitions of the first assignment are active.
        partition_counts: topic -> number of its partitions, as last seen.
        rebalances_total: number of assignments whose partitions all became active.
        rebalance_seconds: durations from the first partition revoked or assigned until all are active.
        lost: whether the last commit failed because its partitions belong to other workers.
    """

    def __init__(self, host: Host, settings: EngineSettings, context: AgentContext, loop: EngineLoop) -> None:
        self._host, self._settings, self._context, self._loop = host, settings, context, loop
        self.ready = asyncio.Event()
        self.partition_counts: dict[str, int] = {}
        self.rebalances_total = 0
        self.rebalance_seconds = Histogram()
        self.lost = False
        self._member: Membership | None = None
        self._restoration: Restoration | None = None
        self._listener: RebalanceListener | None = None
        self._assignment: Assignment | None = None
        self._taken_over = Assignment()
        self._looked_s = 0.0
        # Assignments that are being worked on, so that partitions which are revoked meanwhile are dropped from them.
        self._taking: Assignment | None = None
        self._beginning: Assignment | None = None
        self._placing: asyncio.Future[None] | None = None
        self._revoked: set[TopicPartition] = set()

    def open(self, member: Membership, listener: RebalanceListener) -> None:
        """Begin to serve this member of the group: restore its tables, and notify the listener of rebalances."""
        self._member, self._listener = member, listener
        self._restoration = Restoration(
            self._host.conf.id,
            member.stores,
            self._admin,
            self._host.tables,
            standby_replicas=self._settings.standby_replicas,
            start_at_end=self._settings.start_at_end,
        )

    async def close(self) -> None:
        """Stop restores and standby copies."""
        if self._placing is not None:
            self._placing.cancel()
        if self._restoration is not None:
            await daemon_thread(self._restoration.close)

    def abandon(self) -> None:
        """Release the locks of the data folder: a test has ended this worker as the end of its process would."""
        if self._member is not None:
            self._member.abandon()

    def restart(self) -> None:
        """Forget all assigned partitions: the Kafka clients are recreated, and the group assigns partitions again."""
        self._assignment = None
        self._forget(set(self.owned))

    @property
    def _group(self) -> GroupConsumer:
        assert self._member is not None, "not started"
        return self._member.group

    @property
    def _admin(self) -> Admin:
        return self._host.admin

    # Called by the group --------------------------------------------------------------------------------------------

    def assigned(self, assignment: Assignment) -> None:
        """Record an assignment; the loop starts the restore of its tables."""
        if self._assignment is None:
            self._assignment = assignment
        else:
            self._assignment.add(assignment)

    def revoked(self, revoked: set[TopicPartition]) -> None:
        """Commit the epoch, or drop it if it cannot be committed; then forget the partitions.

        It cannot if an agent is in the middle of a record, or if other workers own the partitions already.
        """
        epoch = self._context.epoch
        self._loop.end_commit()
        if self._context.barrier.running or self._host.stopped_by is not None or self.lost:
            epoch.drop()
            epoch.rollback_wanted = True
        elif not (epoch.rollback_wanted or self._loop.rebuild_wanted):
            self._loop.commit_now()
        self._forget(revoked)

    def partitions_lost(self, lost: set[TopicPartition]) -> None:
        """Drop the epoch and forget the partitions: other workers already own them."""
        logger.warning("partitions lost: %s", listed(lost))
        self._loop.drop_epochs()
        self._context.epoch.rollback_wanted = bool(self._context.router.streams)
        self._forget(lost)

    def _forget(self, revoked: set[TopicPartition]) -> None:
        self._revoked |= revoked
        self._context.router.forget(revoked)
        for assignment in (self._assignment, self._taking, self._beginning):
            if assignment is not None:
                assignment.drop(revoked)
        if self._restoration is not None:
            self._restoration.revoke(revoked)
        for at in revoked:
            self._context.epoch.committed.pop(at, None)
        partitions = {at.partition for at in self.owned - revoked}
        for table in self._host.tables:
            table.suspend_others(partitions)

    # Called by the loop ---------------------------------------------------------------------------------------------

    async def advance(self) -> None:
        """Process the events recorded by the callbacks, and activate partitions whose tables are restored."""
        if self._revoked:
            assert self._listener is not None
            revoked, self._revoked = self._revoked, set()
            await self._listener.partitions_revoked(revoked)
        if self._assignment is not None:
            await self._take_over()
        await self._activate()

    async def _take_over(self) -> None:
        """Start the restore of the tables of assigned partitions."""
        assignment, self._assignment = self._assignment, None
        self._taking = assignment
        assert assignment is not None
        assert self._restoration is not None
        assert self._listener is not None
        assert self._member is not None
        assignment.active_numbers |= {at.partition for at in self._context.router.active}
        self._taken_over = assignment
        if self._placing is not None:
            self._placing.cancel()
        self._looked_s = 0.0
        self.lost = False
        # Partitions may have been added to a topic: tables check their number when writes are committed.
        self.partition_counts = await call_with_heartbeats(self._group, self._admin.partitions)
        await self._listener.partitions_assigned(self.owned, assignment.starts.keys())
        ids = self._member.topic_ids
        assignment.recreated = ids.recreated(assignment.ids)
        changelogs = [table.changelog_name for table in self._host.tables]
        await call_with_heartbeats(self._group, ids.watch_changelogs, changelogs)
        await self._restoration.begin(assignment, self._group)
        self._taking = None
        if not self._restoration.waiting:
            self._group.consume_from({})
            await self._finish()

    async def _activate(self) -> None:
        """Activate the partitions whose tables are restored: consume their records from now on."""
        if self._restoration is None or not self._restoration.waiting:
            return
        active = self._context.router.active
        now_s = clock.now_s()
        if active and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        ready = self._restoration.ready()
        if ready is not None and ready.uncommitted and self._settings.start_at_end:
            await self._begin_at_ends(ready)
        if ready is not None and ready.uncommitted and not self._settings.exactly_once:
            await self._commit_starts(ready)
        if ready is not None and ready.starts:
            assert self._member is not None
            topics = {at.topic for at in ready.starts}
            self._member.topic_ids.watch({topic: found for topic, found in ready.ids.items() if topic in topics})
            active.update(ready.starts)
            self._context.epoch.committed.update(ready.starts)
            self._context.route()
            self._context.router.begin(ready)
            self._group.consume_from(ready.starts)
        if not self._restoration.waiting and (ready is None or ready.starts):
            await self._finish()

    async def _begin_at_ends(self, ready: Assignment) -> None:
        """Determine where partitions without a committed offset begin, before their records are consumed."""
        own = {name for topic in self._host.topics for name in topic.topics if topic.internal or topic.has_prefix}
        later = ready.recreated | own
        await self._determine_starts(ready, lambda left: self._group.begin_at_ends(left, later))

    async def _commit_starts(self, ready: Assignment) -> None:
        """Commit where partitions without a committed offset start, before their records are consumed.

        At least once, a crash may leave changes of the first epoch in the changelogs without the offsets behind them.
        Without any offset the next start would take these for a table whose offsets are lost, and refuse to start.
        """
        starts = {at: ready.starts[at] for at in ready.uncommitted}
        await self._determine_starts(ready, lambda left: self._group.commit_starts({at: starts[at] for at in left}))

    async def _determine_starts(
        self, ready: Assignment, determine: Callable[[list[TopicPartition]], Mapping[TopicPartition, int]]
    ) -> None:
        """Determine the starts of partitions without a committed offset.

        Retries until all are known, the worker stops or its clients are recreated; partitions unknown then are dropped.

        Args:
            determine: returns the starts of those among the partitions that are known by now (blocking).
        """
        self._beginning = ready
        try:
            while ready.uncommitted and not (self._loop.stopping or self._loop.rebuild_wanted or self._group.finished):
                ready.set_starts(await call_with_heartbeats(self._group, determine, list(ready.uncommitted)))
                if ready.uncommitted:
                    await asyncio.sleep(_LOOK_S)
        except Hung as exc:
            self._group.note_hung(exc)
        finally:
            self._beginning = None
        ready.drop(set(ready.uncommitted))

    async def _finish(self) -> None:
        """Measure, log and report a completed rebalance: all assigned partitions are active."""
        assert self._member is not None
        assert self._listener is not None
        await daemon_thread(self._member.topic_ids.keep)
        self.rebalances_total += 1
        seconds = clock.now_s() - self._taken_over.began_s
        self.rebalance_seconds.observe(seconds)
        logger.info(
            "assigned %s in %.2f s",
            *(listed(self.owned), seconds),
            extra={"seconds": round(seconds, 3), "generation": self.generation, "partitions": len(self.owned)},
        )
        self.ready.set()
        self._host.worker_registry.announce()
        if self._settings.standby_replicas:
            self._placing = asyncio.ensure_future(self._place_copies())
        await self._listener.partitions_active(self.owned, self.rebalances_total)

    async def _place_copies(self) -> None:
        """Keep standby copies of other workers' partitions, as soon as the group is stable."""
        assert self._restoration is not None
        while not self._loop.stopping:
            try:
                members = await daemon_thread(self._admin.members, self._host.conf.id)
                assigned = {name: {number for _, number in ats} for name, ats in (members or {}).items()}
                if assigned.get(self.instance) == {at.partition for at in self.owned}:
                    numbers = standby_partitions(self.instance, assigned, self._settings.standby_replicas)
                    await self._restoration.keep_standby(numbers)
                    logger.info("keeping standby copies of partitions %s", ", ".join(map(str, sorted(numbers))) or "-")
                    return
            except AnabranchError as exc:
                logger.warning("standby copies: %s", exc)
            await asyncio.sleep(_PLACE_AGAIN_S)

    # Read by the status ---------------------------------------------------------------------------------------------

    @property
    def owned(self) -> set[TopicPartition]:
        """Partitions assigned to this worker."""
        return self._member.group.owned if self._member is not None else set()

    @property
    def instance(self) -> str:
        """Name of this worker in the group; empty before it has started."""
        return self._member.name if self._member is not None else ""

    @property
    def generation(self) -> int:
        """Generation of the group that this member has joined; -1 if it is not a member."""
        return self._member.group.generation if self._member is not None else -1

    @property
    def rebalancing(self) -> bool:
        """True if a rebalance is in progress: partitions were revoked or assigned, and not all are active yet."""
        return self._member is not None and self._member.group.unsettled

    @property
    def restoring(self) -> RestoreProgress | None:
        """Progress of the running restore of tables; None if there is none."""
        return self._restoration.progress if self._restoration is not None else None

    @property
    def restored_total(self) -> int:
        """Number of changelog records read by restores since the start."""
        return self._restoration.restored_total if self._restoration is not None else 0

    def lags(self, committed: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return partition -> lag: number of offsets from the committed offset to the end, where both are known."""
        return self._member.group.lags(committed) if self._member is not None else {}
