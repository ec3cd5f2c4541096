"""What Faust calls a transport: consumer, producer, fetcher and conductor, adapted to the engine."""

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
    """Faust's view of producing; records go through the epoch (`Topic.send`), so little is left here."""

    async def on_start(self) -> None:
        """Nothing to start: the sender starts with its first record."""

    async def flush(self) -> None:
        """Wait for what was sent outside of epochs."""
        await runtime_of(self.app).sender.flush()

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create a topic by name, as Faust's own parts ask for it."""
        del options
        await runtime_of(self.app).provisioner.create_topic(topic, partitions, replication)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Where records with this key lie."""
        app = cast(Any, self.app)
        partitions = app.consumer.topic_partitions(topic) or app.conf.topic_partitions
        return TP(topic, runtime_of(app).partitioner_of(topic, partitions).partition(key))

    def supports_headers(self) -> bool:
        """They are kept."""
        return True


class Fetcher(Service):
    """Faust wants one; the engine fetches by itself."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        super().__init__(**kwargs)


class Conductor(FaustConductor):
    """Knows which streams read which topic; records do not pass through it."""

    # Faust waits 45 s for further changes before it subscribes anew.
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
        """Records go straight to the streams."""


class TableManager(FaustTableManager):
    """The app's tables by name. Restoring and committing them is the engine's."""

    def add(self, table: Any) -> Any:
        """Register a table under its name, once."""
        if table.name in self:
            raise ValueError(f"Table with name {table.name!r} already exists")
        self[table.name] = table
        self._changelogs[table.changelog_topic.get_topic_name()] = table
        return table

    async def on_start(self) -> None:
        """Nothing to wait for."""
        self._tables_finalized.set()
        self._tables_registered.set()

    async def on_stop(self) -> None:
        """Nothing to stop."""

    def on_partitions_revoked(self, revoked: Any) -> None:
        """The engine's."""

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:
        """The engine's."""

    async def wait_until_recovery_completed(self) -> bool:
        """Wait for the first partitions, restored; True if the app stopped instead."""
        app = cast(Any, self.app)
        if app.producer_only or app.client_only:
            return False
        ready = asyncio.ensure_future(runtime_of(app).status.ready.wait())
        await ready
        return runtime_of(app).stop_requested.is_set()


class Transport(base.Transport):
    """librdkafka, through confluent-kafka."""

    Consumer = cast(Any, Consumer)
    Producer = Producer
    Fetcher = Fetcher
    Conductor = Conductor
    driver_version = "confluent-kafka"
