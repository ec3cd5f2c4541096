"""An admin client on a Kafka in memory, with confluent_kafka's methods. Its futures are done when they are returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    ConsumerGroupType,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    TopicPartitionInfo,
)
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ConsumerGroupDescription,
    ConsumerGroupListing,
    DeletedRecords,
    ListConsumerGroupsResult,
    ListOffsetsResultInfo,
    MemberAssignment,
    MemberDescription,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)

from .client import Client
from .failure import Refused, partition_with
from .offsets import Offset

if TYPE_CHECKING:
    from .memory_topic import Topic
    from .partition_log import PartitionLog

__all__ = ["MemoryAdmin"]

K = TypeVar("K")
T = TypeVar("T")
_NEWEST, _EARLIEST, _LATEST = (
    OffsetSpec.max_timestamp(),
    OffsetSpec.earliest(),
    OffsetSpec.latest(),
)


_NOT_DONE = frozenset(
    {
        "alter_user_scram_credentials",
        "create_acls",
        "delete_acls",
        "describe_acls",
        "describe_cluster",
        "describe_user_scram_credentials",
        "elect_leaders",
        "list_groups",
    }
)


class MemoryAdmin(Client):
    """An admin client."""

    def poll(self, timeout: float = -1) -> int:
        """Serve errors; return how many."""
        return self._serve_errors()

    def _each(self, operation: str, keys: Iterable[K], act: Callable[[K], T]) -> dict[K, Future[T]]:
        def every() -> dict[K, Future[T]]:
            self._kafka.advance()
            with self._kafka.lock:
                return {key: _done(act, key) for key in keys}

        return self._call(operation, every)

    # Topics ---------------------------------------------------------------------------------------------------------

    def create_topics(self, new_topics: Sequence[NewTopic], **options: object) -> dict[str, Future[None]]:
        """Create topics."""
        new = {topic.topic: topic for topic in new_topics}

        def create(name: str) -> None:
            topic: Any = new[name]
            if topic.replication_factor > 1:
                raise Refused(KafkaError.INVALID_REPLICATION_FACTOR)
            self._kafka.create_topic(name, topic.num_partitions, topic.config or {})

        return self._each("create_topics", new, create)

    def delete_topics(self, topics: Sequence[str], **options: object) -> dict[str, Future[None]]:
        """Delete topics."""
        return self._each("delete_topics", topics, self._kafka.delete_topic)

    def create_partitions(self, new_partitions: Sequence[NewPartitions], **options: object) -> dict[str, Future[None]]:
        """Add partitions to topics; consumers see them when they refresh their metadata."""
        totals: dict[str, Any] = {new.topic: new for new in new_partitions}

        def add(name: str) -> None:
            self._kafka.topic(name).add_partitions(totals[name].new_total_count)
            self._kafka.changed()

        return self._each("create_partitions", totals, add)

    def describe_topics(self, topics: TopicCollection, **options: object) -> dict[str, Future[TopicDescription]]:
        """Describe topics, with their ids."""

        def describe(name: str) -> TopicDescription:
            topic = self._kafka.topic(name)
            node: Any = self._kafka.node
            partitions: list[Any] = [TopicPartitionInfo(log.partition, node, [node], [node]) for log in topic.logs]
            return TopicDescription(name, topic.id, False, partitions)

        named: Any = topics
        return self._each("describe_topics", list(named.topic_names), describe)

    def describe_configs(
        self, resources: Sequence[ConfigResource], **options: object
    ) -> dict[ConfigResource, Future[dict[str, ConfigEntry]]]:
        """Describe the configuration of topics."""

        def describe(resource: ConfigResource) -> dict[str, ConfigEntry]:
            topic = self._configured(resource)
            return {
                name: ConfigEntry(
                    name,
                    value,
                    source=(
                        ConfigSource.DYNAMIC_TOPIC_CONFIG if name in topic.config.own else ConfigSource.DEFAULT_CONFIG
                    ),
                    is_default=name not in topic.config.own,
                )
                for name, value in topic.config.in_force().items()
            }

        return self._each("describe_configs", resources, describe)

    def alter_configs(
        self, resources: Sequence[ConfigResource], **options: object
    ) -> dict[ConfigResource, Future[None]]:
        """Replace the configuration of topics."""

        def alter(resource: ConfigResource) -> None:
            given: Any = resource
            topic = self._configured(resource)
            new: dict[str, str | None] = dict.fromkeys(topic.config.own)
            topic.config.change({**new, **given.set_config_dict})

        return self._each("alter_configs", resources, alter)

    def incremental_alter_configs(
        self, resources: Sequence[ConfigResource], **options: object
    ) -> dict[ConfigResource, Future[None]]:
        """Change some of the configuration of topics."""

        def alter(resource: ConfigResource) -> None:
            given: Any = resource
            topic, new = self._configured(resource), dict[str, str | None]()
            for entry in given.incremental_configs:
                if entry.incremental_operation == AlterConfigOpType.SET:
                    new[entry.name] = entry.value
                elif entry.incremental_operation == AlterConfigOpType.DELETE:
                    new[entry.name] = None
                else:
                    raise NotImplementedError("APPEND and SUBTRACT of incremental_alter_configs of Kafka in memory")
            topic.config.change(new)

        return self._each("incremental_alter_configs", resources, alter)

    def _configured(self, resource: ConfigResource) -> Topic:
        kind: Any = resource.restype
        if kind != ResourceType.TOPIC:
            raise NotImplementedError(f"the configuration of {kind} of Kafka in memory")
        return self._kafka.topic(str(resource.name))

    # Offsets --------------------------------------------------------------------------------------------------------

    def list_offsets(
        self,
        topic_partition_offsets: Mapping[TopicPartition, OffsetSpec],
        isolation_level: object = IsolationLevel.READ_UNCOMMITTED,
        **options: object,
    ) -> dict[TopicPartition, Future[ListOffsetsResultInfo]]:
        """List where partitions begin or end, or their first record at or after a time."""
        committed = isolation_level == IsolationLevel.READ_COMMITTED

        def find(at: TopicPartition) -> ListOffsetsResultInfo:
            try:
                log = self._kafka.log(at.topic, at.partition)
            except Refused:  # librdkafka asks for the leader of the partition first
                text = "Failed to query partition leaders: No leaders found"
                raise Refused(KafkaError._NOENT, text) from None  # pyright: ignore[reportPrivateUsage]
            return _listed(log, topic_partition_offsets[at], committed=committed)

        return self._each("list_offsets", topic_partition_offsets, find)

    def delete_records(
        self, topic_partition_offsets: Sequence[TopicPartition], **options: object
    ) -> dict[TopicPartition, Future[DeletedRecords]]:
        """Delete the records before an offset; -1 deletes all."""

        def delete(at: TopicPartition) -> DeletedRecords:
            log = self._kafka.log(at.topic, at.partition)
            before = log.end if at.offset == -1 else at.offset
            if not 0 <= before <= log.end:
                raise Refused(KafkaError.OFFSET_OUT_OF_RANGE)
            log.delete_before(before)
            self._kafka.changed()
            return DeletedRecords(log.start)

        return self._each("delete_records", topic_partition_offsets, delete)

    # Groups ---------------------------------------------------------------------------------------------------------

    def list_consumer_groups(self, **options: object) -> Future[ListConsumerGroupsResult]:
        """List the groups that have members or committed offsets."""

        def every(_: None) -> ListConsumerGroupsResult:
            found = [
                ConsumerGroupListing(
                    name,
                    False,
                    state=ConsumerGroupState[self._kafka.group_state(name)],
                    type=ConsumerGroupType[self._kafka.group_type(name)],
                )
                for name in self._kafka.known_groups()
            ]
            return ListConsumerGroupsResult(found, [])

        return self._each("list_consumer_groups", [None], every)[None]

    def describe_consumer_groups(
        self, group_ids: Sequence[str], **options: object
    ) -> dict[str, Future[ConsumerGroupDescription]]:
        """Describe groups and their members; the state of a group that does not exist is DEAD."""

        def describe(name: str) -> ConsumerGroupDescription:
            node: Any = self._kafka.node
            if name not in self._kafka.known_groups():
                return ConsumerGroupDescription(
                    name, True, [], "", ConsumerGroupState.DEAD, node, type=ConsumerGroupType.CLASSIC
                )
            members = [
                MemberDescription(
                    member.member_id,
                    member.client_id,
                    "/127.0.0.1",
                    MemberAssignment([TopicPartition(*at) for at in member.assignment]),
                    member.instance,
                )
                for member in self._kafka.members(name)
            ]
            return ConsumerGroupDescription(
                name,
                False,
                members,
                "range" if members else "",
                ConsumerGroupState[self._kafka.group_state(name)],
                node,
                type=ConsumerGroupType[self._kafka.group_type(name)],
            )

        return self._each("describe_consumer_groups", group_ids, describe)

    def delete_consumer_groups(self, group_ids: Sequence[str], **options: object) -> dict[str, Future[None]]:
        """Delete groups without members, with their offsets."""
        return self._each("delete_consumer_groups", group_ids, self._kafka.delete_group)

    def list_consumer_group_offsets(
        self, list_consumer_group_offsets_request: Sequence[ConsumerGroupTopicPartitions], **options: object
    ) -> dict[str, Future[ConsumerGroupTopicPartitions]]:
        """List the committed offsets of a group: of some partitions, or of all."""
        asked: dict[str, Any] = {str(of.group_id): of for of in list_consumer_group_offsets_request}

        def find(group: str) -> ConsumerGroupTopicPartitions:
            offsets = self._kafka.offsets(group)
            wanted = asked[group].topic_partitions
            every = sorted(offsets.committed) if wanted is None else [(at.topic, at.partition) for at in wanted]

            def found(at: tuple[str, int]) -> TopicPartition:
                if options.get("require_stable") and offsets.is_pending(at):
                    return partition_with(KafkaError.UNSTABLE_OFFSET_COMMIT, *at)
                return TopicPartition(*at, *(offsets.committed.get(at) or (OFFSET_INVALID, None)))

            return ConsumerGroupTopicPartitions(group, [found(at) for at in every])

        return self._each("list_consumer_group_offsets", asked, find)

    def alter_consumer_group_offsets(
        self, alter_consumer_group_offsets_request: Sequence[ConsumerGroupTopicPartitions], **options: object
    ) -> dict[str, Future[ConsumerGroupTopicPartitions]]:
        """Set the committed offsets of a group without members."""
        asked: dict[str, Any] = {str(of.group_id): of for of in alter_consumer_group_offsets_request}

        def alter(group: str) -> ConsumerGroupTopicPartitions:
            if self._kafka.members(group):
                raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
            new: list[TopicPartition] = asked[group].topic_partitions
            for at in new:
                self._kafka.log(at.topic, at.partition)
            offsets = {(at.topic, at.partition): Offset(at.offset, at.metadata or "") for at in new}
            self._kafka.offsets(group).commit(offsets)
            self._kafka.changed()
            return ConsumerGroupTopicPartitions(
                group, [TopicPartition(at.topic, at.partition, at.offset) for at in new]
            )

        return self._each("alter_consumer_group_offsets", asked, alter)

    def __getattr__(self, name: str) -> object:
        if name in _NOT_DONE:
            raise NotImplementedError(f"{name} of the admin client of Kafka in memory")
        raise AttributeError(name)


def _listed(log: PartitionLog, spec: object, *, committed: bool) -> ListOffsetsResultInfo:
    end = log.last_stable if committed else log.end
    if spec is _EARLIEST:
        return ListOffsetsResultInfo(log.start, -1, 0)
    if spec is _LATEST:
        return ListOffsetsResultInfo(end, -1, 0)
    if spec is _NEWEST:
        record = log.newest()
    else:
        timed: Any = spec
        record = log.since(timed.timestamp, committed=committed)
    return (
        ListOffsetsResultInfo(-1, -1, -1)
        if record is None
        else ListOffsetsResultInfo(record.offset, record.timestamp_ms, 0)
    )


def _done(act: Callable[[K], T], key: K) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(act(key))
    except Refused as exc:
        future.set_exception(KafkaException(exc.error))
    except NotImplementedError as exc:
        future.set_exception(exc)
    return future
