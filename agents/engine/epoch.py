"""The epoch: everything that a worker does between two commits, and the decision when to end it.

An epoch is prepared and frozen when it is committed. Agents may fill the next epoch while Kafka commits the frozen one,
so whatever is done after Kafka's commit uses the facts of the preparation (`PreparedCommit`): outputs, progress,
counters. A rollback drops the frozen epoch together with the one that follows it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...topics import clock
from ...topics.errors import BadRecord
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition
from ..histogram import Histogram
from ..tables.key_placement import MisplacedKeys
from ..tables.store import Changes
from ..tables.window_table import refuse_many_open
from .committed_offsets import offsets_to_commit
from .committer import CommitRequest, Positions
from .failure_rate import EpochCounts, FailureRate
from .outbox import Outbox
from .protocols import Host
from .rollback import RollbackScope
from .router import Router, StreamProgress
from .settings import EngineSettings
from .task import Tasks

__all__ = ["Epoch", "PendingRefused", "PreparedCommit", "UntrackedValues"]


class PendingRefused(BadRecord):
    """Pending changes cannot be applied to a table. The epoch has to be rolled back and reprocessed record by record:
    then nothing is pending, and each record fails by itself."""


class UntrackedValues(Exception):
    """A table was found to hold mutable values after agents had received some of them; see `OpenPartition`."""


# Maximum number of outputs of an epoch while outputs are sent one by one, because each takes a round trip.
_SINGLY = 100


@dataclass(frozen=True, slots=True)
class PreparedCommit:
    """A commit request, and the facts of its epoch that are needed after its commit.

    Attributes:
        request: the request for the committer.
        changes: table -> partition -> changes.
        outside: the outputs that were sent outside of agents.
        progress: the progress of the streams.
        dead_letters: number of dead letters.
        skipped: number of records that were skipped without a dead letter.
        failed: agent -> number of its records to which its failure policy was applied.
        late: (operator, reason) -> number of records that came too late for it.
        fired: agent -> number of its timers and the like that fired.
        began_s: when the preparation began, on the monotonic clock.
    """

    request: CommitRequest
    changes: dict[str, dict[int, Changes]]
    outside: list[Output]
    progress: list[StreamProgress]
    dead_letters: int
    skipped: int
    failed: Counter[str]
    late: Counter[tuple[str, str]]
    fired: Counter[str]
    began_s: float


class Epoch:
    """The current epoch.

    Attributes:
        outbox: outputs of agents.
        outside: outputs of timers and web views. Reprocessing does not send them again, so a rollback keeps them and
            only a commit removes them.
        rollback_wanted: whether the epoch cannot be committed; the loop then rolls it back and reprocesses its records.
            See `want_rollback`.
        singly: topics whose outputs are sent one by one; see `rejected_records.py`.
        number: number of epochs before this one, since the start.
        commits_total: number of commits since the start.
        dead_letters_total: number of dead letters in these commits.
        skipped_total: number of records skipped in these commits.
        late_total: (operator, reason) -> number of records that came too late for it, in these commits.
        fired_total: agent -> number of its timers and the like that fired, in these commits.
        commit_seconds: durations of commits, from the closed barrier until the stores are written.
        committed_s: when the last commit completed, on the monotonic clock.
        commit_s: how long it took, in seconds.
    """

    def __init__(self, host: Host, tasks: Tasks, router: Router, settings: EngineSettings) -> None:
        self._host, self._tasks, self._router, self._settings = host, tasks, router, settings
        self.outbox = Outbox()
        self.outside: list[Output] = []
        self.rollback_wanted = False
        self.number = 0
        self._failed_at: set[TopicPartition] | None = None
        self.commits_total = 0
        self.dead_letters_total = 0
        self.skipped_total = 0
        self.late_total: Counter[tuple[str, str]] = Counter()
        self.fired_total: Counter[str] = Counter()
        self._misplaced = MisplacedKeys(host)
        self._is_frozen = False  # an epoch that Kafka has not committed yet
        self._is_touched = False
        self.singly: frozenset[str] = frozenset()
        self._failure_rate = FailureRate(settings.max_failure_share)
        self.commit_seconds = Histogram()
        self.committed_s = self.commit_s = 0.0
        self._began_s = clock.now_s()
        self._cost_s = 0.01

    @property
    def dirty(self) -> bool:
        """True if there is anything to commit, the frozen epoch included."""
        outbox = self.outbox
        if self._is_frozen or outbox.outputs or outbox.partials or self.outside or outbox.skipped or outbox.fired:
            return True
        return self._is_touched or self._router.moved

    def touch(self) -> None:
        """Note that tables have changed although no record may have come: there is something to commit."""
        self._is_touched = True

    @property
    def full(self) -> bool:
        """True if the epoch holds its maximum number of outputs."""
        return len(self.outbox) >= (_SINGLY if self.singly else self._settings.max_outputs)

    @property
    def due(self) -> bool:
        """True if the epoch has to end, because of its outputs, the memory of its records or its duration."""
        return self.at_limit or (clock.now_s() - self._began_s >= self._settings.epoch_s and self.dirty)

    @property
    def at_limit(self) -> bool:
        """True if the epoch has to end because of its outputs or the memory of its records."""
        return self.full or (self._router.gathered_bytes >= self._settings.epoch_bytes and self.dirty)

    @property
    def affordable_in_s(self) -> float:
        """Seconds until the epoch may end early: from then on, commits stay within `commit_share` of the time.

        Infinite while the history of a bounded run is not completely in Kafka, because nobody waits for its results.
        """
        complete, share = self._host.history_complete, self._settings.commit_share
        if share <= 0 or (complete is not None and not complete.is_set()):
            return math.inf  # an idle worker leaves the processor to the process that feeds a bounded run
        since_s = max(self._began_s, self.committed_s)
        return since_s + self._cost_s * (1 - share) / share - clock.now_s()

    def begin(self) -> None:
        """Begin a new epoch now."""
        self._began_s = clock.now_s()
        self._router.begin_epoch()

    def send_singly(self, topics: Iterable[str]) -> None:
        """Send the outputs to these topics one by one from now on, those to other topics together."""
        self.singly = frozenset(topics)

    def note_cost(self, cost_s: float) -> None:
        """Note how long a commit took, in seconds. A single slow one makes the next epochs only a little longer."""
        self._cost_s = min(cost_s, 2 * self._cost_s)

    def hurry(self) -> None:
        """End the epoch as soon as possible."""
        self._began_s = 0.0

    def want_rollback(self, at: TopicPartition | None = None) -> None:
        """Request a rollback.

        Args:
            at: only the task of this partition has failed. None: everything is rolled back.
        """
        if at is None:
            self._failed_at = None
        elif not self.rollback_wanted:
            self._failed_at = {at}
        elif self._failed_at is not None:
            self._failed_at.add(at)
        self.rollback_wanted = True

    def begin_rollback(self) -> set[TopicPartition]:
        """Forget the request for a rollback; return the partitions whose tasks have failed, empty for everything."""
        failed = self._failed_at if self.outbox.is_plain else None
        self.rollback_wanted, self._failed_at = False, None
        return failed or set()

    def drop_tasks(self, scope: RollbackScope) -> None:
        """Discard the outputs and the uncommitted writes of some tasks. No epoch must be frozen."""
        assert not self._is_frozen
        for table in self._host.tables:
            for task in scope.tasks:
                if table.name in task.group.tables:
                    table.uncommitted.drop_partition(task.id.partition)
        self.outbox.drop_from(scope.partitions)

    def drop(self) -> None:
        """Discard the outbox and the uncommitted writes of tables, those of the frozen epoch included."""
        for table in self._host.tables:
            table.uncommitted.drop_epoch()
        self.outbox.clear()
        self.number += 1
        self._is_touched = False

    def prepare(self, group: Callable[[], object], partitions_of: Callable[[str], int]) -> PreparedCommit:
        """Return the commit of this epoch, ready to be performed. All agents must be parked.

        Args:
            group: returns the consumer's group metadata.
            partitions_of: topic -> number of its partitions.

        Raises:
            BadRecord: a table change or a partial result cannot be encoded.
            Usage: a table and a topic have different numbers of partitions.
            Stop: a table holds more in memory than it may.
            UntrackedValues: the epoch has to be rolled back and reprocessed.
        """
        began_s = clock.now_s()
        tables = list(self._host.tables)
        changes = {table.name: table.uncommitted.encode_epoch(partitions_of) for table in tables}
        if late := [table.name for table in tables if table.uncommitted.untracked]:
            raise UntrackedValues(late[0])
        for table in tables:
            refuse_many_open(table)
            if changes[table.name]:
                self._misplaced.check(table, changes[table.name])
        active = self._tasks.active
        progress = {at: offset for at, offset in self._router.progress().items() if at in active}
        request = CommitRequest(
            [*self.outbox.all(), *self.outside],
            {table.changelog_name: changes[table.name] for table in tables if changes[table.name]},
            offsets_to_commit(progress, self._router.agent_offsets(progress), self._router.channel_states(progress)),
            group() if progress else None,
            self.singly,
        )
        outbox = self.outbox
        return PreparedCommit(
            request,
            changes,
            list(self.outside),
            self._router.stream_progress(),
            outbox.dead_letters,
            outbox.skipped,
            outbox.failed.copy(),
            outbox.late.copy(),
            outbox.fired.copy(),
            began_s,
        )

    def freeze(self, prepared: PreparedCommit) -> None:
        """Start the next epoch. To agents, this one is committed from now on. All agents must be parked."""
        for table in self._host.tables:
            table.uncommitted.freeze_epoch(prepared.changes[table.name])
        del self.outside[: len(prepared.outside)]
        self.outbox.clear()
        self.number += 1
        self._is_touched, self._is_frozen = False, True

    def thaw(self, prepared: PreparedCommit) -> None:
        """Take back what a rollback must not discard: the commit of the frozen epoch has failed."""
        self.outside[:0] = prepared.outside
        self._is_frozen = False

    def forget_frozen(self) -> None:
        """Note that the frozen epoch, which was dropped, is committed in Kafka: its outputs must not be sent again."""
        self._is_frozen = False

    def finish(self, prepared: PreparedCommit, positions: Positions) -> None:
        """Write the stores after Kafka has committed, then discard what was kept for a rollback of the frozen epoch.

        Args:
            positions: (changelog topic, partition) -> position after the commit.

        Raises:
            Stop: the records of an agent failed more often than the failure rate limit allows.
        """
        for table in self._host.tables:
            made = prepared.changes[table.name]
            table.uncommitted.epoch_committed({p: positions[TopicPartition(table.changelog_name, p)] for p in made})
        self._is_frozen = False
        self.commits_total += 1
        self.dead_letters_total += prepared.dead_letters
        self.skipped_total += prepared.skipped
        self.late_total += prepared.late
        self.fired_total += prepared.fired
        for offset in prepared.request.offsets:
            input = self._tasks.active.get(TopicPartition(offset.topic, offset.partition))
            if input is not None:
                input.commit(offset.offset)
        handled = self._router.committed(prepared.progress)
        outcomes = {agent: EpochCounts(count, prepared.failed[agent]) for agent, count in handled.items() if count}
        self.committed_s = clock.now_s()
        self.commit_s = self.committed_s - prepared.began_s
        self.commit_seconds.observe(self.commit_s)
        self._failure_rate.note(self.committed_s, outcomes)

    def end_isolation(self) -> None:
        """Process records in batches again, if the epoch that was just committed is without failures."""
        self._router.end_isolation()
        if not self._router.isolating:
            for table in self._host.tables:
                table.uncommitted.end_savepoints()
