"""A consumer's questions about offsets: committed ones, watermarks, and those of times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from confluent_kafka import OFFSET_END, KafkaError, TopicPartition

from .failure import Refused, failure, partition_with
from .group_metadata import GroupMetadata
from .offsets import Offset, Partition

if TYPE_CHECKING:
    from .memory_kafka import MemoryKafka

__all__ = ["ConsumerOffsets"]


class _Membership(Protocol):
    fatal: KafkaError | None

    @property
    def metadata(self) -> GroupMetadata: ...


class ConsumerOffsets:
    """Asks the broker about offsets for a consumer.

    Args:
        committed: whether the consumer reads only committed records.
    """

    def __init__(self, kafka: MemoryKafka, group: str, *, committed: bool) -> None:
        self._kafka, self._group, self._committed = kafka, group, committed

    def committed(self, wanted: list[Partition]) -> list[TopicPartition] | None:
        """Return committed offsets and their metadata; None while an open transaction contains any of them."""
        self._kafka.advance()
        with self._kafka.lock:
            offsets = self._kafka.offsets(self._group)
            if self._committed and any(map(offsets.is_pending, wanted)):
                return None
            found = [(at, offsets.committed.get(at)) for at in wanted]
        return [
            TopicPartition(*at, offset.offset, offset.metadata) if offset else TopicPartition(*at)
            for at, offset in found
        ]

    def commit(self, membership: _Membership, offsets: dict[Partition, Offset]) -> list[TopicPartition]:
        """Commit offsets and return them, with an error where there is no such partition.

        Raises:
            Refused: the group takes none of them.
        """
        kafka = self._kafka
        if membership.fatal is not None:
            raise Refused(KafkaError._FATAL)  # pyright: ignore[reportPrivateUsage]
        if not any(offset.offset >= 0 for offset in offsets.values()):
            raise Refused(KafkaError._NO_OFFSET)  # pyright: ignore[reportPrivateUsage]
        kafka.advance()
        with kafka.lock:
            kafka.check_commit(membership.metadata, offsets)
            there = {at: offset for at, offset in offsets.items() if offset.offset >= 0 and self._exists(at)}
            if not there:
                raise Refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
            kafka.offsets(self._group).commit(there)
            kafka.changed()
        return [
            TopicPartition(*at, offset.offset, offset.metadata)
            if at in there
            else partition_with(KafkaError.UNKNOWN_TOPIC_OR_PART, *at, offset.offset)
            for at, offset in offsets.items()
        ]

    def _exists(self, at: Partition) -> bool:
        topic = self._kafka.topics.get(at[0])
        return topic is not None and at[1] < len(topic.logs)

    def watermarks(self, at: Partition) -> tuple[int, int]:
        """Return where a partition begins and ends for this consumer.

        Raises:
            KafkaException: there is no such partition.
        """
        with self._kafka.lock:
            try:
                log = self._kafka.log(*at)
            except Refused:
                raise failure(KafkaError._UNKNOWN_PARTITION) from None  # pyright: ignore[reportPrivateUsage]
            return log.start, log.last_stable if self._committed else log.end

    def for_times(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Return the first offset at or after a time, given as the partitions' offsets; -1 if there is none."""
        found: list[TopicPartition] = []
        with self._kafka.lock:
            for at in partitions:
                try:
                    log = self._kafka.log(at.topic, at.partition)
                except Refused as exc:
                    found.append(partition_with(exc.code, at.topic, at.partition))
                    continue
                record = log.since(at.offset, committed=self._committed)
                found.append(TopicPartition(at.topic, at.partition, record.offset if record else OFFSET_END))
        return found
