"""How the inputs of a simulated world arrive: in parts, while its workers start and process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...topics import clock
from ...topics.admin import Admin
from ...topics.memory.memory_kafka import MemoryKafka
from ...topics.partitioners import HashPartitioner
from ...topics.producer import TransactionalProducer
from ...topics.topic_partition import TopicPartition
from ..replay_transaction import Transaction
from ..run_state import RunRegistry, RunState
from ..sources.source_record import SourceRecord
from ..target_topic import TargetTopic
from .virtual_loop import VirtualLoop
from .world_names import encoded, encoded_key

if TYPE_CHECKING:
    from ...agents.topic import Topic

__all__ = ["FEED_S", "Input", "WorldFeed"]

FEED_S = 1.5
"""How long records arrive, in seconds."""

_PARTS = 8

Records = Sequence[SourceRecord]


@dataclass(frozen=True, slots=True)
class Input:
    """A record of an input topic.

    Attributes:
        value, key: bytes, or what the app's declaration of the topic encodes.
        timestamp_ms: 0 for the time at which it arrives.
    """

    value: object
    key: object = None
    timestamp_ms: int = 0


class WorldFeed:
    """Sends inputs; to a bounded run in transactions, as a replay does.

    Args:
        choose: decides how the inputs are cut: called with a number, returns one from 0 that is below it.

    Attributes:
        waiting: number of parts that have not been sent yet.
        complete: set once everything is sent.
        ends: of a bounded run, partition -> the offset after its last record, once everything is sent.
    """

    def __init__(self, kafka: MemoryKafka, loop: VirtualLoop, choose: Callable[[int], int], *, bounded: bool) -> None:
        self._kafka, self._loop, self._choose, self._bounded = kafka, loop, choose, bounded
        self._replays: list[_Replay] = []
        self.waiting = 0
        self.complete = threading.Event()
        self.ends: dict[TopicPartition, int] = {}

    def add(self, topic: str, declared: Topic | None, inputs: Iterable[Input], *, packed: bool = False) -> None:
        """Let the records of a topic that exists arrive, the first ones while workers start.

        Args:
            packed: each part arrives as packed batches, one or more for each partition.

        Raises:
            Usage: packed batches for a compacted topic.
        """
        records: list[SourceRecord] = [
            (encoded_key(declared, one.key), encoded(declared, one.value), one.timestamp_ms, None, None)
            for one in inputs
        ]
        send = self._packing(topic, self._sender(topic)) if packed else self._sender(topic)

        def arrive(part: Records) -> None:
            send(part)
            self.waiting -= 1  # not before, for a call that blocks lets the time pass by
            if not self.waiting:
                for replay in self._replays:
                    self.ends |= replay.ends
                self.complete.set()

        cuts = sorted(self._choose(len(records) + 1) for _ in range(_PARTS - 1))
        for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
            if start < end:
                at_s = FEED_S * (end if start else self._choose(end)) / len(records)
                self.waiting += 1
                self._loop.call_at(at_s, arrive, records[start:end])

    def _sender(self, topic: str) -> Callable[[Records], None]:
        if self._bounded:
            self._replays.append(_Replay(self._kafka, topic))
            return self._replays[-1].send
        producer: Any = self._kafka.cluster().producer()

        def send(part: Records) -> None:
            for key, value, timestamp_ms, headers, partition in part:
                to = -1 if partition is None else partition
                producer.produce(topic, value, key, to, timestamp=timestamp_ms, headers=headers)
            producer.flush()

        return send

    def _packing(self, topic: str, send: Callable[[Records], None]) -> Callable[[Records], None]:
        # pyarrow and polars take a tenth of a second.
        from .packed_inputs import InputPacker

        target = TargetTopic.of(topic, Admin(self._kafka.cluster()).config(topic))
        packer = InputPacker(target, len(self._kafka.topics[topic].logs))
        return lambda part: send(list(packer.packed(part)))


class _Replay:
    """The replay of one input: each part is a transaction."""

    def __init__(self, kafka: MemoryKafka, topic: str) -> None:
        cluster = kafka.cluster()
        self._producer = TransactionalProducer(cluster, f"anabranch-replay-{topic}")
        self._runs = RunRegistry(cluster)
        self._target = TargetTopic.of(topic, Admin(cluster).config(topic))
        self._logs = kafka.topics[topic].logs
        self._partitioner = HashPartitioner(len(self._logs))
        now_ms = clock.now_ms()
        self._state = RunState(run_id=topic, topic=topic, specs=(), format={}, fingerprint="", started_ms=now_ms)
        self._runs.create()
        self._producer.open()

    def send(self, part: Records) -> None:
        """Send and commit records."""
        now_ms = clock.now_ms()
        work = Transaction(self._producer, self._runs, self._target, self._partitioner, self._state)
        work.send(part, now_ms)
        self._state = work.commit({}, done=False, now_ms=now_ms)

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """By partition, the offset after the last record; 0 for partitions without records.

        A partition with records has no other end than that of the replay's state: a simulation has to find it missing.
        """
        empty = {log.partition: 0 for log in self._logs if not log.records}
        ends = {**empty, **self._state.end_offsets}
        return {TopicPartition(self._state.topic, number): end for number, end in ends.items()}
