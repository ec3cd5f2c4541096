"""Commits epochs, one after the other, each beside the next epoch unless the setting `commit_beside` is off.

    agents   | epoch 1      |barrier| epoch 2           |barrier| epoch 3
    commits                 | queue | complete, apply   | queue | complete, apply

At the barrier the epoch is encoded and its records are queued in librdkafka. Then the epoch is frozen and the barrier
opens: agents fill the next epoch while a thread waits for Kafka. Only one commit is *under way*. When the next epoch
has to end first, agents wait for it. Producing stays at the barrier because it is work for the interpreter, which
would only take the time from agents. Few records are queued at once, without a thread.

Why this keeps the promises of a commit that agents wait for:

- Order. A transaction begins, and an epoch is encoded, only when no commit is under way.
- Atomicity. What is committed was fixed at the barrier: outputs, changes, offsets, counters (`PreparedCommit`). An
  output that a timer sends afterwards belongs to the next epoch.
- Reads. Agents see the frozen epoch as if it were committed (`partition_state.py`). All others see the stores, which
  are written after Kafka's commit.
- Rollback. The next epoch builds on the frozen one. If that is aborted, both are dropped, and the records since the
  last commit are delivered again: progress, and the kept records, change only after Kafka's commit. A rollback of the
  next epoch waits for the outcome of the commit first. If the outcome is unknown, the commit stays under way, so that
  nothing is committed meanwhile.
- Revokes. The callback of a revoke, which runs inside of `consume()`, waits (blocking) for the commit under way before
  it does anything else. The commit has the group metadata of its preparation, with which the group accepts offsets
  until the callback returns. So no partition moves and no table is suspended while its offsets are in an open
  transaction of this worker.
- Lost partitions. Their callback may come while no broker answers, so it does not wait: both epochs are dropped at
  once, and the rollback that follows waits for the outcome. The transaction is aborted, and not repeated, unless Kafka
  has its offsets and is committing it: then it delays the next owner, also this worker, until it has. Should this
  worker still hold other partitions, it restores them.
- Failures. While records are isolated, or outputs are sent singly, agents wait for each commit: its refusals are
  attributed to records by their index in the outbox. A worker that stops waits as well. A retry that begins to isolate
  records of the next epoch keeps isolating when the commit under way ends.
- Fencing, and clients that hang. The commit under way fails like any other. Both epochs are dropped before the clients
  are replaced, and Kafka's committed offsets show its outcome.

At-least-once commits are never beside an epoch: they send offsets through the consumer, which is in use meanwhile. The
commit of a revoke is not, either.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from threading import Event

from ...topics import clock, threads
from ...topics.errors import BadRecord, Hung, Rebuild, Retriable, Stop
from ...topics.producer import Aborted
from ...topics.threads import BackgroundCall, daemon_thread
from ..tables.table_errors import KeyElsewhere
from .agent_context import AgentContext
from .committer import ExactlyOnce, Positions
from .epoch import PendingRefused, PreparedCommit, UntrackedValues
from .membership import Membership
from .protocols import Host
from .rebalance import Rebalance
from .rejected_records import RecordsRefused

__all__ = ["Commits"]

logger = logging.getLogger(__name__)

_MAX_ABORTED = 5


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A commit that Kafka has not confirmed yet.

    Attributes:
        began_s: when it began, on the monotonic clock.
        dropped: set when its epoch is dropped; see `QueuedCommit`.
    """

    prepared: PreparedCommit
    call: BackgroundCall[Positions]
    began_s: float
    dropped: Event


class Commits:
    """The commits of a worker.

    Attributes:
        rebuild_wanted: whether the Kafka clients are unusable, so that the loop has to renew them.
    """

    def __init__(self, host: Host, context: AgentContext, rebalance: Rebalance) -> None:
        self._host, self._rebalance = host, rebalance
        self._epoch, self._tasks, self._router = context.epoch, context.tasks, context.router
        self._failures = context.failures
        self.rebuild_wanted = False
        self._member: Membership | None = None
        self._under_way: _UnderWay | None = None
        self._aborted_in_a_row = 0
        self._elsewhere = ""  # the last `KeyElsewhere` since the last commit

    def open(self, member: Membership) -> None:
        """Begin to commit through the clients of this member."""
        self._member = member

    @property
    def under_way(self) -> bool:
        """True if a commit is under way."""
        return self._under_way is not None

    @property
    def due(self) -> bool:
        """True if the epoch has to end now. While a commit is under way, only its limits end it."""
        return self._epoch.due if self._under_way is None else self._epoch.at_limit

    async def commit(self, *, beside: bool) -> None:
        """Commit the epoch, if nothing forbids it, and begin the next one. All agents must be parked.

        Args:
            beside: return as soon as agents may fill the next epoch, if possible.
        """
        await self.ended()
        began_s = clock.now_s()
        if self._epoch.dirty and not self._epoch.rollback_wanted and not self.rebuild_wanted:
            with self._errors_handled():
                await self._commit(began_s, beside=beside)
        self._epoch.begin()

    async def _commit(self, began_s: float, *, beside: bool) -> None:
        assert self._member is not None
        committer = self._member.committer
        if self._host.provisioner.wanted:
            await daemon_thread(self._host.provisioner.create)
        prepared = self._prepare()
        if beside and isinstance(committer, ExactlyOnce) and not (self._router.isolating or self._epoch.singly):
            # Inline, as in worlds, each call has its turn in the loop, where a fault may come between.
            queued = None if threads.are_inline() else committer.queue_promptly(prepared.request)
            if queued is None:
                queued = await daemon_thread(committer.queue, prepared.request)
            self._epoch.freeze(prepared)
            call = BackgroundCall(partial(committer.complete, queued))
            self._under_way = _UnderWay(prepared, call, began_s, queued.dropped)
        else:
            self._finish_at_once(prepared, await daemon_thread(committer.commit, prepared.request), began_s)

    def commit_now(self) -> None:
        """Commit the epoch in a revoke callback, before the partitions move (blocking). All agents must be parked."""
        assert self._member is not None
        if self._epoch.dirty:
            began_s = clock.now_s()
            with self._errors_handled():
                self._host.provisioner.create()
                prepared = self._prepare()
                self._finish_at_once(prepared, self._member.committer.commit(prepared.request), began_s)

    def _prepare(self) -> PreparedCommit:
        assert self._member is not None
        return self._epoch.prepare(self._member.group.metadata, self._rebalance.partition_counts.__getitem__)

    def _finish_at_once(self, prepared: PreparedCommit, positions: Positions, began_s: float) -> None:
        """Finish a commit for which agents have waited."""
        self._epoch.freeze(prepared)
        self._finish(prepared, positions, began_s)
        self._epoch.end_isolation()

    def _finish(self, prepared: PreparedCommit, positions: Positions, began_s: float) -> None:
        self._epoch.finish(prepared, positions)
        self._rebalance.note_commit(lost=False)
        self._epoch.note_cost(clock.now_s() - began_s)
        self._aborted_in_a_row, self._elsewhere = 0, ""
        if not self._router.isolating:
            self._failures.forget_rules()
            self._epoch.send_singly(self._failures.singly)

    def rebuilt(self) -> None:
        """Note that the loop renews the Kafka clients."""
        self.rebuild_wanted = False

    # The commit under way -------------------------------------------------------------------------------------------

    async def ended(self, timeout_s: float | None = None) -> None:
        """Wait until no commit is under way, at most `timeout_s` seconds; see `end`."""
        if self._under_way is not None and await self._under_way.call.wait(timeout_s):
            self.end()

    def end_if_done(self) -> None:
        """Call `end` if it would not wait."""
        if self._under_way is not None and self._under_way.call.done:
            self.end()

    def end(self) -> None:
        """Wait for the outcome of the commit under way (blocking), and write the stores or request a rollback.

        May be called while agents are in the middle of a record.

        Raises:
            Stop: see `_errors_handled`.
        """
        ending, self._under_way = self._under_way, None
        if ending is None:
            return
        with self._errors_handled():
            try:
                positions = ending.call.result()
            except BaseException:
                self._epoch.thaw(ending.prepared)
                raise
            if not ending.dropped.is_set():
                self._finish(ending.prepared, positions, ending.began_s)
                return
            self._epoch.forget_frozen()
            self.rebuild_wanted = self.rebuild_wanted or bool(self._tasks.active)

    def drop(self) -> None:
        """Drop the epoch and the one that is being committed, whose partitions are lost, without waiting for Kafka."""
        if self._under_way is not None:
            self._under_way.dropped.set()
        self._epoch.drop()

    # Errors ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _errors_handled(self) -> Generator[None]:
        """Handle errors of a commit: request a rollback of the epoch or new clients for this worker.

        Raises:
            Stop: too many commits in a row were aborted, or no record causes the error.
        """
        try:
            yield
        except BadRecord as exc:
            self._blame_somebody(exc)
        except UntrackedValues as exc:
            logger.info("table %s holds values that can be changed in place: the first epoch is reprocessed", exc)
            self._epoch.want_rollback()
        except Aborted as exc:
            self._aborted_in_a_row += 1
            if self._aborted_in_a_row >= _MAX_ABORTED and not exc.lost:
                raise Stop(f"{self._aborted_in_a_row} epochs in a row could not be committed: {exc}") from exc
            logger.warning("epoch rolled back: %s", exc)
            self._host.provisioner.declared.clear()  # one of the topics may have been deleted
            self._epoch.want_rollback()
            if exc.lost:
                self._rebalance.note_commit(lost=True)
        except (Hung, Rebuild, Retriable) as exc:
            logger.warning("%s: this worker replaces its clients and resumes from the last commit", exc.args[0])
            self._host.provisioner.declared.clear()
            self.rebuild_wanted = True
            assert self._member is not None
            self._member.group.note_hung(exc)

    def _blame_somebody(self, error: BadRecord) -> None:
        """Request a rollback with isolated records, to find the record whose result cannot be encoded or is refused.

        Raises:
            Stop: records were isolated already, and the error gives no new information.
        """
        # Whoever refuses pending changes has isolated its records already, perhaps those of the only agent.
        news = isinstance(error, PendingRefused)
        if isinstance(error, RecordsRefused):
            news = self._failures.refused(error, self._epoch.outside)
        if isinstance(error, KeyElsewhere):
            news, self._elsewhere = str(error) != self._elsewhere, str(error)
        self._epoch.send_singly(self._failures.singly)
        if not self._router.isolate() and not news:
            raise Stop(f"no single record causes the error: {error}")
        self._epoch.want_rollback()
