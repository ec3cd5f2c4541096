"""Which tasks a rollback has to process again.

A commit that fails, a partition that is lost and an agent that ends roll back everything. An agent that fails at a
record concerns the task of this record: tasks share neither tables nor offsets, so what agents have done in other tasks
stays, and is not repeated outside of Kafka. More tasks are concerned if the coroutine of an agent that has to be
restarted holds records of another task back (`take`).

Everything is rolled back if the work of a task cannot be told apart: partial results of flows are merged over
partitions, streams that share partitions by key have to be equally far, a packed batch is handed out as a whole, event
time is of all partitions, and what was given to a failure policy or was late in this epoch is counted as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ...topics.topic_partition import TopicPartition
from ..task_groups import TaskId
from .runner import Runner
from .task import Task, Tasks
from .task_states import State

if TYPE_CHECKING:
    from .protocols import RecordFeed

__all__ = ["RollbackScope", "scope_of"]


class RollbackScope(NamedTuple):
    """The tasks and the coroutines that a rollback restarts; all others go on.

    Attributes:
        tasks: their records are processed again.
        runners: their coroutines are restarted.
    """

    tasks: list[Task]
    runners: list[Runner]

    @property
    def partitions(self) -> set[TopicPartition]:
        """The partitions of the tasks."""
        return {input.at for task in self.tasks for input in task.inputs.values()}

    @property
    def streams(self) -> list[RecordFeed]:
        """The streams whose agents were at a record of one of the tasks."""
        return [runner.stream for runner in self.runners if runner.stream is not None]


def scope_of(failed: Iterable[TopicPartition], tasks: Tasks, runners: Iterable[Runner]) -> RollbackScope | None:
    """Return what has to be rolled back because agents failed at records of some partitions.

    Args:
        runners: all runners of the worker.

    Returns:
        None: all tasks.
    """
    streams = [(runner, runner.stream) for runner in runners if runner.stream is not None]
    found: dict[TaskId, Task] = {}
    new = [tasks.owner(at) for at in failed]
    halted: list[Runner] = []
    while new:
        task = new.pop()
        if task is None:
            return None  # lost meanwhile
        if task.id in found:
            continue
        found[task.id] = task
        for runner, stream in streams:
            at_it = runner.at is not None and tasks.owner(runner.at) is task and runner not in halted
            if at_it and (stream.running or runner.halted):
                halted.append(runner)
                held = (at for at, queue in stream.queue.partitions.items() if queue.held_back is not None)
                new += [tasks.owner(at) for at in held]
    if len(found) == len(tasks.in_state(State.RUNNING)):
        return None
    return RollbackScope(list(found.values()), halted)
