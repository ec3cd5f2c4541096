"""The gate: where agents wait, between two records, while an epoch is committed.

An agent is running from the moment its stream is resumed until the stream parks again. Only the engine resumes, so with
nobody running nothing of the agents' can change.
"""

from __future__ import annotations

import asyncio

from ...topics import clock
from .protocols import RecordFeed

__all__ = ["Barrier"]

_LATE_S = 0.001


class Barrier:
    """Counts who runs.

    Attributes:
        running: number of streams whose agent is at a record.
        closed: no stream is resumed by its timer while an epoch is committed.
        busy_since_s: when somebody began to run while nobody else did, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.running = 0
        self.closed = False
        self.busy_since_s = 0.0
        self._changed = asyncio.Event()

    async def park(self, stream: RecordFeed, timeout_s: float | None = None) -> None:
        """A stream has nothing to do, or must wait for a commit; with a timeout it is resumed after it anyway."""
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
        """Let a parked stream go on; whether it did."""
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

    def abandon(self, stream: RecordFeed) -> None:
        """The stream's agent is gone in the middle of a record."""
        if stream.running:
            stream.running = False
            self.running -= 1
        self._changed.set()

    def wake(self) -> None:
        """Whoever waits for agents should look at the engine's state again."""
        self._changed.set()

    def reset(self) -> None:
        """All agents have been ended."""
        self.running = 0
        self.closed = False

    async def parked_within(self, timeout_s: float) -> bool:
        """Wait until nobody runs, or something else has happened; whether nobody runs."""
        if not self.running:
            return True
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        return self.running == 0
