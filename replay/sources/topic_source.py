"""A topic as history: its committed records go to another topic unchanged, each to its partition, in order.

`topic://NAME`, with `?from=…&until=…` (see `offset_range`). The offset range is resolved once, at the first start, and
kept in the position; so the replay ends where the topic ended then, whatever is written meanwhile.
"""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qsl

import msgspec

from ...topics import client_watchdog, clock
from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.control_records import carries_control, records_of
from ...topics.errors import Usage
from ...topics.headers import copied_headers
from ...topics.message import Message
from ...topics.partition_reader import Reader, stalled
from ...topics.topic_partition import TopicPartition
from .column_batch import leading_run, unpack_records
from .format import Format
from .formats.line_buffer import BATCH_LINES
from .offset_range import OffsetBound, OffsetRange, resolve_offset_range
from .source import Part, Source, SourceBatch, SourcePosition
from .source_record import BadLine, SourceRecord, zero_time_error

__all__ = ["SCHEME", "TopicHistory", "TopicSource"]

SCHEME = "topic://"

# An open transaction blocks readers until it ends, at the latest by its timeout (a minute by default).
_STALLED_S = 120.0
# Merging by time needs a client for each partition; with more partitions than this, records are not merged.
_MOST_MERGED = 32
_PART_KBYTES = 8_192
_ASK_AGAIN_S = 0.005


class TopicHistory:
    """A topic as a `Replayable`.

    Args:
        follow: read without end.
        by_partition: read one partition after another instead of merging them by time.
        repartition: place records by their keys' hashes instead of keeping their partitions; unpacks packed batches.
        unpack: yield the rows of packed batches.

    Raises:
        Usage: there is no such topic, or an option is given that the records already determine.
    """

    resumable = True

    def __init__(
        self,
        cluster: Cluster,
        spec: str,
        format: Format,
        *,
        follow: bool = False,
        by_partition: bool = False,
        repartition: bool = False,
        unpack: bool = False,
    ) -> None:
        if format != Format():
            raise Usage(
                f"{spec}: options for keys, times and formats apply to files only; records of a topic have their own"
            )
        self.topic, _, query = spec.removeprefix(SCHEME).partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if not self.topic or set(asked) - {"from", "until"}:
            raise Usage(f"{spec}: not a topic", hint="topic://NAME, or topic://NAME?from=2013-01-01&until=2014-01-01")
        if follow and (by_partition or "until" in asked):
            raise Usage("--follow has no end", hint="omit --until and --by-partition, or omit --follow")
        self._cluster, self._admin = cluster, Admin(cluster)
        count = self._admin.partitions([self.topic]).get(self.topic)
        if count is None:
            raise self._admin.no_topic(self.topic)
        self.specs, self.format = (spec,), format
        self._count = count
        self._bounds = OffsetBound.parse(asked.get("from", "earliest")), OffsetBound.parse(asked.get("until", "latest"))
        self._follow, self._by_partition, self._repartition = follow, by_partition, repartition
        self._unpack = unpack
        self._rows = unpack or repartition
        self.partitions = None if repartition else count
        self.timed = not follow and not by_partition
        self._offset_range: OffsetRange | None = None

    @property
    def offset_range(self) -> OffsetRange:
        """The offset range that a first start reads."""
        if self._offset_range is None:
            at = [TopicPartition(self.topic, partition) for partition in range(self._count)]
            self._offset_range = resolve_offset_range(self._cluster, at, *self._bounds, clock.now_ms())
        return self._offset_range

    @property
    def size_bytes(self) -> int:
        """Size in offsets, transaction markers included; 0 if it has no end."""
        return 0 if self._follow else sum(self.offset_range.ends.values()) - sum(self.offset_range.begins.values())

    @property
    def parts(self) -> list[Part]:
        """Its partitions; empty if there are too many to merge."""
        if self._count > _MOST_MERGED:
            return []
        # The user's own value wins.
        modest = self._cluster.with_options({"queued.max.messages.kbytes": str(_PART_KBYTES), **self._cluster.options})
        return [
            Part(f"{self.topic}[{at[1]:05d}]", end - self.offset_range.begins[at], partial(self._open, modest, [at[1]]))
            for at, end in self.offset_range.ends.items()
        ]

    @property
    def ends(self) -> dict[int, int]:
        """The current end by partition; empty if `--until` is given or the topic is followed."""
        if self._follow or self._bounds[1].kind != "latest":
            return {}
        return {partition: end for (_, partition), end in self.offset_range.ends.items()}

    def grown_since(self, ends: Mapping[int, int], then_ms: int) -> list[str]:
        """Return a note for a finished run if the topic has grown since the run started, when it ended at `ends`."""
        now = self.ends
        more = sum(now[partition] - ends.get(partition, 0) for partition in now)
        if not ends or more <= 0:
            return []
        begun = datetime.fromtimestamp(then_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        at = ", ".join(f"{partition}: {end:,}" for partition, end in sorted(ends.items()))
        return [
            f"topic {self.topic} has grown by {more:,} offsets since the run began ({begun}; its ends then: {at}), and "
            "they are not in it: --run-id NAME starts another run, which reads all present records"
        ]

    def identity(self, topic: str) -> str:
        """Return the run's id. A bound such as `6h` counts as written; the run keeps the offsets of its first start."""
        asked = ["topic", self.specs, self._follow, self._by_partition, self._repartition, topic]
        asked += ["unpack"] * self._unpack
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]

    def fingerprint(self) -> str:
        """Return the topic's id: a topic that has grown is still the same."""
        return self._admin.topic_ids([self.topic])[self.topic]

    def changed_since(self, time_ms: int) -> list[str]:
        """Return the only change that the fingerprint can show: the topic was recreated."""
        del time_ms
        return [f"topic {self.topic} was deleted and recreated"]

    def check(self, topic: str) -> None:
        """Refuse to replay the topic into itself, which would never end."""
        if topic == self.topic:
            raise Usage(f"{topic} would be replayed into itself", hint="name another topic: --to OTHER")

    def unpacked(self) -> TopicHistory:
        """Return a copy that yields the rows of packed batches."""
        found = copy.copy(self)
        found._rows = True
        return found

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = BATCH_LINES) -> Source:
        """Open all partitions: in the order in which the broker returns them, or one after another."""
        return self._open(self._cluster, range(self._count), position, batch_lines)

    def _open(
        self, cluster: Cluster, partitions: Sequence[int], position: SourcePosition | None, batch_records: int
    ) -> Source:
        return TopicSource(
            cluster,
            self.topic,
            position or self._begin(partitions),
            follow=self._follow,
            one_by_one=self._by_partition,
            keep_partitions=not self._repartition,
            by_row=self._rows,
            batch_records=batch_records,
        )

    def _begin(self, partitions: Sequence[int]) -> SourcePosition:
        begins, ends = self.offset_range.begins, self.offset_range.ends
        return {
            "next": {str(p): begins[TopicPartition(self.topic, p)] for p in partitions},
            "end": {str(p): ends[TopicPartition(self.topic, p)] for p in partitions},
        }


class TopicSource:
    """Reads partitions of a topic. A position holds the offsets `next` and `end` of each partition.

    Args:
        one_by_one: read one partition after another.
        keep_partitions: records keep their partitions instead of being placed by their keys.
        by_row: yield the rows of packed batches.

    Raises:
        Stop: records were deleted before they were read, or nothing arrives.
    """

    poll_again_s = _ASK_AGAIN_S

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        position: SourcePosition,
        *,
        follow: bool = False,
        one_by_one: bool = False,
        keep_partitions: bool = True,
        by_row: bool = False,
        batch_records: int = BATCH_LINES,
    ) -> None:
        self.done_bytes = 0
        self._cluster, self._topic = cluster, topic
        self._with_control = carries_control(topic)
        self._follow, self._one_by_one, self._keep_partitions = follow, one_by_one, keep_partitions
        self._batch_records, self._by_row = batch_records, by_row
        # Offsets of the next record to return, and of the next to fetch; between them lie the batches in `_ready`.
        self._next = {int(partition): offset for partition, offset in position["next"].items()}
        self._reached = dict(self._next)
        self._end = {int(partition): offset for partition, offset in position["end"].items()}
        # (partition, records, their offsets, offset after them)
        self._ready: deque[tuple[int, list[SourceRecord], list[int], int]] = deque()
        self._moved_s = self._asked_s = clock.now_s()
        self._reading: list[int] = []
        self._reader = self._read_on()
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """True once all partitions have been read to their ends; never with `follow`."""
        return not self._follow and not self._ready and not self._left()

    def next_batch(self) -> SourceBatch:
        """Return the next records of one partition; waits briefly if none have been fetched."""
        if not self._ready and not self.ended:
            self._fetch()
        while self._ready:
            partition, records, offsets, after = self._ready.popleft()
            most = self._batch_records
            if self._by_row and records:
                most = min(most, leading_run([item[3] for item in records[:most]]))
            if len(records) > most:
                self._ready.appendleft((partition, records[most:], offsets[most:], after))
                records, after = records[:most], offsets[most]
            self.done_bytes += after - self._next[partition]
            self._next[partition] = after
            if records and self._by_row:
                bad: list[BadLine] = []
                rows = unpack_records(records, f"{self._topic}[{partition}]", offsets[0], bad)
                return SourceBatch(rows, self._position(), bad)
            if records:
                return SourceBatch(records, self._position())
        return SourceBatch((), self._position())

    def _position(self) -> SourcePosition:
        return {
            "next": {str(partition): offset for partition, offset in self._next.items()},
            "end": {str(partition): offset for partition, offset in self._end.items()},
        }

    def close(self) -> None:
        """Close the Kafka client. May be called more than once."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _left(self) -> list[int]:
        """Return the partitions that have not been read to their ends."""
        return [p for p, offset in self._reached.items() if self._follow or offset < self._end[p]]

    def _read_on(self) -> Reader | None:
        self._reading = self._left()[: 1 if self._one_by_one else None]
        if not self._reading:
            return None
        reader = Reader(self._cluster, gone="error")
        reader.add({TopicPartition(self._topic, partition): self._reached[partition] for partition in self._reading})
        return reader

    def _fetch(self) -> None:
        assert self._reader is not None
        now_s = clock.now_s()
        runs = self._reader.read()
        for run in runs:
            partition = run.at[1]
            before, after = self._reached[partition], run.position
            messages = records_of(run.messages) if self._with_control else run.messages
            if not self._follow and after >= self._end[partition]:
                if before >= self._end[partition]:
                    continue
                after = self._end[partition]
                messages = [message for message in messages if message.offset() < after]
                self._reader.remove([run.at])
            self._reached[partition] = after
            self._ready.append((partition, self._records(partition, messages), [m.offset() for m in messages], after))
        if runs:
            self._moved_s = self._asked_s = now_s
        elif now_s - self._asked_s > client_watchdog.HUNG_S and not self._follow:
            self._asked_s = now_s
            if now_s - self._moved_s > _STALLED_S:
                raise stalled([TopicPartition(self._topic, partition) for partition in self._left()], _STALLED_S)
            if client_watchdog.answers(self._cluster):
                self._reader.close(hung=True)
                self._reader = self._read_on()
        if not set(self._reading) & set(self._left()):
            self.close()
            self._reader = self._read_on()

    def _records(self, partition: int, messages: Sequence[Message]) -> list[SourceRecord]:
        own_partition = partition if self._keep_partitions else None
        headers = copied_headers(messages)
        times = [message.timestamp()[1] for message in messages]
        if 0 in times:
            raise zero_time_error(f"{self._topic}[{partition}] offset {messages[times.index(0)].offset():,}")
        return [
            (m.key(), m.value(), time_ms, own_headers, own_partition)
            for m, time_ms, own_headers in zip(messages, times, headers, strict=True)
        ]
