"""Limits how many windows close in one epoch, so that its commit does not take too long.

Other agents' results wait for the commit of the epoch that they are in, and for the one that is under way when it ends.
While that one is under way windows go on closing; if they did so without a limit, and Kafka is slower than they close,
each epoch would be larger than the one before.

Commits may also take long whatever is in them, because the machine is busy or the brokers are far. Fewer windows do not
make them shorter then, and a million would never be through. So the limit is lowered only as long as that helps.
"""

from __future__ import annotations

from math import inf

__all__ = ["STEP_S", "ClosingPace"]

STEP_S = 0.05
"""How long windows are closed without a pause, in seconds."""

_COMMIT_S = 0.4
_FIRST_S, _LEAST_S, _MOST_S = 0.25, 0.005, 1.0

# The least limit where a lower one has not shortened commits to this share.
_LEAST_OF_SLOW_S, _HELPED = 0.1, 0.75


class ClosingPace:
    """How long windows may be closed, in steps, between which others have their turn.

    >>> pace = ClosingPace()
    >>> pace.step_s(1, 0.0)
    0.05
    >>> pace.spend(0.5)
    >>> pace.step_s(1, 0.0), pace.step_s(2, 0.0)
    (0.0, 0.05)

    Attributes:
        most_s: how long windows may be closed in one epoch, in seconds.
    """

    def __init__(self) -> None:
        self.most_s = _FIRST_S
        self._epoch, self._spent_s = -1, 0.0
        self._slow_s = inf  # the last commit, if the limit was lowered because of it

    def step_s(self, epoch: int, commit_s: float) -> float:
        """Return for how many seconds windows may be closed now; 0 if that has to wait for the next epoch.

        Args:
            epoch: number of the epoch.
            commit_s: how long the last commit has taken, in seconds.
        """
        if epoch != self._epoch:
            if self._spent_s >= self.most_s / 2:
                self._adjust(commit_s)
            self._epoch, self._spent_s = epoch, 0.0
        return max(0.0, min(STEP_S, self.most_s - self._spent_s))

    def spend(self, spent_s: float) -> None:
        """Note for how many seconds windows were closed."""
        self._spent_s += spent_s

    def _adjust(self, commit_s: float) -> None:
        if commit_s > _COMMIT_S:
            least_s = _LEAST_S if commit_s < self._slow_s * _HELPED else _LEAST_OF_SLOW_S
            self.most_s = max(least_s, self.most_s * max(0.25, _COMMIT_S / 2 / commit_s))
            self._slow_s = commit_s
        else:
            self._slow_s = inf
            self.most_s = min(_MOST_S, self.most_s * (2 if commit_s < _COMMIT_S / 2 else 1.25))
