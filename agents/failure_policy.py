"""What becomes of a record that makes its agent fail: by name, or after some tries."""

from __future__ import annotations

from dataclasses import dataclass

from ..topics.errors import BadRecord, Usage

__all__ = ["POLICIES", "Retry", "policy"]

POLICIES = ("dead_letter", "skip", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try a failing record again, later and later, before it goes to another policy.

    >>> Retry(times=5, first_s=0.1, most_s=1.0).waits_s()
    (0.1, 0.2, 0.4, 0.8, 1.0)

    While a record waits, so do the later ones of its partition; other partitions, other agents and commits go on, and
    a worker that stops does not wait. Tries are counted in memory: after a restart or on another worker they begin
    anew. What the agent did with the record outside of Kafka is done with each try.

    What cannot be decoded, and a `BadRecord`, are not tried again: they would fail in the same way.

    Args:
        times: how often it is tried again, at most.
        first_s: seconds before the first of these; each further wait is twice as long.
        most_s: no wait is longer.
        then: where a record goes that failed each time: `dead_letter`, `skip` or `fail`.
        on: only these errors are worth a try, all unless given; the others go there at once.

    Raises:
        Usage: values that make no sense.
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
        """How long to wait after so many failures, the first one is 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def waits_s(self) -> tuple[float, ...]:
        """All waits."""
        return tuple(self.wait_s(failures) for failures in range(1, self.times + 1))

    def worth(self, error: BaseException, failures: int) -> bool:
        """Whether to try again after so many failures, the last one this."""
        return failures <= self.times and isinstance(error, self.on) and not isinstance(error, BadRecord)


def policy(on_failure: str | Retry) -> tuple[str, Retry | None]:
    """What an agent was given, as the policy by name and what comes before it; `retry` is `Retry()`.

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
