"""Sends the records of a test to the topics of an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...agents.runtime import runtime_of
from ...agents.topic import HeadersGiven, header_list
from ...topics import clock
from ...topics.cluster import Cluster
from ...topics.errors import Usage
from .duration import Time, time_ms_of
from .world_names import encoded, encoded_key

if TYPE_CHECKING:
    from ...agents.app import App
    from ...agents.topic import Topic

__all__ = ["RecordSender"]

_DELIVERED_S = 60.0


class RecordSender:
    """A producer that encodes keys and values, and chooses partitions, as an app does.

    Args:
        resolve: returns the name in Kafka of a topic of the program.
    """

    def __init__(self, cluster: Cluster, resolve: Callable[[str], str] = str) -> None:
        self._producer: Any = cluster.producer(linger_ms=0)
        self._resolve = resolve
        self._without_key = 0

    def send(
        self,
        app: App,
        topic: str,
        declared: Topic | None,
        partitions: int,
        value: object,
        *,
        key: object,
        at: Time | None,
        headers: HeadersGiven | None,
        partition: int | None,
    ) -> None:
        """Send a record and wait until it is delivered; see `World.send`.

        Args:
            declared: the topic as the app declares it; None if it does not.
            partitions: number of the topic's partitions.

        Raises:
            Usage: the topic has no such partition, or does not take the record.
        """
        name, raw_key = self._resolve(topic), encoded_key(declared, key)
        if partition is None:
            partition = self._partition_of(app, name, raw_key, partitions)
        elif not 0 <= partition < partitions:
            raise Usage(f"topic {topic} has no partition {partition}: it has {partitions}")
        failed: list[Any] = []
        self._producer.produce(
            name,
            encoded(declared, value),
            raw_key,
            partition,
            timestamp=clock.now_ms() if at is None else time_ms_of(at),
            headers=list(header_list(headers) or ()),
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        self._producer.flush(_DELIVERED_S)
        if failed:
            raise Usage(f"topic {topic} does not take the record: {failed[0].str()}")

    def _partition_of(self, app: App, name: str, key: bytes | None, partitions: int) -> int:
        """Return the partition of a key; records without a key go to the partitions in turn."""
        if key is None:
            self._without_key += 1
            return (self._without_key - 1) % partitions
        return runtime_of(app).partitioner_of(name, partitions).partition(key)
