"""When given-up records are not an accident any more: a wrong type, a changed producer, a bug in the agent.

A worker that sets everything aside looks healthy and does nothing, so past a share it stops instead.
"""

from __future__ import annotations

from collections import deque

from ...topics.errors import Stop

__all__ = ["Flood"]

WINDOW_S = 60.0
LEAST = 1_000


class Flood:
    """Watches the share of records that agents give up, over the last minute of commits.

    Args:
        share: above it the worker stops, once at least `LEAST` records were given up; 1 lets everything pass.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._window: deque[tuple[float, int, int]] = deque()
        self._given_up = 0
        self._handled = 0

    def note(self, now_s: float, *, given_up: int, handled: int) -> None:
        """An epoch was committed in which so many records were handled, those given up among them.

        Raises:
            Stop: it is a flood.
        """
        self._window.append((now_s, given_up, handled))
        self._given_up += given_up
        self._handled += handled
        while self._window[0][0] < now_s - WINDOW_S:
            _, given_up, handled = self._window.popleft()
            self._given_up -= given_up
            self._handled -= handled
        if self._given_up >= LEAST and self._given_up > self._share * self._handled:
            raise Stop(
                f"{self._given_up:,} of the last {self._handled:,} records were given up",
                hint="see the dead letters' headers for why; EngineSettings(give_up_share=1) lets a worker go on",
            )
