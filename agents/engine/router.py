"""Who gets which records: streams, the partitions they read, and the records that are not committed yet.

Records are kept until the epoch that handled them is committed, so that a redo can hand them over again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from confluent_kafka import Message

from ...topics.control import carries_control, records_of
from ...topics.headers import UnreadableHeaders, all_headers
from ...topics.packed import LEAST_BYTES, PackedLimits, limits
from ...topics.topic_partition import TopicPartition
from ..assignment import Assignment
from .packed_rows import Rows, rows_of
from .protocols import RecordFeed
from .record_queue import Batch, position_of

__all__ = ["Router"]

# What a message takes besides its value, about.
_MESSAGE_BYTES = 400

_partition_of: Any = Message.partition


class Router:
    """The streams of an app and their records.

    Args:
        most: the largest packed batches that are opened; None for `limits()`.

    Attributes:
        streams: all that have begun to iterate.
        active: partitions of this worker whose tables are restored, so that their records are consumed.
        records_total: records and rows handed over since the start, repetitions of a redo not counted.
        gathered_bytes: about how much memory takes what was handed over in this epoch.
    """

    def __init__(self, most: PackedLimits | None = None) -> None:
        self._most = most or limits()
        self.streams: list[RecordFeed] = []
        self.active: set[TopicPartition] = set()
        self.records_total = 0
        self.gathered_bytes = 0
        self._routes: dict[TopicPartition, list[list[RecordFeed]]] = {}
        self._kept: dict[TopicPartition, list[Batch]] = {}
        self._with_control: set[str] = set()  # topics in which control records count

    def add(self, stream: RecordFeed) -> None:
        """A stream begins to iterate; `route` comes next."""
        topic = stream.topic
        if stream not in topic.streams:
            topic.streams.append(stream)
        self.streams.append(stream)
        stream.queue.shared = topic.expected_streams > 1

    def route(
        self,
        index: Mapping[Any, Iterable[Any]],
        committed: Mapping[TopicPartition, int],
        *,
        group: str,
    ) -> None:
        """Find the streams of each partition.

        Args:
            index: Faust's, partition -> channels.
            committed: where a stream begins that has no offset of its own.
            group: id of the consumer group.
        """
        self._routes = {
            at: [channel.streams if len(channel.streams) >= channel.expected_streams else [] for channel in channels]
            for tp, channels in index.items()
            if (at := TopicPartition(tp.topic, tp.partition)) in self.active
        }
        self._with_control = {at.topic for at in self._routes if carries_control(at.topic, group)}
        for at, groups in self._routes.items():
            for stream in [stream for streams in groups for stream in streams]:
                stream.queue.offsets.setdefault(at, committed.get(at, 0))

    @property
    def lacks_stream(self) -> bool:
        """Whether an agent has not begun to iterate, so that its records would be nobody's."""
        return any(not streams for groups in self._routes.values() for streams in groups)

    @property
    def waiting(self) -> int:
        """Records handed over and not taken."""
        return sum(stream.queue.waiting for stream in self.streams)

    def release(self, now_s: float) -> None:
        """Records that are due are tried again."""
        for stream in self.streams:
            if stream.queue.delayed and not stream.running:
                stream.queue.release(now_s)

    def end(self, ends: Mapping[tuple[str, int], int], reached: Mapping[TopicPartition, int]) -> None:
        """Streams at the end of a bounded run's history give away what they hold back; see `Inbox.end`."""
        for stream in self.streams:
            if stream.queue.held_back and not stream.running:
                stream.queue.end(ends, reached)

    def held_back(self, most: int) -> set[TopicPartition]:
        """Partitions that wait for a record to be tried again, once so many records have gathered behind such ones."""
        delayed = [delayed for stream in self.streams for delayed in stream.queue.delayed.items()]
        gathered = sum(len(batch.messages) for _, (_, batches) in delayed for batch in batches)
        return {at for at, _ in delayed} if gathered >= most else set()

    def deliver(self, messages: list[Any], *, one_topic: bool) -> None:
        """Give what was polled to the streams, and keep it."""
        # The first and the last stand for all: to ask each for its size would cost as much as grouping them.
        about = (len(messages[0]) + len(messages[-1])) // 2 + _MESSAGE_BYTES
        self.gathered_bytes += about * len(messages)
        # Packed batches have headers and are large: what is not so needs no second look.
        headers, unreadable = all_headers(messages)
        some_headers = any(headers)
        some_packed = some_headers and max(map(len, messages)) >= LEAST_BYTES
        for number in unreadable:
            self._poison(messages[number])
        for at, run in _runs(messages, one_topic=one_topic):
            if at in self._routes:  # else assigned a moment ago and gone again
                end, records = run[-1].offset() + 1, run
                if some_headers and at.topic in self._with_control:
                    records = records_of(run)
                if records is not run:  # agents get past the control records, and never see them
                    batches = [*self._unpacked(at, records), Batch(at, [], end)]
                else:
                    batches = self._unpacked(at, run) if some_packed else (Batch(at, run, end),)
                for batch in batches:
                    self.records_total += len(batch.messages)
                    self._kept.setdefault(at, []).append(batch)
                    self._give(batch)

    def _unpacked(self, at: TopicPartition, run: Iterable[Any]) -> Iterator[Batch]:
        """A packed message is a batch of its own."""
        plain: list[Any] = []
        for message in run:
            rows = rows_of(*at, message, self._most)
            if rows is None:
                plain.append(message)
                continue
            if plain:
                yield Batch(at, plain, plain[-1].offset() + 1)
                plain = []
            yield Batch(at, rows, message.offset() + 1)
        if plain:
            yield Batch(at, plain, plain[-1].offset() + 1)

    def _poison(self, message: Any) -> None:
        """Its headers cannot be read: it goes to each agent's policy in its turn, whatever the agent asks for."""
        at = TopicPartition(message.topic(), message.partition())
        for stream in [stream for streams in self._routes.get(at, ()) for stream in streams]:
            stream.queue.poisoned[position_of(at, message)] = UnreadableHeaders()

    def redeliver(self) -> None:
        """For a redo: every stream begins anew at what it has committed."""
        for stream in self.streams:
            stream.running = False
            stream.forget_message()
            stream.queue.reset({at: offset for at, offset in stream.committed.items() if at in self.active})
        self.uncut()
        for batches in self._kept.values():
            for batch in batches:
                self._give(batch)

    def _give(self, batch: Batch) -> None:
        for streams in self._routes.get(batch.at, ()):
            if len(streams) == 1:
                streams[0].queue.put(batch)
            elif streams:
                _deal(batch, streams)

    def cut(self) -> None:
        """No further records; batches that are being worked on end after the record at hand."""
        for stream in self.streams:
            stream.queue.cut_after(stream.message if stream.running else None)

    def uncut(self) -> None:
        """Records may be taken again."""
        for stream in self.streams:
            stream.queue.cut = False

    @property
    def moved(self) -> bool:
        """Whether some stream is further than the last commit says."""
        return any(stream.committed != stream.queue.progress() for stream in self.streams)

    def progress(self) -> dict[TopicPartition, int]:
        """The smallest offset any stream still needs, by partition; asked at a commit."""
        assert not any(stream.queue.inside for stream in self.streams), "a packed batch is a unit of progress"
        smallest: dict[TopicPartition, int] = {}
        for stream in self.streams:
            for at, offset in stream.queue.progress().items():
                if offset < smallest.get(at, offset + 1):
                    smallest[at] = offset
        return smallest

    def agent_offsets(self, progress: Mapping[TopicPartition, int]) -> dict[tuple[TopicPartition, str], int]:
        """(partition, agent) -> its own progress, where it is further than that."""
        return {
            (at, stream.progress_name): offset
            for stream in self.streams
            for at, offset in stream.queue.progress().items()
            if at in progress and offset != progress[at]
        }

    def begin(self, assignment: Assignment) -> None:
        """Set the offsets of single agents in freshly assigned partitions."""
        for at, start in assignment.starts.items():
            for stream in [stream for group in self._routes.get(at, ()) for stream in group]:
                offset = assignment.agent_offsets.get((at, stream.progress_name), start)
                stream.queue.offsets[at] = stream.committed[at] = offset

    def newly_handled(self) -> dict[str, int]:
        """Agent -> records that it has handled since the last commit; this one is through."""
        handled: dict[str, int] = {}
        for stream in self.streams:
            handled[stream.name] = handled.get(stream.name, 0) + stream.queue.newly_handled()
        return handled

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Kafka has committed: what lies below is not needed any more."""
        for stream in self.streams:
            stream.committed = dict(stream.queue.progress())
            if not stream.queue.poisoned:
                stream.queue.isolating = False
            if stream.queue.failures or stream.queue.poisoned:
                stream.queue.committed()
        for at, batches in self._kept.items():
            offset = offsets.get(at, 0)
            gone = 0
            while gone < len(batches) and batches[gone].end <= offset:
                gone += 1
            del batches[:gone]

    @property
    def isolating(self) -> bool:
        """Whether some stream goes record by record, because a record of it failed a moment ago."""
        return any(stream.queue.isolating for stream in self.streams)

    def isolate(self) -> bool:
        """Let all streams go record by record; False if they already do."""
        if all(stream.queue.isolating for stream in self.streams):
            return False
        for stream in self.streams:
            stream.queue.isolating = True
        return True

    def forget(self, gone: set[TopicPartition]) -> None:
        """Partitions are gone."""
        self.active -= gone
        for stream in self.streams:
            stream.queue.drop(gone)
            stream.committed = {at: offset for at, offset in stream.committed.items() if at not in gone}
        for at in gone:
            self._kept.pop(at, None)
            self._routes.pop(at, None)


def _runs(messages: list[Any], *, one_topic: bool) -> Iterable[tuple[TopicPartition, list[Any]]]:
    """Group records by partition; within one, their order stays. A message's accessors cost as much as decoding."""
    runs: dict[Any, list[Any]] = {}
    for at, run in groupby(messages, _partition_of if one_topic else _topic_and_partition_of):
        if at in runs:
            runs[at].extend(run)
        else:
            runs[at] = list(run)
    if one_topic:
        topic = messages[0].topic()
        return [(TopicPartition(topic, partition), run) for partition, run in runs.items()]
    return [(TopicPartition(*at), run) for at, run in runs.items()]


def _topic_and_partition_of(message: Any) -> tuple[str, int]:
    return message.topic(), message.partition()


def _deal(batch: Batch, streams: list[RecordFeed]) -> None:
    """Deal records to concurrent streams by key, so that order a key holds."""
    if batch.rows is not None:
        for stream, rows in zip(streams, _dealt(batch.rows, len(streams)), strict=True):
            stream.queue.put(Batch(batch.at, rows, batch.end))
        return
    hands: list[list[Any]] = [[] for _ in streams]
    for message in batch.messages:
        key = message.key()
        hands[zlib.crc32(key) % len(streams) if key else message.offset() % len(streams)].append(message)
    for stream, hand in zip(streams, hands, strict=True):
        stream.queue.put(Batch(batch.at, hand, batch.end))


def _dealt(rows: Rows, hands: int) -> list[Rows]:
    if rows.package.damage is not None:
        return [rows, *[rows.only(())] * (hands - 1)]
    numbers: list[list[int]] = [[] for _ in range(hands)]
    for number, key in enumerate(rows.package.open().keys()):
        numbers[zlib.crc32(key) % hands if key else number % hands].append(number)
    rows.package.close()  # until it is its turn
    return [rows.only(hand) for hand in numbers]
