"""When a bounded run is over: what was fed in has been consumed and committed, and what came of it, in every stage.

A stage's end is not known before the one above it is through. So it goes by end marks, stage by stage: first the marks
that the replays left; when the group's stable offsets have reached them, the ends of the other topics that the group
reads, as they are then, become the marks; and so on, as often as there are such topics, which is as long as a way
through them can be (cycles have no end, and are not looked for: they are ended like this as well). Each mark is a fixed
offset, so whoever else writes to these topics meanwhile does not keep the run from ending.

A committed offset stands at the last record, an end behind it counts transaction markers; whether there is a record in
between is seen by reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaException, TopicPartition

from ...topics import clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.consumer_groups import Groups
from ...topics.errors import Stop, from_kafka, is_unreachable, kafka_error, passes
from ...topics.partition_reader import read_to_end
from .verification import Counts

__all__ = ["Completion", "StageProgress"]

Key = tuple[str, int]

# More offsets than this behind the end cannot be markers alone; reading them would only be done to find records.
_MARKERS = 2_000
_READ_S = 2.0
_COMMITTED_S = 2.0


@dataclass(slots=True)
class StageProgress:
    """How one topic was worked off.

    Attributes:
        records: that were in it, those of others included.
        seconds: from the beginning of the run until its mark was reached.
    """

    topic: str
    records: int
    seconds: float

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds else 0.0


class Completion:
    """Watches the group of a bounded run.

    Args:
        group: its id.
        reads: the topics that the app is known to read; others are found by what the group commits.
        shared: others use group and topics as well, so that what was in repartition topics before is not ours.
    """

    def __init__(self, cluster: Cluster, group: str, reads: Collection[str], *, shared: bool = False) -> None:
        self.topics = set(reads)
        self._cluster, self._group = cluster, group
        self._admin = Admin(cluster)
        # Never subscribes, so it is no member. librdkafka's admin call for a group's offsets ends the process where the
        # coordinator moves or loads (confluentinc/librdkafka#5040), as it does just after a broker's start.
        self._offsets = cluster.consumer(group_id=group, isolation_level="read_committed")
        self._groups = Groups(cluster)
        self._empty: dict[Key, tuple[int, int]] = {}
        self._inputs: set[str] = set()
        self._marks: dict[Key, int] = {}
        self._round = 0
        self._begun_s = clock.now_s()
        self._through: dict[str, tuple[float, dict[Key, int]]] = {}
        # Where counting begins, and what tells a repartition topic that is in use from one that is left over.
        self._starts = self._ends(self._candidates()) if shared else dict[Key, int]()
        self.done_offsets = 0
        self.left_offsets = 0

    def expect(self, marks: Mapping[Key, int]) -> None:
        """Begin with inputs that have been written: offsets behind their last records, by topic and partition."""
        self._inputs |= {topic for topic, _ in marks}
        self._marks, self._round = dict(marks), 0

    @property
    def marks(self) -> dict[Key, int]:
        """The offsets that the group has to reach now, by topic and partition."""
        return self._marks

    def drained(self) -> bool:
        """Whether the run is over for now; updates `done_offsets` and `left_offsets` (markers counted) on the way."""
        while self._reached():
            self._note_through()
            if self._round >= len(self._others()):
                return True
            self._round += 1
            # The high watermarks, not the stable ends: a stable offset may be visible before the marker in a topic that
            # was written in the same transaction (KAFKA-10167).
            self._marks = self._ends(self._others())
        return False

    def count_ahead(self, counts: Counts) -> None:
        """Let what has to be worked off now be counted beside it."""
        counts.begin(self._starts_of(self._marks), self._marks)

    @property
    def spans(self) -> dict[Key, tuple[int, int]]:
        """What was worked off: partition -> the offset of its first record, and the one behind its last."""
        return {
            at: (self._starts.get(at, 0), mark) for _, marks in self._through.values() for at, mark in marks.items()
        }

    def stages(self, counts: Counts) -> list[StageProgress]:
        """The topics that are through, in the order in which they were."""
        return [
            StageProgress(topic, counts.between(self._starts_of(marks), marks), seconds)
            for topic, (seconds, marks) in sorted(self._through.items(), key=lambda entry: entry[1][0])
        ]

    def _starts_of(self, marks: Mapping[Key, int]) -> dict[Key, int]:
        return {at: self._starts.get(at, 0) for at in marks}

    def members(self) -> int:
        """How many workers the group has now."""
        return self._groups.size(self._group, while_moving=0)

    def _candidates(self) -> set[str]:
        """Topics that the group may read: what the app says, and repartition topics, ours or not."""
        return self.topics | {topic for topic in self._admin.partitions() if topic.endswith("-repartition")}

    def _others(self) -> set[str]:
        """What the group reads besides the inputs."""
        self.topics |= {topic for topic, _ in self._committed()}
        # Named after us, and written to, but not yet read by anybody.
        more = {topic for topic in self._candidates() - self.topics if self._group in topic}
        if more:
            ends = self._ends(more)
            self.topics |= {topic for (topic, p), end in ends.items() if end > self._starts.get((topic, p), 0)}
        return self.topics - self._inputs

    def _ends(self, topics: Collection[str]) -> dict[Key, int]:
        there = self._admin.partitions(topics) if topics else {}
        return self._admin.ends([TopicPartition(topic, p) for topic, n in there.items() for p in range(n)])

    def _reached(self) -> bool:
        marks = self._marks
        begins = self._admin.begins([TopicPartition(*at) for at in marks])
        committed = {**begins, **{at: offset for at, offset in self._committed().items() if at in marks}}
        self.done_offsets = sum(min(committed[at], mark) for at, mark in marks.items())
        self.left_offsets = sum(max(0, mark - committed[at]) for at, mark in marks.items())
        return all(self._nothing_between(at, committed[at], mark) for at, mark in marks.items())

    def _note_through(self) -> None:
        seconds = clock.now_s() - self._begun_s
        for topic in {topic for topic, _ in self._marks}:
            marks = {at: mark for at, mark in self._marks.items() if at[0] == topic}
            if topic not in self._through or marks != self._through[topic][1]:
                self._through[topic] = seconds, marks

    def _committed(self) -> dict[Key, int]:
        there = self._admin.partitions(self._candidates())
        at = [TopicPartition(topic, p) for topic, n in there.items() for p in range(n)]
        try:
            found = self._offsets.committed(at, timeout=_COMMITTED_S) if at else []
        except KafkaException as exc:
            error = kafka_error(exc)
            if is_unreachable(error) or passes(error):
                return {}  # a commit is under way, or the coordinator is just moving
            raise from_kafka(exc, "read committed offsets", servers=self._cluster.bootstrap_servers) from exc
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0 and p.error is None}

    def _nothing_between(self, at: Key, committed: int, end: int) -> bool:
        if committed >= end or self._empty.get(at) == (committed, end):
            return True
        if end - committed > _MARKERS:
            return False
        try:
            for run in read_to_end(self._cluster, {at: committed}, {at: end}, stalled_s=_READ_S):
                if any(message.offset() < end for message in run.messages):
                    return False
        except Stop:
            return False  # an open transaction stands before the end
        self._empty[at] = (committed, end)
        return True
