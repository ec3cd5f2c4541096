"""Engines whose commits are broken on purpose; see `broken_engines.py`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from anabranch.agents.engine import commits
from anabranch.agents.engine.committed_offsets import offsets_to_commit
from anabranch.agents.engine.committer import CommitRequest, ExactlyOnce, QueuedCommit
from anabranch.agents.engine.delivery_reports import Reports
from anabranch.agents.engine.epoch import Epoch
from anabranch.agents.engine.loop import Engine
from anabranch.agents.engine.router import Router
from anabranch.agents.tables.partition_state import PartitionState
from anabranch.agents.tables.store import Changes
from anabranch.agents.tables.stored_content import StoredContent
from anabranch.topics.memory.memory_kafka import MemoryKafka
from anabranch.topics.producer import Aborted, TransactionalProducer
from broken_engine import broken_engine, swapped

# Commits --------------------------------------------------------------------------------------------------------------


@broken_engine()
def commits_without_offsets() -> Generator[None]:
    """Outputs and changelogs are committed, the offsets of their records are not."""

    def made(real: Any) -> Any:
        return lambda self, request, *rest: real(self, replace(request, offsets=[]), *rest)

    with swapped(ExactlyOnce, "_queue", made):
        yield


@broken_engine()
def offsets_before_outputs() -> Generator[None]:
    """Offsets are committed in a transaction of their own, before the outputs."""

    def made(real: Any) -> Any:
        def queue(self: Any, request: CommitRequest, *rest: Any) -> Any:
            self._complete(real(self, CommitRequest([], {}, request.offsets, request.group), *rest))
            return real(self, replace(request, offsets=[]), *rest)

        return queue

    with swapped(ExactlyOnce, "_queue", made):
        yield


@broken_engine()
def outputs_before_offsets() -> Generator[None]:
    """Outputs are committed in a transaction of their own, before the offsets."""

    def made(real: Any) -> Any:
        def complete(self: Any, queued: QueuedCommit) -> Any:
            request = queued.request
            positions = real(self, replace(queued, request=replace(request, offsets=[])))
            offsets = CommitRequest([], {}, request.offsets, request.group)
            real(self, self._queue(offsets, queued.attempt, queued.dropped))
            return positions

        return complete

    with swapped(ExactlyOnce, "_complete", made):
        yield


@broken_engine(faults="lost-answer")
def a_lost_answer_counts_as_a_failure() -> Generator[None]:
    """A commit without an answer is taken for one that has failed, and a new producer commits the epoch again."""

    def made(real: Any) -> Any:
        def commit(self: Any) -> None:
            try:
                self._kafka.commit_transaction(10.0)
            except Exception as exc:
                self._kafka = self._cluster.producer(**self._config)
                self.open()
                raise Aborted(str(exc)) from exc

        return commit

    with swapped(TransactionalProducer, "commit", made):
        yield


@broken_engine(faults="lost-request,abort,kill")
def a_commit_in_doubt_counts_as_done() -> Generator[None]:
    """A commit without an answer is taken for one that has succeeded."""

    def made(real: Any) -> Any:
        def commit(self: Any) -> None:
            try:
                self._kafka.commit_transaction(10.0)
            except Exception:
                self._kafka.abort_transaction(10.0)

        return commit

    with swapped(TransactionalProducer, "commit", made):
        yield


@broken_engine(faults="fence")
def fencing_is_ignored() -> Generator[None]:
    """A fenced commit is taken for one that has succeeded."""

    def made(real: Any) -> Any:
        def commit(self: Any) -> None:
            try:
                real(self)
            except Exception as exc:
                if type(exc).__name__ != "Rebuild":
                    raise

        return commit

    with swapped(TransactionalProducer, "commit", made):
        yield


@broken_engine(faults="rebalance")
def the_generation_is_not_checked() -> Generator[None]:
    """The broker takes offsets of members that do not belong to the group any more."""
    with swapped(MemoryKafka, "check_commit", lambda _: lambda self, *args, **options: None):
        yield


@broken_engine()
def dead_letters_outside_of_the_transaction() -> Generator[None]:
    """Dead letters are sent at once, by a producer without transactions."""

    def made(real: Any) -> Any:
        def prepare(self: Any, *args: Any) -> Any:
            letters = [output for output in self.outbox.outputs if output.topic.endswith(".dlq")]
            self.outbox.outputs = [output for output in self.outbox.outputs if not output.topic.endswith(".dlq")]
            for topic, value, key, *_ in letters:
                self._host.cluster.producer().produce(topic, value, key)
            return real(self, *args)

        return prepare

    with swapped(Epoch, "prepare", made):
        yield


@broken_engine(faults="lost-record")
def records_that_may_be_lost_count_as_delivered() -> Generator[None]:
    with swapped(Reports, "has_offset", lambda _: lambda self, message: (message.offset() or -1) >= 0):
        yield


@broken_engine(faults="abort-all")
def epochs_are_aborted_for_ever() -> Generator[None]:
    """A worker that cannot commit tries it again and again, instead of stopping with an error."""
    with swapped(commits, "_MAX_ABORTED", lambda _: 10**9):
        yield


# Commits beside the next epoch ----------------------------------------------------------------------------------------


@broken_engine()
def reads_skip_the_epoch_that_is_being_committed() -> Generator[None]:
    with swapped(StoredContent, "get", lambda _: lambda self, key: self.store.get(key)):
        yield


@broken_engine()
def offsets_are_taken_at_the_end_of_the_commit() -> Generator[None]:
    """Offsets of records of the next epoch are committed with this one."""
    epochs: dict[int, Epoch] = {}

    def prepared(real: Any) -> Any:
        def prepare(self: Any, *args: Any) -> Any:
            made = real(self, *args)
            epochs[id(made.request)] = self
            return made

        return prepare

    def completed(real: Any) -> Any:
        def complete(self: Any, queued: QueuedCommit) -> Any:
            epoch: Any = epochs[id(queued.request)]
            router, active = epoch._router, epoch._tasks.active
            progress = {at: offset for at, offset in router.progress().items() if at in active}
            queued.request.offsets[:] = offsets_to_commit(progress, router.agent_offsets(progress))
            return real(self, queued)

        return complete

    with swapped(Epoch, "prepare", prepared), swapped(ExactlyOnce, "_complete", completed):
        yield


@broken_engine()
def progress_is_noted_at_the_end_of_the_commit() -> Generator[None]:
    """A rollback after the commit delivers nothing of the epoch that filled beside it."""

    def made(real: Any) -> Any:
        return lambda self, progress: real(self, self.stream_progress())

    with swapped(Router, "committed", made):
        yield


@broken_engine()
def an_aborted_commit_keeps_its_own_writes() -> Generator[None]:
    """Only the epoch that filled beside the commit is dropped."""

    with swapped(StoredContent, "drop", lambda _: lambda self: True):
        yield


@broken_engine()
def an_aborted_commit_keeps_the_writes_of_the_next_epoch() -> Generator[None]:
    """Only the epoch whose commit was aborted is dropped."""

    def made(real: Any) -> Any:
        def drop(self: Any) -> None:
            if not self.content.drop():
                real(self)

        return drop

    with swapped(PartitionState, "drop", made):
        yield


@broken_engine()
def an_aborted_commit_keeps_the_outputs_of_the_next_epoch() -> Generator[None]:
    def made(real: Any) -> Any:
        def drop(self: Any) -> None:
            kept = self.outbox.outputs if self._is_thawed else []
            real(self)
            self.outbox.outputs, self._is_thawed = kept, False

        return drop

    def thawed(real: Any) -> Any:
        def thaw(self: Any, prepared: Any) -> None:
            real(self, prepared)
            self._is_thawed = True

        return thaw

    Epoch._is_thawed = False  # pyright: ignore[reportAttributeAccessIssue]
    with swapped(Epoch, "drop", made), swapped(Epoch, "thaw", thawed):
        yield


@broken_engine()
def a_rollback_does_not_wait_for_the_commit() -> Generator[None]:
    """Records are delivered again although the commit of their epoch may succeed."""

    def made(real: Any) -> Any:
        async def roll_back(self: Any) -> None:
            commits = self._commits
            under_way, commits._under_way = commits._under_way, None
            await real(self)
            commits._under_way = under_way

        return roll_back

    with swapped(Engine, "_roll_back", made):
        yield


@broken_engine()
def stores_are_written_when_the_epoch_is_frozen() -> Generator[None]:
    """Changes reach the store while Kafka may still abort them."""

    def made(real: Any) -> Any:
        def freeze(self: Any, changes: Changes) -> None:
            real(self, changes)
            self.store.apply(changes, self.store.position)

        return freeze

    with swapped(PartitionState, "freeze", made):
        yield
