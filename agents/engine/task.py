"""Tasks: all that one worker holds of the partitions of one number of a group of topics (`task_groups.py`).

A task has an input for each of its topics: where it begins, what is committed, the records that are kept for a
rollback, and the streams that read it. The streams have a queue of their own for each input (`partition_queue.py`), and
tables a state for each partition (`partition_state.py`); a task finds both when it loses a partition. Its states, and
what can happen to it, are in `task_states.py`.

Only the inputs of running tasks are *active*: their records are consumed, and their progress is committed. A task whose
group has tables runs only while it has the partition of each topic that the app declares in the group. Otherwise two
workers might write to one partition of a table. This matters if workers of different versions subscribe to different
topics, and while Kafka moves partitions one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...topics.topic_partition import TopicPartition
from ..assigned_partitions import Assignment
from ..task_groups import TaskGroup, TaskId, task_groups
from .task_states import Event, State, state_after

if TYPE_CHECKING:
    from ..tables.table import Table
    from .alignment import WaitingRecords
    from .held_partitions import HeldRecords
    from .partition_queue import QueuedBatch
    from .protocols import RecordFeed

__all__ = ["Task", "TaskInput", "Tasks"]

logger = logging.getLogger(__name__)


class TaskInput:
    """One topic of a task.

    Attributes:
        start: where it begins, or began.
        agent_offsets: agent -> its own offset, if it is ahead of `start`.
        channel_states: agent -> its channel state there; see `PartitionQueue`.
        is_new: the group has no committed offset; `start` is the beginning of the topic until it is determined.
        topic_id: id of the topic, requested before its offsets were read; empty if it is not known.
        active: whether its records are consumed, and its progress is committed.
        committed: committed offset.
        routes: the streams of each channel that reads it; several if agents share its records by key.
        kept: the records since the last commit, in order, for a rollback.
        waiting: the records that wait for their turn, if the topic is aligned with others; see `alignment.py`.
        held: the records that wait because the partition is far ahead of others; None: none. See `held_partitions.py`.
        rows_each: number of rows of a record, about; more than one if they are packed batches.
    """

    __slots__ = (
        "active",
        "agent_offsets",
        "at",
        "channel_states",
        "committed",
        "held",
        "is_new",
        "kept",
        "routes",
        "rows_each",
        "start",
        "topic_id",
        "waiting",
    )

    def __init__(self, at: TopicPartition, start: int, topic_id: str) -> None:
        self.at, self.start, self.topic_id = at, start, topic_id
        self.agent_offsets: dict[str, int] = {}
        self.channel_states: dict[str, object] = {}
        self.is_new = self.active = False
        self.committed = start
        self.routes: list[list[RecordFeed]] = []
        self.kept: list[QueuedBatch] = []
        self.waiting: WaitingRecords | None = None
        self.held: HeldRecords | None = None
        self.rows_each = 1

    def route(self, routes: list[list[RecordFeed]]) -> None:
        """Set the streams; those that are new begin at their own offset, or else at the committed one."""
        self.routes = routes
        for stream in [stream for streams in routes for stream in streams]:
            if self.at not in stream.queue.partitions:
                offset = self.agent_offsets.get(stream.progress_name, self.committed)
                state = self.channel_states.get(stream.progress_name)
                stream.queue.begin(self.at, max(offset, self.committed), state)

    def begin_at(self, start: int) -> None:
        """Note where it begins; the group has no committed offset."""
        self.start = self.committed = start
        self.is_new = False

    def commit(self, offset: int) -> None:
        """Note a committed offset, and forget the records below it."""
        self.committed = offset
        removed, kept = 0, self.kept
        while removed < len(kept) and kept[removed].end <= offset:
            removed += 1
        del kept[:removed]

    def rest(self, streams: Iterable[RecordFeed]) -> None:
        """Be no longer active; `start` and what belongs to agents are then what the last commit has left."""
        self.start, self.active = self.committed, False
        own = [(stream.progress_name, stream.queue.partitions.get(self.at)) for stream in streams]
        read = {agent: partition for agent, partition in own if partition is not None}
        self.agent_offsets = {agent: partition.committed for agent, partition in read.items()}
        self.channel_states = {agent: partition.committed_channel_state for agent, partition in read.items()}
        self.routes, self.kept, self.waiting, self.held = [], [], None, None


class Task:
    """A task of this worker.

    Attributes:
        state: see `task_states.py`.
        inputs: topic -> input, of the partitions that are assigned to this worker.
    """

    def __init__(self, id: TaskId, group: TaskGroup) -> None:
        self.id, self.group = id, group
        self.state = State.CREATED
        self.inputs: dict[str, TaskInput] = {}

    def happens(self, event: Event) -> None:
        """Change the state."""
        before, self.state = self.state, state_after(self.state, event)
        logger.debug("task %s: %s, %s → %s", self.id, event.value, before.name, self.state.name)

    @property
    def is_owned(self) -> bool:
        """True if partitions of it are assigned to this worker."""
        return bool(self.inputs)


class Tasks:
    """The tasks of a worker, and the partitions that are assigned to it.

    Args:
        tables: the app's tables.
        streams: the streams that have begun to iterate.

    Attributes:
        active: partition -> input, of those that are active.
        stopped: partitions of this worker that are no longer active, because their task has become incomplete.
    """

    def __init__(self, tables: Callable[[], Iterable[Table]], streams: list[RecordFeed]) -> None:
        self._tables, self._streams = tables, streams
        self._counts: dict[str, int] = {}
        self._groups: dict[str, TaskGroup] = {}
        self._declared: frozenset[str] = frozenset()
        self._tasks: dict[TaskId, Task] = {}
        self._owners: dict[TopicPartition, Task] = {}
        self.active: dict[TopicPartition, TaskInput] = {}
        self.stopped: set[TopicPartition] = set()

    # Groups ---------------------------------------------------------------------------------------------------------

    def group(
        self, declared: Iterable[Sequence[str]], retries: Mapping[str, str], counts: Mapping[str, int]
    ) -> dict[str, TaskGroup]:
        """Find the groups of the topics that the app reads, and return topic -> group.

        Args:
            declared: the topics of each declared topic, which an agent reads as one stream.
            retries: retry topic -> the topic that it stands for.
            counts: topic -> number of its partitions; where a topic was grouped before, its number of then counts.
        """
        declared = list(declared)
        self._declared = frozenset(topic for topics in declared for topic in topics)
        joined = [*declared, *((topic, name) for name, topic in retries.items())]
        for topic in {topic for topics in joined for topic in topics} & counts.keys():
            self._counts.setdefault(topic, counts[topic])
        tables = {table.name: table.changelog_partitions for table in self._tables()}
        self._groups = task_groups(joined, self._counts, tables)
        for table in self._tables():
            table.source_topics = frozenset(t for t, group in self._groups.items() if table.name in group.tables)
        return self._groups

    @property
    def table_groups(self) -> set[TaskGroup]:
        """The groups with tables."""
        return {group for group in self._groups.values() if group.tables}

    def _group_of(self, topic: str) -> TaskGroup:
        return self._groups.get(topic) or TaskGroup(topic, (topic,), (), 0)

    # The life of tasks ----------------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment) -> None:
        """Add assigned partitions."""
        for at, start in assignment.starts.items():
            group = self._group_of(at.topic)
            id = TaskId(group.name, at.partition)
            task = self._tasks.get(id)
            if task is None:
                task = self._tasks[id] = Task(id, group)
                logger.debug("task %s: CREATED", id)
            elif not task.is_owned:
                task.group = group
                task.happens(Event.ASSIGN)
            self._owners[at] = task
            made = task.inputs[at.topic] = TaskInput(at, start, assignment.ids.get(at.topic, ""))
            made.is_new = at in assignment.uncommitted
        for (at, agent), offset in assignment.agent_offsets.items():
            self._owners[at].inputs[at.topic].agent_offsets[agent] = offset
        for (at, agent), state in assignment.channel_states.items():
            self._owners[at].inputs[at.topic].channel_states[agent] = state

    def restore(self) -> dict[TaskId, Sequence[str]]:
        """Let the tasks that have all their partitions be restored.

        Returns:
            All tasks that are being restored, or have new inputs -> the names of their tables.
        """
        for task in self.in_state(State.CREATED):
            if not self._missing(task):
                task.happens(Event.RESTORE)
        waiting = self.in_state(State.RESTORING)
        waiting += [task for task in self.in_state(State.RUNNING) if not all(i.active for i in task.inputs.values())]
        return {task.id: task.group.tables for task in waiting}

    def run(self, task: Task) -> dict[TopicPartition, int]:
        """Let a task run whose tables are complete, and the start of at least one of its inputs is known.

        Returns:
            The partitions that become active -> where they start.
        """
        started = [input for input in task.inputs.values() if not (input.active or input.is_new)]
        if started and task.state is State.RESTORING:
            task.happens(Event.RESTORED)
        for input in started:
            input.active = True
            self.active[input.at] = input
        return {input.at: input.start for input in started}

    def revoke(self, lost: Iterable[TopicPartition], event: Event = Event.REVOKE) -> set[TaskId]:
        """Forget partitions that were revoked or lost. Nothing else of this worker does so.

        The epoch must be committed, or dropped and about to be rolled back. The states of tables are suspended.

        Args:
            event: REVOKE or LOSE.

        Returns:
            The tasks that do not run any more and are not restored any more.
        """
        lost = set(lost)
        touched: dict[TaskId, Task] = {}
        for at in lost:
            self.active.pop(at, None)
            self.stopped.discard(at)
            task = self._owners.pop(at, None)
            if task is not None:
                del task.inputs[at.topic]
                touched[task.id] = task
        ended: set[TaskId] = set()
        for task in touched.values():
            if task.is_owned and not (self._missing(task) and task.state is not State.CREATED):
                continue
            lost |= self._rest(task)
            ended.add(task.id)
            task.happens(event)
            if task.is_owned:
                task.happens(Event.ASSIGN)  # it waits for the rest of its partitions
        for stream in self._streams:
            stream.queue.remove(lost)
        kept = self.table_partitions()
        for table in self._tables():
            table.suspend_others({number for name, number in kept if name == table.name})
        return ended

    def _rest(self, task: Task) -> set[TopicPartition]:
        """Stop the other inputs of a task that has become incomplete, and return them."""
        rest = {input.at for input in task.inputs.values() if input.active}
        for at in rest:
            self.active.pop(at).rest(self._streams)
        self.stopped |= rest
        return rest

    def stand_by(self, ids: Mapping[TaskId, TaskGroup]) -> None:
        """Note the tasks of which this worker keeps standby copies."""
        for id, group in ids.items():
            task = self._tasks.get(id)
            if task is None:
                task = self._tasks[id] = Task(id, group)
            if not task.is_owned and task.state is not State.STANDBY:
                task.happens(Event.STAND_BY)

    def close(self, keep: Iterable[TaskId] = ()) -> None:
        """Forget the tasks whose partitions have not returned, and whose stores are closed, except those to `keep`."""
        kept = set(keep)
        for task in [task for task in self._tasks.values() if not task.is_owned and task.id not in kept]:
            task.happens(Event.CLOSE)
            del self._tasks[task.id]

    def owner(self, at: TopicPartition) -> Task | None:
        """Return the task of a partition of this worker."""
        return self._owners.get(at)

    # Questions ------------------------------------------------------------------------------------------------------

    def in_state(self, state: State) -> list[Task]:
        """Return the tasks in a state."""
        return [task for task in self._tasks.values() if task.state is state]

    def restored(self, ids: Iterable[TaskId]) -> list[Task]:
        """Return those of some restored tasks that have not been revoked since."""
        tasks = (self._tasks.get(id) for id in ids)
        return [task for task in tasks if task is not None and task.state in (State.RESTORING, State.RUNNING)]

    @property
    def partitions(self) -> set[TopicPartition]:
        """All partitions that are assigned to this worker, as far as they are part of tasks."""
        return set(self._owners)

    def _missing(self, task: Task) -> list[TopicPartition]:
        if not task.group.tables:
            return []
        number = task.id.partition
        needed = (t for t in task.group.topics if t in self._declared and number < self._counts[t])
        return [TopicPartition(topic, number) for topic in needed if topic not in task.inputs]

    @property
    def incomplete(self) -> set[TopicPartition]:
        """The partitions of this worker whose tasks do not run because others have some of their partitions."""
        tasks = (task for task in self._tasks.values() if self._missing(task))
        return {input.at for task in tasks for input in task.inputs.values()}

    def missing(self) -> dict[TaskId, list[TopicPartition]]:
        """Return the tasks of this worker that do not run because others have some of their partitions."""
        owned = (task for task in self._tasks.values() if task.is_owned)
        return {task.id: missing for task in owned if (missing := self._missing(task))}

    def outgrown(self, id: TaskId, counts: Mapping[str, int]) -> list[str]:
        """Return the topics of a task that have another number of partitions than when they were grouped, sorted."""
        return [topic for topic in self._tasks[id].group.topics if counts.get(topic, 0) > self._counts[topic]]

    def table_partitions(self) -> set[tuple[str, int]]:
        """Return (table, partition) of the tasks that run or are being restored."""
        tasks = self.in_state(State.RESTORING) + self.in_state(State.RUNNING)
        return {(table, task.id.partition) for task in tasks for table in task.group.tables}

    def serves(self, table: str, partition: int) -> bool:
        """Return whether a partition of a table belongs to a running task of this worker."""
        return any(
            task.id.partition == partition and table in task.group.tables for task in self.in_state(State.RUNNING)
        )
