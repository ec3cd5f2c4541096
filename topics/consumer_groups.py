"""Consumer groups as the cluster knows them: who is in one, where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from .admin import Admin
from .cluster import Cluster
from .errors import from_kafka, kafka_error

__all__ = ["Groups"]

_TIMEOUT_S = 15.0

Key = tuple[str, int]


class Groups:
    """Blocking questions about groups; every one raises `Stop` with a hint where no broker answers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kafka = cluster.admin()

    def members(self, group: str) -> int:
        """How many consumers are in it; 0 for a group that nobody has heard of."""
        try:
            found = self._kafka.describe_consumer_groups([group], request_timeout=_TIMEOUT_S)[group].result()
        except KafkaException as exc:
            if kafka_error(exc).code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise self._sorted(exc, f"describe group {group}") from exc
        return len(found.members)

    def offsets(self, group: str) -> dict[Key, tuple[int, str]]:
        """(topic, partition) -> committed offset and its metadata."""
        # By a consumer that never subscribes: librdkafka's admin call for it ends the process where the coordinator
        # moves or loads (confluentinc/librdkafka#5040).
        consumer: Any = self._cluster.consumer(group_id=group)
        try:
            there = consumer.list_topics(timeout=_TIMEOUT_S).topics
            asked = [TopicPartition(name, number) for name, topic in there.items() for number in topic.partitions]
            found = consumer.committed(asked, timeout=_TIMEOUT_S) if asked else []
        except KafkaException as exc:
            raise self._sorted(exc, f"offsets of group {group}") from exc
        finally:
            consumer.close()
        return {(p.topic, p.partition): (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def begin_at_ends(self, group: str, topics: Iterable[str]) -> None:
        """Set the offsets of a group without members to the last stable ones, in topics in which it has none."""
        admin, known = Admin(self._cluster), {topic for topic, _ in self.offsets(group)}
        counts = admin.partitions(set(topics) - known)
        every = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        ends = admin.ends(every, committed=True)
        if not ends:
            return
        consumer: Any = self._cluster.consumer(group_id=group)
        try:
            consumer.commit(offsets=[TopicPartition(*at, end) for at, end in ends.items()], asynchronous=False)
        except KafkaException as exc:
            raise self._sorted(exc, f"offsets of group {group}") from exc
        finally:
            consumer.close()

    def metadata(self, group: str) -> Any:
        """What a transaction needs in order to set the offsets of a group without members."""
        consumer = self._cluster.consumer(group_id=group)
        try:
            return consumer.consumer_group_metadata()
        finally:
            consumer.close()

    def _sorted(self, exc: KafkaException, doing: str) -> Exception:
        return from_kafka(exc, doing, servers=self._cluster.bootstrap_servers)
