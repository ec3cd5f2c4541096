"""Re-publishes dead letters into one topic, each once, and remembers which of them.

Which dead letters were re-published is stored in the topic of runs, in the same transaction as their records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from types import TracebackType

import msgspec

from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.cleanup import on_failure
from ...topics.cluster import Cluster
from ...topics.dead_letter import HEADROOM_BYTES, OPERATOR_HEADER, retry_header
from ...topics.errors import Rebuild, Stop, Usage
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import HashPartitioner
from ...topics.producer import Aborted, TransactionalProducer
from ..replay_transaction import Transaction
from ..run_state import BROKER_DEFAULT, RunRegistry, RunState
from ..sources.source import SourcePosition
from ..sources.source_record import SourceRecord
from ..target_topic import TargetTopic
from .dead_letter_reader import DeadLetterRecord

__all__ = ["RepublishRun", "change_state", "create_retry_topic"]

TRANSACTION_BYTES = 16_000_000

# The state of a run is one record, and a topic accepts records of about 1 MB by default.
_MOST_RANGES = 30_000

# Limits of a retry topic that must be those of its source, because it holds the same records.
_LIMITS = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "message.timestamp.difference.max.ms")


class RepublishRun:
    """The run that re-publishes dead letters into one topic.

    A context manager that keeps the run's transactional producer open, so that no other process re-publishes the same
    dead letters meanwhile.

    Args:
        state: the state of a run that has not re-published anything yet.
        retry: the topic is the retry topic of an agent, so each record names its original position.
        now: give the records the present time instead of their own.
        max_letters: how many dead letters a transaction holds at most.

    Attributes:
        done: the offsets of the dead letters that have been re-published.
        topic: the topic that the records go to.
    """

    def __init__(
        self,
        cluster: Cluster,
        admin: Admin,
        runs: RunRegistry,
        state: RunState,
        *,
        retry: bool,
        now: bool,
        max_letters: int,
    ) -> None:
        self._cluster, self._admin, self._runs = cluster, admin, runs
        self._state, self._retry, self._now, self._max_letters = state, retry, now, max_letters
        self._producer = TransactionalProducer(cluster, f"anabranch-replay-{state.run_id}")
        self.topic = state.topic
        self.done = OffsetRanges()

    def __enter__(self) -> RepublishRun:
        self._producer.open()
        return self

    def begin(self, found: RunState | None) -> None:
        """Resume from the committed state, which was read after the producer was opened (blocking).

        Raises:
            Usage: the topic does not exist.
            Stop: the topic no longer holds the records that were re-published.
        """
        self._state = found or self._state
        partitions = self._admin.partitions([self.topic]).get(self.topic)
        if partitions is None:
            raise self._admin.no_topic(self.topic, hint="create it, or name another topic: --to TOPIC")
        self._target = TargetTopic.of(self.topic, self._admin.config(self.topic))
        self._partitioner = PartitionerRegistry(self._cluster).check(self.topic, partitions, None)
        if not self._runs.holds(self._state):
            raise Stop(
                f"topic {self.topic} no longer holds the records that were re-published: it was deleted or recreated",
                hint="--run-id NAME starts another run, which re-publishes all of them",
            )
        self.done = OffsetRanges(self._state.position)

    def send(self, letters: list[tuple[int, DeadLetterRecord]]) -> None:
        """Re-publish dead letters (blocking).

        Args:
            letters: each with the offset behind the dead letter before it that goes to the same topic. The offsets
                from there to the dead letter are stored as one range.

        Raises:
            Stop: the topic would not keep the records.
            Rebuild: another process has taken the run over.
        """
        try:
            for part in self._parts(letters):
                self._send(Transaction(self._producer, self._runs, self._target, self._partitioner, self._state), part)
        except Rebuild as exc:
            raise self.taken_over(exc) from exc

    def taken_over(self, exc: Rebuild) -> Rebuild:
        """Return the error for a run that another process has taken over."""
        return Rebuild(
            f"another process has taken over run {self._state.run_id}: {exc}",
            hint="the run was started a second time, and the later process continues it; no record is re-published "
            "twice",
        )

    def _send(self, work: Transaction, part: list[tuple[int, DeadLetterRecord]]) -> None:
        now_ms = clock.now_ms()
        with on_failure(work.abandon):
            work.send([self._record(letter) for _, letter in part], now_ms)
            for begin, letter in part:
                self.done.add(letter.partition, begin, letter.offset + 1)
            if len(self.done) > _MOST_RANGES:
                raise Stop(
                    "the re-published dead letters are too scattered among the others to store their offsets",
                    hint="use a broader filter, or re-publish a range of offsets: --offset FIRST-LAST",
                )
        self._state = work.commit(self.done.position(), done=False, now_ms=now_ms)

    def _parts(self, letters: list[tuple[int, DeadLetterRecord]]) -> Iterator[list[tuple[int, DeadLetterRecord]]]:
        part: list[tuple[int, DeadLetterRecord]] = []
        size = 0
        for begin, letter in letters:
            part.append((begin, letter))
            size += len(letter.value or b"") + len(letter.key or b"")
            if len(part) >= self._max_letters or size >= TRANSACTION_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _record(self, letter: DeadLetterRecord) -> SourceRecord:
        origin = letter.origin
        assert origin is not None
        partitions = self._partitioner.partitions
        own = origin.partition if self._retry or origin.topic == self.topic else None
        if own is not None and own >= partitions:
            if self._retry:
                raise Stop(
                    f"a record of {origin.topic}[{own}] has no partition in {self.topic}, which has {partitions}: "
                    f"{origin.topic} has got more partitions",
                    hint=f"kafka-topics.sh --alter --topic {self.topic} --partitions, as many as {origin.topic} has",
                )
            own = None
        headers = [*letter.headers, retry_header(origin)] if self._retry else letter.headers
        if letter.reason == "window":
            headers = [*headers, (OPERATOR_HEADER, letter.facts.get("operator", "").encode())]
        time_ms = 0 if self._now else letter.record_ms
        if not (time_ms or self._now):
            raise Stop(
                f"{letter.topic}[{letter.partition}]@{letter.offset}: its record's time is exactly 0 ms, which "
                "librdkafka takes for the present",
                hint="--now re-publishes records with the current time",
            )
        return letter.key, letter.value, time_ms, headers or None, own

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._producer.close()


def change_state(
    cluster: Cluster, runs: RunRegistry, run_id: str, change: Callable[[RunState | None], RunState]
) -> None:
    """Change the state of a run without re-publishing anything (blocking); a process that is at it is fenced.

    Args:
        change: returns the new state; called with the committed one, if there is one.

    Raises:
        Stop: Kafka does not take it now; the call may be repeated.
    """
    producer = TransactionalProducer(cluster, f"anabranch-replay-{run_id}")
    try:
        producer.open()  # before the state is read, which cannot change any more then
        state = change(runs.read(run_id))
        producer.begin()
        key, value = runs.record(msgspec.structs.replace(state, updated_ms=clock.now_ms()))
        producer.produce(runs.topic, value, key)
        producer.commit()
    except (Aborted, Rebuild) as exc:
        raise Stop(f"the state of run {run_id} was not stored: {exc}", hint="repeat the command") from exc
    finally:
        producer.close()


def create_retry_topic(cluster: Cluster, admin: Admin, name: str, source: str) -> None:
    """Create a retry topic if it is missing, with the partitions, partitioner and limits of its source (blocking).

    Raises:
        Usage: the source does not exist.
    """
    there = admin.partitions([name, source])
    if name in there:
        return
    if source not in there:
        raise Usage(
            f"topic {source} does not exist, so it is not known how many partitions {name} needs",
            hint="create one of them, or name another topic for the records: --to TOPIC",
        )
    config = admin.config(source)
    limits = {key: config[key] for key in _LIMITS if key in config}
    limits["max.message.bytes"] = str(int(config["max.message.bytes"]) + HEADROOM_BYTES)
    registry = PartitionerRegistry(cluster, admin)
    partitioner = registry.of([source]).get(source, HashPartitioner(there[source]))
    registry.create(TopicSpec(name, there[source], BROKER_DEFAULT, limits), partitioner)


class OffsetRanges:
    """Offsets by partition, as ranges that do not touch; stored in a run's position as `{"partition:begin": end}`.

    >>> ranges = OffsetRanges({"0:5": 9})
    >>> ranges.add(0, 9, 12)
    >>> ranges.add(0, 20, 21)
    >>> ranges.position(), (0, 11) in ranges, (0, 12) in ranges
    ({'0:5': 12, '0:20': 21}, True, False)
    """

    def __init__(self, position: SourcePosition | None = None) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for name, end in (position or {}).items():
            partition, _, begin = name.partition(":")
            self._ranges.setdefault(int(partition), []).append((int(begin), end))
        for ranges in self._ranges.values():
            ranges.sort()

    def __contains__(self, at: tuple[int, int]) -> bool:
        partition, offset = at
        ranges = self._ranges.get(partition, [])
        i = bisect_left(ranges, (offset + 1,)) - 1
        return i >= 0 and offset < ranges[i][1]

    def __len__(self) -> int:
        return sum(map(len, self._ranges.values()))

    def add(self, partition: int, begin: int, end: int) -> None:
        """Add a range; ranges that touch it are joined with it."""
        ranges = self._ranges.setdefault(partition, [])
        i = bisect_left(ranges, (begin,))
        if i and ranges[i - 1][1] >= begin:
            i -= 1
        until = i
        while until < len(ranges) and ranges[until][0] <= end:
            begin, end = min(begin, ranges[until][0]), max(end, ranges[until][1])
            until += 1
        ranges[i:until] = [(begin, end)]

    def remove(self, partition: int, begin: int, end: int) -> None:
        """Remove a range."""
        left: list[tuple[int, int]] = []
        for first, last in self._ranges.get(partition, ()):
            left += [part for part in ((first, min(last, begin)), (max(first, end), last)) if part[0] < part[1]]
        self._ranges[partition] = left

    def position(self) -> SourcePosition:
        """Return the ranges as the position of a run."""
        return {f"{partition}:{begin}": end for partition, ranges in self._ranges.items() for begin, end in ranges}
