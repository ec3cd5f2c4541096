"""Stands in for a record while an agent works on something that event time has made due between two records: a timer,
or a window that closes. What is sent inherits its time, and a failure goes to the agent's failure policy."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from ...topics.producer import Headers
from ...topics.topic_partition import TopicPartition

__all__ = ["ANYWHERE", "ANY_RECORD", "FiringRecord", "FiringWindow"]

ANYWHERE = -1
"""The offset in the place of a window. It fires once, and where it does after a rollback may depend on the clock."""

ANY_RECORD = -2
"""The offset in the place of a timer of several partitions: in front of which record it fires, or if it is cancelled
before, may depend on which of them is read first. So its failure counts until the next commit only."""


class FiringWindow(Protocol):
    """A window that fires, for its dead letter.

    Attributes:
        source: the topic whose dead letter it is: that whose records the windows are made of.
        operator: name of the table.
    """

    source: str
    operator: str

    @property
    def text(self) -> str:
        """Its start and end, as in headers of late records."""
        ...

    @property
    def returns(self) -> bool:
        """True if its dead letter holds all that is needed to tell it again."""
        ...

    @property
    def private(self) -> frozenset[str]:
        """Names of private fields."""
        ...

    def short(self) -> bytes:
        """Return the value of its dead letter without the value of the window, where it is too large."""
        ...


class FiringRecord:
    """A record that no topic holds, with the methods of a message that the engine calls.

    Args:
        at: partition of the agent's topic in which something fires.
        offset: the offset of the record in front of which it fires.
        identity: tells it apart from other things that fire there.
        due_ms: when it was due, in milliseconds of event time.
        letter: returns key and value of its dead letter.
        kind: what it is one of, such as `timers`. `dlq replay` re-publishes its dead letter to a topic of the agent for
            these, see `RetryTopics.of_fired`.
        window: the window, if it is one.
        anywhere: in front of which record it fires may differ after a rollback; always so of a window.

    Attributes:
        kind, window: see above.
        place: as `partition_queue.place_of`.
    """

    __slots__ = ("_at", "_due_ms", "_letter", "_offset", "kind", "place", "window")

    def __init__(
        self,
        at: TopicPartition,
        offset: int,
        identity: Hashable,
        due_ms: int,
        letter: Callable[[], tuple[bytes | None, bytes | None]],
        *,
        kind: str,
        window: FiringWindow | None = None,
        anywhere: bool = False,
    ) -> None:
        self.kind, self.window = kind, window
        self._at, self._offset, self._due_ms, self._letter = at, offset, due_ms, letter
        at_record = ANY_RECORD if anywhere else offset
        self.place = at_record if window is None else ANYWHERE, identity

    def topic(self) -> str:
        return self._at.topic

    def partition(self) -> int:
        return self._at.partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._letter()[0]

    def value(self) -> bytes | None:
        return self._letter()[1]

    def headers(self) -> Headers | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of the timestamp in Kafka, and the first one that can be sent from when it was due on."""
        return 1, max(1, self._due_ms)
