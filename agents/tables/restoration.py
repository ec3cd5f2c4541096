"""Restoring: stores are brought to the ends of their changelogs before agents get records.

Each step needs the one before it:
1. The worker's `init_transactions` has ended the transaction that a dead predecessor left open.
2. The goal is the *uncommitted* end. A stable offset can be visible before the changelog partition has its transaction
   marker (KAFKA-10167), so the committed end would miss the predecessor's last epoch.
3. The changelog is read `read_committed` until the position reaches that end. Markers and aborted records occupy
   offsets, so a count of records does not show whether the end is reached.

Tasks run one by one: each waits until its partitions of all tables have reached their ends, and for nothing else. The
changelog reader reads meanwhile, beside the event loop. A task that was revoked keeps its stores until the next
assignment shows that it has not returned.

Standby copies are the same without an end: partitions of global tables that other workers own, and partitions that this
worker keeps for others (`standby_placement.py`). When such a partition is assigned, only what its copy has not read yet
is restored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from ...topics import clock
from ...topics.admin import Admin
from ...topics.errors import Stop
from ...topics.json_value import JsonValue
from ...topics.partition_reader import stalled
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from ..task_groups import TaskId
from .changelog_reader import ChangelogReader
from .global_table import GlobalTable
from .partition_state import PartitionState
from .store_directory import StoreDirectory
from .table import Table
from .undecodable_changelog import check_records

__all__ = ["Restoration", "RestoreProgress", "call_with_heartbeats"]

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 0.05
_STALLED_S = 120.0
_LOG_EVERY_S = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class GroupMember(Protocol):
    """The consumer group, as a restore uses it."""

    def keep_alive(self) -> None:
        """Show the group that this worker is alive."""
        ...


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far a restore is, for the log, the terminal and HTTP.

    What is left is counted in offsets, not in records: transaction markers and aborted records occupy offsets, and
    compaction leaves gaps.

    Attributes:
        records: records read so far.
        offsets: offsets between the initial positions of the stores and the ends of their changelogs.
        offsets_left: how many of these are left.
        partitions: changelog partitions that have something to restore.
        partitions_left: how many of these have not reached their end.
        seconds: time since the restore began.
    """

    records: int
    offsets: int
    offsets_left: int
    partitions: int
    partitions_left: int
    seconds: float

    @property
    def share(self) -> float:
        """Share of the offsets that is restored, from 0 to 1."""
        return 1 - self.offsets_left / self.offsets if self.offsets else 1.0

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left at the average pace so far; None before the first offset."""
        done = self.offsets - self.offsets_left
        return self.seconds * self.offsets_left / done if done > 0 else None

    def __str__(self) -> str:
        left = self.seconds_left
        return (
            f"restoring tables: {self.share:.0%}, {self.records:,} records, {self.rate:,.0f} records/s, "
            f"{self.partitions_left} of {self.partitions} partitions left"
            + (f", about {left:,.0f} s to go" if left is not None else "")
        )

    def facts(self) -> dict[str, JsonValue]:
        """Return the attributes and `share`, `rate` and `seconds_left`, for JSON output."""
        return {**asdict(self), "share": self.share, "rate": self.rate, "seconds_left": self.seconds_left}


@dataclass(slots=True)
class _Goal:
    """A changelog partition that is being restored.

    Attributes:
        begin: position of its store when the restore began.
        end: position that the store must reach.
        records_before: records that the changelog reader had applied to the store when the goal was set.
    """

    begin: int
    end: int
    records_before: int


@dataclass(slots=True)
class _Done:
    """Counts of the partitions of this restore that have reached their ends."""

    records: int = 0
    offsets: int = 0
    partitions: int = 0


class Restoration:
    """The tasks that wait for their tables, and the stores that are not in tables yet.

    Args:
        tables: the tables of the app, including those that are added later.
        standby_replicas: number of standby copies of each partition.

    Attributes:
        restored_total: records read by finished restores.
    """

    def __init__(
        self,
        stores: StoreDirectory,
        admin: Admin,
        tables: Iterable[Table],
        *,
        standby_replicas: int = 0,
    ) -> None:
        self._stores, self._admin, self._tables = stores, admin, tables
        self._replicas = standby_replicas
        self._lock = asyncio.Lock()
        self._reader = ChangelogReader(stores.cluster)
        self._waiting: dict[TaskId, list[TopicPartition]] = {}
        self._states: dict[TopicPartition, PartitionState] = {}
        self._goals: dict[TopicPartition, _Goal] = {}
        self._done = _Done()
        self._began_s = self._logged_s = self._moved_s = 0.0
        self._offsets_left = 0
        self.restored_total = 0

    async def begin(self, tasks: Callable[[], Mapping[TaskId, Iterable[str]]], group: GroupMember) -> None:
        """Begin to restore the tables of tasks: find or open their stores, and read their changelogs.

        Args:
            tasks: returns all tasks that wait for their tables -> the names of these.

        Raises:
            Stop: a store is in use or beyond its changelog's end, or no broker answers.
        """
        async with self._lock:
            found = {
                task: self._partitions_of((name, task.partition) for name in names) for task, names in tasks().items()
            }
            self._waiting = {task: list(partitions) for task, partitions in found.items()}
            wanted = {at: one for partitions in found.values() for at, one in partitions.items()}
            copies = {at: found for at, found in self._global_partitions().items() if at not in wanted}
            for table in self._tables:
                for p, state in table.take_suspended().items():
                    self._states[TopicPartition(table.changelog_name, p)] = state
            if not self._replicas:  # otherwise it is not known yet which copies to keep
                self._close(self._states.keys() - wanted.keys() - copies.keys())
            both = wanted | copies
            self._goals = {at: goal for at, goal in self._goals.items() if at in both}
            missing = [found for at, found in both.items() if at not in self._states]
            stores = await call_with_heartbeats(group, self._stores.open, self._admin, missing)
            for table, p in missing:
                self._states[TopicPartition(table.changelog_name, p)] = table.new_state(stores.get((table.name, p)))
            begins, ends = await call_with_heartbeats(group, self._admin.spans, list(both))
            for at, (table, _) in both.items():
                if at in wanted or at not in self._reader:
                    self._restore(at, table, begins[at], ends[at])
            self._follow(sorted(self._states.keys() - wanted.keys()))

    async def keep_standby(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Keep standby copies of these partitions of tables, and of no others except global tables'."""
        async with self._lock:
            wanted = {at: found for at, found in self._partitions_of(partitions).items() if not self._is_waiting(at)}
            copies = {at for at in self._states if not self._is_waiting(at)}
            self._close(copies - wanted.keys() - self._global_partitions().keys())
            missing = {at: found for at, found in wanted.items() if at not in self._states}
            stores = await daemon_thread(self._stores.open, self._admin, list(missing.values()))
            begins, _ = await daemon_thread(self._admin.spans, list(missing))
            for at, (table, p) in missing.items():
                state = table.new_state(stores.get((table.name, p)))
                if state.store.position < begins[at]:
                    state.store.close()  # records were deleted: the partition's owner decides what to do
                else:
                    self._states[at] = state
            self._follow(sorted(wanted.keys() & self._states.keys()))

    def _partitions_of(self, partitions: Iterable[tuple[str, int]]) -> dict[TopicPartition, tuple[Table, int]]:
        """Return those partitions of tables that exist and that the tables do not show yet, by their changelogs."""
        tables = {table.name: table for table in self._tables}
        return {
            TopicPartition(table.changelog_name, p): (table, p)
            for name, p in partitions
            if p < (table := tables[name]).changelog_partitions and p not in table.states
        }

    def _global_partitions(self) -> dict[TopicPartition, tuple[Table, int]]:
        """Return all partitions of global tables that this worker does not own."""
        return {
            TopicPartition(table.changelog_name, p): (table, p)
            for table in self._tables
            if isinstance(table, GlobalTable)
            for p in range(table.changelog_partitions)
            if p not in table.states
        }

    def _is_waiting(self, at: TopicPartition) -> bool:
        return any(at in partitions for partitions in self._waiting.values())

    def _follow(self, partitions: Iterable[TopicPartition]) -> None:
        """Follow changelog partitions without an end; global tables show theirs."""
        by_name = {table.changelog_name: table for table in self._tables}
        for at in partitions:
            table = by_name[at[0]]
            self._reader.follow(at, self._states[at].store, partial(check_records, table))
            if isinstance(table, GlobalTable):
                table.remote_states[at[1]] = self._states[at]

    def _restore(self, at: TopicPartition, table: Table, begin: int, end: int) -> None:
        """Restore a store up to `end`, if it is not there yet."""
        store = self._states[at].store
        if store.position > end:
            # The changelog was deleted and recreated, or the store belongs to another cluster.
            raise Stop(
                f"the local store of {at[0]}[{at[1]}] is at position {store.position}, beyond the changelog's end "
                f"{end}",
                hint="was the changelog topic deleted? Start the worker again to rebuild the store from the changelog",
            )
        if at not in self._reader:
            if store.position < begin and "delete" not in table.config.get("cleanup.policy", "compact"):
                raise Stop(
                    f"changelog {at[0]}[{at[1]}] begins at {begin}, but the store is at position {store.position}: "
                    f"records were deleted, and table {table.name} would lack their changes",
                    hint="recompute it, under another app id or with the changelog deleted and the group's offsets set "
                    "to the beginning; if Kafka is meant to delete records, give the table "
                    'extra_topic_configs={"cleanup.policy": "compact,delete"}',
                )
            store.position = max(store.position, begin)
            store.begin_restore()
        if store.position < end:
            if not self._goals and not self._done.partitions:
                self._began_s = self._logged_s = self._moved_s = clock.now_s()
            goal = self._goals.setdefault(at, _Goal(store.position, end, self._reader.records(at)))
            goal.end = end
            self._reader.follow(at, store, partial(check_records, table))

    def _close(self, partitions: Iterable[TopicPartition]) -> None:
        """Close the stores of partitions that have not returned: they belong to another worker now."""
        closed = sorted(partitions)
        self._reader.stop(closed)
        for at in closed:
            self._take(at).store.close()
            self._goals.pop(at, None)

    def _take(self, at: TopicPartition) -> PartitionState:
        for table in self._tables:
            if isinstance(table, GlobalTable) and table.changelog_name == at[0]:
                table.remote_states.pop(at[1], None)
        return self._states.pop(at)

    def revoke(self, tasks: Iterable[TaskId]) -> None:
        """Forget tasks that were revoked. Their changelogs are read until it is known whether they return at once."""
        for task in tasks:
            self._waiting.pop(task, None)

    @property
    def waiting(self) -> bool:
        """True if tasks wait for their tables, or global tables are not complete yet."""
        return bool(self._waiting or self._goals)

    def ready(self) -> list[TaskId]:
        """Give restored partitions to their tables, and return the tasks that can run now.

        Raises:
            Stop: no record has arrived for too long.
        """
        self._reader.raise_failed()
        self._check_progress()
        global_goals = self._global_partitions().keys() & self._goals.keys()
        for at in [at for at in global_goals if self._is_at_end(at) and not self._is_waiting(at)]:
            self._reach(at, self._goals.pop(at))
        if not all(map(self._is_at_end, global_goals)):
            return []
        done = [task for task, partitions in self._waiting.items() if all(map(self._is_at_end, partitions))]
        by_name = {table.changelog_name: table for table in self._tables}
        for at in [at for task in done for at in self._waiting.pop(task)]:
            if at in self._goals:
                self._reach(at, self._goals.pop(at))
            self._reader.stop([at])
            state = self._take(at)
            state.clear_cache()  # the changelog reader may have written to the store
            state.store.end_restore()
            state.content.check()
            by_name[at[0]].add_partition(at[1], state)
        self._finish()
        return done

    def _reach(self, at: TopicPartition, goal: _Goal) -> None:
        self._done.records += self._reader.records(at) - goal.records_before
        self._done.offsets += goal.end - goal.begin
        self._done.partitions += 1

    def _is_at_end(self, at: TopicPartition) -> bool:
        goal = self._goals.get(at)
        return goal is None or self._states[at].store.position >= goal.end

    def _finish(self) -> None:
        if self._done.partitions and not self.waiting:
            seconds = clock.now_s() - self._began_s
            logger.info("restored %s records in %.2f s", f"{self._done.records:,}", seconds)
            self.restored_total += self._done.records
            self._done = _Done()

    def _check_progress(self) -> None:
        """Log the progress every few seconds; raise if there is none for too long."""
        progress, now_s = self.progress, clock.now_s()
        if progress is None:
            return
        if progress.offsets_left != self._offsets_left:
            self._offsets_left, self._moved_s = progress.offsets_left, now_s
        elif self._offsets_left and now_s - self._moved_s > _STALLED_S:
            raise stalled(self._goals, _STALLED_S)
        if now_s - self._logged_s > _LOG_EVERY_S:
            self._logged_s = now_s
            logger.info("%s", progress)

    @property
    def progress(self) -> RestoreProgress | None:
        """Progress of the running restore; None if none is running."""
        goals, done = self._goals, self._done
        if not goals and not (done.partitions and self._waiting):
            return None
        left = [max(0, goal.end - self._states[at].store.position) for at, goal in goals.items()]
        return RestoreProgress(
            records=done.records + sum(self._reader.records(at) - goal.records_before for at, goal in goals.items()),
            offsets=done.offsets + sum(goal.end - goal.begin for goal in goals.values()),
            offsets_left=sum(left),
            partitions=done.partitions + len(goals),
            partitions_left=sum(map(bool, left)),
            seconds=clock.now_s() - self._began_s,
        )

    def close(self) -> None:
        """Stop reading (blocking) and drop what is in memory; the store directory closes stores on disk."""
        self._reader.close()
        self._states.clear()
        self._goals.clear()


async def call_with_heartbeats(group: GroupMember, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a blocking call in a thread, and keep this member of the group alive meanwhile."""
    task = asyncio.ensure_future(daemon_thread(call, *args, **kwargs))
    while not task.done():
        await asyncio.wait({task}, timeout=_HEARTBEAT_S)
        group.keep_alive()
    return task.result()
