"""The clients and files that make a worker a member of its group: identity, consumer, producer, stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...topics import clock, threads
from ...topics.admin import Admin
from ...topics.client_watchdog import leave_behind
from ...topics.cluster import Cluster
from ...topics.errors import Stop
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from ..assigned_partitions import Assignment
from ..tables.store_directory import StoreDirectory
from .committer import AtLeastOnce, Committer, ExactlyOnce
from .group_consumer import GroupConsumer
from .settings import EngineSettings
from .topic_ids import TopicIds
from .worker_identity import Identity

__all__ = ["Membership"]

logger = logging.getLogger(__name__)

_AGAIN_S = 60.0
_LOOK_S = 1.0

# A consumer leaves its group within half a second unless it hangs.
_CLOSE_S = 10.0


class Membership:
    """A worker's identity, consumer, committer and stores: opened once, renewed when fenced, closed at the end.

    Args:
        group_id: the app's id; static member ids and transactional ids begin with it.
        data: data folder with the identity and the stores on disk.
        on_assign, on_revoke, on_lost: called when partitions are assigned, revoked or lost.

    Attributes:
        name: `group.instance.id` and `transactional.id` of this worker.
        group: the consumer.
        committer: the producer of commits.
        stores: stores on disk.
        topic_ids: ids of the topics that this worker has read.
    """

    def __init__(
        self,
        cluster: Cluster,
        group_id: str,
        data: Path,
        settings: EngineSettings,
        on_assign: Callable[[Assignment], None],
        on_revoke: Callable[[set[TopicPartition]], None],
        on_lost: Callable[[set[TopicPartition]], None],
    ) -> None:
        self._cluster, self._settings = cluster, settings
        self._identity = Identity(data)
        self.name = f"{group_id}-{self._identity.name}"
        self._watching: asyncio.Future[Any] | None = None
        self._renewed_s: dict[str, float] = {}
        own = data / str(self._identity.slot)
        self.stores = StoreDirectory(cluster, group_id, own / "tables")
        self.topic_ids = TopicIds(Admin(cluster, patience_s=settings.patience_s), group_id, own / "inputs.json")
        callbacks = on_assign, on_revoke, on_lost
        self._new_group = partial(
            GroupConsumer, cluster, group_id, self.name, settings, *callbacks, topic_ids=self.topic_ids
        )
        self.group = self._new_group()
        self.committer: Committer = self._new_committer()

    def _new_committer(self) -> Committer:
        if self._settings.exactly_once:
            return ExactlyOnce(self._cluster, self.name, self._settings.producer_options, topic_ids=self.topic_ids)
        options = self._settings.producer_options
        return AtLeastOnce(self._cluster, self.group.kafka, options, topic_ids=self.topic_ids)

    async def open(self) -> None:
        """Fence producers with the same identity, end their open transactions, and start to watch the consumer.

        The watch detects a consumer that hangs.
        """
        await daemon_thread(self.committer.open)
        self._watching = self._watching or asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            await threads.idle(_LOOK_S)
            await daemon_thread(self.group.check_coordinator)

    async def renew(self) -> None:
        """Create a new producer, and a new consumer if the old one is finished, and resume from the committed offsets.

        The committed offsets in Kafka also show whether the last commit succeeded.

        Raises:
            Stop: this worker was fenced twice within a minute, so another process uses its identity.
        """
        finished, topics = self.group.finished is not None, self.group.topics
        if self.group.fenced or not (finished or self.committer.is_overdue):
            self._note("consumer" if finished else "producer")
        await daemon_thread(self.committer.close)
        if finished:
            await self._close_group(keep_identity=True)
            self.group = self._new_group()
        self.committer = self._new_committer()
        await self.open()
        if finished:
            self.group.subscribe(topics)
        else:
            await daemon_thread(self.group.reassign)

    async def _close_group(self, *, keep_identity: bool) -> None:
        if not await daemon_thread(leave_behind, partial(self.group.close, keep_identity=keep_identity), _CLOSE_S):
            logger.warning("the consumer does not close in time: it is abandoned")

    def _note(self, client: str) -> None:
        now = clock.now_s()
        if now - self._renewed_s.get(client, -_AGAIN_S) < _AGAIN_S:
            raise Stop(
                f"this worker's {client} was fenced twice within a minute: another process uses its identity",
                hint="two workers run on one data folder that was copied or shared; give each its own --datadir",
            )
        self._renewed_s[client] = now

    async def close(self, *, keep_identity: bool) -> None:
        """Close the clients and stores, and leave the group.

        Args:
            keep_identity: do not leave the group; its partitions stay reserved for a restart of this worker.
        """
        if self._watching is not None:
            self._watching.cancel()
        await self._close_group(keep_identity=keep_identity)
        await daemon_thread(self.committer.close)
        await daemon_thread(self.stores.close)
        self._identity.release()

    def abandon(self) -> None:
        """Release what the end of a process would release: the locks of its files. The clients are left as they are."""
        self._identity.release()
        self.stores.close()
