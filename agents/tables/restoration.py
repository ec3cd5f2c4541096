"""Restoring: stores are brought to the ends of their changelogs before an agent sees a record.

Order of things, each step needed by the next:
1. The worker's `init_transactions` has ended what a dead predecessor left open.
2. The end is the *uncommitted* one. A stable offset can be visible before the changelog partition has its transaction
   marker (KAFKA-10167); the committed end would miss the predecessor's last epoch.
3. Read `read_committed` until the position reaches that end. Markers and aborted records occupy offsets, so counting
   records cannot tell.

Partitions become active one by one. Those of one number belong together, whatever their topic: their agents may write
to any table, so they wait until all tables of that number are at their ends, and for nothing else. What is restored
meanwhile is read by the follower, beside the event loop; a partition that goes away keeps its store until the next
assignment says that it has not come back.

Copies are the same thing without an end: partitions of global tables that others own, and those that this worker keeps
warm for others (`standby.py`). When such a partition comes, only what its copy has not read yet is restored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from ...topics import clock
from ...topics.admin import Admin
from ...topics.errors import Stop
from ...topics.partition_reader import Key, stalled
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from ..assignment import Assignment
from .changelog_reader import ChangelogReader
from .global_table import GlobalTable
from .partition_state import PartitionState
from .restore_progress import RestoreProgress
from .store_directory import StoreDirectory
from .uncommitted_writes import UncommittedWrites
from .undecodable_changelog import name_undecodable

__all__ = ["Restoration"]

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 0.05
_STALLED_S = 120.0
_SAY_S = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class GroupMember(Protocol):
    """What a restore asks of the consumer group."""

    @property
    def owned(self) -> set[TopicPartition]:
        """The partitions of this worker."""
        ...

    def keep_alive(self) -> None:
        """Tell the group that this worker is alive."""
        ...


@dataclass(slots=True)
class _Goal:
    """A changelog partition to be restored.

    Attributes:
        begin, end: offsets: where its store stood, where it has to stand.
        before: records the follower had written to it when the goal was set.
    """

    begin: int
    end: int
    before: int


@dataclass(slots=True)
class _Done:
    """What of this restore has reached its end."""

    records: int = 0
    offsets: int = 0
    partitions: int = 0


class Restoration:
    """This worker's partitions that wait for their tables, and the stores that tables do not have yet.

    Args:
        tables: of the app, also those that are added later.

    Attributes:
        restored_total: records read by restores that have come to their end.
    """

    def __init__(
        self,
        app_id: str,
        shelf: StoreDirectory,
        admin: Admin,
        tables: Iterable[UncommittedWrites],
        *,
        standby_replicas: int = 0,
        start_at_end: bool = False,
    ) -> None:
        self._app_id, self._shelf, self._admin, self._tables = app_id, shelf, admin, tables
        self._at_ends = start_at_end
        self._replicas = standby_replicas
        self._standby: set[int] | None = None
        self._lock = asyncio.Lock()
        self._follower = ChangelogReader(shelf.cluster)
        self._waiting = Assignment()
        self._states: dict[Key, PartitionState] = {}
        self._goals: dict[Key, _Goal] = {}
        self._done = _Done()
        self._began_s = self._said_s = self._moved_s = 0.0
        self._left = 0
        self.restored_total = 0

    # Begin, go on, end ----------------------------------------------------------------------------------------------

    async def begin(self, assignment: Assignment, group: GroupMember) -> None:
        """Partitions have come: find or open their stores; what is not at its end is read from now on.

        Raises:
            Stop: a store is in use or beyond its changelog's end, or no broker answers.
        """
        async with self._lock:
            self._waiting.add(assignment)
            self._standby = None
            wanted = self._places({at.partition for at in group.owned})
            copies = {at: place for at, place in self._everywhere().items() if at not in wanted}
            for table in self._tables:
                for p, state in table.take_suspended().items():
                    self._states[table.changelog_name, p] = state
            if not self._replicas:  # else it is not known yet what is to be kept
                self._let_go(self._states.keys() - wanted.keys() - copies.keys())
            both = wanted | copies
            self._goals = {at: goal for at, goal in self._goals.items() if at in both}
            missing = [place for at, place in both.items() if at not in self._states]
            stores = await beside(group, self._shelf.open, self._admin, missing)
            for table, p in missing:
                self._states[table.changelog_name, p] = table.new_state(stores.get((table.name, p)))
            begins, ends = await beside(group, self._admin.spans, list(both))
            for at, (table, _) in both.items():
                if at in wanted or at not in self._follower:
                    self._aim(at, table, begins[at], ends[at])
            self._copy(self._states.keys() - wanted.keys())

    async def keep(self, numbers: set[int]) -> None:
        """Keep copies of these partitions, and of no others but global tables'."""
        async with self._lock:
            self._standby = numbers
            wanted = {at: place for at, place in self._places(numbers).items() if not self._waits(at)}
            self._let_go({at for at in self._states if not self._waits(at)} - wanted.keys() - self._everywhere().keys())
            missing = {at: place for at, place in wanted.items() if at not in self._states}
            stores = await daemon_thread(self._shelf.open, self._admin, list(missing.values()))
            begins, _ = await daemon_thread(self._admin.spans, list(missing))
            for at, (table, p) in missing.items():
                state = table.new_state(stores.get((table.name, p)))
                if state.store.position < begins[at]:
                    state.store.close()  # what to do about records that are gone is for its owner to say
                else:
                    self._states[at] = state
            self._copy(wanted.keys() & self._states.keys())

    def _places(self, numbers: Iterable[int]) -> dict[Key, tuple[UncommittedWrites, int]]:
        """What tables have of these partitions and do not show."""
        return {
            (table.changelog_name, p): (table, p)
            for table in self._tables
            for p in numbers
            if p < table.changelog_partitions and p not in table.states
        }

    def _everywhere(self) -> dict[Key, tuple[UncommittedWrites, int]]:
        """All of global tables."""
        return {
            (table.changelog_name, p): (table, p)
            for table in self._tables
            if isinstance(table, GlobalTable)
            for p in range(table.changelog_partitions)
            if p not in table.states
        }

    def _waits(self, at: Key) -> bool:
        return any(waiting.partition == at[1] for waiting in self._waiting.starts)

    def _copy(self, partitions: Iterable[Key]) -> None:
        """Follow these without an end; what is of a global table is shown."""
        by_name = {table.changelog_name: table for table in self._tables}
        for at in partitions:
            table = by_name[at[0]]
            self._follower.follow(at, self._states[at].store, partial(name_undecodable, table))
            if isinstance(table, GlobalTable):
                table.remote_states[at[1]] = self._states[at]

    def _aim(self, at: Key, table: UncommittedWrites, begin: int, end: int) -> None:
        store = self._states[at].store
        if store.position > end:
            # The changelog was deleted and made anew, or the store is another cluster's.
            raise Stop(
                f"the local store of {at[0]} partition {at[1]} stands at {store.position}, beyond the changelog's "
                f"end {end}",
                hint="was the changelog topic deleted? Start the worker again to rebuild from what is there",
            )
        if at not in self._follower:
            if store.position < begin and "delete" not in table.config.get("cleanup.policy", "compact"):
                raise Stop(
                    f"changelog {at[0]}[{at[1]}] begins at {begin}, and the store stands at {store.position}: records "
                    f"were deleted, and table {table.name} would be without what they say",
                    hint="compute it anew, under another app id or with the changelog deleted and the group's offsets "
                    "set to the beginning; where Kafka is meant to delete, give the table "
                    'extra_topic_configs={"cleanup.policy": "compact,delete"}',
                )
            store.position = max(store.position, begin)
            store.begin_restore()
        if store.position < end:
            if not self._goals and not self._done.partitions:
                self._began_s = self._said_s = self._moved_s = clock.now_s()
            goal = self._goals.setdefault(at, _Goal(store.position, end, self._follower.records(at)))
            goal.end = end
            self._follower.follow(at, store, partial(name_undecodable, table))

    def _let_go(self, partitions: Iterable[Key]) -> None:
        """They have not come back, so they belong to another worker now."""
        gone = list(partitions)
        self._follower.stop(gone)
        for at in gone:
            self._take(at).store.close()
            self._goals.pop(at, None)

    def _take(self, at: Key) -> PartitionState:
        for table in self._tables:
            if isinstance(table, GlobalTable) and table.changelog_name == at[0]:
                table.remote_states.pop(at[1], None)
        return self._states.pop(at)

    def forget(self, gone: set[TopicPartition]) -> None:
        """Partitions have gone. Reading goes on until it is known whether they come back at once."""
        self._waiting.drop(gone)

    @property
    def waiting(self) -> bool:
        """Whether records of partitions do not flow yet, or global tables are not whole yet."""
        return bool(self._waiting.starts or self._goals)

    def ready(self) -> Assignment | None:
        """Hand over to the tables what is restored; the partitions that can flow now, None if there are none.

        Raises:
            Stop: nothing has come for too long, or as `refuse_counting_twice`.
        """
        self._follower.raise_failed()
        self._watch()
        everywhere = self._everywhere().keys() & self._goals.keys()
        for at in [at for at in everywhere if self._at_end(at) and not self._waits(at)]:
            self._reach(at, self._goals.pop(at))
        if not all(map(self._at_end, everywhere)):
            return None
        numbers = {at.partition for at in self._waiting.starts}
        done = {number for number in numbers if all(map(self._at_end, self._of(number)))}
        if not done:
            self._finish()
            return None
        by_name = {table.changelog_name: table for table in self._tables}
        for at in [at for number in done for at in self._of(number)]:
            if at in self._goals:
                self._reach(at, self._goals.pop(at))
            self._follower.stop([at])
            state = self._take(at)
            state.clear_cache()  # the store may have been written past it
            state.store.end_restore()
            state.check_content()
            by_name[at[0]].add_partition(at[1], state)
        ready = self._waiting.take(done)
        self._finish()
        refuse_counting_twice(self._app_id, self._tables, ready, at_end=self._at_ends)
        return ready

    def _reach(self, at: Key, goal: _Goal) -> None:
        self._done.records += self._follower.records(at) - goal.before
        self._done.offsets += goal.end - goal.begin
        self._done.partitions += 1

    def _of(self, number: int) -> list[Key]:
        return [(t.changelog_name, number) for t in self._tables if (t.changelog_name, number) in self._states]

    def _at_end(self, at: Key) -> bool:
        goal = self._goals.get(at)
        return goal is None or self._states[at].store.position >= goal.end

    def _finish(self) -> None:
        if self._done.partitions and not self.waiting:
            seconds = clock.now_s() - self._began_s
            logger.info("restored %s records in %.2f s", f"{self._done.records:,}", seconds)
            self.restored_total += self._done.records
            self._done = _Done()

    def _watch(self) -> None:
        """Say how far it is, every few seconds; end what does not get on."""
        progress, now_s = self.progress, clock.now_s()
        if progress is None:
            return
        if progress.offsets_left != self._left:
            self._left, self._moved_s = progress.offsets_left, now_s
        elif self._left and now_s - self._moved_s > _STALLED_S:
            raise stalled(self._goals, _STALLED_S)
        if now_s - self._said_s > _SAY_S:
            self._said_s = now_s
            logger.info("%s", progress)

    @property
    def progress(self) -> RestoreProgress | None:
        """How far it is; None while nothing is restored."""
        goals, done = self._goals, self._done
        if not goals and not (done.partitions and self._waiting.starts):
            return None
        left = [max(0, goal.end - self._states[at].store.position) for at, goal in goals.items()]
        return RestoreProgress(
            records=done.records + sum(self._follower.records(at) - goal.before for at, goal in goals.items()),
            offsets=done.offsets + sum(goal.end - goal.begin for goal in goals.values()),
            offsets_left=sum(left),
            partitions=done.partitions + len(goals),
            partitions_left=sum(map(bool, left)),
            seconds=clock.now_s() - self._began_s,
        )

    def close(self) -> None:
        """End reading (blocking). What is in memory is gone, what lies on disk is the shelf's to close."""
        self._follower.close()
        self._states.clear()
        self._goals.clear()


async def beside(group: GroupMember, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a blocking call beside the event loop; meanwhile the group hears of us."""
    task = asyncio.ensure_future(daemon_thread(call, *args, **kwargs))
    while not task.done():
        await asyncio.wait({task}, timeout=_KEEP_ALIVE_S)
        group.keep_alive()
    return task.result()


def refuse_counting_twice(
    group: str, tables: Iterable[UncommittedWrites], assignment: Assignment, *, at_end: bool = False
) -> None:
    """The beginning of a topic, or its end, is right only where nothing was ever committed and the tables are empty.

    Args:
        at_end: topics without offsets are read from their ends.

    Raises:
        Stop: the offsets are gone, the tables' content is not.
    """
    for at in assignment.uncommitted:
        content = [t.name for t in tables if at.partition in t.states and len(t.states[at.partition].store)]
        if content and at.topic in assignment.anew:
            raise Stop(
                f"topic {at.topic} was deleted and made anew, and table {content[0]} has content from before: reading "
                "the new topic would add to it",
                hint=f"to add to it, set the offsets of group {group} in {at.topic} to 0 with kafka-consumer-groups; "
                f"else delete the changelog topics of {group} to compute everything anew",
            )
        if content and not assignment.committed_beside(at):
            raise Stop(
                f"group {group} has no committed offsets, but table {content[0]} has content: reading {at.topic} from "
                + ("its end would leave out what came since" if at_end else "its beginning would count history twice"),
                hint="offsets expire after a week without a member: set them with kafka-consumer-groups, or delete "
                f"the changelog topics of {group} to compute everything anew",
            )
