"""Engines that are broken on purpose: each swaps one function of the engine for a faulty one.

A simulation that does not find such a fault would not find it in the engine either: see `test_broken_engines.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import broken_commits  # noqa: F401 (registers them)
import msgspec
from anabranch.agents.engine.epoch import Epoch
from anabranch.agents.engine.failed_records import Failures
from anabranch.agents.engine.group_consumer import GroupConsumer
from anabranch.agents.engine.outbox import Outbox
from anabranch.agents.engine.rebalance import Rebalance
from anabranch.agents.engine.router import Router
from anabranch.agents.engine.task import Tasks
from anabranch.agents.engine.task_states import Event, State
from anabranch.agents.tables.changelog_reader import ChangelogReader
from anabranch.agents.tables.open_partition import OpenPartition
from anabranch.agents.tables.partition_state import PartitionState
from anabranch.agents.tables.restoration import Restoration
from anabranch.agents.tables.store import Changes
from anabranch.agents.tables.uncommitted_writes import UncommittedWrites
from anabranch.replay.replay_transaction import Transaction
from anabranch.topics.memory.memory_cluster import MemoryCluster
from anabranch.topics.partition_reader import Run
from anabranch.topics.topic_partition import TopicPartition
from broken_engine import BROKEN_ENGINES, BrokenEngine, broken_engine, swapped

__all__ = ["BROKEN_ENGINES", "BrokenEngine"]

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
def a_rollback_of_a_task_keeps_its_outputs() -> Generator[None]:
    with swapped(Outbox, "drop_from", lambda _: lambda self, partitions: None):
        yield


@broken_engine()
def a_rollback_of_a_task_keeps_its_writes() -> Generator[None]:
    with swapped(UncommittedWrites, "drop_partition", lambda _: lambda self, partition: None):
        yield


@broken_engine()
def a_rollback_of_a_task_drops_the_outputs_of_others() -> Generator[None]:
    with swapped(Outbox, "drop_from", lambda _: lambda self, partitions: self.clear()):
        yield


@broken_engine()
def a_rollback_of_a_task_does_not_deliver_again() -> Generator[None]:
    with swapped(Router, "_give_kept", lambda _: lambda self, inputs: None):
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


@broken_engine("bank with KIP-848 and long epochs", faults="rebalance")
def an_epoch_whose_commit_a_revoke_could_not_make_goes_on() -> Generator[None]:
    """Its outputs are sent with the next commit, without the offsets of their records, which others process again."""

    def made(real: Any) -> Any:
        def revoked(self: Any, gone: set[Any]) -> None:
            epoch, wanted = self._context.epoch, self._context.epoch.rollback_wanted
            real(self, gone)
            if self.lost and not wanted:
                epoch.begin_rollback()

        return revoked

    with swapped(Rebalance, "revoked", made):
        yield


@broken_engine("bank with KIP-848 and long epochs", faults="rebalance")
def an_epoch_that_is_revoked_after_its_partitions_were_lost_goes_on() -> Generator[None]:
    """A commit was too late, its records were processed again, and the revoke comes then: it neither commits nor drops
    them, so their outputs are sent with the next commit, without the offsets."""

    def made(real: Any) -> Any:
        def revoked(self: Any, gone: set[Any]) -> None:
            if self.lost and not self._context.barrier.running and self._host.stopped_by is None:
                self._loop.end_commit()
                self._forget(gone, Event.REVOKE)
            else:
                real(self, gone)

        return revoked

    with swapped(Rebalance, "revoked", made):
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
