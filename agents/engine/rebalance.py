"""Partitions come and go.

- Rebalance callbacks run inside `consume()`. With all agents parked a revoke commits and gives the partition away in
  the callback, because the binding unassigns when it returns. With an agent in the middle of a record the epoch ends
  locally instead: drop it, restart the agents, commit nothing.
- What comes is owned at once and becomes *active* when its tables are restored: then its records flow, while other
  partitions may still be restored. Only active partitions have progress, and only theirs is committed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from faust.types import TP

from ...topics import clock
from ...topics.admin import Admin
from ...topics.errors import AnabranchError, Hung
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition, listed
from ..assignment import Assignment
from ..tables.restoration import call_with_heartbeats
from ..tables.standby_placement import standby_partitions
from .group_consumer import GroupConsumer
from .status import EngineStatus

__all__ = ["Rebalancing"]

logger = logging.getLogger(__name__)

# Each time partitions become active the others are fetched anew: several that are restored at about the same time share
# that.
_LOOK_S = 0.1
_PLACE_AGAIN_S = 0.5


class Rebalancing(EngineStatus):
    """The part of the engine that the group acts on."""

    _admin: Admin

    def __init__(self, host: Any, **kwargs: Any) -> None:
        super().__init__(host, **kwargs)
        self._rebuild_wanted = False
        self._lost = False
        self._assignment: Assignment | None = None
        self._taken_over = Assignment()
        self._looked_s = 0.0
        self._beginning: Assignment | None = None
        self._placing: asyncio.Future[None] | None = None
        self._gone: set[TopicPartition] = set()
        self._admin: Admin

    def _commit_now(self) -> None:
        """Commit inside of a callback (blocking)."""
        raise NotImplementedError

    @property
    def _group(self) -> GroupConsumer:
        assert self._member is not None, "not started"
        return self._member.group

    # Told by the group ----------------------------------------------------------------------------------------------

    def _on_assign(self, assignment: Assignment) -> None:
        if self._assignment is None:
            self._assignment = assignment
        else:
            self._assignment.add(assignment)

    def _on_revoke(self, gone: set[TopicPartition]) -> None:
        if self._gate.running or self._host.stopped_by is not None:
            self._epoch.drop()
            self._redo_wanted = True
        elif not (self._redo_wanted or self._lost or self._rebuild_wanted):
            self._commit_now()
        self._forget(gone)

    def _on_lost(self, gone: set[TopicPartition]) -> None:
        logger.warning("partitions lost: %s", listed(gone))
        self._epoch.drop()
        self._redo_wanted = bool(self._dispatch.streams)
        self._forget(gone)

    def _forget(self, gone: set[TopicPartition]) -> None:
        self._gone |= gone
        self._dispatch.forget(gone)
        self.active -= gone
        for assignment in (self._assignment, self._beginning):
            if assignment is not None:
                assignment.drop(gone)
        if self._restoration is not None:
            self._restoration.revoke(gone)
        for at in gone:
            self.committed.pop(at, None)
        partitions = {at.partition for at in self.owned - gone}
        for table in self._host.tables:
            table.suspend_others(partitions)

    # In the loop -----------------------------------------------------------------------------------------------------

    async def _take_over(self) -> None:
        """Partitions have come: begin to restore their tables."""
        assignment, self._assignment = self._assignment, None
        assert assignment is not None
        assert self._restoration is not None
        assignment.flowing |= {at.partition for at in self.active}
        self._taken_over = assignment
        if self._placing is not None:
            self._placing.cancel()
        self._looked_s = 0.0
        self._lost = False
        # Partitions may have been added to a topic: tables look at its number when what was written is committed.
        self.partition_counts = await call_with_heartbeats(self._group, self._admin.partitions)
        owned = {TP(at.topic, at.partition) for at in self.owned}
        self._host.app._assignment = owned  # pyright: ignore[reportPrivateUsage]
        await self._host.app.agents.on_rebalance(set(), {TP(at.topic, at.partition) for at in assignment.starts})
        await self._host.app.topics.on_partitions_assigned(owned)
        assert self._member is not None
        ids = self._member.topic_ids
        assignment.anew = ids.made_anew(assignment.ids)
        changelogs = [table.changelog_name for table in self._host.tables]
        await call_with_heartbeats(self._group, ids.watch_changelogs, changelogs)
        await self._restoration.begin(assignment, self._group)
        if not self._restoration.waiting:
            self._group.flow({})
            await self._settle()

    async def _tell_of_gone(self) -> None:
        """Faust's signal; a handler may wait, which a rebalance's callback cannot."""
        gone, self._gone = self._gone, set()
        await self._host.app.on_partitions_revoked.send({TP(at.topic, at.partition) for at in gone})

    async def _let_flow(self) -> None:
        """Partitions whose tables are restored become active: their records flow."""
        if self._restoration is None or not self._restoration.waiting:
            return
        now_s = clock.now_s()
        if self.active and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        ready = self._restoration.ready()
        if ready is not None and ready.uncommitted and self.settings.start_at_end:
            await self._begin_at_ends(ready)
        if ready is not None and ready.starts:
            assert self._member is not None
            flowing = {at.topic for at in ready.starts}
            self._member.topic_ids.watch({topic: found for topic, found in ready.ids.items() if topic in flowing})
            self.active |= ready.starts.keys()
            self.committed.update(ready.starts)
            self._route()
            self._dispatch.begin(ready)
            self._group.flow(ready.starts)
        if not self._restoration.waiting and (ready is None or ready.starts):
            await self._settle()

    async def _begin_at_ends(self, ready: Assignment) -> None:
        """Let it be certain where partitions begin that the group has no offsets of, before their records flow."""
        own = {name for topic in self._host.topics for name in topic.topics if topic.internal or topic.has_prefix}
        later = ready.anew | own
        self._beginning = ready
        try:
            while ready.uncommitted and not (self.stopping or self._rebuild_wanted or self._group.finished):
                starts = await call_with_heartbeats(
                    self._group, self._group.begin_at_ends, list(ready.uncommitted), later
                )
                ready.place(starts)
                if ready.uncommitted:
                    await asyncio.sleep(_LOOK_S)
        except Hung as exc:
            self._group.hear_of(exc)
        finally:
            self._beginning = None
        ready.drop(set(ready.uncommitted))

    async def _settle(self) -> None:
        """All that was assigned is active."""
        assert self._member is not None
        await daemon_thread(self._member.topic_ids.keep)
        self._rebalanced(self._taken_over)
        if self.settings.standby_replicas:
            self._placing = asyncio.ensure_future(self._place_copies())
        self._host.app.rebalancing_count = self.rebalances_total
        await self._host.app.on_partitions_assigned.send({TP(at.topic, at.partition) for at in self.owned})
        await self._host.app.on_rebalance_complete.send()

    async def _place_copies(self) -> None:
        """When the group is at rest, keep copies of what others own."""
        assert self._restoration is not None
        while not self.stopping:
            try:
                members = await daemon_thread(self._admin.members, self._host.conf.id)
                assigned = {name: {number for _, number in ats} for name, ats in (members or {}).items()}
                if assigned.get(self.instance) == {at.partition for at in self.owned}:
                    numbers = standby_partitions(self.instance, assigned, self.settings.standby_replicas)
                    await self._restoration.keep_standby(numbers)
                    logger.info("keeping warm copies of partitions %s", ", ".join(map(str, sorted(numbers))) or "-")
                    return
            except AnabranchError as exc:
                logger.warning("warm copies: %s", exc)
            await asyncio.sleep(_PLACE_AGAIN_S)
