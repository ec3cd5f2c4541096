"""Consumer groups as the cluster knows them: number of members, committed offsets.

`Admin.members` returns the partitions of each member; it retries while a group rebalances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from .admin import TIMEOUT_S, Admin, answer_of
from .cluster import Cluster
from .errors import AnabranchError, from_kafka, kafka_error, passes
from .topic_partition import TopicPartition

if TYPE_CHECKING:
    from confluent_kafka.cimpl import Consumer

__all__ = ["ConsumerGroups"]


class ConsumerGroups:
    """Blocking calls about consumer groups. Each raises `Stop` with a hint if no broker answers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kafka = cluster.admin()

    def size(self, group: str, *, while_moving: int | None = None) -> int:
        """Return the number of members of a group; 0 for a group that does not exist.

        Args:
            while_moving: returned while the group's coordinator loads or moves; None raises then.
        """
        try:
            found = answer_of(self._kafka.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group])
        except KafkaException as exc:
            error = kafka_error(exc)
            if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            if while_moving is not None and passes(error):
                return while_moving
            raise self._sorted(exc, f"describe group {group}") from exc
        return len(found.members)

    def names(self) -> list[str]:
        """Return the ids of the cluster's groups."""
        try:
            found = answer_of(self._kafka.list_consumer_groups(request_timeout=TIMEOUT_S))
        except KafkaException as exc:
            raise self._sorted(exc, "groups") from exc
        return [listed.group_id for listed in found.valid or ()]

    def offsets(self, group: str, of: Mapping[str, int] | None = None) -> dict[TopicPartition, tuple[int, str]]:
        """Return (topic, partition) -> committed offset and its metadata.

        Args:
            of: topic -> number of its partitions; None: all topics.
        """
        # By a consumer that never subscribes: librdkafka's admin call for it ends the process while the coordinator
        # moves or loads (confluentinc/librdkafka#5040).
        consumer = self._consumer(group)
        try:
            if of is None:
                topics = consumer.list_topics(timeout=TIMEOUT_S).topics
                of = {name: len(topic.partitions) for name, topic in topics.items()}
            partitions = [KafkaPartition(name, number) for name, count in of.items() for number in range(count)]
            found = consumer.committed(partitions, timeout=TIMEOUT_S) if partitions else []
        except KafkaException as exc:
            raise self._sorted(exc, f"offsets of group {group}") from exc
        finally:
            consumer.close()
        return {TopicPartition(p.topic, p.partition): (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def begin_at(self, group: str, topics: Iterable[str], start: Literal["earliest", "latest"]) -> None:
        """Commit the first or the last stable offsets for a group without members, where a topic has no offsets."""
        admin, known = Admin(self._cluster), {topic for topic, _ in self.offsets(group)}
        counts = admin.partitions(set(topics) - known)
        every = [KafkaPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        starts = admin.begins(every) if start == "earliest" else admin.ends(every, committed=True)
        if not starts:
            return
        consumer = self._consumer(group)
        try:
            consumer.commit(offsets=[KafkaPartition(*at, offset) for at, offset in starts.items()], asynchronous=False)
        except KafkaException as exc:
            raise self._sorted(exc, f"offsets of group {group}") from exc
        finally:
            consumer.close()

    def metadata(self, group: str) -> object:
        """Return what a transaction needs to commit offsets for a group without members."""
        consumer = self._consumer(group)
        try:
            return consumer.consumer_group_metadata()
        finally:
            consumer.close()

    def _consumer(self, group: str) -> Consumer:
        return self._cluster.consumer(group_id=group)

    def _sorted(self, exc: KafkaException, doing: str) -> AnabranchError:
        return from_kafka(exc, doing, servers=self._cluster.bootstrap_servers)
