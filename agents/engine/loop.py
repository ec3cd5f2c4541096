"""The engine's loop: poll → deliver → agents process → barrier → commit → poll, in the thread of the event loop.

A commit may still be under way while the loop continues; the module `commits` describes this.

Invariants:

- An agent is *running* from the moment it gets a record until it requests the next one. A commit begins when all
  agents are parked at the barrier. When a commit is due, batches are cut at a record boundary.
- Nothing is produced before the barrier, so a rollback only discards the outbox and the uncommitted writes of tables.
- Rebalance callbacks run inside `consume()`; the module `rebalance` describes them.
- The same rollback handles an agent that raises, a commit whose partitions are lost, and a revoke while an agent is
  running: drop the epoch, restart the agents and deliver the epoch's records again. The router keeps records until they
  are committed.
- Progress is kept per stream and partition. The committed offset of a partition is the smallest progress of its
  streams. Agent offsets, which are ahead of it, are stored in the metadata of the committed offset. A stream skips
  records below its own offset.

The engine holds `AgentContext` (the interface to agents and streams), `Rebalance` (assigned and revoked partitions) and
`EngineStatus` (the state that probes, metrics and logs read), and they hold the engine. Faust's consumer
(`faust_adapter.consumer`) holds the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any

from ...topics import clock, threads
from ...topics.errors import AnabranchError, Stop
from ...topics.partitioner_registry import PARTITIONERS_TOPIC, PartitionerRegistry
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from ..assigned_partitions import Assignment
from ..tables.global_table import GlobalTable
from .agent_context import AgentContext
from .commits import Commits
from .group_consumer import GroupConsumer, is_at_end, unread
from .membership import Membership
from .protocols import Host, RebalanceListener
from .rebalance import Rebalance
from .repartition_purge import RepartitionPurge
from .rollback import RollbackScope, scope_of
from .runner import halt_all
from .settings import EngineSettings
from .status import EngineStatus

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_IDLE_MAX_S = 0.005
# A wait until some time is longer by this, so that the time has come after it, whatever floats make of the difference.
_ROUNDING_S = 0.0001
# While agents run for longer than this, the loop polls beside them. So the worker remains a member of the group, and an
# agent may `ask` another agent of the same worker.
_LONG_S = 0.02
_BARRIER_PATIENCE_S = 1.0


class Engine:
    """The engine of a worker, one for each app.

    Attributes:
        settings: how the loop polls and commits.
        context: the interface to agents and streams.
        rebalance: handles the partitions that the group assigns and revokes.
        status: the state that probes, metrics and logs read.
        stopping: whether the worker is stopping.
        rollbacks_total: number of epochs rolled back and reprocessed.
        left_uncommitted: whether the worker has stopped without knowing that its last epoch is committed.
        first_record_at: wall-clock time of the first record, in seconds since 1970; 0 before it.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.settings: EngineSettings = host.settings
        self.context = AgentContext(host, self.settings, self)
        self.rebalance = Rebalance(host, self.settings, self.context, self)
        self.status = EngineStatus(self.settings, self, self.context, self.rebalance)
        self._commits = Commits(host, self.context, self.rebalance)
        self._router, self._barrier = self.context.router, self.context.barrier
        self._epoch, self._failures = self.context.epoch, self.context.failures
        self.stopping = False
        self.rollbacks_total = 0
        self.left_uncommitted = False
        self.first_record_at = 0.0
        self._member: Membership | None = None
        self._listener: RebalanceListener | None = None
        self._main_task: asyncio.Future[None] | None = None
        self._left = False
        self._opening: asyncio.Future[None] | None = None
        self._subscribed: list[str] = []
        self._electing: asyncio.Future[None] | None = None
        self._watching_retries: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """True if the loop has ended or was cancelled."""
        task = self._main_task
        return task is not None and (task.done() or (isinstance(task, asyncio.Task) and task.cancelling() > 0))

    @property
    def rebuild_wanted(self) -> bool:
        """True if the Kafka clients are unusable; the loop renews them and restores from the changelogs."""
        return self._commits.rebuild_wanted

    @property
    def _group(self) -> GroupConsumer:
        assert self._member is not None, "not started"
        return self._member.group

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        assert self._listener is not None, "not started"
        return self._listener.spawn(coroutine)

    # Starting and stopping ------------------------------------------------------------------------------------------

    async def start(self, listener: RebalanceListener) -> None:
        """Connect to the cluster, take an identity and begin to end the transactions that a predecessor left open."""
        host, admin = self._host, self._host.admin
        self._listener = listener
        self._member = Membership(
            host.cluster,
            host.conf.id,
            host.conf.appdir,
            self.settings,
            self.rebalance.assigned,
            self.rebalance.revoked,
            self.rebalance.partitions_lost,
        )
        self._commits.open(self._member)
        # The worker joins its group while this runs; the loop polls no record before it is done.
        self._opening = asyncio.ensure_future(self._member.open())
        counts = await daemon_thread(admin.partitions, timeout_s=self.settings.connect_s)
        self.rebalance.note_counts(counts)
        if PARTITIONERS_TOPIC in counts:  # includes topics that the app neither declares nor may create
            host.partitioners |= await daemon_thread(PartitionerRegistry(host.cluster, admin).of)
        self.rebalance.open(self._member, listener)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Create the declared topics that are missing, subscribe to `topics` and start the loop.

        An error of this project does not propagate: it stops the worker.
        """
        self._subscribed = sorted(topics)
        try:
            self._host.provisioner.check_names()
            await self._host.provisioner.declare(list(self._host.topics))
            await self._host.provisioner.declare_changelogs()
            counts = await daemon_thread(self._host.admin.partitions)
            self.rebalance.note_counts(counts)
            self.context.retries.look(counts)
            if self._subscribed:
                self._subscribe()
                if self._watching_retries is None:
                    self._watching_retries = self._spawn(self.context.retries.watch(self._subscribe))
            elif any(isinstance(table, GlobalTable) for table in self._host.tables):
                # An assignment without partitions: the worker is ready when its global tables are complete.
                self.rebalance.assigned(Assignment(began_s=clock.now_s()))
            else:
                self.rebalance.ready.set()  # only timers and web views: their outputs are committed too
        except AnabranchError as exc:
            await self.stop_with(exc)
            return
        if self._main_task is None:
            self._main_task = self._spawn(self._main())
            if not self._host.run_id:
                self._spawn(RepartitionPurge(self._host, lambda: self.status.committed).run())

    def elect(self) -> None:
        """Begin to join the group if the app reads no topic: subscribe to a topic without records.

        The owner of this topic is the leader.
        """
        if not self._subscribed and self._electing is None and not self.stopping:
            self._electing = self._spawn(self._elect())

    async def _elect(self) -> None:
        name = f"{self._host.conf.id}-__assignor-__leader"  # the name that Faust gives it
        try:
            await self._host.provisioner.create_topic(name, 1, self._host.conf.topic_replication_factor or 1)
        except AnabranchError as exc:
            await self.stop_with(exc)
            return
        if not self._subscribed:
            self._subscribed = [name]
            self._group.subscribe(self._subscribed)

    def _subscribe(self) -> None:
        wanted = [*self._subscribed, *sorted(self.context.retries.read)]
        if self._group.topics != wanted:
            self._group.subscribe(wanted)

    async def leave(self) -> None:
        """End the loop at a record boundary, commit and leave the group at once.

        If agents hold on to their records for longer than `stuck_s`, the epoch is dropped instead. The group is not
        left if the host keeps its identity.
        """
        if self._left:
            return
        self._left = self.stopping = True
        if self._opening is not None:
            self._opening.cancel()
        if self._main_task is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._main_task), self.settings.stuck_s)
            except TimeoutError:
                stuck = "agents have processed one record" if self._barrier.running else "the loop has not ended"
                logger.warning("%s for %.0f s: the epoch is rolled back", stuck, self.settings.stuck_s)
                self.left_uncommitted = True
                self._main_task.cancel()
            except asyncio.CancelledError:
                pass
        try:
            await self._commits.ended(self.settings.stuck_s)
        except AnabranchError as exc:
            logger.warning("the last commit: %s", exc)
        self.left_uncommitted = self.left_uncommitted or self._uncommittable or self._epoch.dirty
        await self.rebalance.close()
        if self._member is not None:
            await self._member.close(keep_identity=self._host.keep_identity)

    async def stop_with(self, error: BaseException) -> None:
        """Stop the worker because a human has to change something. The app ends with the first such error."""
        if self._host.stopped_by is None:
            self._host.stopped_by = error
        self.stopping = True
        self._barrier.wake()
        self.rebalance.ready.set()
        await self._host.request_stop()

    @property
    def _uncommittable(self) -> bool:
        """True if the epoch cannot be committed: a record is partly processed, or the clients are unusable."""
        return self._epoch.rollback_wanted or self.rebuild_wanted

    # The loop -------------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        try:
            if not await self._opened():
                return
            self._epoch.begin()
            idle_s = 0.0
            while not self.stopping:
                idle_s = await self._turn(idle_s)
            await self._commits.ended()
            if self._host.stopped_by is None and await self._close_barrier() and not self._uncommittable:
                await self._commit()
        except Stop as exc:
            await self.stop_with(exc)
        except asyncio.CancelledError:
            if not self.stopping:
                await self.stop_with(
                    Stop(
                        "the engine's task was cancelled", hint="does the program cancel tasks that it has not created?"
                    )
                )
            raise
        except GeneratorExit:  # the event loop is gone
            raise
        except BaseException as exc:
            logger.exception("the engine failed")
            await self.stop_with(exc)

    async def _opened(self) -> bool:
        """Wait until the predecessors' transactions have ended.

        Returns:
            False: this worker cannot begin transactions, and stops.
        """
        assert self._opening is not None
        try:
            await self._opening
        except AnabranchError as exc:
            await self.stop_with(exc)
            return False
        return True

    async def _turn(self, idle_s: float) -> float:
        """Run one iteration, which sleeps `idle_s` seconds if there is no work; return `idle_s` of the next one."""
        self._commits.end_if_done()
        if self.rebuild_wanted or self._group.finished is not None:
            await self._rebuild()
        if self._epoch.rollback_wanted:
            await self._roll_back()
        if self._barrier.running:
            await self._work()
            return 0.0
        # The barrier may be closed without an epoch that is due: if partitions were revoked while it closed, the
        # callback has committed already.
        if self._commits.due or self._barrier.closed:
            await self._commit()
        if self._uncommittable or self.stopping:
            return 0.0
        polled = self._poll()
        await self.rebalance.advance()
        if self._host.history_ends:
            self._router.end(self._host.history_ends, self._group.reached)
        if self.context.wake():
            return 0.0
        if polled:
            return 0.0
        if self._commits.under_way:
            await self._commits.ended(idle_s)
        elif not self._epoch.dirty:
            await threads.idle(idle_s)
        elif (affordable_in_s := self._epoch.affordable_in_s) > 0:
            await threads.idle(min(idle_s, affordable_in_s + _ROUNDING_S))
        else:
            await self._commit()
            return 0.0
        return min(idle_s + 0.001, _IDLE_MAX_S)

    async def _work(self) -> None:
        """Wait until all agents are parked.

        Every `_LONG_S` seconds, poll, and close the barrier if the epoch is due. Return early if the epoch cannot be
        committed or the worker stops.
        """
        began, self.context.unpolled_s = clock.now_s(), 0.0
        while self._barrier.running and not (self._uncommittable or self.stopping):
            if await self._barrier.parked_within(_LONG_S):
                break
            self._commits.end_if_done()
            if self._commits.due and not self.context.asking:
                if await self._close_barrier(_BARRIER_PATIENCE_S):
                    break
                # An agent waits for something that may depend on other agents: resume them and try again later.
                self._open_barrier()
                self._epoch.begin()
            if not self._barrier.running:
                break
            self._poll(during_work=True)
            self.context.wake()
        self._group.poll_size.adjust(clock.now_s() - began - self.context.unpolled_s)

    def _poll(self, *, during_work: bool = False) -> bool:
        if not during_work and self._router.lacks_stream:
            return False
        if (not during_work or self.context.asking) and self._router.deliver_aligned():
            return True
        group, most = self._group, self.settings.batch_records
        released = self._router.deliver_released(partial(unread, group), most)
        if self._router.waiting >= self.settings.backlog_records:
            group.keep_alive()
            return released
        group.hold(self._router.held_back(most))
        messages = group.consume()
        if not messages:
            return released
        if not self.first_record_at:
            self.first_record_at = clock.now_ms() / 1000
        self._router.deliver(messages, one_topic=len(self._subscribed) == 1 and not self.context.retries.read)
        return True

    def hurry(self) -> None:
        """End the epoch as soon as possible."""
        self._epoch.hurry()

    # Failure and rollback -------------------------------------------------------------------------------------------

    async def _roll_back(self) -> None:
        """Drop the epoch, restart the agents and deliver the epoch's records again; see `rollback.py`."""
        await self._commits.ended()
        self._barrier.close()
        await asyncio.sleep(0)  # agents that were resumed before take their batches
        failed = self._epoch.begin_rollback()
        self.rollbacks_total += 1
        scope = scope_of(failed, self.context.tasks, self.context.runners) if failed else None
        if scope is not None and self._router.is_divisible and not self.rebuild_wanted:
            await self._roll_back_tasks(scope)
            return
        runners = [runner for runner in self.context.runners if runner.stream is not None]
        await halt_all(runners, self.context.runners, self.settings.stuck_s)
        self._epoch.drop()
        self._router.redeliver()
        self._barrier.reset()
        for runner in runners:
            runner.resume()
        await asyncio.sleep(0)

    async def _roll_back_tasks(self, scope: RollbackScope) -> None:
        """Roll back some tasks, while the agents of others go on."""
        logger.debug("rolling back tasks %s", ", ".join(sorted(str(task.id) for task in scope.tasks)))
        self._router.take_back(scope)  # at once: agents that go on must not take their records
        await halt_all(scope.runners, self.context.runners, self.settings.stuck_s)
        for stream in scope.streams:
            self._barrier.abandon(stream)
        self._epoch.drop_tasks(scope)
        self._router.redeliver_tasks(scope)
        self._barrier.open()
        for runner in scope.runners:
            runner.resume()
        await asyncio.sleep(0)

    # Commit -----------------------------------------------------------------------------------------------------------

    async def _close_barrier(self, patience_s: float | None = None) -> bool:
        """Hand out no further records and wait until all agents are parked.

        Args:
            patience_s: how long to wait, in seconds; None waits without a limit.

        Returns:
            True: all agents are parked, or a rollback is due. False: the time is over, or an agent waits for the answer
            of another agent.
        """
        self._barrier.close()
        self._router.cut()
        began = clock.now_s()
        while self._barrier.running and not self._epoch.rollback_wanted:
            if self.context.asking:
                patience_s = 0.0  # the agent that has to answer may be waiting at the barrier
            if patience_s is not None and clock.now_s() - began > patience_s:
                return False
            await self._barrier.parked_within(_LONG_S)
            self._commits.end_if_done()
            self._group.keep_alive()
        return True

    def _open_barrier(self) -> None:
        self._barrier.open()
        self._router.uncut()
        self.context.wake()

    async def _commit(self) -> None:
        """Commit the epoch, begin the next one and open the barrier. All agents must be parked."""
        if self._uncommittable or self._member is None:  # an agent, or the commit of a revoke, has failed meanwhile
            return
        self._barrier.close()
        await self._commits.commit(beside=self.settings.commit_beside and not self.stopping)
        if not self._uncommittable:
            self._open_barrier()

    def commit_now(self) -> None:
        """Commit the epoch in a revoke callback, before the partitions move (blocking). All agents must be parked."""
        self._commits.commit_now()

    def is_silent(self, at: TopicPartition) -> bool:
        """Return whether all records of a partition were consumed; see `is_at_end`."""
        return self._member is not None and self._group.finished is None and is_at_end(self._group, at)

    def end_commit(self) -> None:
        """Wait until no commit is under way (blocking), in a rebalance callback."""
        self._commits.end()

    def drop_epochs(self) -> None:
        """Drop the epoch and the one that is being committed: their partitions are lost."""
        self._commits.drop()

    async def _rebuild(self) -> None:
        """Replace fenced or broken clients and reprocess from the offsets that Kafka has as committed."""
        assert self._member is not None
        await self._commits.ended()
        self._commits.rebuilt()
        self.rebalance.restart()
        await self._roll_back()
        await self._member.renew()
