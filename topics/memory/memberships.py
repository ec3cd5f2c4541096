"""A consumer's membership of its group: by which protocol, and what is called when partitions come and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from confluent_kafka import OFFSET_INVALID, TopicPartition

from .classic_membership import ClassicMembership
from .client_config import ClientConfig
from .consumer_protocol_membership import ConsumerProtocolMembership
from .fetcher import Fetcher
from .offsets import Partition

if TYPE_CHECKING:
    from .client import Client
    from .memory_kafka import MemoryKafka

__all__ = ["OnRebalance", "Rebalances", "new_membership"]

OnRebalance = Callable[[object, list[TopicPartition]], object]

_SESSION_MS, _REFRESH_MS = 45_000, 300_000


class Rebalances:
    """Calls the application back, and assigns the partitions itself where no callback does.

    Args:
        consumer: what callbacks are called with.
        incremental: whether partitions come and go one by one.

    Attributes:
        callbacks: `assign`, `revoke` and `lost` -> the callback; None for none.
        assigned: whether the current callback has assigned or unassigned partitions.
    """

    def __init__(self, consumer: object, fetcher: Fetcher, *, incremental: bool) -> None:
        self._consumer, self._fetcher, self._incremental = consumer, fetcher, incremental
        self.callbacks: Mapping[str, OnRebalance | None] = {}
        self.assigned = False

    def __call__(self, kind: Literal["assign", "revoke", "lost"], partitions: list[Partition]) -> None:
        """Let partitions be assigned, revoked or lost."""
        callback = self.callbacks.get(kind) or (self.callbacks.get("revoke") if kind == "lost" else None)
        self.assigned = False
        if callback is not None:
            callback(self._consumer, [TopicPartition(*at) for at in partitions])
        if self.assigned:
            return
        starts = [(topic, partition, OFFSET_INVALID) for topic, partition in partitions]
        if not self._incremental:
            self._fetcher.assign(starts if kind == "assign" else ())
        elif kind == "assign":
            self._fetcher.add(starts)
        else:
            self._fetcher.remove(partitions)


def new_membership(
    kafka: MemoryKafka, client: Client, config: ClientConfig, group: str, rebalances: Rebalances
) -> ClassicMembership | ConsumerProtocolMembership:
    """Return the membership of a consumer, by the protocol that its configuration names."""
    static = config.text("group.instance.id")
    if config.text("group.protocol") == "consumer":
        if static is not None:
            raise NotImplementedError("group.instance.id with group.protocol=consumer, of Kafka in memory")
        return ConsumerProtocolMembership(
            kafka, client, group, rebalance_s=client.poll_interval_s, rebalanced=rebalances
        )
    strategy = config.text("partition.assignment.strategy") or "range,roundrobin"
    if not strategy.startswith("range"):
        raise NotImplementedError(f"partition.assignment.strategy={strategy} of Kafka in memory")
    return ClassicMembership(
        kafka,
        client,
        group,
        static,
        session_s=config.number("session.timeout.ms", _SESSION_MS) / 1000,
        rebalance_s=client.poll_interval_s,
        refresh_s=config.number("topic.metadata.refresh.interval.ms", _REFRESH_MS) / 1000,
        rebalanced=rebalances,
    )
