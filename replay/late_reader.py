"""An agent that has read a topic, and goes by event time: which records would be late for it. See `late_history.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .sources.source_record import SourceRecord

__all__ = ["LateReader"]

_EARLIER = -(2**62)


@dataclass(frozen=True)
class LateReader:
    """An agent with event time that has read a topic.

    Attributes:
        group: id of the app.
        agent: the agent that reads the topic.
        operator: the table with windows.
        times_ms: partition -> committed stream time, in ms.
        time_of: returns the event time of a record in ms, if the app is known; None if the record moves no time.
        horizon_ms: returns the last millisecond at which a record of an event time matters.
        grace_ms: how far the watermark is behind stream time.
        everywhere: the times are not those of the record's partition, because the agent sends its records on to others.
    """

    group: str
    agent: str
    operator: str
    times_ms: dict[int, int]
    time_of: Callable[[SourceRecord], int | None] | None = None
    horizon_ms: Callable[[int], int] = lambda time_ms: time_ms
    grace_ms: int = 0
    everywhere: bool = False

    def is_late(self, time_ms: int, partition: int | None) -> bool:
        """Return whether a record would be late that comes next; in some partition, if it is not known in which."""
        if partition is None or self.everywhere:
            latest_ms = max(self.times_ms.values())
        else:
            latest_ms = self.times_ms.get(partition, _EARLIER)
        return latest_ms - self.grace_ms > self.horizon_ms(time_ms)
