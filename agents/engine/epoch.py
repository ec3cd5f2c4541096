"""An epoch: everything between two commits, and whether it is time to end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...topics import clock
from ...topics.output import Output
from ...topics.topic_partition import TopicPartition
from ..histogram import Histogram
from ..tables.key_placement import MisplacedKeys
from ..tables.store import Changes
from .committed_offsets import offsets_to_commit
from .committer import CommitRequest, Positions
from .failure_rate import FailureRate, Outcome
from .outbox import Outbox
from .protocols import Host
from .router import Router
from .settings import EngineSettings

__all__ = ["Epoch", "PreparedCommit", "UntrackedValues"]


class UntrackedValues(Exception):
    """A table was found to hold mutable values after agents had been given some; see `TrackingTable`."""


# Of outputs that are sent each by itself; a round trip each.
_SINGLY = 100


@dataclass(frozen=True, slots=True)
class PreparedCommit:
    """A plan, and what has to be known of it once it is committed.

    Attributes:
        changes: table -> partition -> changes.
        outside: how many of the outputs came from outside of agents.
        began_s: when it was drawn up, on the monotonic clock.
    """

    request: CommitRequest
    changes: dict[str, dict[int, Changes]]
    outside: int
    began_s: float


class Epoch:
    """The running epoch.

    Attributes:
        outbox: outputs of agents.
        outside: what timers and web views have sent; no rollback can bring it back, so only a commit takes it out.
        rollback_wanted: the epoch cannot be committed: the loop rolls it back and reprocesses its records.
        committed: partition -> committed offset.
        singly: topics whose outputs are sent each by itself; see `refused.py`.
        commits_total, dead_letters_total, skipped_total: since the start, of what was committed.
        commit_seconds: how long commits took, from the closed gate to the stores' writes.
        committed_s: when the last commit was through, on the monotonic clock.
    """

    def __init__(self, host: Host, router: Router, settings: EngineSettings) -> None:
        self._host, self._router, self._settings = host, router, settings
        self.outbox = Outbox()
        self.outside: list[Output] = []
        self.rollback_wanted = False
        self.committed: dict[TopicPartition, int] = {}
        self.commits_total = 0
        self.dead_letters_total = 0
        self.skipped_total = 0
        self._misplaced = MisplacedKeys(host)
        self.singly: frozenset[str] = frozenset()
        self._failure_rate = FailureRate(settings.max_failure_share)
        self.commit_seconds = Histogram()
        self.committed_s = 0.0
        self._began_s = clock.now_s()
        self._cost_s = 0.01

    @property
    def dirty(self) -> bool:
        """Whether there is anything to commit."""
        if self.outbox.outputs or self.outside or self.outbox.skipped:
            return True
        return self._router.moved

    @property
    def full(self) -> bool:
        """Whether it holds as many outputs as it may."""
        return len(self.outbox) >= (_SINGLY if self.singly else self._settings.max_outputs)

    @property
    def due(self) -> bool:
        """Whether it has to end."""
        if self._router.gathered_bytes >= self._settings.epoch_bytes and self.dirty:
            return True
        return self.full or (clock.now_s() - self._began_s >= self._settings.epoch_s and self.dirty)

    @property
    def affordable(self) -> bool:
        """Whether ending it early keeps commits within their share of the time, and somebody waits for it."""
        complete = self._host.history_complete
        if complete is not None and not complete.is_set():
            return False  # what is idle here leaves the processor to who feeds it
        share = self._settings.commit_share
        return (clock.now_s() - self._began_s) * share >= self._cost_s * (1 - share)

    def begin(self, cost_s: float | None = None) -> None:
        """A new one begins now; `cost_s` is what the commit before it took."""
        self._began_s = clock.now_s()
        self._router.gathered_bytes = 0
        if cost_s is not None:  # a commit that was slow for once makes the next epochs only a little longer
            self._cost_s = min(cost_s, 2 * self._cost_s)

    def hurry(self) -> None:
        """End it as soon as may be."""
        self._began_s = 0.0

    def drop(self) -> None:
        """Forget what agents have done in it."""
        for table in self._host.tables:
            table.drop_epoch()
        self.outbox.clear()

    def prepare(self, group: Callable[[], object], partitions_of: Callable[[str], int]) -> PreparedCommit:
        """What is to be committed; all agents are parked.

        Args:
            group: gives the consumer's group metadata.
            partitions_of: topic -> number of its partitions.

        Raises:
            BadRecord: a table change or a partial result cannot be encoded.
            Usage: a table and a topic have different numbers of partitions.
            UntrackedValues: the epoch has to be done again.
        """
        began_s = clock.now_s()
        tables = list(self._host.tables)
        changes = {table.name: table.encode_epoch(partitions_of) for table in tables}
        if late := [table.name for table in tables if table.untracked]:
            raise UntrackedValues(late[0])
        for table in tables:
            if changes[table.name]:
                self._misplaced.check(table, changes[table.name])
        active = self._router.active
        progress = {at: offset for at, offset in self._router.progress().items() if at in active}
        request = CommitRequest(
            [*self.outbox.all(), *self.outside],
            {table.changelog_name: changes[table.name] for table in tables if changes[table.name]},
            offsets_to_commit(progress, self._router.agent_offsets(progress)),
            group() if progress else None,
            self.singly,
        )
        return PreparedCommit(request, changes, len(self.outside), began_s)

    def finish(self, prepared: PreparedCommit, positions: Positions) -> None:
        """Kafka has committed: now the stores, then everything that was kept in case it had not.

        Raises:
            Stop: too many records of an agent have failed lately.
        """
        for table in self._host.tables:
            made = prepared.changes[table.name]
            table.epoch_committed(made, {p: positions[table.changelog_name, p] for p in made})
        self.commits_total += 1
        self.dead_letters_total += self.outbox.dead_letters
        self.skipped_total += self.outbox.skipped
        outcomes = {
            agent: Outcome(handled, self.outbox.failed[agent])
            for agent, handled in self._router.newly_handled().items()
            if handled
        }
        del self.outside[: prepared.outside]
        self.outbox.clear()
        for offset in prepared.request.offsets:
            self.committed[TopicPartition(offset.topic, offset.partition)] = offset.offset
        self._router.committed(self.committed)
        if not self._router.isolating:
            for table in self._host.tables:
                table.end_savepoints()
        self.committed_s = clock.now_s()
        self.commit_seconds.observe(self.committed_s - prepared.began_s)
        self._failure_rate.note(self.committed_s, outcomes)
