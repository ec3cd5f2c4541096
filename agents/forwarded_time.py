"""Event time through `group_by`: the windows behind it go by the stream time of the source partitions.

    source partitions ─▶ stream with group_by ─▶ …-repartition ─▶ the agent, which writes windows
                             stream time of each    records, and behind them
                             source partition       watermark messages

The stream in front of the repartition topic has the records of a source partition in their order, and knows its stream
time. It is sent in watermark messages (`event_time/time_keeper.py`), behind the records of the epoch and in its
transaction, so that the time behind it is the least of all source partitions. Whether a record is late is decided by
its own partition: a record that is older than stream time carries that time in the header `anabranch-time`, JSON. All
others are on time. Each of the times that tables go by has a name, and is told by itself.

Timers behind `group_by` fire between two records, and the watermark messages of an epoch come behind all of its
records. So each record says in the header `anabranch-source-time` which source partition it comes from, and what time
it is there with this record: what is due fires before it, wherever epochs end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ..topics import clock
from ..topics.control_records import is_repartition_topic_of
from ..topics.headers import headers_of
from .engine.partition_queue import place_of
from .event_time.channel import END_MS, NEVER_MS, Channel
from .event_time.time_keeper import channel_name
from .flows.watermarked_partials import WatermarkedPartials
from .runtime import runtime_of
from .tables.relative_time import RelativeTime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..topics.message import Message
    from ..topics.topic_partition import TopicPartition
    from .stream import Stream
    from .tables.agent_window_table import AgentWindowTable
    from .topic import Topic

__all__ = [
    "TIMERS",
    "TIME_HEADER",
    "ForwardedTime",
    "is_behind_source",
    "source_time",
    "time_before",
    "times_of",
    "without_time",
]

TIME_HEADER = "anabranch-time"
SOURCE_HEADER = "anabranch-source-time"

TIMERS = RelativeTime("stream", name="timers")
"""The time that timers go by: the event time that the topic declares. It is told apart from the same time of windowed
tables, because it rests where a partition is idle: what waits is known behind `group_by` only."""


_read_source = msgspec.json.Decoder(tuple[int, str, int, int]).decode


def times_of(tables: Iterable[AgentWindowTable[Any]]) -> dict[RelativeTime, str]:
    """Return the times that tables whose windows close go by, with their names."""
    found: dict[RelativeTime, str] = {}
    for table in tables:
        if table.spec.closes and table.time not in found:
            name = str(table.time)
            found[table.time] = name if name not in found.values() else f"{name} ({len(found)})"
    return found


def is_behind_source(stream: Stream) -> bool:
    """Return whether a stream reads what `group_by` has made of a source topic, so that it hears of its times."""
    before = cast(Any, stream)._prev
    if before is None or before._prev is not None:
        return False
    return is_repartition_topic_of(runtime_of(stream.app).conf.id, stream.topic.get_topic_name())


def time_before(message: Message, name: str) -> int:
    """Return stream time of the source partition before a record, by the name of the time; NEVER_MS if the record was
    not older than that."""
    for header, value in headers_of(message) or ():
        if header == TIME_HEADER and value is not None:
            return msgspec.json.decode(value, type=dict[str, int]).get(name, NEVER_MS)
    return NEVER_MS


def source_time(message: Message) -> tuple[int, str, int, int] | None:
    """Return what a record says of the stream time of its source partition, as `TimeKeeper.hear_record` takes it; None
    if it says nothing."""
    for header, value in headers_of(message) or ():
        if header == SOURCE_HEADER and value is not None:
            return _read_source(value)
    return None


def without_time(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers without those of this module: from another topic they say nothing."""
    return {name: value for name, value in headers.items() if name not in (TIME_HEADER, SOURCE_HEADER)}


class ForwardedTime:
    """Stream time of the source partitions of a stream with `group_by`.

    Args:
        times: see `times_of`.
        closed_at: returns the stream time at which all windows have closed that hold a time.
    """

    def __init__(
        self,
        stream: Stream,
        into: Topic,
        times: Mapping[RelativeTime, str],
        closed_at: Callable[[RelativeTime, int], int],
    ) -> None:
        self._stream, self._into, self._times, self._closed_at = stream, into, times, closed_at
        self._max_jump_ms = stream.topic.timing.max_jump_ms
        self._names = frozenset(stream.topic.topics)
        self._moved_by: dict[TopicPartition, tuple[object, object]] = {}
        self._before: dict[str, int] = {}
        self._lacking: list[tuple[RelativeTime, str]] = []
        self._moves = False
        self._source: tuple[TopicPartition, int] | None = None  # of the last record, for timers

    def pass_record(self, at: TopicPartition, message: Message, time_ms: Callable[[RelativeTime], int | None]) -> None:
        """Take a record into account that is about to be forwarded.

        Args:
            time_ms: returns a time of the record; None if it has none.
        """
        # Of a record that is redelivered, time has been moved by itself; that makes nobody late.
        partition = self._stream.queue.at(at)
        known = partition.channel_state
        self._moves = at.topic in self._names and self._moved_by.get(at) != (place_of(message), known)
        if self._moves:
            partition.state_before = (known,)  # committed if the record goes back into the queue, to be retried
        self._before, self._lacking = {}, list(self._times.items())
        self.complete(at, message, time_ms)

    def complete(self, at: TopicPartition, message: Message, time_ms: Callable[[RelativeTime], int | None]) -> None:
        """Take the times into account that the record lacked, and that processors have given to it."""
        channels, given, self._lacking = self._channels(at), self._lacking, []
        for time, name in given:
            of_record = time_ms(time)
            if of_record is None:
                self._lacking.append((time, name))
                continue
            channel = channels[name]
            if of_record < channel.time_ms and time is not TIMERS:
                self._before[name] = channel.time_ms
            if self._moves:
                channel.advance(of_record, message.timestamp()[1])
                self._told(name).move(channel_name(*at), channel.time_ms)
        if TIMERS in self._times:
            self._source = self._source_of(at), channels[self._times[TIMERS]].time_ms
        if self._moves:
            self._keep(at, channels)
            self._moved_by[at] = place_of(message), self._stream.queue.at(at).channel_state

    @property
    def lacks_time(self) -> bool:
        """True if the last record had not all of the times."""
        return bool(self._lacking)

    def end(self, at: TopicPartition) -> None:
        """Note that the input of a partition has ended."""
        channels = self._channels(at)
        for name, channel in channels.items():
            told, last_ms = self._told(name), channel.time_ms
            channel.end()
            told.move(channel_name(*at), END_MS)
            if NEVER_MS < last_ms < END_MS:
                told.last_ms[channel_name(*at)] = last_ms
        self._keep(at, channels)

    def rest(self, at: TopicPartition, idle_ms: int, *, repeats: bool) -> None:
        """Note that a partition is idle, and for how long."""
        channels = self._channels(at)
        for time, name in self._times.items():
            channel = channels[name]
            before_ms = channel.time_ms
            channel.rest(idle_ms, lambda time_ms, time=time: self._closed_at(time, time_ms))
            if repeats or channel.time_ms != before_ms:
                self._told(name).rest(channel_name(*at), channel.time_ms)
        self._keep(at, channels)

    @property
    def headers(self) -> dict[str, bytes]:
        """The headers of the record that is forwarded."""
        made = {TIME_HEADER: msgspec.json.encode(self._before)} if self._before else {}
        if self._source is not None:
            at, time_ms = self._source
            made[SOURCE_HEADER] = msgspec.json.encode((self._counts()[1], channel_name(*at), time_ms, clock.now_ms()))
        return made

    def _source_of(self, at: TopicPartition) -> TopicPartition:
        """Return the source partition that a partition of a retry topic stands for."""
        return at if at.topic in self._names else at._replace(topic=self._stream.context.retries.read[at.topic][1])

    def _channels(self, at: TopicPartition) -> dict[str, Channel]:
        known = self._stream.queue.at(self._source_of(at)).channel_state
        states = cast("dict[str, Any]", known.get("times", {})) if isinstance(known, dict) else {}
        return {name: Channel(self._max_jump_ms, states.get(name)) for name in self._times.values()}

    def _keep(self, at: TopicPartition, channels: Mapping[str, Channel]) -> None:
        states = {name: channel.state for name, channel in channels.items()}
        self._stream.queue.at(at).channel_state = {"times": states}

    def _told(self, name: str) -> WatermarkedPartials:
        partials, into = self._stream.context.epoch.outbox.partials, self._into.get_topic_name()
        key = f"{into} {name}"
        if key not in partials:
            self._into.need()
            partials[key] = WatermarkedPartials(lambda *_: [], into, self._counts, by=name)
        return cast(WatermarkedPartials, partials[key])

    def _counts(self) -> tuple[int, int]:
        known = runtime_of(self._stream.app).engine.rebalance.partition_counts
        return known[self._into.get_topic_name()], sum(known[name] for name in self._names)
