"""Delivers the records of several topics in the order of event time.

Each topic of a run is in the order of its own records' times. How agents see the topics with respect to each other
would depend on what the consumer fetches first. So records of *aligned* topics wait here until it is their turn: of the
inputs of a task, the one with the least time is next, and only if each other input has a record or has ended. The next
records are delivered when those before them are processed, by all agents that read them, because agents run
concurrently.

    orders     10        30  40        ─▶  orders 10, users 20, orders 30, users 30, orders 40, users 60
    users          20    30        60

Equal times are in the order of the topics, as the program declares them, and in a partition in the order of offsets. A
record that is earlier than one before it in its partition comes right behind that one. The order follows from the logs
and from the position in each, and from nothing else: so it is the same after a crash, after a rollback, with another
number of workers, and whatever is fetched first.

Live topics have no end. There records wait for those of a silent input for a time only (`EngineSettings.align_s`), so
that the order is likely, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from ...topics import clock
from ...topics.topic_partition import TopicPartition
from ..task_groups import TaskId
from .task import TaskInput, Tasks

__all__ = ["AlignedRun", "Alignment", "WaitingRecords"]

# Records that are delivered at once, if no record of another input comes between.
_MOST = 10_000

# While all inputs have records, the loop consumes more of them this often, in seconds.
_CONSUME_S = 0.02


class AlignedRun(Protocol):
    """Says which topics of a run are aligned, and where they end.

    Attributes:
        history_ends: offsets at which a bounded run's history ends, for partitions whose end is known.
    """

    history_ends: Mapping[TopicPartition, int]

    @property
    def aligned(self) -> Sequence[Sequence[str]]:
        """Groups of topics that are aligned with each other, each in the order of equal times."""
        ...


class WaitingRecords:
    """The records of one input that were consumed, and wait for their turn.

    Attributes:
        position: offset behind the last one that was consumed.
        awaited_since_s: since when other inputs wait for a record, on the monotonic clock; None while they do not.
    """

    __slots__ = ("_begin", "_messages", "_times", "awaited_since_s", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.awaited_since_s: float | None = None
        self._messages: list[Any] = []
        self._times: list[int] = []  # in ms
        self._begin = 0

    def __len__(self) -> int:
        return len(self._messages) - self._begin

    def add(self, messages: Iterable[Any]) -> None:
        """Add records that follow."""
        self.awaited_since_s = None
        self._messages += messages
        self._times += [message.timestamp()[1] for message in islice(self._messages, len(self._times), None)]
        if self._messages:
            self.position = self._messages[-1].offset() + 1

    def put_back(self, messages: list[Any]) -> None:
        """Put records back that come before the others."""
        self._messages[: self._begin] = messages
        self._times[: self._begin] = [message.timestamp()[1] for message in messages]
        self._begin = 0

    @property
    def first_ms(self) -> int:
        """Time of the first record."""
        return self._times[self._begin]

    def take(self, until_ms: float, *, also_equal: bool) -> list[Any]:
        """Remove and return the records up to the first one that is later than a time, or as late."""
        begin, times = self._begin, self._times
        end, most = begin, min(len(times), begin + _MOST)
        while end < most and (times[end] < until_ms or (also_equal and times[end] == until_ms)):
            end += 1
        taken = self._messages[begin:end]
        self._begin = end
        if end > _MOST or end == len(times):
            del self._messages[:end], times[:end]
            self._begin = 0
        return taken


class Alignment:
    """Aligns the inputs of the tasks of a worker.

    Args:
        run: see `AlignedRun`.
        wait_s: how long records wait for those of an input that has none, in seconds; None: until it has ended.

    Attributes:
        groups: inputs that are aligned with each other, each in the order of equal times.
    """

    def __init__(self, run: AlignedRun, tasks: Tasks, wait_s: float | None = None) -> None:
        self._run, self._tasks, self._wait_s = run, tasks, wait_s
        self.groups: list[list[TaskInput]] = []
        self._held: set[TopicPartition] = set()
        self._consumed_s = 0.0

    def follow(self) -> None:
        """Find the active inputs that are aligned with each other: those of a task and of one group of topics."""
        ranks = {
            topic: (number, rank)
            for number, topics in enumerate(self._run.aligned)
            for rank, topic in enumerate(topics)
        }
        found: dict[tuple[TaskId, int], list[tuple[int, TaskInput]]] = {}
        for at, input in self._tasks.active.items():
            task = self._tasks.owner(at)
            if at.topic in ranks and task is not None:
                number, rank = ranks[at.topic]
                if input.waiting is None:
                    input.waiting = WaitingRecords(input.committed)
                found.setdefault((task.id, number), []).append((rank, input))
        self.groups = [[input for _, input in sorted(group, key=lambda one: one[0])] for group in found.values()]

    def runs(self) -> Iterator[tuple[TaskInput, list[Any]]]:
        """Yield the next records of each group whose last ones are processed."""
        active = self._tasks.active
        for group in self.groups:
            # Between a revoke and the next assignment, inputs of this worker are no longer active.
            if all(active.get(input.at) is input and _is_processed(input) for input in group):
                found = self._next(group)
                if found is not None:
                    yield found

    def _next(self, group: list[TaskInput]) -> tuple[TaskInput, list[Any]] | None:
        least: tuple[int, int] | None = None
        second: tuple[int, int] | None = None
        for rank, input in enumerate(group):
            assert input.waiting is not None
            if not input.waiting:
                continue
            head = (input.waiting.first_ms, rank)
            if least is None or head < least:
                least, second = head, least
            elif second is None or head < second:
                second = head
        if self._awaits(group, records=least is not None) or least is None:
            return None
        input = group[least[1]]
        assert input.waiting is not None
        if second is None:
            return input, input.waiting.take(float("inf"), also_equal=True)
        return input, input.waiting.take(second[0], also_equal=least[1] < second[1])

    def _awaits(self, group: list[TaskInput], *, records: bool) -> bool:
        """Return whether records of a group, if there are some, have to wait for an input that has none."""
        missing = [input.waiting for input in group if not (input.waiting or self._has_ended(input))]
        if self._wait_s is None or not missing:
            return bool(missing)
        now_s = clock.now_s()
        for waiting in missing:
            assert waiting is not None
            since_s = waiting.awaited_since_s
            waiting.awaited_since_s = None if not records else now_s if since_s is None else since_s
        awaited_s = [waiting.awaited_since_s for waiting in missing if waiting is not None]
        return any(since_s is None or now_s - since_s < self._wait_s for since_s in awaited_s)

    def _has_ended(self, input: TaskInput) -> bool:
        end = self._run.history_ends.get(input.at)
        return end is not None and input.waiting is not None and input.waiting.position >= end

    def held_back(self, most: int) -> set[TopicPartition]:
        """Return the partitions that must not be consumed now, because so many of their records wait for others.

        Those that are held are consumed again when half of it waits: a pause is expensive.
        """
        held: set[TopicPartition] = set()
        for input in self._inputs:
            assert input.waiting is not None
            if len(input.waiting) >= (most // 2 if input.at in self._held else most):
                held.add(input.at)
        self._held = held
        return held

    def suffices(self, now_s: float) -> bool:
        """Return whether nothing needs to be consumed now, because all inputs have records, or have ended.

        From time to time something is consumed all the same, so that the worker stays a member of its group.
        """
        if now_s - self._consumed_s < _CONSUME_S and all(i.waiting or self._has_ended(i) for i in self._inputs):
            return True
        self._consumed_s = now_s
        return False

    def without_waiting(self, reached: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """Return how far partitions were consumed, without those of which records wait here."""
        waiting = {input.at for input in self._inputs if input.waiting}
        return {at: offset for at, offset in reached.items() if at not in waiting} if waiting else reached

    @property
    def _inputs(self) -> Iterator[TaskInput]:
        return (input for group in self.groups for input in group)


def _is_processed(input: TaskInput) -> bool:
    """Return whether no agent has records of an input in its queue. What `take` holds back counts as processed."""
    for streams in input.routes:
        for stream in streams:
            partition = stream.queue.partitions.get(input.at)
            if partition is not None and partition.batches:
                return False
    return True
