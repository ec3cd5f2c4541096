"""The waits of one partition for the retries of records that made the agent fail (`on_failure=Retry(…)`).

`failed_records.py` sets the times; `record_queue.py` holds the records back until then, and releases them.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["RetryDelays"]


class RetryDelays:
    """When the records of one partition that failed may be processed again.

    All records behind the first one that waits wait as well, so that the order within the partition is kept.

    Attributes:
        at_s: place (offset and row) of a record to retry -> earliest time of the retry (monotonic seconds).
        until_s: the partition waits until then; None if it does not wait.
    """

    __slots__ = ("at_s", "until_s")

    def __init__(self) -> None:
        self.at_s: dict[tuple[int, Hashable], float] = {}
        self.until_s: float | None = None

    def due_s(self, offset: int) -> float | None:
        """Return when the message at an offset may be retried (its latest row); None if it does not wait."""
        return max((due_s for (at, _), due_s in self.at_s.items() if at == offset), default=None)

    def end(self, offset: int) -> None:
        """Let the records be taken: the retry of the first one, at this offset, is due."""
        self.at_s = {place: due_s for place, due_s in self.at_s.items() if place[0] != offset}
        self.until_s = None
