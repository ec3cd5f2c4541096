"""When a bounded run is over: everything that was produced has been consumed and committed, in every stage.

A stage's end is not known before the one above has ended, so nothing is counted in advance. Instead: ends, committed
offsets, ends again. Where both readings of the ends agree and each partition is committed up to its end, nothing was
under way in between, and nothing can start by itself: the run's topics are its own. A committed offset stands at the
last record, the end behind it counts transaction markers; whether there is a record in between is seen by reading.
"""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ..topics.admin import Admin
from ..topics.client import Cluster
from ..topics.errors import Stop, from_kafka, is_unreachable, kafka_error, passes
from ..topics.reading import read_to_end

__all__ = ["Drain"]

Key = tuple[str, int]

# More offsets than this behind the end cannot be markers alone; reading them would only be done to find records.
_MARKERS = 2_000
_READ_S = 2.0
_CALL_S = 10.0


class Drain:
    """Watches the group of a bounded run.

    Args:
        group: its id.
        topics: what the app is known to read; repartition topics are found by what the group commits.
    """

    def __init__(self, cluster: Cluster, group: str, topics: list[str]) -> None:
        self.topics = set(topics)
        self._cluster, self._group = cluster, group
        self._admin = Admin(cluster)
        # Never subscribes, so it is no member. librdkafka's admin call for a group's offsets ends the process where the
        # coordinator moves or loads (confluentinc/librdkafka#5040), as it does just after a broker's start.
        self._offsets = Consumer(cluster.config(group_id=group, enable_auto_commit=False))
        self._empty: dict[Key, tuple[int, int]] = {}
        self.done_offsets = 0
        self.left_offsets = 0

    def drained(self) -> bool:
        """Whether the run is over for now; updates `done_offsets` and `left_offsets` (markers counted) on the way."""
        committed = self._committed()
        self.topics |= {topic for topic, _ in committed}
        partitions = [
            TopicPartition(topic, p) for topic, n in self._admin.partitions(self.topics).items() for p in range(n)
        ]
        ends = self._admin.ends(partitions)
        begins = self._admin.begins(partitions)
        # Read after the ends, so that what is committed cannot be older than what is compared with it.
        committed = {**begins, **self._committed()}
        self.done_offsets = sum(committed.values())
        self.left_offsets = sum(end - committed[at] for at, end in ends.items())
        if not all(self._nothing_between(at, committed[at], end) for at, end in ends.items()):
            return False
        return self._admin.ends(partitions) == ends

    def _committed(self) -> dict[Key, int]:
        try:
            there = self._offsets.list_topics(timeout=_CALL_S).topics
            # Topics between stages carry the group's name.
            names = [name for name in there if name in self.topics or name.startswith(f"{self._group}-")]
            asked = [TopicPartition(name, number) for name in names for number in there[name].partitions]
            found = self._offsets.committed(asked, timeout=_CALL_S) if asked else []
        except KafkaException as exc:
            error = kafka_error(exc)
            if passes(error) or is_unreachable(error):
                return {}  # the coordinator is not there yet, or an offset is being committed just now
            raise from_kafka(exc, "read committed offsets", servers=self._cluster.bootstrap_servers) from exc
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0 and p.error is None}

    def _nothing_between(self, at: Key, committed: int, end: int) -> bool:
        if committed >= end or self._empty.get(at) == (committed, end):
            return True
        if end - committed > _MARKERS:
            return False
        try:
            for run in read_to_end(self._cluster, {at: committed}, {at: end}, stalled_s=_READ_S):
                if run.messages:
                    return False
        except Stop:
            return False  # an open transaction stands before the end
        self._empty[at] = (committed, end)
        return True
