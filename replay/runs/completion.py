"""How a bounded run knows that it is over: everything has been consumed and committed, in its inputs and downstream.

The end of a downstream topic is not known before the topics upstream of it are processed. So completion advances from
topic to topic by end offsets:

1. The first end offsets are those that the replays produced: in each input, the offset after the last record.
2. When the group's stable offsets have reached them, the present ends of the other topics that the group reads become
   the end offsets.
3. This repeats as often as there are such topics, because no path through them is longer. (Cycles have no end; they are
   not detected, and completion ends here for them as well.)

Each end offset is fixed, so producers that write to these topics meanwhile do not keep the run from ending.

A committed offset is that after the last record, while an end offset also counts the transaction markers behind it.
Whether a record lies between the two is found by reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.consumer_groups import ConsumerGroups
from ...topics.errors import Stop, from_kafka, is_unreachable, kafka_error, passes
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition
from ..record_counts import BackgroundCounts
from .run_report import TopicProgress

__all__ = ["Completion"]


# More offsets than this before the end cannot all be transaction markers, so there is no need to read them.
_MAX_MARKERS = 2_000
_READ_S = 2.0
_COMMITTED_S = 2.0


class Completion:
    """Watches the consumer group of a bounded run until it is over.

    Args:
        group: the group's id.
        reads: the topics that the app is known to read; others are found by what the group commits.
        shared: the group and its topics are used by others too, so what its repartition topics held before does not
            belong to the run.

    Attributes:
        topics: the topics that the group reads, as far as they are known.
        done_offsets, left_offsets: of the present end offsets, how much is committed and how much is left (transaction
            markers included), as of the last call of `is_complete`.
    """

    def __init__(self, cluster: Cluster, group: str, reads: Collection[str], *, shared: bool = False) -> None:
        self.topics = set(reads)
        self._cluster, self._group = cluster, group
        self._admin = Admin(cluster)
        # A consumer that never subscribes, so it is no member of the group. librdkafka's admin call for a group's
        # offsets ends the process where the coordinator moves or loads (confluentinc/librdkafka#5040), as it does just
        # after a broker has started.
        self._offsets = cluster.consumer(group_id=group, isolation_level="read_committed")
        self._groups = ConsumerGroups(cluster)
        self._empty: dict[TopicPartition, tuple[int, int]] = {}
        self._inputs: set[str] = set()
        self._end_offsets: dict[TopicPartition, int] = {}
        self._round = 0
        self._begun_s = clock.now_s()
        self._begun: dict[str, float] = {}
        self._processed: dict[str, tuple[float, dict[TopicPartition, int]]] = {}
        # Where counting begins; also distinguishes a repartition topic in use from a left-over one.
        self._starts = self._ends(self._candidates()) if shared else dict[TopicPartition, int]()
        self.done_offsets = 0
        self.left_offsets = 0

    def begin(self, end_offsets: Mapping[TopicPartition, int]) -> None:
        """Start with inputs that have been produced.

        Args:
            end_offsets: by topic and partition, the offset after the last record.
        """
        self._inputs |= {topic for topic, _ in end_offsets}
        self._end_offsets, self._round = dict(end_offsets), 0

    def begin_phase(self) -> None:
        """Measure the time of the topics that are processed from now on from here."""
        self._begun_s = clock.now_s()

    def progress(self) -> tuple[int, int]:
        """Return how many offsets the group has committed and how many are left up to the present ends (blocking)."""
        committed = {at: offset for at, offset in self._committed().items() if at.topic in self.topics}
        ends = self._ends(self.topics)
        done = sum(min(committed.get(at, 0), end) - self._starts.get(at, 0) for at, end in ends.items())
        return max(0, done), sum(max(0, end - committed.get(at, self._starts.get(at, 0))) for at, end in ends.items())

    @property
    def end_offsets(self) -> dict[TopicPartition, int]:
        """The offsets that the group has to commit next, by topic and partition."""
        return self._end_offsets

    def is_complete(self) -> bool:
        """Return whether the group has processed everything; updates `done_offsets` and `left_offsets` (blocking)."""
        while self._reached():
            self._note_processed()
            if self._round >= len(self._downstream()):
                return True
            self._round += 1
            # The high watermarks, not the stable ends: a stable offset may be visible before the marker in a topic that
            # was written in the same transaction (KAFKA-10167).
            self._end_offsets = self._ends(self._downstream())
        return False

    def count_ahead(self, counts: BackgroundCounts) -> None:
        """Start to count the records up to the present end offsets in the background."""
        counts.begin(self._starts_of(self._end_offsets), self._end_offsets)

    @property
    def offset_ranges(self) -> dict[TopicPartition, tuple[int, int]]:
        """The offset ranges that were processed, by topic and partition."""
        return {at: (self._starts.get(at, 0), end) for _, ends in self._processed.values() for at, end in ends.items()}

    def processed(self, counts: BackgroundCounts) -> list[TopicProgress]:
        """Return the topics that were processed, in the order in which they finished (blocking)."""
        return [
            TopicProgress(topic, counts.between(self._starts_of(ends), ends), seconds)
            for topic, (seconds, ends) in sorted(
                self._processed.items(), key=lambda entry: self._begun.get(entry[0], 0.0) + entry[1][0]
            )
        ]

    def members(self) -> int:
        """Return how many workers the group has now (blocking)."""
        return self._groups.size(self._group, while_moving=0)

    def _starts_of(self, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return {at: self._starts.get(at, 0) for at in ends}

    def _candidates(self) -> set[str]:
        """Return the topics that the group may read: those that the app names, and all repartition topics."""
        return self.topics | {topic for topic in self._admin.partitions() if topic.endswith("-repartition")}

    def _downstream(self) -> set[str]:
        """Return the topics that the group reads besides the inputs."""
        self.topics |= {topic for topic, _ in self._committed()}
        # A topic named after the group that has records and that no agent has read yet.
        more = {topic for topic in self._candidates() - self.topics if self._group in topic}
        if more:
            ends = self._ends(more)
            self.topics |= {at.topic for at, end in ends.items() if end > self._starts.get(at, 0)}
        return self.topics - self._inputs

    def _ends(self, topics: Collection[str]) -> dict[TopicPartition, int]:
        there = self._admin.partitions(topics) if topics else {}
        return self._admin.ends([KafkaPartition(topic, p) for topic, n in there.items() for p in range(n)])

    def _reached(self) -> bool:
        ends = self._end_offsets
        begins = self._admin.begins([KafkaPartition(*at) for at in ends])
        committed = {**begins, **{at: offset for at, offset in self._committed().items() if at in ends}}
        self.done_offsets = sum(min(committed[at], end) for at, end in ends.items())
        self.left_offsets = sum(max(0, end - committed[at]) for at, end in ends.items())
        return all(self._nothing_between(at, committed[at], end) for at, end in ends.items())

    def _note_processed(self) -> None:
        now_s = clock.now_s()
        for topic in {topic for topic, _ in self._end_offsets}:
            ends = {at: end for at, end in self._end_offsets.items() if at[0] == topic}
            if topic not in self._processed or ends != self._processed[topic][1]:
                # A topic of several phases has all their records, and so the time since the first of them.
                empty = all(end <= self._starts.get(at, 0) for at, end in ends.items())
                begun_s = now_s if empty else self._begun.setdefault(topic, self._begun_s)
                self._processed[topic] = now_s - begun_s, ends

    def _committed(self) -> dict[TopicPartition, int]:
        there = self._admin.partitions(self._candidates())
        at = [KafkaPartition(topic, p) for topic, n in there.items() for p in range(n)]
        try:
            found = self._offsets.committed(at, timeout=_COMMITTED_S) if at else []
        except KafkaException as exc:
            error = kafka_error(exc)
            if is_unreachable(error) or passes(error):
                return {}  # a commit is under way, or the coordinator is moving
            raise from_kafka(exc, "read committed offsets", servers=self._cluster.bootstrap_servers) from exc
        return {TopicPartition(p.topic, p.partition): p.offset for p in found if p.offset >= 0 and p.error is None}

    def _nothing_between(self, at: TopicPartition, committed: int, end: int) -> bool:
        """Return whether no record lies from the committed offset to the end offset (blocking)."""
        if committed >= end or self._empty.get(at) == (committed, end):
            return True
        if end - committed > _MAX_MARKERS:
            return False
        try:
            for run in read_to_end(self._cluster, {at: committed}, {at: end}, stalled_s=_READ_S):
                if any(message.offset() < end for message in run.messages):
                    return False
        except Stop:
            return False  # a transaction is open before the end
        self._empty[at] = (committed, end)
        return True
