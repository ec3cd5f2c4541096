"""Event time through `group_by`: the windows behind it go by the stream time of the source partitions.

    source partitions ─▶ stream with group_by ─▶ …-repartition ─▶ the agent, which writes windows
                             stream time of each    records, and behind them
                             source partition       watermark messages

The stream in front of the repartition topic has the records of a source partition in their order, and knows its stream
time. It is sent in watermark messages (`event_time/time_keeper.py`), behind the records of the epoch and in its
transaction, so that the time behind it is the least of all source partitions. Whether a record is late is decided by
its own partition: a record that is older than stream time carries that time in the header `anabranch-time`, JSON. All
others are on time. Each of the times that tables go by has a name, and is told by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ..topics.control_records import is_repartition_topic_of
from ..topics.headers import headers_of
from .engine.partition_queue import place_of
from .event_time.channel import END_MS, NEVER_MS, Channel
from .event_time.time_keeper import channel_name
from .flows.watermarked_partials import WatermarkedPartials
from .runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..topics.message import Message
    from ..topics.topic_partition import TopicPartition
    from .stream import Stream
    from .tables.agent_window_table import AgentWindowTable
    from .tables.relative_time import RelativeTime
    from .topic import Topic

__all__ = ["TIME_HEADER", "ForwardedTime", "is_behind_source", "time_before", "times_of", "without_time"]

TIME_HEADER = "anabranch-time"


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


def without_time(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers without that of this module: from another topic it says nothing."""
    return {name: value for name, value in headers.items() if name != TIME_HEADER}


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

    def pass_record(self, at: TopicPartition, message: Message, time_ms: Callable[[RelativeTime], int | None]) -> None:
        """Take a record into account that is about to be forwarded.

        Args:
            time_ms: returns a time of the record; None if it has none.
        """
        # Of a record that is redelivered, time has been moved by itself; that makes nobody late.
        known = self._stream.queue.at(at).channel_state
        self._moves = at.topic in self._names and self._moved_by.get(at) != (place_of(message), known)
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
            if of_record < channel.time_ms:
                self._before[name] = channel.time_ms
            if self._moves:
                channel.advance(of_record, message.timestamp()[1])
                self._told(name).move(channel_name(*at), channel.time_ms)
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
            channel.end()
            self._told(name).move(channel_name(*at), END_MS)
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
        return {TIME_HEADER: msgspec.json.encode(self._before)} if self._before else {}

    def _channels(self, at: TopicPartition) -> dict[str, Channel]:
        if at.topic not in self._names:
            at = at._replace(topic=self._stream.context.retries.read[at.topic][1])  # a retry topic
        known = self._stream.queue.at(at).channel_state
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
