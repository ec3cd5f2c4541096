"""A real Kafka for the tests of a session, which share it under names of their own.

`ANABRANCH_TEST_BROKER` chooses:

| value | |
| --- | --- |
| `embedded` (default) | starts the embedded broker, with an empty log |
| `container` | starts a container; `ANABRANCH_TEST_IMAGE` names the image. Needs `testcontainers` and a Docker engine |
| `HOST:PORT` | a broker that runs already |
| `memory` | Kafka in memory, for a quick look at the same tests |
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from ...topics.identifiers import random_hex

if TYPE_CHECKING:
    from .kafka_world import KafkaWorld

__all__ = ["KafkaFixture", "provide_kafka"]

_PATIENCE_S = 10.0
_IMAGE = "apache/kafka:{}"


class KafkaFixture:
    """A Kafka for tests.

        def test_totals(anabranch_kafka):
            with anabranch_kafka(shop.app) as world: ...

    Attributes:
        cluster: the cluster, which makes Kafka clients.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @property
    def bootstrap_servers(self) -> str:
        """Its address, for clients of your own."""
        return self.cluster.bootstrap_servers

    def __call__(self, program: Any, **options: Any) -> KafkaWorld:
        """Run an app on this Kafka, in topics of its own; the arguments are those of `KafkaWorld`."""
        from .kafka_world import KafkaWorld

        return KafkaWorld(self.cluster, program, **options)

    def fresh(self, stem: str = "t") -> str:
        """Return a name for a topic, a group or an app that no other test uses.

        >>> KafkaFixture(Cluster("localhost:9092")).fresh("orders").startswith("orders-")
        True
        """
        return f"{stem}-{random_hex(8)}"


@contextmanager
def provide_kafka() -> Generator[KafkaFixture]:
    """Provide the Kafka that the environment chooses, and stop what was started for it.

    Raises:
        Stop: no broker answers at `HOST:PORT`.
        Usage: the variable has another value, or the container cannot be started.
    """
    choice = os.environ.get("ANABRANCH_TEST_BROKER", "embedded")
    match choice:
        case "embedded" | "auto":
            from ...topics.devbroker.broker import EmbeddedBroker

            with EmbeddedBroker() as broker:
                yield KafkaFixture(Cluster(broker.bootstrap_servers))
        case "container":
            from ...topics.devbroker.distribution import KAFKA_VERSION
            from .broker_container import broker_container

            with broker_container(os.environ.get("ANABRANCH_TEST_IMAGE", _IMAGE.format(KAFKA_VERSION))) as cluster:
                yield KafkaFixture(cluster)
        case "memory":
            from ...topics.memory.memory_kafka import MemoryKafka

            yield KafkaFixture(MemoryKafka().cluster())
        case _ if ":" in choice:
            cluster = Cluster.named(choice)
            Admin(cluster, patience_s=_PATIENCE_S).cluster_id()  # once, instead of a wait of each test
            yield KafkaFixture(cluster)
        case _:
            raise Usage(f"ANABRANCH_TEST_BROKER={choice} is no Kafka", hint="embedded, container, memory or HOST:PORT")
