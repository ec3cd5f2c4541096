"""Which channels are idle: those of a live topic that are at their end, and have had no record for a while.

A channel is idle because there is nothing in its log, never because it was not read: the caller says whether all of it
was read. Time comes in as an argument.

A channel is an object that lives as long as the worker has its partition, such as the partition's queue. A partition
that another worker had meanwhile is another channel: whatever was known of it does not count any more.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

__all__ = ["Idleness"]

# How often it is repeated that a channel is idle, in seconds, and as a share of the time after which it is.
_REPEAT_S = (1.0, 15.0)
_REPEAT_SHARE = 0.25


class Idleness:
    """Watches channels.

    Args:
        after_ms: how long a channel has no record until it is idle.
    """

    def __init__(self, after_ms: int) -> None:
        self._after_s = after_ms / 1000
        least, most = _REPEAT_S
        self._repeat_s = max(least, min(most, self._after_s * _REPEAT_SHARE))
        self._silent_since_s: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self._told_s: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    def wake(self, channel: object) -> None:
        """Note that a record has come."""
        self._silent_since_s.pop(channel, None)
        self._told_s.pop(channel, None)

    def idle_ms(self, channel: object, now_s: float, *, silent: bool) -> int | None:
        """Return for how long a channel has been idle, in milliseconds; None if it is not.

        Args:
            silent: whether all records of the channel were read and processed.
        """
        if not silent:
            self.wake(channel)
            return None
        idle_s = now_s - self._silent_since_s.setdefault(channel, now_s) - self._after_s
        return None if idle_s < 0 else int(idle_s * 1000)

    def repeats(self, channel: object, now_s: float) -> bool:
        """Return whether it has to be told now that a channel is idle, and note that it is."""
        told_s = self._told_s.get(channel)
        if told_s is not None and now_s - told_s < self._repeat_s:
            return False
        self._told_s[channel] = now_s
        return True
