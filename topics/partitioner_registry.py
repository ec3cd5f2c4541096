"""The partitioners of topics that are not partitioned by hash, kept in a compacted topic of the same cluster.

    topic   anabranch-partitioners, one partition, cleanup.policy=compact
    key     name of the topic
    value   JSON {"topic_id": …, "splits": [base64 of each split point]}

An entry belongs to a topic's id, so a topic that is deleted and created again has none. It is written once, when the
topic is created, and cannot be changed: the records that are in the topic would be in the wrong partitions. A topic
without an entry is partitioned by hash. Producers that do not know this topic put records elsewhere; all parts of this
project look it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from confluent_kafka import KafkaException

from .admin import Admin, TopicSpec
from .cluster import Cluster
from .errors import Stop, Usage, from_kafka
from .partition_reader import read_to_end
from .partitioners import HashPartitioner, Partitioner, RangePartitioner

__all__ = ["PARTITIONERS_TOPIC", "PartitionerRegistry"]

PARTITIONERS_TOPIC = "anabranch-partitioners"
_FLUSH_S = 30.0


class _Entry(msgspec.Struct, frozen=True):
    topic_id: str
    splits: tuple[bytes, ...]


class PartitionerRegistry:
    """The partitioners of a cluster's topics; all calls block.

    Args:
        admin: the client to use; None makes one.
    """

    def __init__(self, cluster: Cluster, admin: Admin | None = None) -> None:
        self._cluster = cluster
        self._admin = admin or Admin(cluster)

    def of(self, topics: Iterable[str] | None = None) -> dict[str, RangePartitioner]:
        """Return topic -> partitioner for those of `topics` (None: of all topics) that are partitioned by range.

        Raises:
            Stop: the entry of one of them cannot be read.
        """
        if PARTITIONERS_TOPIC not in self._admin.partitions([PARTITIONERS_TOPIC]):
            return {}
        entries = self._entries()
        there = self._admin.partitions(entries if topics is None else set(topics) & entries.keys())
        ids = self._admin.topic_ids(there) if there else {}
        partitioners: dict[str, RangePartitioner] = {}
        for topic in there:
            found = entries[topic]
            if isinstance(found, str):
                raise Stop(
                    f"topic {topic}: its partitioner cannot be read: {found}",
                    hint="without it the partitions of its keys are unknown. Produce its last valid entry again, or, "
                    "if "
                    "the topic is partitioned by hash, a tombstone, with the topic's name as the key",
                )
            if found.topic_id == ids[topic]:
                partitioners[topic] = RangePartitioner(found.splits)
        return partitioners

    def check(self, topic: str, partitions: int, declared: Partitioner | None) -> Partitioner:
        """Return the partitioner of a topic that exists.

        Raises:
            Usage: it is not the declared one.
        """
        found = self.of([topic]).get(topic, HashPartitioner(partitions))
        if declared is None or declared == found:
            return found
        if (
            found == HashPartitioner(declared.partitions)
            and isinstance(declared, RangePartitioner)
            and self._is_empty(topic, found)
        ):
            self._write(topic, declared)  # whoever created the topic died before writing the entry
            return declared
        raise _differs(topic, found, declared)

    def create(self, spec: TopicSpec, partitioner: Partitioner) -> None:
        """Create a topic and write its entry.

        Raises:
            Usage: somebody else has created the topic meanwhile, with another partitioner.
            Stop: the entry cannot be written.
        """
        if self._admin.create([spec]) and isinstance(partitioner, RangePartitioner):
            self._write(spec.name, partitioner)
        else:
            self.check(spec.name, spec.partitions, partitioner)

    def agree(self, declared: Sequence[tuple[TopicSpec, RangePartitioner]]) -> dict[str, RangePartitioner]:
        """Create declared topics, or check those that exist; return topic -> partitioner.

        Raises:
            Usage: a topic exists with another partitioner.
        """
        there = self._admin.partitions([spec.name for spec, _ in declared])
        for spec, partitioner in declared:
            if spec.name in there:
                self.check(spec.name, there[spec.name], partitioner)
            else:
                self.create(spec, partitioner)
        return {spec.name: partitioner for spec, partitioner in declared}

    def compare(self, declared: Sequence[tuple[TopicSpec, RangePartitioner]]) -> dict[str, RangePartitioner]:
        """Check those declared topics that exist, and create or write nothing; return topic -> partitioner.

        Raises:
            Usage: a topic exists with another partitioner.
        """
        found = self.of([spec.name for spec, _ in declared])
        there = self._admin.partitions([spec.name for spec, _ in declared])
        for spec, partitioner in declared:
            if spec.name in there and found.get(spec.name) != partitioner:
                raise _differs(spec.name, found.get(spec.name, HashPartitioner(there[spec.name])), partitioner)
        return {spec.name: partitioner for spec, partitioner in declared}

    def _is_empty(self, topic: str, partitioner: Partitioner) -> bool:
        """Return whether a topic has never had a record."""
        _, ends = self._admin.spans((topic, partition) for partition in range(partitioner.partitions))
        return not any(ends.values())

    def _write(self, topic: str, partitioner: RangePartitioner) -> None:
        self._admin.create([TopicSpec(PARTITIONERS_TOPIC, 1, -1, {"cleanup.policy": "compact"})])
        entry = _Entry(self._admin.topic_ids([topic])[topic], partitioner.splits)
        failed: list[KafkaException] = []
        producer = self._cluster.producer(linger_ms=0)
        producer.produce(
            PARTITIONERS_TOPIC,
            msgspec.json.encode(entry),
            topic,
            on_delivery=lambda error, _: failed.append(KafkaException(error)) if error is not None else None,
        )
        if producer.flush(_FLUSH_S):
            raise Stop(f"the partitioner of topic {topic} could not be written", hint="is the broker up?")
        if failed:
            servers = self._cluster.bootstrap_servers
            raise from_kafka(failed[0], f"write the partitioner of topic {topic}", servers=servers)

    def _entries(self) -> Mapping[str, _Entry | str]:
        """Return topic -> its entry, or why it cannot be read."""
        begins, ends = self._admin.spans([(PARTITIONERS_TOPIC, 0)])
        entries: dict[str, _Entry | str] = {}
        for run in read_to_end(self._cluster, begins, ends):
            for message in run.messages:
                topic = (message.key() or b"").decode(errors="replace")
                if message.value() is None:
                    entries.pop(topic, None)
                    continue
                try:
                    entries[topic] = msgspec.json.decode(message.value(), type=_Entry)
                except (msgspec.MsgspecError, RecursionError) as exc:
                    entries[topic] = f"{PARTITIONERS_TOPIC}[0]@{message.offset()}: {exc}"
        return entries


def _differs(topic: str, found: Partitioner, declared: Partitioner) -> Usage:
    return Usage(
        f"topic {topic} is partitioned by {found}, not by {declared}",
        hint="the partitioner of a topic cannot be changed: replay the topic into a new one",
    )
