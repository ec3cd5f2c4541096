"""Which channels are idle: those of a live topic that are at their end, and have had no record for a while.

A channel is idle because there is nothing in its log, never because it was not read: the caller says whether all of it
was read. Time comes in as an argument.

A channel keeps since when it is silent. It lives as long as the worker has its partition, as the partition's queue
does, and longer than an agent that fails and is restarted. A partition that another worker had meanwhile is another
channel: whatever was known of it does not count any more.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

__all__ = ["Idleness"]

# How often it is repeated that a channel is idle, in seconds, and as a share of the time after which it is.
_REPEAT_S = (1.0, 15.0)
_REPEAT_SHARE = 0.25


class Silent(Protocol):
    """A channel.

    Attributes:
        silent_since_s: since when it is silent, by the clock that the caller uses; None: it is not.
    """

    silent_since_s: float | None


class Idleness:
    """Watches channels.

    Args:
        after_ms: how long a channel has no record until it is idle.
    """

    def __init__(self, after_ms: int) -> None:
        self._after_s = after_ms / 1000
        least, most = _REPEAT_S
        self._repeat_s = max(least, min(most, self._after_s * _REPEAT_SHARE))
        self._told_s: WeakKeyDictionary[Silent, float] = WeakKeyDictionary()

    def wake(self, channel: Silent) -> None:
        """Note that a record has come."""
        channel.silent_since_s = None
        self._told_s.pop(channel, None)

    def idle_ms(self, channel: Silent, now_s: float, *, silent: bool) -> int | None:
        """Return for how long a channel has been idle, in milliseconds; None if it is not.

        Args:
            silent: whether all records of the channel were read and processed.
        """
        if not silent:
            self.wake(channel)
            return None
        if channel.silent_since_s is None:
            channel.silent_since_s = now_s
        idle_s = now_s - channel.silent_since_s - self._after_s
        return None if idle_s < 0 else int(idle_s * 1000)

    def repeats(self, channel: Silent, now_s: float) -> bool:
        """Return whether it has to be told now that a channel is idle, and note that it is."""
        told_s = self._told_s.get(channel)
        if told_s is not None and now_s - told_s < self._repeat_s:
            return False
        self._told_s[channel] = now_s
        return True
