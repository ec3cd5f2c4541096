"""Whether a history would be late in a topic that groups with event time have read already.

The committed offsets of such a group hold the stream time of each partition (`agents/engine/committed_offsets.py`). A
record that is older than it, by more than the grace and the window that it belongs to, counts in no window any more. So
history that goes into a live topic is late by definition, and a replay says so before it sends anything.

Windowed tables (Faust's) keep the time of their inputs in their changelogs (`late_windowed_tables.py`).

The app says what the time of a record is, how long its windows wait, and what windows there are. If the app is not
known, the time of a record is its timestamp, and all that lies behind stream time is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..topics import clock
from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.consumer_groups import ConsumerGroups
from ..topics.errors import Usage
from ..topics.partitioners import Partitioner
from ..topics.topic_partition import TopicPartition
from .late_reader import LateReader
from .pipeline.partitioning import record_partitions
from .pipeline.pipeline import Pipeline
from .sources.file_history import is_socket
from .sources.source import Replayable
from .sources.source_record import SourceRecord
from .time_text import format_time

if TYPE_CHECKING:
    from ..agents.app import App
    from ..agents.event_time.windows import Windows
    from .dead_letters.dead_letter_reader import DeadLetterRecord

__all__ = [
    "LateCounts",
    "LateReader",
    "count_late",
    "count_late_letters",
    "late_check",
    "late_readers",
    "refusal",
]

# A history of which some of the first records are late is not read further: counting would take as long as replaying.
_COUNTED = 50_000

_CHANGELOG = "-changelog"
_GROUP_OF_A_RUN = re.compile(".-run-.")


@dataclass(slots=True)
class LateCounts:
    """The records of a history that would be late for one reader.

    Attributes:
        records: how many were looked at.
        late: how many of them would be late.
        timeless: how many have a time that only the app knows.
        oldest_ms: the earliest time of those that would be late.
        complete: all records were looked at.
    """

    reader: LateReader
    records: int = 0
    late: int = 0
    timeless: int = 0
    oldest_ms: int = 2**62
    complete: bool = False

    def add(self, records: Sequence[SourceRecord], partitions: Sequence[int | None]) -> None:
        """Count records that go to these partitions."""
        reader = self.reader
        self.records += len(records)
        for record, partition in zip(records, partitions, strict=True):
            if reader.time_of is None:
                time_ms = record[2] or None
                self.timeless += time_ms is None
            else:
                time_ms = reader.time_of(record)
            if time_ms is not None and reader.is_late(time_ms, partition):
                self.late += 1
                self.oldest_ms = min(self.oldest_ms, time_ms)

    def __str__(self) -> str:
        reader = self.reader
        of, at = f"{reader.operator} of app {reader.group}", format_time(max(reader.times_ms.values()))
        if not self.late:
            return f"{of} is at {at}; whether these records are older, only the app can say"
        late = "would be late for" if reader.time_of is not None else "are older than what has been read by"
        first = "" if self.complete else "the first "
        return (
            f"{self.late:,} of {first}{self.records:,} records {late} {of}, which is at {at}: the oldest is of "
            f"{format_time(self.oldest_ms)}"
        )


def late_readers(
    cluster: Cluster, topic: str, app: App | None = None, *, admin: Admin | None = None
) -> list[LateReader]:
    """Return the agents with event time that have read a topic (blocking): of all apps in the cluster.

    Args:
        app: an app whose declarations are known.
    """
    admin = admin or Admin(cluster)
    there = admin.partitions()
    if topic not in there:
        return []
    changelogs = [name for name in there if name.endswith(_CHANGELOG)]
    groups = ConsumerGroups(cluster)
    read: dict[str, tuple[set[str], dict[TopicPartition, tuple[int, str]]]] = {}
    for group in sorted(groups.names()):
        start = f"{group}-"
        tables = {n.removeprefix(start).removesuffix(_CHANGELOG) for n in changelogs if n.startswith(start)}
        if not tables:
            continue
        if _GROUP_OF_A_RUN.search(group) and not topic.startswith(f"{group}-"):
            continue
        offsets = groups.offsets(group, {topic: there[topic]})
        if offsets:
            read[group] = tables, offsets
    found: list[LateReader] = []
    for group, (tables, offsets) in read.items():
        # The changelogs of an app shop-live are not of app shop: they are looked into for shop-live.
        others = [f"{other.removeprefix(f'{group}-')}-" for other in read if other.startswith(f"{group}-")]
        others_tables = {table for table in tables if any(map(table.startswith, others))}
        found += _readers_of(cluster, group, offsets, tables, others_tables, topic, there[topic], app, admin)
    return found


def _readers_of(
    cluster: Cluster,
    group: str,
    offsets: Mapping[TopicPartition, tuple[int, str]],
    tables: Collection[str],
    others_tables: Collection[str],
    topic: str,
    partitions: int,
    app: App | None,
    admin: Admin,
) -> list[LateReader]:
    # Imports Faust, so not before there is such a group.
    from ..agents.engine.committed_offsets import read_channel_states
    from ..agents.event_time.channel import END_MS, NEVER_MS, Channel
    from ..agents.runtime import runtime_of
    from .late_windowed_tables import table_readers

    times: dict[tuple[str, str], dict[int, int]] = {}
    sources: dict[str, dict[int, Any]] = {}
    for at, (_, metadata) in offsets.items():
        for agent, state in read_channel_states(metadata).items():
            if isinstance(state, dict):  # of a stream with group_by
                sources.setdefault(agent, {})[at.partition] = cast("dict[str, Any]", state).get("times", {})
                continue
            time_ms = Channel(None, state).time_ms
            # The agents of windows are called as their table. Others have timers, for which no record is late, or write
            # windowed tables.
            table = agent if agent in tables else agent.removesuffix("-combine")
            if table in tables and NEVER_MS < time_ms < END_MS:
                times.setdefault((agent, table), {})[at.partition] = time_ms
    known = app if app is not None and runtime_of(app).conf.id == group else None
    found = {
        (reader.agent, reader.operator): reader
        for names, times_ms in sorted(times.items())
        if (reader := _reader(group, *names, times_ms, topic, known)) is not None
    }
    if known is None:
        tables = {*tables} - {*others_tables}
    written = table_readers(cluster, group, tables, topic, partitions, sources, known, admin)
    return list((found | {(reader.agent, reader.operator): reader for reader in written}).values())


def _reader(
    group: str, agent: str, name: str, times_ms: dict[int, int], topic: str, app: App | None
) -> LateReader | None:
    if app is None:
        return LateReader(group, agent, f"table {name}", times_ms)
    from ..agents.flows.aggregates import getter
    from ..agents.flows.operators import field_reader
    from ..agents.runtime import runtime_of
    from ..agents.tables.window_table import WindowTable
    from ..agents.topic import Topic

    found = app.agents.get(agent)
    declared = found.channel if found is not None and isinstance(found.channel, Topic) else None
    if declared is None or topic not in declared.topics:
        return LateReader(group, agent, f"table {name}", times_ms)  # the program has changed since
    windowed = [table for table in runtime_of(app).tables if isinstance(table, WindowTable)]
    table = next((table for table in windowed if table.name == name and table.spec.source == topic), None)
    if table is None:
        return None
    timing = table.spec.timing
    decode = declared.decode_value
    read = (
        None
        if timing.time.of is None
        else timing.time.reader(lambda name: getter(name, field_reader(declared.declared)))
    )

    def time_of(record: SourceRecord) -> int | None:
        if read is None:
            return record[2] or clock.now_ms()
        value = record[1]
        if value is None:
            return None
        try:
            return read(decode(value), None)
        except Exception:  # noqa: BLE001 (such a record goes to the failure policy, and moves no time)
            return None

    spec = table.spec
    windows: Windows = spec.windows
    return LateReader(
        group,
        agent,
        f"table {table.name}",
        times_ms,
        time_of,
        lambda time_ms: windows.horizon_ms(windows.pane(time_ms)),
        spec.grace_ms,
    )


def count_late(
    readers: Iterable[LateReader], history: Replayable, pipeline: Pipeline, partitioner: Partitioner
) -> list[LateCounts]:
    """Read a history, and count the records that would be late; readers without such records are left out (blocking).

    It is read to its end only as long as no record is late. A socket is not read: its records are new.

    Raises:
        Stop: it cannot be read; see `Source`.
    """
    counts = [LateCounts(reader) for reader in readers]
    if not counts or is_socket(history):
        return []
    source = replace(pipeline, rounds=1).open(history.unpacked(), partitioner=partitioner)
    read = 0
    try:
        while not source.ended:
            batch = source.next_batch()
            if not batch.records and source.poll_again_s:
                break
            partitions = record_partitions(batch.records, partitioner, read)
            read += len(batch.records)
            for count in counts:
                count.add(batch.records, partitions)
            # In order of time, the first records are the oldest.
            if read >= _COUNTED and (pipeline.merges(history) or any(count.late for count in counts)):
                break
        for count in counts:
            count.complete = source.ended
    finally:
        source.close()
    return [count for count in counts if count.late or count.timeless]


def count_late_letters(
    cluster: Cluster,
    letters: Iterable[DeadLetterRecord],
    topic: str | None,
    app: App | None = None,
    *,
    now: bool,
    admin: Admin | None = None,
) -> list[LateCounts]:
    """Count the dead letters that would be late if they were re-published (blocking).

    Args:
        topic: where all of them go; None: to the agents that failed, or to the topics that they came from.
        app: an app whose declarations are known.
        now: they get the present time.
    """
    readers, counts = dict[str, list[LateReader]](), dict[tuple[str, str, str], LateCounts]()
    admin = admin or Admin(cluster)
    for letter in letters:
        origin = letter.origin
        # Neither a window nor a timer that fires again is a record, which could be late.
        if origin is None or letter.is_of_window or (topic is None and letter.reason == "timer"):
            continue
        read = topic or origin.topic
        if read not in readers:
            readers[read] = late_readers(cluster, read, app, admin=admin)
        alone = topic is None and letter.retry_topic is not None
        for reader in readers[read]:
            if alone and (reader.group, reader.agent) != (letter.facts["app"], letter.facts["agent"]):
                continue
            record = letter.key, letter.value, 0 if now else letter.record_ms, None, None
            count = counts.setdefault((read, reader.group, reader.agent), LateCounts(reader, complete=True))
            count.add([record], [origin.partition if read == origin.topic else None])
    return [count for count in counts.values() if count.late or count.timeless]


def late_check(
    cluster: Cluster,
    topic: str,
    pipeline: Pipeline,
    *,
    app: App | None,
    allow: bool,
    note: Callable[[str], None],
) -> Callable[[Replayable, Partitioner], None]:
    """Return what a player calls before it sends a history into a topic: it refuses records that would be late.

    Args:
        app: an app whose declarations are known.
        allow: call `note` with what would be late instead.
    """

    def check(history: Replayable, partitioner: Partitioner) -> None:
        counts = count_late(late_readers(cluster, topic, app), history, pipeline, partitioner)
        if counts and not allow:
            raise refusal(counts)
        for count in counts:
            note(f"{topic}: {count}")

    return check


def refusal(counts: Collection[LateCounts]) -> Usage:
    """Return the error for records that would be late; its hint names the remedies."""
    known = "" if all(count.late for count in counts) else "anabranch -A APP … looks into the values; "
    return Usage(
        "\n".join(map(str, counts)),
        hint=f"{known}anabranch run APP --input … computes the windows of a history apart from the live ones; "
        "--allow-late sends the records all the same, and windows that have closed do not count them",
    )
