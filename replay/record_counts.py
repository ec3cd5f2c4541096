"""Counts of the committed records in topics, found by reading them: transaction markers occupy offsets too.

A bounded run counts its topics to verify that they hold every record that it produced. It starts to count a topic as
soon as the topic's end is known (`BackgroundCounts`), while the agents still work: there is a core to spare then, and
the count is ready when the run ends. When the count is used, the run checks that no records were deleted since.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType

from confluent_kafka import TopicPartition as KafkaPartition

from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.control_records import carries_control, records_of
from ..topics.errors import AnabranchError
from ..topics.headers import headers_of
from ..topics.packed import LEAST_BYTES, packed_rows
from ..topics.partition_reader import read_to_end
from ..topics.topic_partition import TopicPartition

__all__ = ["BackgroundCounts", "Offsets", "count_between", "count_records"]

Offsets = Mapping[TopicPartition, int]

_STOP_S = 1.0


def count_records(cluster: Cluster, topic: str, partitions: int) -> int:
    """Return how many records a `read_committed` reader sees now (blocking).

    Each row of a packed batch counts as a record.
    """
    at, admin = [KafkaPartition(topic, p) for p in range(partitions)], Admin(cluster)
    return count_between(cluster, admin.begins(at), admin.ends(at, committed=True))


def count_between(cluster: Cluster, starts: Offsets, ends: Offsets) -> int:
    """Return how many records a `read_committed` reader sees between offsets (blocking).

    Each row of a packed batch counts as a record. Records that have been deleted meanwhile are not counted.
    """
    return sum(_count_in_steps(cluster, starts, ends))


def _count_in_steps(cluster: Cluster, starts: Offsets, ends: Offsets) -> Iterator[int]:
    """Like `count_between`, but yield the count of each run of records as it is read."""
    for run in read_to_end(cluster, starts, ends):
        end = ends[run.at]
        messages = run.messages if run.position <= end else [m for m in run.messages if m.offset() < end]
        if carries_control(run.at[0]):
            messages = records_of(messages)
        yield len(messages) + sum(packed_rows(headers_of(m)) - 1 for m in messages if len(m) >= LEAST_BYTES)


class BackgroundCounts:
    """Counts topics in background threads. A context manager, whose end stops the counts that are running.

    Used by one thread.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: dict[str, _BackgroundCount] = {}

    def begin(self, starts: Offsets, ends: Offsets) -> None:
        """Start to count each topic between offsets.

        A topic that is being counted between the same offsets already is not started again.
        """
        for topic in {topic for topic, _ in ends}:
            own = [{at: offsets[at] for at in offsets if at[0] == topic} for offsets in (starts, ends)]
            if topic not in self._running or self._running[topic].offsets != own:
                self._stop(topic)
                self._running[topic] = _BackgroundCount(self._cluster, own)

    def between(self, starts: Offsets, ends: Offsets) -> int:
        """Return the number of records of one topic between offsets (blocking).

        Uses the background count that `begin` started between the same offsets. Without one, or where it failed or
        records were deleted since, the topic is counted now.
        """
        (topic,) = {topic for topic, _ in ends}
        begun = self._running.get(topic)
        found = begun.result() if begun is not None and begun.offsets == [dict(starts), dict(ends)] else None
        if found is None or not self._still_there(starts, ends):
            found = count_between(self._cluster, starts, ends)
        return found

    def _still_there(self, starts: Offsets, ends: Offsets) -> bool:
        """Return whether none of the records was deleted since the count began.

        Kafka deletes records from the beginning of a partition, or the whole topic. Compaction deletes anywhere and
        leaves no trace in the offsets, so a compacted topic always counts as changed.
        """
        admin = Admin(self._cluster)
        if any("compact" in admin.config(topic).get("cleanup.policy", "") for topic in {topic for topic, _ in ends}):
            return False
        begins, high = admin.spans(ends)
        return all(begins[key] <= starts[key] and high[key] >= end for key, end in ends.items())

    def _stop(self, topic: str) -> None:
        begun = self._running.pop(topic, None)
        if begun is not None:
            begun.stop()

    def __enter__(self) -> BackgroundCounts:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for topic in list(self._running):
            self._stop(topic)


class _BackgroundCount:
    """The count of one topic, in a daemon thread: it must not delay the end of a run that has failed."""

    def __init__(self, cluster: Cluster, offsets: list[dict[TopicPartition, int]]) -> None:
        self.offsets = offsets
        self._cluster = cluster
        self._found: int | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count, name="anabranch-count", daemon=True)
        self._thread.start()

    def _count(self) -> None:
        found = 0
        # After an error there is no result: `between` counts again then, and raises the error if it persists.
        with contextlib.suppress(AnabranchError):
            for count in _count_in_steps(self._cluster, *self.offsets):
                if self._stopped.is_set():
                    return
                found += count
            self._found = found

    def result(self) -> int | None:
        """Return the count (blocking); None where it failed or was stopped."""
        self._thread.join()
        return self._found

    def stop(self) -> None:
        """Stop counting."""
        self._stopped.set()
        self._thread.join(_STOP_S)
