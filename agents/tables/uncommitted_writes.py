"""The changes that agents make to a table between two commits: savepoints, rollbacks and commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, cast

from ...topics.errors import BadRecord
from .absent import ABSENT
from .agent_step import IsolatedWriter
from .key_owners import check_owner
from .open_partition import K, OpenPartition, TrackedValue, V, is_mutable_type
from .partition_state import PartitionState
from .store import Changes
from .table_errors import KeyElsewhere, partition_mismatch

if TYPE_CHECKING:
    from .table import Table

__all__ = ["UncommittedWrites"]


class UncommittedWrites(Generic[K, V]):
    """The uncommitted writes of a table, in all partitions that agents have touched.

    Attributes:
        partitions: partition -> what agents see of it.
        tracking: whether the table tracks the mutable values that agents hold.
        untracked: whether agents were given mutable values before tracking began. The epoch must then be rolled back
            and reprocessed.
        tracked: receives the values that the running agent holds of its record.
        in_savepoints: whether agents are given copies of mutable values, because a record may be rolled back alone.
        writer_topics: topics whose agents have written to the table in this epoch.
        all_writer_topics: the same since the start.
    """

    def __init__(self, table: Table[K, V]) -> None:
        self._table = table
        self.partitions: dict[int, OpenPartition[K, V]] = {}
        self.tracking = is_mutable_type(table.default, table.value_type)
        self.untracked = self.in_savepoints = False
        self.tracked: list[TrackedValue] = []
        self.writer_topics: set[str] = set()
        self._committing: dict[int, PartitionState] = {}
        self.all_writer_topics: set[str] = set()

    def at(self, partition: int, state: PartitionState) -> OpenPartition[K, V]:
        """Return a partition as agents see it; `state` has the layers below."""
        found = self.partitions.get(partition)
        if found is None or found.state is not state:
            found = self.partitions[partition] = self._table.new_partition(state)
        return found

    def start_tracking(self) -> None:
        """From now on, track the mutable values that agents hold."""
        self.tracking = True
        for partition in self.partitions.values():
            partition.set_access()
            self.untracked = self.untracked or partition.has_untracked(partition.writes)
        self._table.close()  # the next touch opens it with the new access

    # Savepoints -----------------------------------------------------------------------------------------------------

    def writes(self, writer: IsolatedWriter | None = None) -> Iterator[tuple[K, V]]:
        """Iterate over the pairs that an agent has written since its last savepoint.

        Args:
            writer: the agent, as a step has it (`AgentStep.writer`).
        """
        return (pair for _, written in self._written(writer) for pair in written.items())

    def _written(self, writer: IsolatedWriter | None) -> Iterator[tuple[int, dict[K, V]]]:
        """Iterate over partitions and what an agent has written there, as it is now."""
        for number, partition in self.partitions.items():
            epoch, moved = partition.state.epoch, partition.moved.of(writer)
            written = {cast("K", key): value for key in moved if (value := epoch.get(key, ABSENT)) is not ABSENT}
            if partition.writer is writer:
                written.update(partition.writes)
            if written:
                yield number, written

    def check(self, writer: IsolatedWriter | None = None) -> None:
        """Check that what an agent has written since its last savepoint can be kept; changes nothing.

        Raises:
            BadRecord: a key or value cannot be kept.
        """
        for number, written in self._written(writer):
            self._table.key_codec.keep_all(written.keys())
            self._table.value_codec.keep_all(written.values())
            check_owner(self._table, number, written)

    def savepoint(self, writer: IsolatedWriter | None = None) -> None:
        """Make `discard_writes` return to this point. Mutable values are then given to agents as copies.

        A savepoint of several tables calls `check` of each before `savepoint` of the first, so that all have it or none
        has.

        Raises:
            BadRecord: see `check`; the uncommitted writes are kept.
        """
        self.check(writer)
        for partition in self.partitions.values():
            # Pending changes are not of the next record, so rolling that back must not discard them. If they cannot be
            # applied, the barrier raises.
            with suppress(BadRecord):
                partition.apply_pending()
            if partition.writer is writer:
                partition.move_to_epoch()
            for key in partition.moved.of(writer):
                del partition.moved[key]
        self.in_savepoints = True

    def end_savepoints(self) -> None:
        """Give agents the values themselves again, instead of copies."""
        self.in_savepoints = False

    def discard_writes(self, writer: IsolatedWriter | None = None) -> None:
        """Forget everything that an agent has written and deleted since its last savepoint."""
        for partition in self.partitions.values():
            if partition.writer is writer:
                partition.discard()

    # Commits --------------------------------------------------------------------------------------------------------

    def move_to_epoch(self) -> None:
        """Move the writes into the epoch of each partition."""
        for partition in self.partitions.values():
            partition.move_to_epoch()

    def encode_epoch(self, partitions_of: Callable[[str], int]) -> dict[int, Changes]:
        """Return the changes of the epoch by partition; called at the barrier.

        Args:
            partitions_of: returns the number of partitions of a topic.

        Raises:
            Usage: a topic that agents wrote from has another number of partitions than the changelog.
            BadRecord: a change cannot be encoded, or pending changes cannot be applied.
            KeyElsewhere: it has a key of a global table that another partition has.
        """
        table = self._table
        for partition in self.partitions.values():
            partition.apply_pending()
        self.move_to_epoch()
        for topic in self.writer_topics:
            if partitions_of(topic) != table.changelog_partitions:
                raise partition_mismatch(table, topic, partitions_of(topic))
        try:
            for number, state in table.states.items():
                check_owner(table, number, state.epoch)
        except BadRecord as exc:
            raise KeyElsewhere(*exc.args, hint=exc.hint) from None
        return {p: changes for p, state in table.states.items() if state.touched and len(changes := state.encode())}

    def freeze_epoch(self, changes: Mapping[int, Changes]) -> None:
        """Start a new epoch while the changes of this one are being committed; see `partition_state.py`.

        Args:
            changes: the result of `encode_epoch`.
        """
        states = self._table.states
        self._committing = {partition: states[partition] for partition in changes}
        for partition, state in states.items():
            made = changes.get(partition)
            if made is not None:
                state.freeze(made)
            else:
                state.drop()
        for partition in self.partitions.values():
            partition.moved.clear()
        self.all_writer_topics |= self.writer_topics
        self.writer_topics.clear()
        self._forget_tracked()

    def epoch_committed(self, positions: Mapping[int, int]) -> None:
        """Write the changes that were frozen, and that Kafka has committed, to the stores.

        Args:
            positions: partition -> changelog position after its changes.
        """
        committing, self._committing = self._committing, {}
        for partition, state in committing.items():
            state.apply(positions[partition])

    def drop_epoch(self) -> None:
        """Forget everything that is not committed, including the epoch that is being committed."""
        self._committing = {}
        for partition in self.partitions.values():
            partition.discard()
        self.partitions.clear()
        self._table.close()
        self.writer_topics.clear()
        self._forget_tracked()
        for state in self._table.states.values():
            state.drop()

    def drop_partition(self, partition: int) -> None:
        """Forget everything that is not committed in one partition. No epoch must be under way."""
        found = self.partitions.pop(partition, None)
        if found is not None:
            found.discard()
        self._table.close()
        state = self._table.states.get(partition)
        if state is not None:
            state.drop()

    def _forget_tracked(self) -> None:
        """The epoch has ended: values that agents hold are theirs, and the next read comes from the store."""
        self.tracked = []
        if self.untracked and not self.tracking:
            self.start_tracking()
        self.untracked = False
