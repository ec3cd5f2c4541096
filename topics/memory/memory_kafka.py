"""Kafka in memory: topics, groups and transactions, behind the same clients.

    kafka = MemoryKafka()
    cluster = kafka.cluster()           # where the code under test takes a `Cluster`
    kafka.topics["orders"].logs[0]      # what a test looks at

One lock guards everything. No thread belongs to it: sessions, transactions and rebalances advance in the clients' own
calls, by `topics.clock`. Under a clock of its own (`clock.use`), waiting moves that clock.

`tests/contract/test_kafka*.py` hold it to the real Kafka. What differs on purpose:

- A producer sends each record at once, in a batch of its own. Nothing waits in its queue but records of topics that do
  not exist, so a batch is never too large as a whole.
- A record without a key goes to a random partition; librdkafka stays with one for a few milliseconds.
- `consume` returns as soon as there is anything; librdkafka waits until the batch is full or the time is over.
- Clients know new topics and partitions at once; only groups of the classic protocol wait for the refresh of metadata.
- A consumer sends heartbeats until it is closed, falls silent (`Client.fall_silent`) or is not polled for too long.
- Compaction and retention happen when `compact` is called.
- Calls and options that are not done raise `NotImplementedError` with their name.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, Node

from .. import clock
from ..identifiers import kafka_uuid
from .classic_group import ClassicGroup, Member
from .consumer_protocol_group import ConsumerProtocolGroup, IncrementalMember
from .failure import Refused
from .group_metadata import GroupMetadata
from .interceptor import Interceptor, PassThrough
from .memory_topic import Topic, check_name
from .offsets import GroupOffsets, Partition
from .partition_log import CREATE_TIME, LOG_APPEND_TIME, Headers, PartitionLog
from .transactions import OpenTransaction, Transactions

if TYPE_CHECKING:
    from confluent_kafka.admin import ClusterMetadata

    from .memory_cluster import MemoryCluster

__all__ = ["MemoryKafka"]

_NODE = 1
_HOST, _PORT = "memory", 9092

# The size of a batch with one record, beside its key, value and headers.
_BATCH_BYTES = 68

# How often a waiting call looks again by itself, for what happens by time alone.
_LOOK_S = 0.05


class MemoryKafka:
    """A Kafka of one broker.

    Attributes:
        topics: name -> topic.
        interceptor: sees all operations of all clients; a test replaces it.
        lock: guards everything that clients share.
        session_s: how long members of KIP-848's protocol may be silent, which the broker decides.
        version: grows with every change that a waiting client may wait for.
        topic_defaults: configuration of topics that are created without it.
    """

    def __init__(self) -> None:
        self.cluster_id = kafka_uuid()
        self.topics: dict[str, Topic] = {}
        self.interceptor: Interceptor = PassThrough()
        self.lock = threading.RLock()
        self.version = 0
        self.topic_defaults: Mapping[str, str] = {}
        self.groups: dict[str, ClassicGroup | ConsumerProtocolGroup] = {}
        self.session_s = 10.0
        self._offsets: dict[str, GroupOffsets] = {}
        self.transactions = Transactions(self.offsets)
        self._changed = threading.Condition(self.lock)
        self._waiting = 0
        self._due_s = 0.0

    def cluster(self, options: Mapping[str, str] | None = None, *, owner: object = None) -> MemoryCluster:
        """Return the cluster, whose clients work on this Kafka.

        Args:
            options: librdkafka options, as those of a `Cluster`.
            owner: what its clients carry as `owner`, such as the worker that uses them.
        """
        from .memory_cluster import MemoryCluster

        return MemoryCluster(f"{_HOST}:{_PORT}", dict(options or {}), kafka=self, owner=owner)

    # Time and waiting -----------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Wake waiting clients: something has changed (the lock is held)."""
        self.version += 1
        if self._waiting:
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until something has changed since version `seen`, or for a while; the one place where clients wait."""
        self.advance()
        seconds = min(seconds, max(0.001, self._due_s - clock.now_s()))
        if type(clock.current()) is not clock.Clock:
            if self.version == seen:
                clock.sleep(seconds)
            return
        with self.lock:
            if self.version == seen:
                self._waiting += 1
                try:
                    self._changed.wait(min(seconds, _LOOK_S))
                finally:
                    self._waiting -= 1

    def advance(self) -> None:
        """Do what is due by the clock: end sessions, rebalances and transactions."""
        now_s = clock.now_s()
        if now_s < self._due_s:
            return
        with self.lock:
            moved = self.transactions.expire(now_s)
            due_s = self.transactions.next_s()
            for group in self.groups.values():
                moved |= group.advance(now_s)
                due_s = min(due_s, group.next_s())
            # Deadlines that arise meanwhile are seen with a little delay.
            self._due_s = min(due_s, now_s + _LOOK_S)
            if moved:
                self.changed()

    # Topics ---------------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> Topic:
        """Create a topic.

        Raises:
            Refused: it exists, or its name, its partitions or its configuration are invalid.
        """
        check_name(name)
        with self.lock:
            if name in self.topics:
                raise Refused(KafkaError.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
            alike = next((other for other in self.topics if _folded(other) == _folded(name)), None)
            if alike is not None:
                raise Refused(KafkaError.TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topic: {alike}")
            topic = self.topics[name] = Topic(name, partitions, {**self.topic_defaults, **(config or {})})
            self.changed()
            return topic

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and the offsets that groups have committed in it.

        Raises:
            Refused: there is no such topic.
        """
        with self.lock:
            topic = self.topic(name)
            del self.topics[name]
            self.transactions.forget(topic.logs)
            for offsets in self._offsets.values():
                offsets.forget(name)
            self.changed()

    def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises:
            Refused: there is no such topic.
        """
        topic = self.topics.get(name)
        if topic is None:
            raise Refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return topic

    def log(self, topic: str, partition: int) -> PartitionLog:
        """Return the log of a partition.

        Raises:
            Refused: there is no such topic or partition.
        """
        logs = self.topic(topic).logs
        if not 0 <= partition < len(logs):
            raise Refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return logs[partition]

    def counts(self, names: Sequence[str]) -> dict[str, int]:
        """Return topic -> number of partitions, for those that exist."""
        return {name: len(self.topics[name].logs) for name in names if name in self.topics}

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None,
        timestamp_ms: int,
        transaction: OpenTransaction | None = None,
        *,
        compressed: bool = False,
    ) -> tuple[int, int, int]:
        """Append a record; return its offset, and the kind and the milliseconds of its timestamp (the lock is held).

        Args:
            compressed: whether its producer compresses, so that its size is that of the compressed record.

        Raises:
            Refused: the topic does not take the record.
        """
        found = self.topic(topic)
        log, config, now_ms = self.log(topic, partition), found.config, clock.now_ms()
        kind = LOG_APPEND_TIME if config.log_append_time else CREATE_TIME
        size = _BATCH_BYTES + len(key or b"") + len(value or b"")
        size += sum(len(name) + len(content or b"") + 2 for name, content in headers or ())
        if size > config.max_message_bytes and compressed:
            size = _BATCH_BYTES + len(zlib.compress((key or b"") + (value or b""), 1))
        if size > config.max_message_bytes:
            raise Refused(KafkaError.MSG_SIZE_TOO_LARGE)
        if key is None and config.compacted:
            raise Refused(KafkaError.INVALID_RECORD)
        if config.log_append_time:
            timestamp_ms = now_ms
        elif not -config.before_max_ms <= timestamp_ms - now_ms <= config.after_max_ms and timestamp_ms != -1:
            raise Refused(KafkaError.INVALID_TIMESTAMP)
        mark = None
        if transaction is not None:
            transaction.logs[log] = None
            mark = transaction.mark
        offset = log.append(key, value, headers, timestamp_ms, kind, now_ms, mark)
        self.changed()
        return offset, kind, timestamp_ms

    def compact(self) -> None:
        """Compact all compacted topics and delete what retention no longer keeps, as the cleaner would in time."""
        now_ms = clock.now_ms()
        with self.lock:
            for topic in self.topics.values():
                config = topic.config
                for log in topic.logs:
                    if config.deleted:
                        log.retain(now_ms, retention_ms=config.retention_ms, retention_bytes=config.retention_bytes)
                    if config.compacted:
                        log.compact(
                            now_ms, lag_ms=config.compaction_lag_ms, delete_retention_ms=config.delete_retention_ms
                        )

    # Groups ---------------------------------------------------------------------------------------------------------

    def classic_group(self, name: str) -> ClassicGroup:
        """Return a group of the classic protocol, which is created by its first member.

        Raises:
            Refused: its members have another protocol.
        """
        group = self.groups.get(name)
        if not isinstance(group, ClassicGroup):
            self._want_empty(group)
            group = self.groups[name] = ClassicGroup(name, self.counts)
        return group

    def consumer_protocol_group(self, name: str) -> ConsumerProtocolGroup:
        """Return a group of KIP-848's protocol, which is created by its first member.

        Raises:
            Refused: its members have another protocol.
        """
        group = self.groups.get(name)
        if not isinstance(group, ConsumerProtocolGroup):
            self._want_empty(group)
            group = ConsumerProtocolGroup(name, self.counts, session_s=self.session_s)
            self.groups[name] = group
        return group

    @staticmethod
    def _want_empty(group: ClassicGroup | ConsumerProtocolGroup | None) -> None:
        if group is not None and group.members:
            raise Refused(KafkaError.INCONSISTENT_GROUP_PROTOCOL)

    def offsets(self, group: str) -> GroupOffsets:
        """Return the committed offsets of a group."""
        found = self._offsets.get(group)
        if found is None:
            found = self._offsets[group] = GroupOffsets()
        return found

    def check_commit(
        self, member: GroupMetadata, partitions: Iterable[Partition], *, transactional: bool = False
    ) -> None:
        """Check a commit of offsets in the name of a member, or of none.

        Raises:
            Refused: the group has members and this is none of them, or its generation is over.
        """
        group = self.groups.get(member.group)
        if group is not None:
            group.check_commit(member, partitions, transactional=transactional)
        elif member.generation >= 0:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)

    def members(self, name: str) -> Sequence[Member | IncrementalMember]:
        """Return the members of a group, in the order in which they joined."""
        group = self.groups.get(name)
        return [] if group is None else list(group.members.values())

    def group_state(self, name: str) -> str:
        """Return the state of a group, by Kafka's name."""
        group = self.groups.get(name)
        return "EMPTY" if group is None else group.state

    def group_type(self, name: str) -> str:
        """Return the type of a group, by Kafka's name."""
        return "CONSUMER" if isinstance(self.groups.get(name), ConsumerProtocolGroup) else "CLASSIC"

    def known_groups(self) -> list[str]:
        """Return the names of all groups with members or committed offsets, in order."""
        with_offsets = {name for name, offsets in self._offsets.items() if offsets.committed}
        return sorted(with_offsets | self.groups.keys())

    def delete_group(self, name: str) -> None:
        """Delete a group without members, with its offsets.

        Raises:
            Refused: it has members, or there is none.
        """
        with self.lock:
            if name not in self.known_groups():
                raise Refused(KafkaError.GROUP_ID_NOT_FOUND)
            group = self.groups.get(name)
            if group is not None and group.members:
                raise Refused(KafkaError.NON_EMPTY_GROUP)
            self.groups.pop(name, None)
            self._offsets.pop(name, None)
            self.changed()

    # Metadata -------------------------------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The broker."""
        return Node(_NODE, _HOST, _PORT)

    def metadata(self, topic: str | None = None) -> ClusterMetadata:
        """Return the metadata of all topics, or of one."""
        from .metadata import cluster_metadata

        with self.lock:
            return cluster_metadata(self.cluster_id, (_NODE, _HOST, _PORT), self.topics, topic)


def _folded(name: str) -> str:
    """Return a name as metrics show it, in which dots and underscores are the same."""
    return name.replace(".", "_")
