"""Faust's transport: adapters between its consumer, producer, fetcher and conductor and the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from faust.tables.manager import TableManager as FaustTableManager
from faust.transport import base
from faust.transport.conductor import Conductor as FaustConductor
from faust.types import TP
from mode import Service

from ..runtime import runtime_of
from .consumer import Consumer

__all__ = ["Conductor", "Producer", "TableManager", "Transport"]


class Producer(base.Producer):
    """Faust's producer interface. Sent records join the epoch (`Topic.send`) and do not pass through it."""

    async def on_start(self) -> None:
        """Do nothing: the sender starts with its first record."""

    async def flush(self) -> None:
        """Wait until the records that were sent outside of epochs are delivered."""
        await runtime_of(self.app).sender.flush()

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create a topic by name, at the request of Faust."""
        del options
        await runtime_of(self.app).provisioner.create_topic(topic, partitions, replication)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Return the partition of a topic for a key."""
        app = cast(Any, self.app)
        partitions = app.consumer.topic_partitions(topic) or app.conf.topic_partitions
        return TP(topic, runtime_of(app).partitioner_of(topic, partitions).partition(key))

    def supports_headers(self) -> bool:
        """Return True: headers are kept."""
        return True


class Fetcher(Service):
    """A service without function: Faust requires a fetcher, but the engine fetches records itself."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        super().__init__(**kwargs)


class Conductor(FaustConductor):
    """Maps topics to the streams that read them; records do not pass through it."""

    # Faust waits 45 s for further changes before it subscribes again.
    _resubscribe_sleep_lock_seconds = 0.1

    async def _update_indices(self) -> Iterable[str]:
        async with self._tp_to_callback_lock:
            self._topic_name_index.clear()
            for channel in list(self._topics):
                for topic in channel.topics:
                    self._acking_topics.add(topic)
                    self._topic_name_index[topic].add(channel)
        return list(self._topic_name_index)

    def _update_callback_map(self) -> None:
        """Do nothing: the engine passes records directly to the streams."""


class TableManager(FaustTableManager):
    """The app's tables by name. The engine restores and commits them."""

    def add(self, table: Any) -> Any:
        """Register a table under its name.

        Raises:
            ValueError: a table with this name exists already.
        """
        if table.name in self:
            raise ValueError(f"Table with name {table.name!r} already exists")
        self[table.name] = table
        self.add_changelog(table)
        return table

    def add_changelog(self, table: Any) -> None:
        """Register the changelog of a table."""
        self._changelogs[table.changelog_topic.get_topic_name()] = table

    async def on_start(self) -> None:
        """Mark the tables as registered and finalized."""
        self._tables_finalized.set()
        self._tables_registered.set()

    async def on_stop(self) -> None:
        """Do nothing: the engine closes the stores."""

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Do nothing: the engine handles revoked partitions."""

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the engine handles rebalances."""

    async def wait_until_recovery_completed(self) -> bool:
        """Wait until the first partitions are restored; return True if the app has to stop instead."""
        app = cast(Any, self.app)
        if app.producer_only or app.client_only:
            return False
        ready = asyncio.ensure_future(runtime_of(app).status.ready.wait())
        await ready
        return runtime_of(app).stop_requested.is_set()


class Transport(base.Transport):
    """Faust's transport on librdkafka, by confluent-kafka."""

    Consumer = cast(Any, Consumer)
    Producer = Producer
    Fetcher = Fetcher
    Conductor = Conductor
    driver_version = "confluent-kafka"
