"""The failure rate limit: stops a worker whose records fail because of a wrong type, a changed producer or a bug.

A worker that sends every record to the dead-letter topic looks healthy but does no work. It therefore stops when the
share of failed records exceeds the limit. Each agent is measured separately: a record that four agents read is counted,
and may fail, four times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from ...topics.errors import Stop

__all__ = ["EpochCounts", "FailureRate"]

WINDOW_S = 60.0
LEAST = 1_000


class EpochCounts(NamedTuple):
    """The records that an agent processed in an epoch, and how many of them went to its failure policy.

    Each row of a packed batch counts as a record. A batch that cannot be opened counts as many records as it declares.
    """

    handled: int
    failed: int


class FailureRate:
    """Measures the share of failed records of each agent over the last `WINDOW_S` seconds of commits.

    Args:
        share: the worker stops above this share, once at least `LEAST` records of an agent have failed; 1 disables the
            limit.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._windows: dict[str, _Window] = {}

    def note(self, now_s: float, outcomes: Mapping[str, EpochCounts]) -> None:
        """Add the outcomes of a committed epoch, by agent.

        Args:
            now_s: time of the commit, in seconds.
            outcomes: agent -> its outcome in the epoch.

        Raises:
            Stop: the share of failed records of an agent exceeds the limit.
        """
        for agent, outcome in outcomes.items():
            window = self._windows.setdefault(agent, _Window())
            window.add(now_s, outcome)
            if self._share < 1 and window.failed >= LEAST and window.failed > self._share * window.handled:
                raise Stop(
                    f"agent {agent}: {window.failed:,} of the last {window.handled:,} records failed",
                    hint="the headers of the dead letters contain the errors; EngineSettings(max_failure_share=1) "
                    "sets no limit",
                )


class _Window:
    def __init__(self) -> None:
        self._outcomes: deque[tuple[float, EpochCounts]] = deque()
        self.handled = self.failed = 0

    def add(self, now_s: float, outcome: EpochCounts) -> None:
        self._outcomes.append((now_s, outcome))
        self.handled += outcome.handled
        self.failed += outcome.failed
        while self._outcomes[0][0] < now_s - WINDOW_S:
            _, oldest = self._outcomes.popleft()
            self.handled -= oldest.handled
            self.failed -= oldest.failed
