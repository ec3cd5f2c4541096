"""The loop: poll → hand over → agents work → gate → commit → poll. One thread, the event loop's own.

To Faust this is the app's consumer. Laws:

- An agent is *running* from the moment it is handed a record until it asks for the next one. A commit waits until all
  are parked; batches are cut at a record boundary when it is due.
- Nothing is produced before the gate, so undoing an epoch is forgetting it (`effects`, tables' epochs).
- Rebalance callbacks run inside `consume()`. With all agents parked a revoke commits and gives the partition away in
  the callback, because the binding unassigns when it returns. With an agent in the middle of a record the epoch ends
  locally instead: drop it, restart the agents, commit nothing.
- Redo is one mechanism for a record that raises, a commit that lost its partitions and a revoke in the middle of a
  record: drop the epoch, restart the agents, hand the epoch's records over again. They are kept until committed.
- Progress is kept per stream and partition. Kafka's committed offset is the smallest; marks of streams that are
  further ride in its metadata, and a stream skips what lies below its mark.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from faust.types import TP
from mode import Service

from ..topics.admin import Admin, TopicSpec
from ..topics.deadletter import dead_letter
from ..topics.errors import AnabranchError, BadRecord, Rebuild, Retry, Stop
from ..topics.producer import Aborted
from .assignment import Assignment, write_marks
from .changelog import RestoreProgress, restore
from .commit import AtLeastOnce, Committer, EpochPlan, ExactlyOnce
from .effects import Effects, Output
from .group import Group
from .identity import Identity
from .inbox import Batch, Position
from .runner import Runner, acting_runner
from .settings import EngineSettings

if TYPE_CHECKING:
    from .app import App
    from .stream import Stream

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_IDLE_MAX_S = 0.005
# Agents that work longer than this on their records are polled around, so that the member lives and an agent may `ask`
# another one of the same worker.
_LONG_S = 0.02
_GATE_PATIENCE_S = 1.0
_MAX_ABORTED = 5
_REBUILD_AGAIN_S = 60.0


class Engine(Service):
    """See the module. Made by the transport; one an app."""

    def __init__(self, transport: Any, **kwargs: Any) -> None:
        super().__init__(loop=kwargs.get("loop"), beacon=cast(Any, kwargs.get("beacon")))
        self.app: App = transport.app
        self.settings: EngineSettings = self.app.engine_settings
        # Faust reads these of a consumer.
        self.unacked: set[Any] = set()
        self.randomly_assigned_topics: set[str] = set()
        self.transactions = None
        self.effects = Effects()
        self.outside: list[Output] = []  # sent by timers and web views: no redo can bring them back
        self.current: Runner | None = None
        self.asking = 0  # agents that wait for the answer of an agent: no commit can come before it
        self.stopping = False
        self._left = False
        self.restoring: RestoreProgress | None = None
        self.ready = asyncio.Event()
        self.records_total = 0
        self.commits_total = 0
        self.rebalances_total = 0
        self.dead_letters_total = 0
        self.skipped_total = 0
        self.redos_total = 0
        self.first_record_at = 0.0
        self.committed: dict[Position, int] = {}
        self._streams: list[Stream] = []
        self._runners: list[Runner] = []
        self._routes: dict[Position, list[list[Stream]]] = {}
        self._kept: dict[Position, list[Batch]] = {}
        self._dealt: dict[str, int] = {}
        self._running = 0
        self._all_parked = asyncio.Event()
        self._gate_closed = False
        self._redo_wanted = False
        self._rebuild_wanted = False
        self._rebuilt_s = -_REBUILD_AGAIN_S
        self._aborted_in_a_row = 0
        self._lost = False
        self._savepoint: tuple[int, int, int] = (0, 0, -1)
        self._batch_records = 500
        self._epoch_began = 0.0
        self._commit_cost_s = 0.01
        self._partition_counts: dict[str, int] = {}
        self._group: Group | None = None
        self._committer: Committer | None = None
        self._identity: Identity | None = None
        self._name = ""
        self._assignment: Assignment | None = None
        self._main_task: asyncio.Future[Any] | None = None
        self._subscribed: list[str] = []

    # Starting and stopping ------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Reach the cluster, take an identity, end what a predecessor left open."""
        cluster = self.app.cluster
        self._admin = Admin(cluster)
        self._partition_counts = await asyncio.to_thread(self._admin.partitions)
        self._identity = Identity(self.app.conf.appdir)
        self._name = name = f"{self.app.conf.id}-{self._identity.name}"
        self._group = Group(cluster, self.app.conf.id, name, self.settings, self._on_assign, self._on_revoke, self._on_lost)
        self._committer = self._new_committer()
        await asyncio.to_thread(self._committer.open)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Called by Faust's conductor whenever the set of topics changes."""
        self._subscribed = sorted(topics)
        if not self._subscribed:
            self.ready.set()
            return
        try:
            await self.app.declare(list(self.app.topics))
            await self.app.declare_changelogs()
            self._partition_counts = await asyncio.to_thread(self._admin.partitions)
            assert self._group is not None
            self._group.subscribe(self._subscribed)
        except AnabranchError as exc:
            await self.stop_with(exc)
            return
        if self._main_task is None:
            self._main_task = self.add_future(self._main())

    async def leave(self) -> None:
        """End at record boundaries, commit, leave the group at once."""
        if self._left:
            return
        self._left = self.stopping = True
        if self._main_task is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._main_task), self.settings.stuck_s)
            except TimeoutError:
                logger.warning("agents did not let go of their records in %.0f s: their epoch is dropped", self.settings.stuck_s)
                self._main_task.cancel()
            except asyncio.CancelledError:
                pass
        if self._group is not None:
            await asyncio.to_thread(self._group.close, keep_identity=self.app.keep_identity)
        if self._committer is not None:
            await asyncio.to_thread(self._committer.close)
        if self._identity is not None:
            self._identity.release()

    async def on_stop(self) -> None:
        """As `leave`."""
        await self.leave()

    async def stop_with(self, error: BaseException) -> None:
        """A human has to change something: the app ends with this error."""
        if self.app.stopped_by is None:
            self.app.stopped_by = error
        self.stopping = True
        self._all_parked.set()
        self.ready.set()
        self.app.stop_requested.set()

    # The loop -------------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        try:
            self._epoch_began = time.monotonic()
            idle_s = 0.0
            while not self.stopping:
                idle_s = await self._turn(idle_s)
            if self.app.stopped_by is None:
                if await self._close_gate() and not (self._redo_wanted or self._rebuild_wanted):  # else a record is half done
                    await self._commit()
        except Stop as exc:
            await self.stop_with(exc)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            logger.exception("the engine failed")
            await self.stop_with(exc)

    async def _turn(self, idle_s: float) -> float:
        """One round; returns how long the next idle wait may be."""
        if self._rebuild_wanted:
            await self._rebuild()
        if self._redo_wanted:
            await self._redo()
        if self._running:
            await self._work()
            return 0.0
        if self._commit_due():
            await self._commit()
        if self._redo_wanted or self._rebuild_wanted or self.stopping:
            return 0.0
        polled = self._poll()
        if self._assignment is not None:
            await self._take_over()
        if self._wake():
            return 0.0
        if not polled:
            if self._dirty() and self._affordable():
                await self._commit()
            else:
                await asyncio.sleep(idle_s)
                return min(idle_s + 0.001, _IDLE_MAX_S)
        return 0.0

    async def _work(self) -> None:
        """Agents are at their records: wait until all are parked, or an epoch is due, or it takes long."""
        began = time.monotonic()
        handed = self.records_total
        while self._running and not (self._redo_wanted or self._rebuild_wanted or self.stopping):
            if await self._parked_within(_LONG_S):
                break
            if self._commit_due() and not self.asking:
                if await self._close_gate(_GATE_PATIENCE_S):
                    break
                # Somebody waits for something that may need the others: let them go on, try again later.
                self._open_gate()
                self._epoch_began = time.monotonic()
            if not self._running:
                break
            if self._waiting() < self.settings.backlog_records:
                self._poll(during_work=True)
                self._wake()
            else:
                assert self._group is not None
                self._group.keep_alive()
        self._tune(time.monotonic() - began, handed)

    def _tune(self, spent_s: float, _handed: int) -> None:
        """Poll as many records as keep the agents busy for `batch_s`."""
        settings = self.settings
        if spent_s > settings.batch_s * 1.5:
            self._batch_records = max(16, int(self._batch_records * settings.batch_s / spent_s))
        elif spent_s < settings.batch_s / 2:
            self._batch_records = min(settings.batch_records, self._batch_records * 2)

    async def _parked_within(self, timeout_s: float) -> bool:
        if not self._running:
            return True
        self._all_parked.clear()
        try:
            await asyncio.wait_for(self._all_parked.wait(), timeout_s)
        except TimeoutError:
            return False
        return self._running == 0

    def _poll(self, *, during_work: bool = False) -> bool:
        assert self._group is not None
        if not during_work and any(not s for routes in self._routes.values() for s in routes):
            return False  # an agent has not begun to iterate: its records would be nobody's
        messages = self._group.consume(self._batch_records)
        if not messages:
            return False
        self._hand_over(messages)
        return True

    def _hand_over(self, messages: list[Any]) -> None:
        if not self.first_record_at:
            self.first_record_at = time.time()
        self.records_total += len(messages)
        for at, run in _runs(messages, len(self._subscribed) == 1):
            batch = Batch(at, run, run[-1].offset() + 1)
            routes = self._routes.get(at)
            if routes is None:
                continue  # assigned a moment ago and gone again
            self._kept.setdefault(at, []).append(batch)
            for streams in routes:
                if len(streams) == 1:
                    streams[0].inbox.put(batch)
                else:
                    _deal(batch, streams)

    def _wake(self) -> bool:
        """Let every stream with records go on; whether any did."""
        woken = False
        for stream in self._streams:
            if not stream.running and stream.inbox.has_work:
                woken = self._resume(stream) or woken
        return woken

    def _waiting(self) -> int:
        return sum(stream.inbox.waiting for stream in self._streams)

    # Streams and runners --------------------------------------------------------------------------------------------

    def add_stream(self, stream: Stream) -> None:
        """A stream begins to iterate."""
        topic = stream.topic
        if stream not in topic.streams:
            topic.streams.append(stream)
        self._streams.append(stream)
        stream.inbox.shared = topic.expected_streams > 1
        self._update_routes()
        for at, streams in self._routes.items():
            if any(stream in group for group in streams):
                stream.inbox.marks.setdefault(at, self.committed.get(at, 0))

    def _update_routes(self) -> None:
        index = cast(Any, self.app.topics)._tp_index
        self._routes = {
            Position(tp.topic, tp.partition): [
                channel.streams if len(channel.streams) >= channel.expected_streams else [] for channel in channels
            ]
            for tp, channels in index.items()
            if Position(tp.topic, tp.partition) in self._owned
        }

    @property
    def _owned(self) -> set[Position]:
        return self._group.owned if self._group is not None else set()

    def add_runner(self, runner: Runner) -> None:
        """An agent starts."""
        self._runners.append(runner)

    def remove_runner(self, runner: Runner) -> None:
        """An agent is gone."""
        if runner in self._runners:
            self._runners.remove(runner)

    def enter(self, runner: Runner) -> None:
        """The stepper is about to resume an agent."""
        runner.steps += 1
        self.current = runner
        at = runner.at
        if at is not None:
            for table in self.app.live_tables:
                table.open(at.topic, at.partition)

    def leave_agent(self) -> None:
        """The agent is suspended."""
        self.current = None
        for table in self.app.live_tables:
            table.close()

    def at(self, stream: Stream, at: Position) -> None:
        """The current agent turns to records of this partition."""
        runner = self.current
        if runner is None:
            raise BadRecord("a stream of a topic can only be iterated by an agent")
        runner.stream, runner.at = stream, at
        stream.runner = runner
        for table in self.app.live_tables:
            table.open(at.topic, at.partition)

    async def park(self, stream: Stream, timeout_s: float | None = None) -> None:
        """A stream has nothing to do, or must wait for a commit."""
        loop = asyncio.get_running_loop()
        stream.wakeup = loop.create_future()
        if stream.running:
            stream.running = False
            self._running -= 1
            if not self._running:
                self._all_parked.set()
        if timeout_s is not None:
            stream.timer = loop.call_later(timeout_s, self._resume_late, stream)
        try:
            await stream.wakeup
        finally:
            if stream.timer is not None:
                stream.timer.cancel()
                stream.timer = None

    def _resume_late(self, stream: Stream) -> None:
        if self._gate_closed:
            stream.timer = asyncio.get_running_loop().call_later(0.001, self._resume_late, stream)
        else:
            self._resume(stream)

    def _resume(self, stream: Stream) -> bool:
        if stream.wakeup is None or stream.wakeup.done() or stream.running:
            return False
        stream.running = True
        self._running += 1
        stream.wakeup.set_result(None)
        return True

    # Effects --------------------------------------------------------------------------------------------------------

    def send(self, output: Output) -> None:
        """Keep a record for the gate; without a time of its own it takes that of the record being handled."""
        runner = self.current or acting_runner()
        if runner is None or runner.stream is None:
            self.outside.append(output)
            return
        message = runner.stream.message
        if not output.timestamp_ms and message is not None:
            output = output._replace(timestamp_ms=max(0, message.timestamp()[1]))
        self.effects.add(output)
        if len(self.effects.outputs) >= self.settings.effects:
            for stream in self._streams:
                stream.inbox.cut_after(stream.message if stream.running else None)

    def give_up(self, stream: Stream, message: Any, error: BaseException, reason: str) -> None:
        """A record goes to the policy of its agent.

        Raises:
            Stop: the policy is `fail`.
        """
        policy = self.policy_of(stream.name)
        where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        text = f"{type(error).__name__}: {error}"
        if policy == "fail":
            raise Stop(
                f"agent {stream.name} failed at {where}: {text}",
                hint='mend the record or the agent; on_failure="dead_letter" would have set it aside',
            )
        if policy == "skip":
            self.effects.skipped += 1
            logger.warning("skipped %s (agent %s): %s", where, stream.name, text)
            return
        letter = dead_letter(
            topic=message.topic(),
            key=message.key(),
            value=message.value(),
            headers=message.headers(),
            reason=reason,
            error=text,
            source=where,
            partition=message.partition(),
            offset=message.offset(),
            timestamp_ms=message.timestamp()[1],
            agent=stream.name,
            app=self.app.conf.id,
        )
        self.app.require(TopicSpec(letter.topic, 1, self.app.conf.topic_replication_factor or 1))
        self.effects.add(
            Output(letter.topic, letter.value, letter.key, -1, max(0, message.timestamp()[1]), letter.headers)
        )
        self.effects.dead_letters += 1
        logger.warning("dead letter %s → %s (agent %s): %s", where, letter.topic, stream.name, text)

    def policy_of(self, agent: str) -> str:
        """The failure policy of an agent, by name."""
        found = self.app.agents.get(agent)
        return getattr(found, "on_failure", "dead_letter")

    # Failure and redo -----------------------------------------------------------------------------------------------

    def savepoint(self, stream: Stream) -> None:
        """In careful mode, before each record: what follows can be undone without touching what was before.

        Raises:
            BadRecord: what the record before wrote cannot be encoded.
        """
        for table in self.app.live_tables:
            table.savepoint()
        runner = self.current
        self._savepoint = (id(runner), runner.steps if runner else 0, len(self.effects.outputs))

    def failed(self, runner: Runner, error: Exception) -> bool:
        """An agent raised. True: its record is undone and given up, start the agent anew; False: wait for the redo.

        Raises:
            Stop: the agent failed outside of a record, or on purpose.
        """
        if isinstance(error, Stop):
            raise error
        stream = runner.stream
        message = stream.message if stream is not None else None
        if stream is None or message is None:
            raise Stop(
                f"agent {runner.name} failed outside of a record: {type(error).__name__}: {error}",
                hint="what an agent does before its loop has to work; the traceback is in the log",
            ) from error
        logger.debug("agent %s failed", runner.name, exc_info=error)
        inbox = stream.inbox
        if not inbox.careful:
            inbox.careful = True
            self._redo_wanted = True
            self._park_failed(stream)
            return False
        inbox.poisoned[Position(message.topic(), message.partition()), message.offset()] = error
        owner, steps, outputs = self._savepoint
        if owner == id(runner) and steps == runner.steps and stream.running:
            for table in self.app.live_tables:
                table.discard_overlay()
            self.effects.truncate(outputs)
            inbox.again_from(message)
            stream.forget_message()
            return True
        self._redo_wanted = True
        self._park_failed(stream)
        return False

    def _park_failed(self, stream: Stream) -> None:
        if stream.running:
            stream.running = False
            self._running -= 1
        self._all_parked.set()

    def _drop_epoch(self) -> None:
        for table in self.app.live_tables:
            table.drop_epoch()
        self.effects.clear()

    async def _redo(self) -> None:
        """Drop the epoch, restart the agents, hand its records over again."""
        self._redo_wanted = False
        self.redos_total += 1
        runners = [r for r in self._runners if r.stream is not None]
        for runner in runners:
            runner.halt()
        deadline = time.monotonic() + self.settings.stuck_s
        while not all(runner.halted for runner in runners if runner in self._runners):
            if time.monotonic() > deadline:
                raise Stop("an agent does not end when it is cancelled", hint="does it catch CancelledError?")
            await asyncio.sleep(0)
        self._drop_epoch()
        self._running = 0
        for stream in self._streams:
            stream.running = False
            stream.forget_message()
            stream.inbox.reset({at: mark for at, mark in stream.committed.items() if at in self._owned})
            stream.inbox.cut = False
        for batches in self._kept.values():
            for batch in batches:
                for streams in self._routes.get(batch.at, []):
                    if len(streams) == 1:
                        streams[0].inbox.put(batch)
                    else:
                        _deal(batch, streams)
        self._gate_closed = False
        for runner in runners:
            runner.resume()
        await asyncio.sleep(0)

    # Commit -----------------------------------------------------------------------------------------------------------

    def _dirty(self) -> bool:
        if self.effects.outputs or self.outside or self.effects.skipped:
            return True
        return any(self.committed.get(at) != offset for at, offset in self._progress().items())

    def _progress(self) -> dict[Position, int]:
        """The smallest offset any stream still needs, by partition."""
        smallest: dict[Position, int] = {}
        for stream in self._streams:
            for at, offset in stream.inbox.progress().items():
                if offset < smallest.get(at, offset + 1):
                    smallest[at] = offset
        return smallest

    def _commit_due(self) -> bool:
        elapsed = time.monotonic() - self._epoch_began
        return (elapsed >= self.settings.epoch_s and self._dirty()) or (
            len(self.effects.outputs) >= self.settings.effects
        )

    def _affordable(self) -> bool:
        """Whether an early commit keeps commits within their share of the time."""
        elapsed = time.monotonic() - self._epoch_began
        return elapsed * self.settings.commit_share >= self._commit_cost_s

    async def _close_gate(self, patience_s: float | None = None) -> bool:
        """Let no agent have a further record; True once all are parked."""
        self._gate_closed = True
        for stream in self._streams:
            stream.inbox.cut_after(stream.message if stream.running else None)
        began = time.monotonic()
        while self._running and not self._redo_wanted:
            if self.asking:
                patience_s = 0.0  # who could answer may be behind the gate
            if patience_s is not None and time.monotonic() - began > patience_s:
                return False
            await self._parked_within(_LONG_S)
            if self._group is not None:
                self._group.keep_alive()
        return True

    def _open_gate(self) -> None:
        self._gate_closed = False
        for stream in self._streams:
            stream.inbox.cut = False
        self._wake()

    def _plan(self) -> tuple[EpochPlan, dict[str, dict[int, Any]]]:
        assert self._group is not None
        changes = {table.name: table.encode_epoch(self.topic_partitions_known) for table in self.app.live_tables}
        progress = {at: offset for at, offset in self._progress().items() if at in self._owned}
        marks = {
            (at, stream.name): mark
            for stream in self._streams
            for at, mark in stream.inbox.progress().items()
            if at in progress and mark != progress[at]
        }
        plan = EpochPlan(
            [*self.effects.outputs, *self.outside],
            {t.changelog_name: changes[t.name] for t in self.app.live_tables if changes[t.name]},
            write_marks(progress, marks),
            self._group.metadata() if progress else None,
        )
        return plan, changes

    async def _commit(self) -> None:
        """End the epoch. All agents are parked."""
        if not self._dirty():
            self._epoch_began = time.monotonic()
            self._open_gate()
            return
        self._gate_closed = True
        began = time.monotonic()
        try:
            await asyncio.to_thread(self.app.create_required)
            plan, changes = self._plan()
            sent = len(self.outside)
            assert self._committer is not None
            positions = await asyncio.to_thread(self._committer.commit, plan)
            self._committed(plan, changes, positions, sent)
        except BadRecord as exc:
            self._blame_somebody(exc)
        except Aborted as exc:
            self._aborted_in_a_row += 1
            if self._aborted_in_a_row >= _MAX_ABORTED and not exc.lost:
                raise Stop(f"{self._aborted_in_a_row} epochs in a row could not be committed: {exc}") from exc
            logger.warning("epoch dropped: %s", exc)
            self._redo_wanted = True
            self._lost = self._lost or exc.lost
        except (Rebuild, Retry) as exc:
            logger.warning("%s: this worker rebuilds from its changelogs", exc)
            self._rebuild_wanted = True
        finally:
            ended = time.monotonic()
            self._commit_cost_s = ended - began
            self._epoch_began = ended
            if not (self._redo_wanted or self._rebuild_wanted):
                self._open_gate()

    def _commit_now(self) -> None:
        """In a revoke: all agents are parked and the partitions are about to go (blocking)."""
        if not self._dirty():
            return
        try:
            self.app.create_required()
            plan, changes = self._plan()
            sent = len(self.outside)
            assert self._committer is not None
            self._committed(plan, changes, self._committer.commit(plan), sent)
        except (Aborted, BadRecord) as exc:
            logger.warning("epoch dropped at a revoke: %s", exc)
            self._redo_wanted = True
        except (Rebuild, Retry) as exc:
            logger.warning("%s: this worker rebuilds from its changelogs", exc)
            self._rebuild_wanted = True

    def _committed(self, plan: EpochPlan, changes: dict[str, Any], positions: Any, sent: int) -> None:
        for table in self.app.live_tables:
            topic = table.changelog_name
            made = changes[table.name]
            table.epoch_committed(made, {p: positions[topic, p] for p in made})
        self.dead_letters_total += self.effects.dead_letters
        self.skipped_total += self.effects.skipped
        del self.outside[:sent]
        self.effects.clear()
        self.commits_total += 1
        self._aborted_in_a_row = 0
        for offset in plan.offsets:
            self.committed[Position(offset.topic, offset.partition)] = offset.offset
        for stream in self._streams:
            stream.committed = dict(stream.inbox.progress())
            if stream.inbox.careful and not stream.inbox.poisoned:
                stream.inbox.careful = False
            stream.inbox.poisoned.clear()
        if not any(stream.inbox.careful for stream in self._streams):
            for table in self.app.live_tables:
                table.trust()
        for at, batches in self._kept.items():
            mark = self.committed.get(at, 0)
            while batches and batches[0].end <= mark:
                batches.pop(0)

    def _blame_somebody(self, error: BadRecord) -> None:
        """Something in the epoch cannot be encoded: do it again record by record, which finds whose it is."""
        if all(stream.inbox.careful for stream in self._streams):
            raise Stop(f"a table change cannot be encoded: {error}")
        for stream in self._streams:
            stream.inbox.careful = True
        self._redo_wanted = True

    # Rebalancing ----------------------------------------------------------------------------------------------------

    def _on_assign(self, assignment: Assignment) -> None:
        self._assignment = assignment

    def _on_revoke(self, gone: set[Position]) -> None:
        if self._running or self.app.stopped_by is not None:
            self._drop_epoch()
            self._redo_wanted = True
        elif not (self._redo_wanted or self._lost or self._rebuild_wanted):
            self._commit_now()
        self._forget(gone)

    def _on_lost(self, gone: set[Position]) -> None:
        logger.warning("partitions lost: %s", ", ".join(f"{t}[{p}]" for t, p in sorted(gone)))
        self._drop_epoch()
        self._redo_wanted = bool(self._streams)
        self._forget(gone)

    def _forget(self, gone: set[Position]) -> None:
        for stream in self._streams:
            stream.inbox.drop(gone)
            stream.committed = {at: mark for at, mark in stream.committed.items() if at not in gone}
        for at in gone:
            self._kept.pop(at, None)
            self.committed.pop(at, None)
            self._routes.pop(at, None)
        partitions = {at.partition for at in self._owned - gone}
        for table in self.app.live_tables:
            table.set_aside(partitions)

    async def _take_over(self) -> None:
        """Partitions have come: restore their tables, then let their records flow."""
        assert self._group is not None
        assignment, self._assignment = self._assignment, None
        assert assignment is not None
        began = time.monotonic()
        self.rebalances_total += 1
        self._lost = False
        owned = {TP(at.topic, at.partition) for at in self._owned}
        self.app._assignment = owned  # pyright: ignore[reportPrivateUsage]
        await self.app.agents.on_rebalance(set(), {TP(at.topic, at.partition) for at in assignment.starts})
        await self.app.topics.on_partitions_assigned(owned)
        await self._restore_tables(assignment)
        if self._assignment is not None:
            return  # rebalanced again while restoring
        for at, start in assignment.starts.items():
            self.committed[at] = start
        self._update_routes()
        for at in assignment.starts:
            for stream in [s for group in self._routes.get(at, []) for s in group]:
                mark = assignment.marks.get((at, stream.name), assignment.starts[at])
                stream.inbox.marks[at] = stream.committed[at] = mark
        for table in self.app.live_tables:
            table.forget_set_aside()
        self._group.flow(assignment.starts)
        logger.info(
            "assigned %s in %.2f s", ", ".join(f"{t}[{p}]" for t, p in sorted(self._owned)) or "nothing", time.monotonic() - began
        )
        self.ready.set()
        await self.app.on_partitions_assigned.send(owned)

    async def _restore_tables(self, assignment: Assignment) -> None:
        assert self._group is not None
        partitions = {at.partition for at in self._owned}
        states = {
            (table.changelog_name, p): table.add_partition(p)
            for table in self.app.live_tables
            for p in partitions
            if p < table.changelog_partitions
        }
        if not states:
            return
        self.restoring = RestoreProgress()
        progress_of: Callable[[RestoreProgress], None] = lambda p: setattr(self, "restoring", p)  # noqa: E731
        task = asyncio.ensure_future(asyncio.to_thread(restore, self.app.cluster, self._admin, states, progress_of))
        while not task.done():
            await asyncio.wait({task}, timeout=0.05)
            self._group.keep_alive()
        progress = task.result()
        self.restoring = None
        if progress.records:
            logger.info("restored %s records in %.2f s", f"{progress.records:,}", time.monotonic() - progress.started_s)
        for at in assignment.uncommitted:
            content = [t.name for t in self.app.live_tables if at.partition in t.states and len(t.states[at.partition].store)]
            if content and not assignment.committed_beside(at):
                raise Stop(
                    f"group {self.app.conf.id} has no committed offsets, but table {content[0]} has content: "
                    f"reading {at.topic} from its beginning would count history twice",
                    hint="offsets expire after a week without a member: set them with kafka-consumer-groups, or delete "
                    f"the changelog topics of {self.app.conf.id} to compute everything anew",
                )

    async def _rebuild(self) -> None:
        """Fenced or fatally broken: a new producer, and everything again from what Kafka says was committed.

        Raises:
            Stop: fenced twice within a minute; then it was no accident.
        """
        self._rebuild_wanted = False
        now = time.monotonic()
        if now - self._rebuilt_s < _REBUILD_AGAIN_S:
            raise Stop(
                "this worker was fenced twice within a minute: another process uses its identity",
                hint="two workers run on one data folder that was copied or shared; give each its own --datadir",
            )
        self._rebuilt_s = now
        assert self._group is not None and self._committer is not None
        self._forget(set(self._owned))
        await self._redo()
        await asyncio.to_thread(self._committer.close)
        self._committer = self._new_committer()
        await asyncio.to_thread(self._committer.open)
        await asyncio.to_thread(self._group.take_again)

    def _new_committer(self) -> Committer:
        assert self._group is not None
        if self.settings.exactly_once:
            return ExactlyOnce(self.app.cluster, self._name)
        return AtLeastOnce(self.app.cluster, self._group.kafka)

    # What Faust asks of a consumer ------------------------------------------------------------------------------------

    def assignment(self) -> set[TP]:
        """Partitions of this worker."""
        return {TP(at.topic, at.partition) for at in self._owned}

    def topic_partitions(self, topic: str) -> int | None:
        """Number of partitions of a topic, None if it does not exist."""
        return self._partition_counts.get(topic)

    def topic_partitions_known(self, topic: str) -> int:
        """Number of partitions of a topic that is there."""
        return self._partition_counts[topic]

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Ask for an early end of the epoch."""
        del topics, start_new_transaction
        self._epoch_began = 0.0
        return True

    async def wait_empty(self) -> None:
        """Nothing waits outside of the engine."""

    async def on_task_error(self, exc: BaseException) -> None:
        """Errors go through `failed`."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Flow is the engine's own affair."""

    pause_partitions = resume_partitions = stop_flow = resume_flow = close = _nothing
    on_buffer_full = on_buffer_drop = _nothing


def _runs(messages: list[Any], one_topic: bool) -> Iterable[tuple[Position, list[Any]]]:
    """Group records by partition; within one, their order stays."""
    runs: dict[Any, list[Any]] = {}
    before: Any = None
    add: Any = None
    if one_topic:
        for message in messages:
            partition = message.partition()
            if partition != before:
                before = partition
                add = runs.setdefault(partition, []).append
            add(message)
        topic = messages[0].topic()
        return [(Position(topic, partition), run) for partition, run in runs.items()]
    for message in messages:
        at = (message.topic(), message.partition())
        if at != before:
            before = at
            add = runs.setdefault(at, []).append
        add(message)
    return [(Position(*at), run) for at, run in runs.items()]


def _deal(batch: Batch, streams: list[Stream]) -> None:
    """Deal records to concurrent streams by key, so that order a key holds."""
    hands: list[list[Any]] = [[] for _ in streams]
    for message in batch.messages:
        key = message.key()
        hands[zlib.crc32(key) % len(streams) if key else message.offset() % len(streams)].append(message)
    for stream, hand in zip(streams, hands, strict=True):
        stream.inbox.put(Batch(batch.at, hand, batch.end))

