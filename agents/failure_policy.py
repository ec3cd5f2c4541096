"""Failure policies: what happens to a record that makes its agent fail, at once or after some retries."""

from __future__ import annotations

from dataclasses import dataclass

from ..topics.errors import BadRecord, Usage

__all__ = ["POLICIES", "Retry", "policy"]

POLICIES = ("dead_letter", "skip", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try a failing record again, after longer and longer waits, before it goes to another policy.

    >>> Retry(times=5, first_s=0.1, most_s=1.0).waits_s()
    (0.1, 0.2, 0.4, 0.8, 1.0)

    While a record waits, the later records of its partition wait as well; other partitions, other agents and commits
    continue, and a worker that stops does not wait. Tries are counted in memory: they start again after a restart or on
    another worker. Effects of the agent outside of Kafka are repeated with each try.

    Records that cannot be decoded, and `BadRecord` errors, are not retried: they would fail in the same way.

    Args:
        times: the largest number of retries.
        first_s: seconds before the first retry; each further wait is twice as long.
        most_s: the longest wait, in seconds.
        then: the policy for a record that failed each time: `dead_letter`, `skip` or `fail`.
        on: the errors to retry; default: all. Other errors go to `then` at once.

    Raises:
        Usage: a value is out of range, or `then` is not a policy.
    """

    times: int = 3
    first_s: float = 0.1
    most_s: float = 10.0
    then: str = "dead_letter"
    on: tuple[type[BaseException], ...] | type[BaseException] = BaseException

    def __post_init__(self) -> None:
        if self.times < 1 or not 0 < self.first_s <= self.most_s:
            raise Usage(f"{self}", hint="times is at least 1, first_s more than 0 and at most most_s")
        if self.then not in POLICIES:
            raise Usage(f"Retry(then={self.then!r})", hint=f"one of {', '.join(POLICIES)}")

    def wait_s(self, failures: int) -> float:
        """Return the seconds to wait after so many failures, from 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def waits_s(self) -> tuple[float, ...]:
        """Return all waits, in seconds."""
        return tuple(self.wait_s(failures) for failures in range(1, self.times + 1))

    def worth(self, error: BaseException, failures: int) -> bool:
        """Return whether to try again after so many failures, of which `error` is the last."""
        return failures <= self.times and isinstance(error, self.on) and not isinstance(error, BadRecord)


def policy(on_failure: str | Retry) -> tuple[str, Retry | None]:
    """Return the name of an agent's policy, and the retries before it; `retry` is `Retry()`.

    Raises:
        Usage: there is no such policy.
    """
    if isinstance(on_failure, Retry):
        return on_failure.then, on_failure
    if on_failure == "retry":
        return policy(Retry())
    if on_failure not in POLICIES:
        raise Usage(f"on_failure={on_failure!r}", hint=f"one of {', '.join((*POLICIES, 'retry'))}, or Retry(…)")
    return on_failure, None
