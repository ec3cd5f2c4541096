"""The failure rate limit: stops a worker whose records fail because of a wrong type, a changed producer or a bug.

A worker that sends every record to the dead-letter topic looks healthy and does nothing, so it stops above a share of
failures. Each agent is measured by itself: a record that four agents read is handled, and may fail, four times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from ...topics.errors import Stop

__all__ = ["FailureRate", "Outcome"]

WINDOW_S = 60.0
LEAST = 1_000


class Outcome(NamedTuple):
    """What an agent did in an epoch: records it handled, and those among them that went to its policy.

    Rows of a packed batch are records; a batch that cannot be opened stands for as many as it says it has.
    """

    handled: int
    failed: int


class FailureRate:
    """Watches the share of records that fail, for each agent, over the last minute of commits.

    Args:
        share: above it the worker stops, once at least `LEAST` records of an agent failed; 1 lets everything pass.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._windows: dict[str, _Window] = {}

    def note(self, now_s: float, outcomes: Mapping[str, Outcome]) -> None:
        """An epoch was committed: agent -> what it did in it.

        Raises:
            Stop: too much of what an agent did failed.
        """
        for agent, outcome in outcomes.items():
            window = self._windows.setdefault(agent, _Window())
            window.add(now_s, outcome)
            if self._share < 1 and window.failed >= LEAST and window.failed > self._share * window.handled:
                raise Stop(
                    f"agent {agent}: {window.failed:,} of the last {window.handled:,} records failed",
                    hint="the headers of the dead letters say why; EngineSettings(max_failure_share=1) sets no limit",
                )


class _Window:
    def __init__(self) -> None:
        self._outcomes: deque[tuple[float, Outcome]] = deque()
        self.handled = self.failed = 0

    def add(self, now_s: float, outcome: Outcome) -> None:
        self._outcomes.append((now_s, outcome))
        self.handled += outcome.handled
        self.failed += outcome.failed
        while self._outcomes[0][0] < now_s - WINDOW_S:
            _, gone = self._outcomes.popleft()
            self.handled -= gone.handled
            self.failed -= gone.failed
