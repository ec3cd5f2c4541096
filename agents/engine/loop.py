"""The loop: poll → hand over → agents work → gate → commit → poll. One thread, the event loop's own.

To Faust this is the app's consumer. Laws:

- An agent is *running* from the moment it is handed a record until it asks for the next one. A commit waits until all
  are parked; batches are cut at a record boundary when it is due.
- Nothing is produced before the gate, so undoing an epoch is forgetting it (`effects`, tables' epochs).
- Rebalance callbacks run inside `consume()`; what they do is in `rebalance`.
- Redo is one mechanism for a record that raises, a commit that lost its partitions and a revoke in the middle of a
  record: drop the epoch, restart the agents, hand the epoch's records over again. They are kept until committed.
- Progress is kept per stream and partition. Kafka's committed offset is the smallest; marks of streams that are
  further ride in its metadata, and a stream skips what lies below its mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator, Iterable
from typing import Any

from ...topics import clock
from ...topics.errors import AnabranchError, BadRecord, Hung, Rebuild, Retriable, Stop
from ...topics.partitioner_registry import PARTITIONERS_TOPIC, PartitionerRegistry
from ...topics.producer import Aborted
from ...topics.threads import daemon_thread
from ..assignment import Assignment
from ..tables.global_table import GlobalTable
from ..tables.restoration import Restoration
from .epoch import Late, PreparedCommit
from .membership import Membership
from .rebalance import Rebalancing
from .rejected_records import Refused
from .runner import halt_all

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_IDLE_MAX_S = 0.005
# Agents that work longer than this on their records are polled around, so that the member lives and an agent may `ask`
# another one of the same worker.
_LONG_S = 0.02
_GATE_PATIENCE_S = 1.0
_MAX_ABORTED = 5


class Engine(Rebalancing):
    """See the module. Made by the transport; one an app."""

    def __init__(self, transport: Any, **kwargs: Any) -> None:
        super().__init__(transport.app._runtime, **kwargs)
        self._left = False
        self._opening: asyncio.Future[None] | None = None
        self._aborted_in_a_row = 0
        self._subscribed: list[str] = []
        self._electing: asyncio.Future[Any] | None = None
        self._looking: Any = None

    # Starting and stopping ------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Reach the cluster, take an identity, begin to end what a predecessor left open."""
        self._host.app.flow_control.resume()  # of channels in memory; what topics deliver does not pass through it
        self._admin = self._host.admin
        self._member = Membership(
            self._host.cluster,
            self._host.conf.id,
            self._host.conf.appdir,
            self.settings,
            self._on_assign,
            self._on_revoke,
            self._on_lost,
        )
        # The worker joins its group meanwhile; nothing is taken from the group before this is done.
        self._opening = asyncio.ensure_future(self._member.open())
        self.partition_counts = await daemon_thread(self._admin.partitions, timeout_s=self.settings.connect_s)
        if PARTITIONERS_TOPIC in self.partition_counts:  # also of topics that the app neither declares nor may make
            self._host.partitioners |= await daemon_thread(PartitionerRegistry(self._host.cluster, self._admin).of)
        self._restoration = Restoration(
            self._host.conf.id,
            self._member.stores,
            self._admin,
            self._host.tables,
            standby_replicas=self.settings.standby_replicas,
            start_at_end=self.settings.start_at_end,
        )

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Called by Faust's conductor whenever the set of topics changes."""
        self._subscribed = sorted(topics)
        try:
            await self._host.provisioner.declare(list(self._host.topics))
            await self._host.provisioner.declare_changelogs()
            self.partition_counts = await daemon_thread(self._admin.partitions)
            self.retries.look(self.partition_counts)
            if self._subscribed:
                self._subscribe()
                self._looking = self._looking or self.add_future(self.retries.watch(self._subscribe))
            elif any(isinstance(table, GlobalTable) for table in self._host.tables):
                self._on_assign(Assignment(began_s=clock.now_s()))  # of no partitions: ready when they are whole
            else:
                self.ready.set()  # only timers and web views: they send, so epochs end all the same
        except AnabranchError as exc:
            await self.stop_with(exc)
            return
        if self._main_task is None:
            self._main_task = self.add_future(self._main())

    def elect(self) -> None:
        """Join the group for a topic without records, where the app reads none: its owner is the leader."""
        if not self._subscribed and self._electing is None and not self.stopping:
            self._electing = self.add_future(self._elect())

    async def _elect(self) -> None:
        name = f"{self._host.conf.id}-__assignor-__leader"  # Faust's name of it
        try:
            await self._host.provisioner.create_topic(name, 1, self._host.conf.topic_replication_factor or 1)
        except AnabranchError as exc:
            await self.stop_with(exc)
            return
        if not self._subscribed:
            self._subscribed = [name]
            self._group.subscribe(self._subscribed)

    def _subscribe(self) -> None:
        wanted = [*self._subscribed, *sorted(self.retries.read)]
        if self._group.topics != wanted:
            self._group.subscribe(wanted)

    async def leave(self) -> None:
        """End at record boundaries, commit, leave the group at once."""
        if self._left:
            return
        self._left = self.stopping = True
        if self._opening is not None:
            self._opening.cancel()
        if self._main_task is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._main_task), self.settings.stuck_s)
            except TimeoutError:
                logger.warning("agents hold on to records for %.0f s: the epoch is dropped", self.settings.stuck_s)
                self._main_task.cancel()
            except asyncio.CancelledError:
                pass
        if self._placing is not None:
            self._placing.cancel()
        if self._restoration is not None:
            await daemon_thread(self._restoration.close)
        if self._member is not None:
            await self._member.close(keep_identity=self._host.keep_identity)

    async def on_stop(self) -> None:
        """As `leave`."""
        await self.leave()

    async def stop_with(self, error: BaseException) -> None:
        """A human has to change something: the app ends with this error."""
        if self._host.stopped_by is None:
            self._host.stopped_by = error
        self.stopping = True
        self._gate.look_up()
        self.ready.set()
        await self._host.request_stop()

    @property
    def _undone(self) -> bool:
        """Whether the epoch cannot be committed as it is: a record is half done, or the clients are finished."""
        return self._redo_wanted or self._rebuild_wanted

    # The loop -------------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        try:
            if not await self._opened():
                return
            self._epoch.begin()
            idle_s = 0.0
            while not self.stopping:
                idle_s = await self._turn(idle_s)
            if self._host.stopped_by is None and await self._close_gate() and not self._undone:
                await self._commit()
        except Stop as exc:
            await self.stop_with(exc)
        except asyncio.CancelledError:
            if not self.stopping:
                await self.stop_with(
                    Stop("the engine's task was cancelled", hint="does the program cancel tasks that are not its own?")
                )
            raise
        except BaseException as exc:
            logger.exception("the engine failed")
            await self.stop_with(exc)

    async def _opened(self) -> bool:
        """Wait until the predecessors' transactions have ended; False where this worker cannot have any."""
        assert self._opening is not None
        try:
            await self._opening
        except AnabranchError as exc:
            await self.stop_with(exc)
            return False
        return True

    async def _turn(self, idle_s: float) -> float:
        """One round; returns how long the next idle wait may be."""
        if self._rebuild_wanted or self._group.finished is not None:
            await self._rebuild()
        if self._redo_wanted:
            await self._redo()
        if self._gate.running:
            await self._work()
            return 0.0
        # Closed and not due: partitions went while the gate closed, and what was to be committed was, in that callback.
        if self._epoch.due or self._gate.closed:
            await self._commit()
        if self._undone or self.stopping:
            return 0.0
        polled = self._poll()
        if self._gone:
            await self._tell_of_gone()
        if self._assignment is not None:
            await self._take_over()
        await self._let_flow()
        if self._host.history_ends:
            self._dispatch.end(self._host.history_ends, self._group.reached)
        if self._wake():
            return 0.0
        if not polled:
            if self._epoch.dirty and self._epoch.affordable:
                await self._commit()
            else:
                await asyncio.sleep(idle_s)
                return min(idle_s + 0.001, _IDLE_MAX_S)
        return 0.0

    async def _work(self) -> None:
        """Agents are at their records: wait until all are parked, or an epoch is due, or it takes long."""
        began = clock.now_s()
        while self._gate.running and not (self._undone or self.stopping):
            if await self._gate.parked_within(_LONG_S):
                break
            if self._epoch.due and not self.asking:
                if await self._close_gate(_GATE_PATIENCE_S):
                    break
                # Somebody waits for something that may need the others: let them go on, try again later.
                self._open_gate()
                self._epoch.begin()
            if not self._gate.running:
                break
            self._poll(during_work=True)
            self._wake()
        self._group.tune(clock.now_s() - began)

    def _poll(self, *, during_work: bool = False) -> bool:
        if not during_work and self._dispatch.somebody_is_missing:
            return False
        if self._dispatch.waiting >= self.settings.backlog_records:
            self._group.keep_alive()
            return False
        self._group.hold(self._dispatch.held_back(self.settings.batch_records))
        messages = self._group.consume()
        if not messages:
            return False
        if not self.first_record_at:
            self.first_record_at = clock.now_ms() / 1000
        self._dispatch.hand_over(messages, one_topic=len(self._subscribed) == 1 and not self.retries.read)
        return True

    def hurry(self) -> None:
        """End the epoch soon."""
        self._epoch.hurry()

    # Failure and redo -----------------------------------------------------------------------------------------------

    async def _redo(self) -> None:
        """Drop the epoch, restart the agents, hand its records over again."""
        self._redo_wanted = False
        self.redos_total += 1
        runners = [runner for runner in self._runners if runner.stream is not None]
        await halt_all(runners, self._runners, self.settings.stuck_s)
        self._epoch.drop()
        self._dispatch.hand_over_again(self.active)
        self._gate.reset()
        for runner in runners:
            runner.resume()
        await asyncio.sleep(0)

    # Commit -----------------------------------------------------------------------------------------------------------

    async def _close_gate(self, patience_s: float | None = None) -> bool:
        """Let no agent have a further record; True once all are parked."""
        self._gate.closed = True
        self._dispatch.cut()
        began = clock.now_s()
        while self._gate.running and not self._redo_wanted:
            if self.asking:
                patience_s = 0.0  # who could answer may be behind the gate
            if patience_s is not None and clock.now_s() - began > patience_s:
                return False
            await self._gate.parked_within(_LONG_S)
            self._group.keep_alive()
        return True

    def _open_gate(self) -> None:
        self._gate.closed = False
        self._dispatch.uncut()
        self._wake()

    def _draft(self) -> PreparedCommit:
        return self._epoch.draft(self.active, self._group.metadata, self.partition_counts.__getitem__)

    async def _commit(self) -> None:
        """End the epoch. All agents are parked."""
        assert self._member is not None
        self._gate.closed = True
        began = clock.now_s()
        if self._epoch.dirty:
            with self._settled():
                if self._host.provisioner.wanted:
                    await daemon_thread(self._host.provisioner.create)
                draft = self._draft()
                self._epoch.finish(draft, await daemon_thread(self._member.committer.commit, draft.plan))
            self._epoch.begin(cost_s=clock.now_s() - began)
        else:
            self._epoch.begin()
        if not self._undone:
            self._open_gate()

    def _commit_now(self) -> None:
        """In a revoke: all agents are parked and the partitions are about to go (blocking)."""
        assert self._member is not None
        if self._epoch.dirty:
            with self._settled():
                self._host.provisioner.create()
                draft = self._draft()
                self._epoch.finish(draft, self._member.committer.commit(draft.plan))

    @contextlib.contextmanager
    def _settled(self) -> Generator[None]:
        """A commit that fails leaves the epoch to be redone, or this worker's clients to be renewed."""
        try:
            yield
            self._aborted_in_a_row = 0
            if not self._dispatch.careful:
                self._failures.forget_rules()
                self._epoch.singly = frozenset(self._failures.singly)
        except BadRecord as exc:
            self._blame_somebody(exc)
        except Late as exc:
            logger.info("table %s holds values that can be changed in place: the first epoch is done again", exc)
            self._redo_wanted = True
        except Aborted as exc:
            self._aborted_in_a_row += 1
            if self._aborted_in_a_row >= _MAX_ABORTED and not exc.lost:
                raise Stop(f"{self._aborted_in_a_row} epochs in a row could not be committed: {exc}") from exc
            logger.warning("epoch dropped: %s", exc)
            self._host.provisioner.declared.clear()  # one of them may have been deleted
            self._redo_wanted = True
            self._lost = self._lost or exc.lost
        except (Hung, Rebuild, Retriable) as exc:
            logger.warning("%s: this worker rebuilds from its changelogs", exc.args[0])
            self._host.provisioner.declared.clear()
            self._rebuild_wanted = True
            self._group.hear_of(exc)

    def _blame_somebody(self, error: BadRecord) -> None:
        """Something in the epoch cannot be encoded, or is refused: do it again record by record to find whose it is."""
        news = isinstance(error, Refused) and self._failures.refused(error, self._epoch.outside)
        self._epoch.singly = frozenset(self._failures.singly)
        if not self._dispatch.be_careful() and not news:
            raise Stop(f"no record is to blame: {error}")
        self._redo_wanted = True

    async def _rebuild(self) -> None:
        """Fenced or fatally broken: new clients, and everything again from what Kafka says was committed."""
        self._rebuild_wanted, self._assignment = False, None
        assert self._member is not None
        self._forget(set(self.owned))
        await self._redo()
        await self._member.renew()
