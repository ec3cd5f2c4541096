"""The time keeper of an operator behind a repartition: what time it is where records of several partitions meet.

The repartition topic carries the stream time of its source partitions in itself, as control records behind the records
that they follow:

    watermark message    {"of": 4, "t": {"orders:0": 1769860800000, "orders:1": "end"}, "idle": [], "at": 1769861000000}

`of` is the number of source partitions, `idle` are those of the named ones that are idle, and `at` is when that was so,
by the clock. The time of the operator is the *least* of all of them, never going back. A partition that nothing is
known of holds it back, because its records are still to come: so no record that was on time at its source can be late
here, whatever the order in which workers have sent.

An idle partition does not hold time back. But that it is idle is true for a moment only: its records may come right
after it, together with those of another partition that moves time. So times of other partitions count up to the moment
at which all idle ones were last known to be at their end, which their workers repeat every few seconds. If all are
idle, the operator's time is the greatest of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from ...topics.control_records import WATERMARK, ControlRecord
from ...topics.errors import BadRecord
from ...topics.json_value import JsonValue
from .channel import END_MS, NEVER_MS, watermark

__all__ = ["TimeKeeper", "channel_name", "watermark_message"]


def channel_name(topic: str, partition: int) -> str:
    """Return the name of a channel in watermark messages."""
    return f"{topic}:{partition}"


def watermark_message(of: int, times_ms: Mapping[str, int], idle: Iterable[str] = (), at_ms: int = 0) -> ControlRecord:
    """Return the control record that brings the stream time of channels to the next operator.

    Args:
        of: number of channels that there are.
        times_ms: channel -> its stream time.
        idle: those among them that are idle.
        at_ms: when that is so, in milliseconds by the wall clock.
    """
    times: dict[str, JsonValue] = {name: _written(time) for name, time in times_ms.items()}
    return ControlRecord(WATERMARK, {"of": of, "t": times, "idle": [*sorted(idle)], "at": at_ms})


def _written(time_ms: int) -> int | str:
    return "end" if time_ms == END_MS else time_ms


# Times of a channel that wait until idle channels are known to be at their end; see `_wait`.
_MOST_WAITING = 8
_APART_MS = 2_000


class TimeKeeper:
    """The stream time of channels that meet in one partition, and the least of them.

    Attributes:
        of: number of channels that there are; 0 while unknown.
        times_ms: channel -> its stream time, of those that were heard of.
        idle_at_ms: idle channel -> when it was last known to be at its end, by the wall clock.
        time_ms: the least stream time of all channels; it never goes back.
        moved_at_ms: when it was last brought forward, by the wall clock; 0 while unknown. No part of `state`.
    """

    __slots__ = ("_waiting", "idle_at_ms", "moved_at_ms", "of", "time_ms", "times_ms")

    def __init__(self, state: Any = None) -> None:
        self.of, self.times_ms, self.time_ms, self.moved_at_ms = 0, dict[str, int](), NEVER_MS, 0
        self.idle_at_ms: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[int, int]]] = {}
        if state is not None:
            self.of = int(state["of"])
            self.times_ms = {str(name): _read(time) for name, time in state["t"].items()}
            self.idle_at_ms = {str(name): int(at_ms) for name, at_ms in state.get("idle", {}).items()}
            waiting = state.get("waiting", {}).items()
            self._waiting = {str(name): [(int(at), _read(time)) for at, time in pairs] for name, pairs in waiting}
            self.time_ms = NEVER_MS if state.get("least") is None else _read(state["least"])
            self.time_ms = max(self.time_ms, self._least())

    @property
    def state(self) -> dict[str, Any]:
        """Times, the least of them, idle channels and waiting times, as JSON from which `TimeKeeper` is made again."""
        least = None if self.time_ms == NEVER_MS else _written(self.time_ms)
        made: dict[str, Any] = {
            "of": self.of,
            "t": {name: _written(time) for name, time in self.times_ms.items()},
            "least": least,
        }
        if self.idle_at_ms:
            made["idle"] = self.idle_at_ms
            waiting = self._waiting.items()
            made["waiting"] = {name: [[at, _written(time)] for at, time in pairs] for name, pairs in waiting}
        return made

    def hear(self, message: ControlRecord) -> None:
        """Take a watermark message into account.

        Raises:
            BadRecord: it has another form.
        """
        try:
            value = cast("dict[str, Any]", message.value)
            times = {str(name): _read(time) for name, time in value["t"].items()}
            of, at_ms, idle = int(value["of"]), int(value.get("at", 0)), {str(name) for name in value.get("idle", ())}
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BadRecord(f"a watermark message cannot be read: {type(exc).__name__}: {exc}") from exc
        self.of = max(self.of, of)
        for name, time_ms in times.items():
            if name in idle:
                self.idle_at_ms[name] = max(at_ms, self.idle_at_ms.get(name, at_ms))
            else:
                self.idle_at_ms.pop(name, None)
            self.times_ms.setdefault(name, NEVER_MS)
            self._wait(name, at_ms, time_ms)
        self._confirm()
        self._move(self._least(), at_ms)

    def hear_record(self, of: int, channel: str, time_ms: int, at_ms: int) -> None:
        """Take the time of one channel into account, as `hear` does with a message of it alone, but without making one
        unless channels are idle or times wait.

        Args:
            of: number of channels that there are.
            at_ms: when that is so, by the wall clock.
        """
        if self.idle_at_ms or self._waiting:
            self.hear(watermark_message(of, {channel: time_ms}, at_ms=at_ms))
            return
        self.of = max(self.of, of)
        if time_ms > self.times_ms.get(channel, NEVER_MS - 1):
            self.times_ms[channel] = time_ms
        self._move(self._least(), at_ms)

    def _wait(self, name: str, at_ms: int, time_ms: int) -> None:
        """Keep a time until it counts. Few are kept: some seconds apart, and the earliest ones, which count first."""
        waiting = self._waiting.setdefault(name, [])
        if len(waiting) > 1 and (at_ms < waiting[-2][0] + _APART_MS or len(waiting) >= _MOST_WAITING):
            waiting.pop()
        waiting.append((at_ms, time_ms))

    def _confirm(self) -> None:
        """Count the times up to the moment at which all idle channels were known to be at their end."""
        until_ms = min(self.idle_at_ms.values()) if self.idle_at_ms else None
        for name, waiting in list(self._waiting.items()):
            counted = [time_ms for at_ms, time_ms in waiting if until_ms is None or at_ms <= until_ms]
            self.times_ms[name] = max(self.times_ms[name], *counted) if counted else self.times_ms[name]
            left = [pair for pair in waiting if until_ms is not None and pair[0] > until_ms]
            if left:
                self._waiting[name] = left
            else:
                del self._waiting[name]

    def advance(self, channel: str, time_ms: int, at_ms: int = 0) -> None:
        """Note the stream time of the only channel, where no repartition is between it and the operator.

        Args:
            at_ms: when that is so, by the wall clock.
        """
        self.of, self.times_ms[channel] = 1, time_ms
        self._move(time_ms, at_ms)

    def _move(self, time_ms: int, at_ms: int) -> None:
        if time_ms > self.time_ms:
            self.time_ms, self.moved_at_ms = time_ms, at_ms

    def _least(self) -> int:
        if not self.of or len(self.times_ms) < self.of:
            return NEVER_MS
        active = [time_ms for name, time_ms in self.times_ms.items() if name not in self.idle_at_ms]
        return min(active) if active else max(self.times_ms.values())

    @property
    def waits_for(self) -> list[str]:
        """The channels that hold time back: those with the least stream time. Empty if some were never heard of, and at
        the end."""
        if len(self.times_ms) < self.of or self.time_ms == END_MS:
            return []
        active = {name: time_ms for name, time_ms in self.times_ms.items() if name not in self.idle_at_ms}
        least = min(active.values(), default=NEVER_MS)
        return sorted(name for name, time_ms in active.items() if time_ms == least)

    def watermark(self, grace_ms: int) -> int:
        """Return the operator's watermark."""
        return watermark(self.time_ms, grace_ms)


def _read(time: object) -> int:
    if time == "end":
        return END_MS
    if isinstance(time, int) and not isinstance(time, bool):
        return max(NEVER_MS, min(time, END_MS))
    raise ValueError(f"{time!r} is no stream time")
