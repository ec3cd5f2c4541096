"""The cluster whose clients work on a Kafka in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from ..cluster import PRODUCER_DEFAULTS, Cluster
from .memory_kafka import MemoryKafka

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient

__all__ = ["MemoryCluster"]


@dataclass(frozen=True, slots=True)
class MemoryCluster(Cluster):
    """A cluster whose clients work on a Kafka in memory.

    Attributes:
        kafka: that Kafka.
        owner: what the clients carry as `owner`.
    """

    kafka: MemoryKafka = field(default_factory=MemoryKafka, repr=False)
    owner: object = None

    def consumer(self, **chosen: object) -> Consumer:
        """Make a consumer that commits no offsets by itself; see `Cluster.consumer`."""
        from .memory_consumer import MemoryConsumer

        config = self.config(**{"enable_auto_commit": False, **chosen})
        return cast("Consumer", MemoryConsumer(self.kafka, config, self.owner))

    def producer(self, **chosen: object) -> Producer:
        """Make an idempotent producer; see `Cluster.producer`."""
        from .memory_producer import MemoryProducer

        config = self.config(**{**PRODUCER_DEFAULTS, **chosen})
        return cast("Producer", MemoryProducer(self.kafka, config, self.owner))

    def admin(self, **chosen: object) -> AdminClient:
        """Make an admin client; see `Cluster.admin`."""
        from .memory_admin import MemoryAdmin

        return cast("AdminClient", MemoryAdmin(self.kafka, self.config(**chosen), self.owner))
