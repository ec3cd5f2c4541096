"""Engines that are broken on purpose: each swaps one function of the engine for a faulty one.

A simulation that does not find such a fault would not find it in the engine either: see `test_broken_engines.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from anabranch.agents.engine import commits
from anabranch.agents.engine.committed_offsets import offsets_to_commit
from anabranch.agents.engine.committer import CommitRequest, ExactlyOnce, QueuedCommit
from anabranch.agents.engine.delivery_reports import Reports
from anabranch.agents.engine.epoch import Epoch
from anabranch.agents.engine.failed_records import Failures
from anabranch.agents.engine.group_consumer import GroupConsumer
from anabranch.agents.engine.loop import Engine
from anabranch.agents.engine.rebalance import Rebalance
from anabranch.agents.engine.router import Router
from anabranch.agents.engine.task import Tasks
from anabranch.agents.engine.task_states import Event, State
from anabranch.agents.tables.changelog_reader import ChangelogReader
from anabranch.agents.tables.open_partition import OpenPartition
from anabranch.agents.tables.partition_state import PartitionState
from anabranch.agents.tables.restoration import Restoration
from anabranch.agents.tables.store import Changes
from anabranch.agents.tables.stored_content import StoredContent
from anabranch.replay.replay_transaction import Transaction
from anabranch.topics.memory.memory_cluster import MemoryCluster
from anabranch.topics.memory.memory_kafka import MemoryKafka
from anabranch.topics.partition_reader import Run
from anabranch.topics.producer import Aborted, TransactionalProducer
from anabranch.topics.topic_partition import TopicPartition

__all__ = ["BROKEN_ENGINES", "BrokenEngine"]


@dataclass(frozen=True)
class BrokenEngine:
    """A fault of the engine.

    Attributes:
        program: the app that is run, by its name in `world_programs.PROGRAMS`.
        faults: the kinds of faults of the worlds that have to find it.
        broken: what breaks the engine, inside of its block.
    """

    program: str
    faults: str
    broken: Callable[[], AbstractContextManager[None]]


BROKEN_ENGINES: dict[str, BrokenEngine] = {}

Broken = Callable[[], Generator[None]]


def broken_engine(program: str = "bank", faults: str = "all") -> Callable[[Broken], Broken]:
    def register(broken: Broken) -> Broken:
        name = broken.__name__.replace("_", " ")
        BROKEN_ENGINES[name] = BrokenEngine(program, faults, contextmanager(broken))
        return broken

    return register


@contextmanager
def swapped(owner: Any, name: str, made: Callable[[Any], Any]) -> Generator[None]:
    """Replace an attribute by what `made` makes of it."""
    before = owner.__dict__[name]
    setattr(owner, name, made(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


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


@broken_engine("bank with KIP-848", faults="rebalance")
def a_revoke_does_not_wait_for_the_commit() -> Generator[None]:
    with swapped(Engine, "end_commit", lambda _: lambda self: None):
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


# Rollbacks ------------------------------------------------------------------------------------------------------------


@broken_engine()
def a_rollback_keeps_the_outbox() -> Generator[None]:
    def made(real: Any) -> Any:
        def drop(self: Any) -> None:
            for table in self._host.tables:
                table.uncommitted.drop_epoch()

        return drop

    with swapped(Epoch, "drop", made):
        yield


@broken_engine()
def a_rollback_keeps_the_writes_of_tables() -> Generator[None]:
    with swapped(Epoch, "drop", lambda _: lambda self: self.outbox.clear()):
        yield


@broken_engine()
def a_rollback_keeps_cached_values() -> Generator[None]:
    def made(real: Any) -> Any:
        def drop(self: Any) -> None:
            self.content.drop()
            self._end_epoch()

        return drop

    with swapped(PartitionState, "drop", made):
        yield


@broken_engine()
def a_rollback_does_not_deliver_again() -> Generator[None]:
    def made(real: Any) -> Any:
        def redeliver(self: Any) -> None:
            kept = [(input, list(input.kept)) for input in self._tasks.active.values()]
            for input, _ in kept:
                input.kept.clear()
            real(self)
            for input, batches in kept:
                input.kept.extend(batches)

        return redeliver

    with swapped(Router, "redeliver", made):
        yield


@broken_engine()
def dead_letters_are_lost_by_a_rollback() -> Generator[None]:
    """A record that went to its failure policy counts as handled, although the epoch of its dead letter was dropped."""

    def made(real: Any) -> Any:
        def apply_policy(self: Any, stream: Any, message: Any, *args: Any, **options: Any) -> None:
            known = self.__dict__.setdefault("_known_letters", set())
            at = message.topic(), message.partition(), message.offset()
            if at not in known:
                known.add(at)
                real(self, stream, message, *args, **options)

        return apply_policy

    with swapped(Failures, "apply_policy", made):
        yield


@broken_engine("ticks", faults="abort")
def a_rollback_drops_what_timers_have_sent() -> Generator[None]:
    """Timers do not send again what was dropped, as agents do."""

    def made(real: Any) -> Any:
        def drop(self: Any) -> None:
            real(self)
            self.outside.clear()

        return drop

    with swapped(Epoch, "drop", made):
        yield


# Bounded runs ---------------------------------------------------------------------------------------------------------


@broken_engine("bounded")
def ends_of_earlier_transactions_are_forgotten() -> Generator[None]:
    """History ends where the last transaction of its replay does, in the partitions that this has written."""

    def made(real: Any) -> Any:
        def next_state(self: Any, *args: Any, **options: Any) -> Any:
            state = real(self, *args, **options)
            return msgspec.structs.replace(state, end_offsets=dict(self._end_offsets))

        return next_state

    with swapped(Transaction, "_next_state", made):
        yield


# Rebalances -----------------------------------------------------------------------------------------------------------


@broken_engine(faults="rebalance,kill")
def a_revoke_neither_commits_nor_rolls_back() -> Generator[None]:
    with swapped(Rebalance, "revoked", lambda _: lambda self, revoked: self._forget(revoked, Event.REVOKE)):
        yield


@broken_engine(faults="rebalance,fence")
def records_of_a_revoked_partition_are_processed() -> Generator[None]:
    """Records that are kept for a rollback are delivered again, whoever owns their partition by then."""

    def made(real: Any) -> Any:
        def revoke(self: Any, gone: Any, event: Event = Event.REVOKE) -> Any:
            active = dict(self.active)
            ended = real(self, gone, event)
            self.active |= {at: input for at, input in active.items() if at in gone}
            return ended

        return revoke

    with swapped(Tasks, "revoke", made):
        yield


@broken_engine(faults="lost-answer,rebalance")
def an_assignment_keeps_what_is_revoked_meanwhile() -> Generator[None]:
    """Partitions that are revoked while their assignment is taken over become active nevertheless."""

    def made(real: Any) -> Any:
        def revoke(self: Any, gone: Any, event: Event = Event.REVOKE) -> Any:
            waiting = self.in_state(State.CREATED) + self.in_state(State.RESTORING)
            kept = {input.at for task in waiting for input in task.inputs.values()}
            return real(self, set(gone) - kept, event)

        return revoke

    with swapped(Tasks, "revoke", made):
        yield


@broken_engine(faults="rebalance")
def a_lost_partition_is_committed() -> Generator[None]:
    """When partitions are lost, the epoch is kept and goes on."""
    with swapped(Rebalance, "partitions_lost", lambda _: lambda self, lost: self._forget(lost, Event.LOSE)):
        yield


@broken_engine("speeds", faults="rebalance,kill")
def agent_offsets_are_not_skipped() -> Generator[None]:
    """All agents start at the committed offset of the partition."""

    def made(real: Any) -> Any:
        def assign(self: Any, assignment: Any) -> None:
            assignment.agent_offsets = {}
            real(self, assignment)

        return assign

    with swapped(Tasks, "assign", made):
        yield


@broken_engine("speeds", faults="rebalance,kill")
def agent_offsets_are_not_committed() -> Generator[None]:
    with swapped(Router, "agent_offsets", lambda _: lambda self, progress: {}):
        yield


@broken_engine(faults="rebalance,kill")
def partitions_begin_one_record_late() -> Generator[None]:
    """A partition with committed offsets is read from the offset behind its first record."""

    def made(real: Any) -> Any:
        def consume_from(self: Any, starts: dict[TopicPartition, int]) -> None:
            real(self, {at: start + (start > 0) for at, start in starts.items()})

        return consume_from

    with swapped(GroupConsumer, "consume_from", made):
        yield


# Restores -------------------------------------------------------------------------------------------------------------


@broken_engine()
def a_restore_forgets_a_key() -> Generator[None]:
    def made(real: Any) -> Any:
        def apply(self: Any, run: Run) -> None:
            real(self, run._replace(messages=run.messages[1:]))

        return apply

    with swapped(ChangelogReader, "_apply", made):
        yield


@broken_engine()
def a_restore_does_not_wait_for_its_end() -> Generator[None]:
    with swapped(Restoration, "_is_at_end", lambda _: lambda self, at: True):
        yield


@broken_engine()
def uncommitted_records_are_read() -> Generator[None]:
    """Consumers and restores read records of open and aborted transactions."""

    def made(real: Any) -> Any:
        return lambda self, **chosen: real(self, **{**chosen, "isolation_level": "read_uncommitted"})

    with swapped(MemoryCluster, "consumer", made):
        yield


@broken_engine()
def the_changelog_lacks_a_key() -> Generator[None]:
    """The last key of an epoch with several is written to the store and not to the changelog."""

    def made(real: Any) -> Any:
        def prepare(self: Any, *args: Any) -> Any:
            prepared = real(self, *args)
            for partitions in prepared.request.changes.values():
                for partition, changes in partitions.items():
                    if len(changes) > 1:
                        partitions[partition] = Changes(changes.keys[:-1], changes.values[:-1], changes.deletes)
            return prepared

        return prepare

    with swapped(Epoch, "prepare", made):
        yield


@broken_engine("pages")
def deletions_are_not_in_the_changelog() -> Generator[None]:
    def made(real: Any) -> Any:
        def prepare(self: Any, *args: Any) -> Any:
            prepared = real(self, *args)
            for partitions in prepared.request.changes.values():
                for partition, changes in list(partitions.items()):
                    kept = [(k, v) for k, v in zip(changes.keys, changes.values, strict=True) if v is not None]
                    if kept and changes.deletes:
                        partitions[partition] = Changes([k for k, _ in kept], [v for _, v in kept], deletes=False)
            return prepared

        return prepare

    with swapped(Epoch, "prepare", made):
        yield


@broken_engine("pages")
def a_deleted_key_whose_default_was_read_is_not_in_the_changelog() -> Generator[None]:
    """A key is deleted, then read: the tombstone is forgotten, for the default was not changed."""

    def made(real: Any) -> Any:
        def detach(self: Any, key: object, value: object) -> None:
            real(self, key, value)
            if key not in self.writes:
                self.deleted.pop(key, None)

        return detach

    with swapped(OpenPartition, "detach", made):
        yield


@broken_engine()
def stores_are_written_before_the_commit() -> Generator[None]:
    def made(real: Any) -> Any:
        def prepare(self: Any, *args: Any) -> Any:
            prepared = real(self, *args)
            for table in self._host.tables:
                for partition, changes in prepared.changes[table.name].items():
                    store = table.states[partition].store
                    store.apply(changes, store.position)
            return prepared

        return prepare

    with swapped(Epoch, "prepare", made):
        yield


@broken_engine()
def the_store_is_ahead_of_its_changelog() -> Generator[None]:
    """The position that a store keeps is beyond the records that it holds."""

    def made(real: Any) -> Any:
        return lambda self, position: real(self, position + 7)

    with swapped(PartitionState, "apply", made):
        yield


@broken_engine(faults="rebalance")
def a_cache_survives_a_restore() -> Generator[None]:
    with swapped(PartitionState, "clear_cache", lambda _: lambda self: None):
        yield
