"""The barrier: the point between two records at which agents wait while an epoch is committed.

An agent is running from the moment its stream is resumed until the stream parks again. Only the engine resumes streams,
so while no agent is running, agents cannot change anything.
"""

from __future__ import annotations

import asyncio

from ...topics import clock
from .protocols import RecordFeed

__all__ = ["Barrier"]

_LATE_S = 0.001


class Barrier:
    """Parks and resumes streams, and counts those that are running.

    Attributes:
        running: number of streams whose agent is processing a record.
        closed: whether an epoch is being committed; then no stream is resumed by its timer.
        busy_since_s: when `running` last rose from 0, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.running = 0
        self.closed = False
        self.busy_since_s = 0.0
        self._changed = asyncio.Event()

    async def park(self, stream: RecordFeed, timeout_s: float | None = None) -> None:
        """Park a stream that has no records or must wait for a commit; return when it is resumed.

        Args:
            timeout_s: after this many seconds the stream is resumed anyway, as soon as the barrier is open; None waits
                without a limit.
        """
        loop = asyncio.get_running_loop()
        stream.wakeup = loop.create_future()
        if stream.running:
            stream.running = False
            self.running -= 1
            if not self.running:
                self._changed.set()
        if timeout_s is not None:
            stream.timer = loop.call_later(timeout_s, self._resume_late, stream)
        try:
            await stream.wakeup
        finally:
            if stream.timer is not None:
                stream.timer.cancel()
                stream.timer = None

    def resume(self, stream: RecordFeed) -> bool:
        """Resume a parked stream; return False if it was not parked."""
        if stream.wakeup is None or stream.wakeup.done() or stream.running:
            return False
        stream.running = True
        if not self.running:
            self.busy_since_s = clock.now_s()
        self.running += 1
        stream.wakeup.set_result(None)
        return True

    def _resume_late(self, stream: RecordFeed) -> None:
        if self.closed:
            stream.timer = asyncio.get_running_loop().call_later(_LATE_S, self._resume_late, stream)
        else:
            self.resume(stream)

    def close(self) -> None:
        """Resume no stream by its timer from now on: an epoch is being committed or rolled back."""
        self.closed = True

    def open(self) -> None:
        """Let timers resume streams again."""
        self.closed = False

    def abandon(self, stream: RecordFeed) -> None:
        """Count the stream as not running: its agent has ended in the middle of a record."""
        if stream.running:
            stream.running = False
            self.running -= 1
        self._changed.set()

    def wake(self) -> None:
        """Wake the tasks that wait in `parked_within`, so that they check the state of the engine again."""
        self._changed.set()

    def reset(self) -> None:
        """Open the barrier and count no stream as running, after all agents were ended."""
        self.running = 0
        self.closed = False

    async def parked_within(self, timeout_s: float) -> bool:
        """Wait until no stream is running, `wake` is called or the timeout has passed.

        Returns:
            Whether no stream is running.
        """
        if not self.running:
            return True
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        return self.running == 0
