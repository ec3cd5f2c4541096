"""A channel: one source partition as one stream reads it, and its stream time.

Stream time is the greatest event time of the records so far. It is a function of the partition's log up to an offset,
and of nothing else: not of a clock, of batches, of commits or of other partitions. So a replay decides as the live
stream did which records are late.

The jump guard keeps one bad clock from moving stream time: a record that is more than `max_jump` ahead of it moves
nothing. A second such record in a row moves it to the earlier of the two, and on to the later one if that is near. The
first record of a channel counts as such a jump. With `max_jump` of 60:

    records         0     10    20    99999  30    40
    stream time     none  10    20    20     30    40

    records         0     10    5000  5010
    stream time     none  10    10    5010

A live channel of which no record has come for a while is *idle*: its stream time moves on at the pace of the clock, as
far as the windows need that are open, so that they close in silence. This is the only thing that a clock decides here;
it is noted in the log and in the state (`rest`). The next record ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import le
from typing import Any

__all__ = ["END_MS", "FOREVER_MS", "NEVER_MS", "Channel", "least_time", "time_of", "watermark"]

NEVER_MS = -(2**62)
"""Stream time of a channel before its first record."""

END_MS = 2**62
"""Stream time of a channel whose input has ended: nothing more will come."""


FOREVER_MS = 2**60
"""A grace with which windows wait for the end of the input."""


def watermark(time_ms: int, grace_ms: int) -> int:
    """Return stream time minus grace. Before the first record and after the end there is nothing to subtract from.

    >>> watermark(10_000, 3_000), watermark(NEVER_MS, 1) == NEVER_MS, watermark(END_MS, FOREVER_MS) == END_MS
    (7000, True, True)
    """
    if time_ms in (NEVER_MS, END_MS):
        return time_ms
    return NEVER_MS if grace_ms == FOREVER_MS else time_ms - grace_ms


def time_of(state: Any) -> int:
    """Return the stream time in a channel state, of several times the least; NEVER_MS if there is none.

    >>> time_of([5, None]), time_of({"times": {"at": [7, None], "by": ["end", None]}}), time_of(None) == NEVER_MS
    (5, 7, True)
    """
    if isinstance(state, dict):
        return min(map(time_of, state.get("times", {}).values()), default=NEVER_MS)
    if not state or state[0] is None:
        return NEVER_MS
    return END_MS if state[0] == "end" else state[0]


class Channel:
    """The stream time of one source partition.

    Args:
        max_jump_ms: see the module; None: no guard.
        state: what `state` has returned.

    Attributes:
        max_jump_ms: see above.
        time_ms: stream time.
        rests_at_ms: stream time at which the channel became idle; None while it is not.
        held_jumps: how many records were so far ahead that they moved nothing, and were confirmed by no other.
    """

    __slots__ = ("_candidate_ms", "held_jumps", "max_jump_ms", "rests_at_ms", "time_ms")

    def __init__(self, max_jump_ms: int | None, state: Any = None) -> None:
        self.max_jump_ms = max_jump_ms
        self.time_ms = NEVER_MS
        self._candidate_ms: int | None = None
        self.rests_at_ms: int | None = None
        self.held_jumps = 0
        if state is not None:
            time_ms, candidate_ms, *more = state
            self.time_ms = END_MS if time_ms == "end" else NEVER_MS if time_ms is None else int(time_ms)
            self._candidate_ms = None if candidate_ms is None else int(candidate_ms)
            self.rests_at_ms = None if not more or more[0] is None else int(more[0])
            self.held_jumps = int(more[1]) if len(more) > 1 else 0

    @property
    def state(self) -> list[int | str | None]:
        """Stream time, the record ahead of it that waits for a second one, where an idle channel rests, and held jumps,
        as JSON; the last two are omitted if there are none."""
        time_ms = "end" if self.time_ms == END_MS else None if self.time_ms == NEVER_MS else self.time_ms
        if self.held_jumps:
            return [time_ms, self._candidate_ms, self.rests_at_ms, self.held_jumps]
        rests = [] if self.rests_at_ms is None else [self.rests_at_ms]
        return [time_ms, self._candidate_ms, *rests]

    @property
    def waits_for_jump(self) -> bool:
        """True if a record was far ahead, and the next one decides whether it counts."""
        return self._candidate_ms is not None

    def advance(self, time_ms: int, kafka_ms: int = -1) -> None:
        """Take the time of the next record into account.

        Args:
            kafka_ms: the record's timestamp in Kafka. A jump goes no further than `max_jump` beyond it, because brokers
                bound that timestamp by their own clock; negative: there is none.
        """
        known, most = self.time_ms, self.max_jump_ms
        self.rests_at_ms = None
        if most is None or time_ms <= known + most:
            self._contradict()
            if time_ms > known:
                self.time_ms = time_ms
            return
        if kafka_ms >= 0:
            time_ms = min(time_ms, kafka_ms + most)
        first = self._candidate_ms
        if first is None:
            self._candidate_ms = time_ms
            return
        low, high = min(first, time_ms), max(first, time_ms)
        self.time_ms = max(known, low)
        if high <= self.time_ms + most:
            self.time_ms, self._candidate_ms = max(self.time_ms, high), None
        else:
            self._candidate_ms = high

    def follow(self, time_ms: int) -> None:
        """Take records into account of which none was a jump; `time_ms` is the greatest of their times, or stream time
        before them."""
        self._contradict()
        self.time_ms, self.rests_at_ms = time_ms, None

    def _contradict(self) -> None:
        """Note that a record came that is no jump."""
        if self._candidate_ms is not None:
            self.held_jumps += self._candidate_ms > self.time_ms  # an idle channel may have reached it
            self._candidate_ms = None

    def rest(self, idle_ms: int, until: Callable[[int], int]) -> None:
        """Note that the channel is idle.

        Args:
            idle_ms: for how long it is, in milliseconds.
            until: returns how far stream time has to move on from a time until all that is open has closed.
        """
        if self.time_ms == END_MS:
            return
        if self.rests_at_ms is None:
            confirmed = self._candidate_ms  # nothing has contradicted a first record that is far ahead
            if self.time_ms == NEVER_MS and confirmed is not None:
                self.time_ms, self._candidate_ms = confirmed, None
            self.rests_at_ms = self.time_ms
        if self.rests_at_ms > NEVER_MS:
            self.time_ms = max(self.time_ms, min(self.rests_at_ms + idle_ms, self.rests_until_ms(until)))

    def rests_until_ms(self, until: Callable[[int], int]) -> int:
        """Return how far stream time moves on while the channel is idle; see `rest`. What a record that is far ahead
        has opened closes as well; there may never be a second one.

        Returns:
            NEVER_MS if the channel is not idle, or has had no record.
        """
        if self.rests_at_ms is None or self.rests_at_ms == NEVER_MS:
            return NEVER_MS
        ahead_ms = self.rests_at_ms if self._candidate_ms is None else self._candidate_ms
        return max(until(self.rests_at_ms), until(ahead_ms))

    def end(self) -> None:
        """Note that no more records will come."""
        self.time_ms, self._candidate_ms, self.rests_at_ms = END_MS, None, None

    def before_each(self, times_ms: Sequence[int], kafka_ms: Callable[[int], int]) -> list[int] | None:
        """Advance by a batch of records, and return stream time before each of them.

        Args:
            kafka_ms: returns the timestamp in Kafka of a record, by its number in the batch.

        Returns:
            None where no record is older than stream time before it, so that none can be late.
        """
        if not times_ms:
            return None
        self.rests_at_ms = None
        most, known, last = self.max_jump_ms, self.time_ms, times_ms[-1]
        if times_ms[0] >= known and (most is None or last <= known + most) and all(map(le, times_ms, times_ms[1:])):
            # In order and without a jump: stream time is the last one.
            self.follow(last)
            return None
        before: list[int] = []
        for number, time_ms in enumerate(times_ms):
            before.append(self.time_ms)
            if most is not None and time_ms > self.time_ms + most:
                self.advance(time_ms, kafka_ms(number))
            else:
                self.advance(time_ms)
        return before


def least_time(channels: Collection[Channel]) -> int:
    """Return the stream time of several channels: the least of those that are not idle; if all are idle, the greatest;
    NEVER_MS if there are none."""
    active = [channel.time_ms for channel in channels if channel.rests_at_ms is None]
    return min(active) if active else max((channel.time_ms for channel in channels), default=NEVER_MS)
