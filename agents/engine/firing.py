"""What an agent works on while something fires that event time has made due, between two records: a timer, a window
that closes. It stands where a record of the agent's topic stands: what is sent inherits its time, and a failure goes to
the agent's failure policy."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ...topics.producer import Headers
from ...topics.topic_partition import TopicPartition

__all__ = ["FiringRecord"]


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

    Attributes:
        kind: see above.
        place: as `partition_queue.place_of`.
    """

    __slots__ = ("_at", "_due_ms", "_letter", "_offset", "kind", "place")

    def __init__(
        self,
        at: TopicPartition,
        offset: int,
        identity: Hashable,
        due_ms: int,
        letter: Callable[[], tuple[bytes | None, bytes | None]],
        *,
        kind: str,
    ) -> None:
        self.kind = kind
        self._at, self._offset, self._due_ms, self._letter = at, offset, due_ms, letter
        self.place = offset, identity

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
