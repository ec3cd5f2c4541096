"""The time keeper of an operator behind a repartition: what time it is where records of several partitions meet.

The repartition topic carries the stream time of its source partitions in itself, as control records behind the records
that they follow:

    watermark message      {"of": 4, "t": {"orders:0": 1769860800000, "orders:1": "end"}}

`of` is the number of source partitions. The time of the operator is the *least* of all of them, never going back. A
partition that nothing is known of holds it back, because its records are still to come: so no record that was on time
at its source can be late here, whatever the order in which workers have sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ...topics.control_records import WATERMARK, ControlRecord
from ...topics.errors import BadRecord
from .channel import END_MS, NEVER_MS, watermark

__all__ = ["TimeKeeper", "channel_name", "watermark_message"]


def channel_name(topic: str, partition: int) -> str:
    """Return the name of a channel in watermark messages."""
    return f"{topic}:{partition}"


def watermark_message(of: int, times_ms: Mapping[str, int]) -> ControlRecord:
    """Return the control record that brings the stream time of channels to the next operator.

    Args:
        of: number of channels that there are.
        times_ms: channel -> its stream time.
    """
    return ControlRecord(WATERMARK, {"of": of, "t": {name: _written(time) for name, time in times_ms.items()}})


def _written(time_ms: int) -> int | str:
    return "end" if time_ms == END_MS else time_ms


class TimeKeeper:
    """The stream time of channels that meet in one partition, and the least of them.

    Attributes:
        of: number of channels that there are; 0 while unknown.
        times_ms: channel -> its stream time, of those that were heard of.
        time_ms: the least stream time of all channels; it never goes back.
    """

    __slots__ = ("of", "time_ms", "times_ms")

    def __init__(self, state: Any = None) -> None:
        self.of, self.times_ms, self.time_ms = 0, dict[str, int](), NEVER_MS
        if state is not None:
            self._take(state)
            self.time_ms = max(self._least(), _read(state["least"]) if state.get("least") is not None else NEVER_MS)

    @property
    def state(self) -> dict[str, Any]:
        """What is to be kept of the time keeper, as JSON."""
        least = None if self.time_ms == NEVER_MS else _written(self.time_ms)
        return {"of": self.of, "t": {name: _written(time) for name, time in self.times_ms.items()}, "least": least}

    def hear(self, message: ControlRecord) -> None:
        """Take a watermark message into account.

        Raises:
            BadRecord: it has another form.
        """
        try:
            self._take(cast("dict[str, Any]", message.value))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BadRecord(f"a watermark message cannot be read: {type(exc).__name__}: {exc}") from exc
        self.time_ms = max(self.time_ms, self._least())

    def advance(self, channel: str, time_ms: int) -> None:
        """Note the stream time of the only channel, where no repartition is between it and the operator."""
        self.of, self.times_ms[channel] = 1, time_ms
        self.time_ms = max(self.time_ms, time_ms)

    def _take(self, value: Mapping[str, Any]) -> None:
        times = {str(name): _read(time) for name, time in value["t"].items()}
        self.of = max(self.of, int(value["of"]))
        for name, time_ms in times.items():
            self.times_ms[name] = max(time_ms, self.times_ms.get(name, NEVER_MS))

    def _least(self) -> int:
        if not self.of or len(self.times_ms) < self.of:
            return NEVER_MS
        return min(self.times_ms.values())

    @property
    def waits_for(self) -> list[str]:
        """The channels that hold time back: those with the least stream time. Empty if some were never heard of."""
        if len(self.times_ms) < self.of:
            return []
        least = min(self.times_ms.values(), default=NEVER_MS)
        return sorted(name for name, time_ms in self.times_ms.items() if time_ms == least)

    def watermark(self, grace_ms: int) -> int:
        """Return the operator's watermark."""
        return watermark(self.time_ms, grace_ms)


def _read(time: object) -> int:
    if time == "end":
        return END_MS
    if isinstance(time, int) and not isinstance(time, bool):
        return max(NEVER_MS, min(time, END_MS))
    raise ValueError(f"{time!r} is no stream time")
