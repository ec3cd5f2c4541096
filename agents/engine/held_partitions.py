"""Holds back source partitions that are far ahead of others in event time.

Records of several source partitions meet in windows, which stay open until the partition that is furthest behind has
passed their ends. If a worker reads one partition of a history before another one, all windows between them are open at
once. So the records of a partition wait while its stream time is further ahead of the slowest partition than a bound
(`EngineSettings.max_ahead_windows`), until half of the distance is left:

    orders[0]    12:00, 80,000 records unread
    orders[1]    14:10                           held back until orders[0] has come near

Records that were consumed already wait here. When there are many, their partition is paused in the consumer, which
purges librdkafka's queue, so this is done late.

Invariants.
- Only the order changes in which records of different partitions are processed. What a window holds and which records
  are late does not depend on it.
- Nothing waits for ever. A partition is waited for only while this worker reads it and has more than a few unread
  records of it, none of which waits for a retry, and as long as its stream time moves faster than the clock. So neither
  empty and idle partitions hold others back, nor ended and failing ones, those of other workers, and those whose
  records are old although they are new; however many there are of them.
- A partition that others wait for does not wait itself, not even where another agent has it far ahead. So each
  partition that waits does so for one that is processed.
- A partition that has records here is not idle, and not at its end.
- Partitions of topics that are aligned with others (`alignment.py`) have an order of their own, and are left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...topics import clock
from ...topics.topic_partition import TopicPartition
from ..event_time.channel import END_MS, NEVER_MS, time_of
from .partition_queue import PartitionQueue
from .protocols import RecordFeed
from .task import TaskInput, Tasks

__all__ = ["HeldPartition", "HeldPartitions", "HeldRecords", "HeldRun"]

# With so few unread records, or fewer than one poll brings, a partition is as good as at its end.
_FEW_RECORDS = 1_000

# A partition is paused in the consumer when records of so many bytes wait here.
_MOST_BYTES = 4_000_000

# A partition whose stream time has moved less than the clock for this long is not waited for, in seconds.
_PATIENCE_S = 10.0
# After so many seconds it is tried again.
_REST_S = 60.0


class HeldRun(NamedTuple):
    """Consecutive records of a partition that wait.

    Attributes:
        messages: the records; the list is extended by those that follow.
        some_headers: whether some of them have headers.
        some_packed: whether some of them may be packed batches.
    """

    messages: list[Any]
    some_headers: bool
    some_packed: bool


class HeldRecords:
    """The records of a partition that wait, in order.

    Attributes:
        records: how many there are; a packed batch counts as one.
        size_bytes: their approximate memory.
    """

    __slots__ = ("_runs", "records", "size_bytes")

    def __init__(self) -> None:
        self._runs: deque[tuple[HeldRun, int]] = deque()
        self.records = self.size_bytes = 0

    def add(self, run: HeldRun, size_bytes: int, most: int) -> None:
        """Add records that follow; runs of up to `most` records are joined, so that they are not many."""
        self.records += len(run.messages)
        self.size_bytes += size_bytes
        last = self._runs[-1] if self._runs else None
        if last is not None and last[0][1:] == run[1:] and len(last[0].messages) + len(run.messages) <= most:
            last[0].messages.extend(run.messages)
            self._runs[-1] = last[0], last[1] + size_bytes
        else:
            self._runs.append((run, size_bytes))

    def take(self) -> HeldRun:
        """Remove and return the next run."""
        run, size_bytes = self._runs.popleft()
        self.records -= len(run.messages)
        self.size_bytes -= size_bytes
        return run


class HeldPartition(NamedTuple):
    """A partition that is held back.

    Attributes:
        by: the partition that it waits for.
        ahead_ms: how far it is ahead of it; None if nothing is known of the time of that one.
        since_ms: since when, by the wall clock.
    """

    by: TopicPartition
    ahead_ms: int | None
    since_ms: int


class HeldPartitions:
    """The partitions of a worker that are held back, and their records.

    Args:
        streams: all streams that have begun to iterate; see `RecordFeed.max_ahead_ms`.

    Attributes:
        held: the partitions that are held back, as of the last `look`.
        moved: whether records were delivered since the last `look`.
    """

    def __init__(self, tasks: Tasks, streams: Sequence[RecordFeed]) -> None:
        self._tasks, self._streams = tasks, streams
        self.held: dict[TopicPartition, HeldPartition] = {}
        self.moved = False
        self._waiting: dict[TopicPartition, TaskInput] = {}
        self._paused: set[TopicPartition] = set()
        self._most = _FEW_RECORDS
        # Partition that is behind and not held -> since when, on the monotonic clock, and its stream time then.
        self._watched: dict[TopicPartition, tuple[float, int]] = {}
        self._watched_before: dict[TopicPartition, tuple[float, int]] = {}  # as of the `look` before
        self._left_until_s: dict[TopicPartition, float] = {}  # those that are not waited for

    # Which are held back --------------------------------------------------------------------------------------------

    def look(self, unread: Callable[[TopicPartition, int], int], most: int) -> None:
        """Decide which partitions are held back from now on.

        Args:
            unread: returns how many offsets of a partition are unread behind one, as far as it is known.
            most: see `EngineSettings.batch_records`.
        """
        if not (self.moved or self.held):
            return
        self.moved, self._most = False, most
        self._watched_before, self._watched = self._watched, {}
        wanted: dict[TopicPartition, HeldPartition] = {}
        slowest: set[TopicPartition] = set()
        for stream in self._streams:
            if stream.max_ahead_ms is not None and len(stream.queue.partitions) > 1:
                self._look_at(stream, stream.max_ahead_ms, unread, wanted, slowest)
        self.held = {at: why for at, why in wanted.items() if at not in slowest}

    def _look_at(
        self,
        stream: RecordFeed,
        most_ms: int,
        unread: Callable[[TopicPartition, int], int],
        wanted: dict[TopicPartition, HeldPartition],
        slowest: set[TopicPartition],
    ) -> None:
        queues, topics = stream.queue.partitions, stream.topic.topics
        times = {at: time_of(queue.channel_state) for at, queue in queues.items() if at.topic in topics}
        first_ms = min(times.values(), default=END_MS)
        # The last time of those that are held back, and of the others.
        held_ms = max((time_ms for at, time_ms in times.items() if at in self.held), default=NEVER_MS)
        free_ms = max((time_ms for time_ms in times.values() if time_ms != END_MS), default=NEVER_MS)
        if free_ms - first_ms <= most_ms and held_ms - first_ms <= most_ms // 2:
            return
        found = False
        for at, time_ms in sorted(times.items(), key=lambda pair: pair[1]):
            if free_ms - time_ms <= most_ms and held_ms - time_ms <= most_ms // 2:
                return
            if found and at in self.held:
                continue
            is_waited_for = self._is_waited_for(at, time_ms, queues[at], unread)
            if found or not is_waited_for:
                continue  # but it is watched: patience with many that are stuck must not add up
            found = True
            slowest.add(at)
            for other, other_ms in times.items():
                bound_ms = most_ms // 2 if other in self.held else most_ms
                if other_ms != END_MS and other_ms - time_ms > bound_ms and self._may_be_held(other):
                    wanted[other] = self._held(other, at, None if time_ms == NEVER_MS else other_ms - time_ms)

    def _held(self, at: TopicPartition, by: TopicPartition, ahead_ms: int | None) -> HeldPartition:
        known = self.held.get(at)
        return HeldPartition(by, ahead_ms, clock.now_ms() if known is None else known.since_ms)

    def _may_be_held(self, at: TopicPartition) -> bool:
        input = self._tasks.active.get(at)
        return input is not None and input.waiting is None

    def _is_waited_for(
        self, at: TopicPartition, time_ms: int, queue: PartitionQueue, unread: Callable[[TopicPartition, int], int]
    ) -> bool:
        input = self._tasks.active.get(at)
        if input is None or input.waiting is not None or self._is_delayed(at):
            return False
        left = unread(at, queue.offset) + (0 if input.held is None else input.held.records)
        if left * input.rows_each <= min(_FEW_RECORDS, self._most):
            return False
        now_s = clock.now_s()
        if now_s < self._left_until_s.get(at, now_s):
            return False
        since_s, since_ms = watched = self._watched_before.get(at, (now_s, time_ms))
        waited_s = now_s - since_s
        if waited_s < _PATIENCE_S:
            self._watched[at] = watched
            return True
        if time_ms - since_ms < waited_s * 1000:
            self._left_until_s[at] = now_s + _REST_S
            return False
        self._watched[at] = now_s, time_ms
        return True

    def _is_delayed(self, at: TopicPartition) -> bool:
        """Return whether a record of a partition waits for a retry, of whatever agent: then it may be paused."""
        queues = [stream.queue.partitions.get(at) for stream in self._streams]
        return any(queue is not None and queue.retries.until_s is not None for queue in queues)

    # Their records --------------------------------------------------------------------------------------------------

    def keeps(self, input: TaskInput) -> bool:
        """Return whether records of a partition that were consumed now have to wait."""
        return input.held is not None or input.at in self.held

    def add(self, input: TaskInput, run: HeldRun, size_bytes: int) -> None:
        """Keep records that have to wait."""
        if input.held is None:
            input.held = HeldRecords()
            self._waiting[input.at] = input
        input.held.add(run, size_bytes, self._most)

    def released(self) -> Iterator[tuple[TaskInput, HeldRun]]:
        """Yield the next records of each partition that is not held back any more."""
        for at, input in list(self._waiting.items()):
            if self._tasks.active.get(at) is not input or input.held is None:
                del self._waiting[at]  # it was revoked meanwhile
            elif at not in self.held:
                run = input.held.take()
                if not input.held.records:
                    input.held = None
                    del self._waiting[at]
                yield input, run

    def paused(self) -> set[TopicPartition]:
        """Return the partitions that must not be consumed now, because so many of their records wait here. Those that
        are paused are consumed again when half of it waits: a pause is expensive."""
        if not (self._waiting or self._paused):
            return self._paused
        paused: set[TopicPartition] = set()
        for at, input in self._waiting.items():
            share = 0.5 if at in self._paused else 1.0
            held = input.held
            if held and (held.records >= self._most * share or held.size_bytes >= _MOST_BYTES * share):
                paused.add(at)
        self._paused = paused
        return paused

    def records_of(self, at: TopicPartition) -> int:
        """Return how many records of a partition wait here."""
        input = self._tasks.active.get(at)
        return 0 if input is None or input.held is None else input.held.records

    def without_waiting(self, reached: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """Return how far partitions were consumed, without those of which records wait here."""
        waiting = self._waiting
        return {at: offset for at, offset in reached.items() if at not in waiting} if waiting else reached
