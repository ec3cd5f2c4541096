"""Partial results of an epoch for a repartition topic, and the watermarks that follow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ...topics import clock
from ...topics.control_records import ControlRecord
from ...topics.output import Output
from ..engine.outbox import Partials
from ..event_time.time_keeper import watermark_message

__all__ = ["WatermarkedPartials"]


class WatermarkedPartials(Partials):
    """Partial results of an epoch, with the watermarks that follow them into every partition of their topic.

    Args:
        topic: name of the topic.
        counts: returns the number of partitions of the topic, and the number of channels.
        by: name of the time, where there are several.

    Attributes:
        times_ms: channel -> stream time, of channels whose time has moved on.
        idle_ms: idle channel -> its stream time.
        idle_at_ms: when the idle ones were known to be at their end, by the wall clock.
        last_ms: channel that has ended -> its last stream time.
    """

    __slots__ = ("_by", "_count", "_counts", "_topic", "idle_at_ms", "idle_ms", "last_ms", "times_ms")

    def __init__(
        self,
        outputs: Callable[[dict[Any, Any], int | None], list[Output]],
        topic: str,
        counts: Callable[[], tuple[int, int]],
        by: str = "",
    ) -> None:
        super().__init__(outputs)
        self._topic, self._counts, self._by = topic, counts, by
        self._count: int | None = 0
        self.times_ms: dict[str, int] = {}
        self.idle_ms: dict[str, int] = {}
        self.idle_at_ms = 0
        self.last_ms: dict[str, int] = {}

    @property
    def count(self) -> int:
        """The number of partial results; see `note_added`."""
        if self._count is None:
            self._count = sum(map(len, self.states.values()))
        return self._count

    def note_added(self, added: int | None = None) -> None:
        """Note that partial results may have been added to `states`.

        Args:
            added: how many. None: that is not known, so the next look at `count` counts all of them, and only that one:
                there is a look with each output, and there may be as many panes as records.
        """
        self._count = None if added is None or self._count is None else self._count + added

    def rest(self, channel: str, time_ms: int) -> None:
        """Have it told that a channel is idle now."""
        now_ms = clock.now_ms()
        self.idle_at_ms = min(now_ms, self.idle_at_ms) if self.idle_ms else now_ms
        self.idle_ms[channel] = time_ms
        self.times_ms.pop(channel, None)  # told behind this, it would say that the channel is not idle

    def move(self, channel: str, time_ms: int) -> None:
        """Have it told that the time of a channel has moved on."""
        self.idle_ms.pop(channel, None)
        self.times_ms[channel] = time_ms

    def outputs(self) -> list[Output]:
        """Return one output per key and pane, and behind them the watermarks."""
        made = super().outputs()
        partitions, channels = self._counts()
        messages: list[ControlRecord] = []
        if self.idle_ms:
            messages.append(watermark_message(channels, self.idle_ms, self.idle_ms, self.idle_at_ms))
        if self.times_ms:
            messages.append(watermark_message(channels, self.times_ms, at_ms=clock.now_ms()))
        for message in messages:
            value = cast("dict[str, Any]", message.value)
            if self._by:
                value["by"] = self._by
            if self.last_ms:
                value["last"] = self.last_ms
            key, written, headers = message.written()
            made += [Output(self._topic, written, key, number, None, headers) for number in range(partitions)]
        return made
