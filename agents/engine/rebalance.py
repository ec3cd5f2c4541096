"""Handles the assignment and revocation of this worker's partitions: lets its tasks be restored, run and end.

- Rebalance callbacks run inside `consume()`. A revoke waits for the commit that is under way. If all agents are parked,
  it then commits the epoch and releases the partitions in the callback, because the client library unassigns them
  when the callback returns. If an agent is in the middle of a record, the epoch is rolled back instead: it is dropped,
  the agents restart, and nothing is committed.
- An assigned partition is owned at once and becomes *active* when the tables of its task are restored. From then on its
  records are consumed, while other tasks may still be restoring. Only active partitions have progress, and only their
  progress is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from ...topics import clock
from ...topics.admin import Admin
from ...topics.errors import AnabranchError, Hung, Usage
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition, listed
from ..assigned_partitions import Assignment
from ..histogram import Histogram
from ..tables.restoration import Restoration, RestoreProgress, call_with_heartbeats
from ..tables.standby_placement import standby_partitions
from ..task_groups import TaskGroup, TaskId
from .agent_context import AgentContext
from .double_counting import refuse_double_counting
from .group_consumer import GroupConsumer
from .membership import Membership
from .protocols import EngineLoop, Host, RebalanceListener
from .settings import EngineSettings
from .task import TaskInput, Tasks
from .task_states import Event

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
        self._began_s = self._looked_s = 0.0
        self._recreated: set[str] = set()
        self._placing: asyncio.Future[None] | None = None
        self._revoked: set[TopicPartition] = set()

    def open(self, member: Membership, listener: RebalanceListener) -> None:
        """Begin to serve this member of the group: restore its tables, and notify the listener of rebalances."""
        self._member, self._listener = member, listener
        replicas = self._settings.standby_replicas
        self._restoration = Restoration(member.stores, self._admin, self._host.tables, standby_replicas=replicas)

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
        self._forget(self._tasks.partitions, Event.LOSE)

    @property
    def _group(self) -> GroupConsumer:
        assert self._member is not None, "not started"
        return self._member.group

    @property
    def _tasks(self) -> Tasks:
        return self._context.tasks

    @property
    def _admin(self) -> Admin:
        return self._host.admin

    def note_counts(self, counts: dict[str, int]) -> None:
        """Note the numbers of partitions of all topics, before the first assignment."""
        self.partition_counts = counts

    def note_commit(self, *, lost: bool) -> None:
        """Note how the last commit ended.

        Args:
            lost: whether it failed because its partitions belong to other workers.
        """
        self.lost = lost

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
            epoch.want_rollback()
        elif not (epoch.rollback_wanted or self._loop.rebuild_wanted):
            self._loop.commit_now()
        self._forget(revoked, Event.REVOKE)

    def partitions_lost(self, lost: set[TopicPartition]) -> None:
        """Drop the epoch and forget the partitions: other workers already own them."""
        logger.warning("partitions lost: %s", listed(lost))
        self._loop.drop_epochs()
        if self._context.router.streams:
            self._context.epoch.want_rollback()
        self._forget(lost, Event.LOSE)

    def _forget(self, revoked: set[TopicPartition], event: Event) -> None:
        self._revoked |= revoked
        if self._context.epoch.rollback_wanted:
            self._context.epoch.want_rollback()  # of everything: tables forget all that is not committed
        if self._assignment is not None:
            self._assignment.drop(revoked)
        ended = self._tasks.revoke(revoked, event)
        if self._restoration is not None:
            self._restoration.revoke(ended)

    # Called by the loop ---------------------------------------------------------------------------------------------

    async def advance(self) -> None:
        """Process the events recorded by the callbacks, and activate partitions whose tables are restored."""
        if self._revoked:
            assert self._listener is not None
            revoked, self._revoked = self._revoked, set()
            await self._listener.partitions_revoked(revoked)
        if self._tasks.stopped:
            stopped, self._tasks.stopped = self._tasks.stopped, set()
            self._group.stop(stopped)
        if self._assignment is not None:
            await self._take_over()
        await self._activate()

    async def _take_over(self) -> None:
        """Make assigned partitions part of tasks, and start the restore of their tables."""
        assert self._restoration is not None
        assert self._listener is not None
        assert self._member is not None
        if self._placing is not None:
            self._placing.cancel()
        await self._learn_counts()
        assignment, self._assignment = self._assignment, None
        if assignment is None:  # the clients are being recreated
            return
        self._began_s, self._looked_s = assignment.began_s, 0.0
        self.lost = False
        self._tasks.assign(assignment)
        self._refuse_outgrown()
        await self._listener.partitions_assigned(self.owned, assignment.starts.keys())
        ids = self._member.topic_ids
        self._recreated = ids.recreated(assignment.ids)
        changelogs = [table.changelog_name for table in self._host.tables]
        await call_with_heartbeats(self._group, ids.watch_changelogs, changelogs)
        await self._restoration.begin(self._tasks.restore, self._group)
        if not self._settings.standby_replicas:
            self._tasks.close()
        if not self._restoration.waiting:
            self._group.consume_from({}, without=self._tasks.incomplete)
            await self._finish()

    async def _learn_counts(self) -> None:
        """Read the numbers of partitions: they decide which topics and tables belong together.

        Partitions may have been added to a topic: tables check their number when writes are committed.
        """
        while not self._loop.stopping:
            self.partition_counts = await call_with_heartbeats(self._group, self._admin.partitions)
            if self._assignment is None or {at.topic for at in self._assignment.starts} <= self.partition_counts.keys():
                break
            await asyncio.sleep(_LOOK_S)  # a broker does not know a new topic yet
        self._group_topics()

    def _group_topics(self) -> None:
        """Find the groups of the topics that this worker reads.

        Raises:
            Usage: topics with a table are assigned in another way than by ranges.
        """
        read = set(self._group.topics)
        declared = [[name for name in topic.topics if name in read] for topic in self._host.topics]
        retries = {name: topic for name, (_, topic) in self._context.retries.read.items()}
        self._tasks.group(declared, retries, self.partition_counts)
        option = self._settings.assignor_option
        assignor = self._host.cluster.options.get(option) or self._settings.consumer_options.get(option) or "range"
        joined = next((group for group in self._tasks.table_groups if len(group.topics) > 1), None)
        if joined is not None and assignor != "range":
            raise Usage(
                f"{option}={assignor}: topics {' and '.join(joined.topics)} share table {joined.tables[0]}, and only "
                "the range assignor gives partitions of one number to one worker",
                hint=f"omit {option}, or set it to range",
            )

    def _refuse_outgrown(self) -> None:
        """Refuse tasks that would wait for ever, because partitions were added to one of their topics: ranges of it and
        of their other topics no longer have the same numbers, so no worker has all partitions of a task.

        Raises:
            Usage: a task is incomplete because of that; workers that start again find new groups.
        """
        for id, absent in self._tasks.missing().items():
            if grown := self._tasks.outgrown(id, self.partition_counts):
                raise Usage(
                    f"partitions were added to topic {', '.join(grown)} while workers ran: task {id} needs "
                    f"{listed(absent)}, which another worker has now",
                    hint="start all workers of the app again: they group the topics by their new numbers of partitions",
                )

    async def _activate(self) -> None:
        """Let tasks run whose tables are restored: consume their records from now on."""
        if self._restoration is None or not self._restoration.waiting:
            return
        now_s = clock.now_s()
        if self._tasks.active and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        ready = self._restoration.ready()
        started: dict[TopicPartition, int] = {}
        for task in self._tasks.restored(ready):
            refuse_double_counting(
                self._host.conf.id, self._host.tables, task, self._recreated, at_end=self._settings.start_at_end
            )
        if ready:
            await self._determine_starts(ready)
        for task in self._tasks.restored(ready):
            started |= self._tasks.run(task)
        if started:
            assert self._member is not None
            self._member.topic_ids.watch({at.topic: self._tasks.active[at].topic_id for at in started})
            self._context.route()
            self._group.consume_from(started, without=self._tasks.incomplete)
        if not self._restoration.waiting and (started or not ready):
            await self._finish()

    async def _determine_starts(self, ready: Iterable[TaskId]) -> None:
        """Determine where partitions without a committed offset begin, before their records are consumed.

        Retries until all are known, the worker stops or its clients are recreated. Partitions that are unknown then
        stay new, and do not become active.

        At least once, the starts are committed as well: a crash may leave changes of the first epoch in the changelogs
        without the offsets behind them. Without any offset the next start would take these for a table whose offsets
        are lost, and refuse to start.
        """
        determine: Callable[[dict[TopicPartition, int]], Mapping[TopicPartition, int]]
        if self._settings.start_at_end:
            own = {name for topic in self._host.topics for name in topic.topics if topic.internal or topic.has_prefix}
            later = self._recreated | own
            determine = lambda starts: self._group.begin_at_ends(list(starts), later)  # noqa: E731
        elif not self._settings.exactly_once:
            determine = self._group.commit_starts
        else:
            for input in self._new_inputs(ready):
                input.begin_at(input.start)
            return
        try:
            while new := {input.at: input.start for input in self._new_inputs(ready)}:
                if self._loop.stopping or self._loop.rebuild_wanted or self._group.finished:
                    break
                found = await call_with_heartbeats(self._group, determine, new)
                for input in [input for input in self._new_inputs(ready) if input.at in found]:
                    input.begin_at(found[input.at])
                if self._new_inputs(ready):
                    await asyncio.sleep(_LOOK_S)
        except Hung as exc:
            self._group.note_hung(exc)

    def _new_inputs(self, ready: Iterable[TaskId]) -> list[TaskInput]:
        return [input for task in self._tasks.restored(ready) for input in task.inputs.values() if input.is_new]

    async def _finish(self) -> None:
        """Measure, log and report a completed rebalance: all assigned partitions are active."""
        assert self._member is not None
        assert self._listener is not None
        await daemon_thread(self._member.topic_ids.keep)
        self.rebalances_total += 1
        seconds = clock.now_s() - self._began_s
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
                if members is not None and members.get(self.instance) == self.owned:
                    copies = self._copies(members)
                    partitions = [(table, task.partition) for task, group in copies.items() for table in group.tables]
                    await self._restoration.keep_standby(partitions)
                    self._tasks.stand_by(copies)
                    self._tasks.close(keep=copies)
                    logger.info("keeping standby copies of tasks %s", ", ".join(map(str, sorted(copies))) or "-")
                    return
            except AnabranchError as exc:
                logger.warning("standby copies: %s", exc)
            await asyncio.sleep(_PLACE_AGAIN_S)

    def _copies(self, members: Mapping[str, set[tuple[str, int]]]) -> dict[TaskId, TaskGroup]:
        """Return the tasks of which this worker keeps standby copies.

        Args:
            members: member of the group -> its partitions.
        """
        copies: dict[TaskId, TaskGroup] = {}
        for group in self._tasks.table_groups:
            assigned = {
                name: {number for topic, number in ats if topic in group.topics} for name, ats in members.items()
            }
            numbers = standby_partitions(self.instance, assigned, self._settings.standby_replicas)
            copies |= {TaskId(group.name, number): group for number in numbers}
        return copies

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
