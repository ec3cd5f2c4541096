"""What Faust asks of a consumer, and what the engine answers; most of it is the engine's own affair."""

from __future__ import annotations

from typing import Any, cast

from faust.types import TP
from mode import Service

from ...topics.topic_partition import TopicPartition

__all__ = ["FaustConsumer"]


class FaustConsumer(Service):
    """The attributes and methods that Faust's parts reach for."""

    # Which parts start and stop is of interest to who works on us, not to who works with us.
    mundane_level = "debug"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(loop=kwargs.get("loop"), beacon=cast(Any, kwargs.get("beacon")))
        self.unacked = self._unacked_messages = set[Any]()
        self.randomly_assigned_topics: set[str] = set()
        self.transactions = None
        self.partition_counts: dict[str, int] = {}

    @property
    def owned(self) -> set[TopicPartition]:
        """Partitions of this worker."""
        raise NotImplementedError

    def hurry(self) -> None:
        """End the epoch soon."""
        raise NotImplementedError

    def assignment(self) -> set[TP]:
        """Partitions of this worker, as Faust has them."""
        return {TP(at.topic, at.partition) for at in self.owned}

    def topic_partitions(self, topic: str) -> int | None:
        """Number of partitions of a topic, None if it does not exist."""
        return self.partition_counts.get(topic)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Ask for an early end of the epoch."""
        del topics, start_new_transaction
        self.hurry()
        return True

    async def wait_empty(self) -> None:
        """Nothing waits outside of the engine."""

    async def on_task_error(self, exc: BaseException) -> None:
        """Errors go through `Engine.failed`."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Flow is the engine's own affair."""

    pause_partitions = resume_partitions = stop_flow = resume_flow = close = _nothing
    on_buffer_full = on_buffer_drop = _nothing
