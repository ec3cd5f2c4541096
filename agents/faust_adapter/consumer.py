"""Faust's consumer: Faust starts, subscribes and stops the engine through it, and receives rebalances from it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable
from typing import Any, cast

from faust.types import TP
from mode import Service

from ...topics.topic_partition import TopicPartition
from ..runtime import runtime_of

__all__ = ["Consumer"]


class Consumer(Service):
    """Implements the consumer interface that Faust uses, by calling the engine.

    It also is the engine's `RebalanceListener`: it passes assignments on to Faust's agents, topics and signals.
    """

    # Only developers of anabranch need the starts and stops of single services in the log.
    mundane_level = "debug"

    def __init__(self, transport: Any, **kwargs: Any) -> None:
        super().__init__(loop=kwargs.get("loop"), beacon=cast(Any, kwargs.get("beacon")))
        self.app = transport.app
        self.engine = runtime_of(self.app).engine
        self.unacked = self._unacked_messages = set[object]()
        self.randomly_assigned_topics: set[str] = set()
        self.transactions = None

    async def on_start(self) -> None:
        """Start the engine."""
        self.app.flow_control.resume()  # for channels in memory; records of topics bypass it
        await self.engine.start(self)

    async def on_stop(self) -> None:
        """Commit and leave the group, unless the engine has already left it."""
        await self.engine.leave()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Change the subscription. Faust's conductor calls this whenever the set of topics changes."""
        await self.engine.subscribe(topics)

    def assignment(self) -> set[TP]:
        """Return the partitions of this worker, as Faust's type."""
        return _faust_partitions(self.engine.status.owned)

    def topic_partitions(self, topic: str) -> int | None:
        """Return the number of partitions of a topic; None if it does not exist."""
        return self.engine.status.partition_counts.get(topic)

    async def commit(self, topics: object = None, start_new_transaction: bool = True) -> bool:
        """Request an early commit of the epoch; the commit itself follows later. Always return True."""
        del topics, start_new_transaction
        self.engine.hurry()
        return True

    async def wait_empty(self) -> None:
        """Return at once: no record waits outside the engine."""

    async def on_task_error(self, exc: BaseException) -> None:
        """Ignore errors of Faust's tasks: agents report their errors with `AgentContext.failed`."""

    def _nothing(self, *_: object, **__: object) -> None:
        """Do nothing: the engine does its own flow control."""

    pause_partitions = resume_partitions = stop_flow = resume_flow = close = _nothing
    on_buffer_full = on_buffer_drop = _nothing

    # `RebalanceListener`: called by the engine ----------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run a coroutine as a task of this service; the task is cancelled when the service stops."""
        return cast("asyncio.Future[None]", self.add_future(coroutine))

    async def partitions_assigned(self, owned: Collection[TopicPartition], added: Collection[TopicPartition]) -> None:
        """Pass a new assignment on to Faust's agents and topics, before its tables are restored."""
        partitions = _faust_partitions(owned)
        self.app._assignment = partitions
        await self.app.agents.on_rebalance(set(), _faust_partitions(added))
        await self.app.topics.on_partitions_assigned(partitions)

    async def partitions_active(self, owned: Collection[TopicPartition], rebalances: int) -> None:
        """Send Faust's signals for a completed rebalance: all partitions are active."""
        self.app.rebalancing_count = rebalances
        await self.app.on_partitions_assigned.send(_faust_partitions(owned))
        await self.app.on_rebalance_complete.send()

    async def partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Send Faust's signal for revoked partitions. Its receivers may wait; a rebalance callback may not."""
        await self.app.on_partitions_revoked.send(_faust_partitions(revoked))


def _faust_partitions(partitions: Iterable[TopicPartition]) -> set[TP]:
    return {TP(partition.topic, partition.partition) for partition in partitions}
