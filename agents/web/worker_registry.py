"""Which worker has which partitions: what the workers of an app announce in the topic `<app>-workers`.

The topic is compacted and has one partition. The key of a record is a worker's name in the group, its value is JSON,
`{"url": "http://10.0.0.7:6066", "host": "node-7", "partitions": {"orders": [0, 1]}}`; a tombstone removes a worker that
was told to stop. An announcement is part of the worker's next epoch, so a fenced worker cannot make one, and the last
announcement that names a partition says which worker has it: a worker announces fewer partitions before it gives one
up, and nothing when it is killed. An outdated announcement leads to a worker that answers that it does not have the
partition, or to no worker; the client is then asked to retry.

Whoever can write to the topic can announce anything. So an announcement counts only if the group has a member of that
name with that partition, and if its URL is an http(s) address and nothing else.

Not promised: that a partition's owner is known during a rebalance.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

import confluent_kafka
import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException
from yarl import URL

from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.cleanup import on_failure
from ...topics.errors import from_kafka
from ...topics.output import Output
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from .worker_client import is_loopback, origin

if TYPE_CHECKING:
    from ..faust_adapter.faust_settings import Settings
    from ..runtime import Runtime

__all__ = ["Announcement", "WorkerRegistry"]

logger = logging.getLogger(__name__)

_OPEN_S = 10.0
_BATCH = 1_000
# How long the list of the group's members is used, and how soon it is read again if it contradicts an announcement.
_MEMBERS_S = 5.0
_REFRESH_S = 0.2


class Announcement(msgspec.Struct, frozen=True):
    """A worker's announcement of its partitions.

    Attributes:
        url: address of its web views.
        host: name of its machine; a URL on loopback is usable on that machine only.
        partitions: topic -> numbers of its partitions.
    """

    url: str
    host: str
    partitions: dict[str, list[int]]

    @property
    def reachable(self) -> bool:
        """True if this machine can reach the worker, as far as the address shows."""
        return self.host == socket.gethostname() or not is_loopback(URL(self.url).host or "")

    @property
    def origin(self) -> URL | None:
        """The URL, if it is the http(s) address of a server and nothing else."""
        return origin(self.url)


class WorkerRegistry:
    """The announcements of an app's workers; the topic is read only when an owner is first looked up."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.topic = f"{runtime.conf.id}-workers"
        # Name of a worker -> its last announcement and the offset of that.
        self._announced: dict[str, tuple[int, Announcement]] = {}
        self._consumer: Consumer | None = None
        self._admin: Admin | None = None
        self._lock = asyncio.Lock()
        # Member of the group -> its partitions, and when they were read.
        self._members: dict[str, set[tuple[str, int]]] = {}
        self._members_read_s = float("-inf")
        self._decode = msgspec.json.Decoder(Announcement).decode

    # Announcing -----------------------------------------------------------------------------------------------------

    @property
    def address(self) -> URL:
        """Address of this worker's web views."""
        return _address(self._runtime.conf)

    @property
    def announces(self) -> bool:
        """True if workers of this app announce themselves: they have tables to show, and the topic exists or may."""
        runtime = self._runtime
        if not runtime.conf.web_enabled or not list(runtime.tables):
            return False
        return runtime.conf.topic_allow_declare or self.topic in runtime.status.partition_counts

    def announce(self) -> None:
        """Announce the partitions that this worker has now."""
        if not self.announces:
            return
        partitions: dict[str, list[int]] = {}
        for at in sorted(self._runtime.status.owned):
            partitions.setdefault(at.topic, []).append(at.partition)
        self._send(msgspec.json.encode(Announcement(str(self.address), socket.gethostname(), partitions)))

    def withdraw(self) -> None:
        """Remove this worker, which ends and leaves its partitions to others."""
        if self.announces and self._runtime.status.instance:
            self._send(None)

    def _send(self, value: bytes | None) -> None:
        config = {"cleanup.policy": "compact"}
        self._runtime.provisioner.add(
            TopicSpec(self.topic, 1, self._runtime.conf.topic_replication_factor or 1, config)
        )
        key = self._runtime.status.instance.encode()
        self._runtime.context.send(Output(self.topic, value, key, 0, None, None))

    # Looking up -----------------------------------------------------------------------------------------------------

    async def owner(self, partition: TopicPartition) -> Announcement | None:
        """Return the announcement of the worker that has a partition; None if it is not announced or not in the group.

        Raises:
            AnabranchError: no broker answers.
        """
        async with self._lock:
            await self._read_on()
            candidates = [
                (offset, name, announcement)
                for name, (offset, announcement) in self._announced.items()
                if partition.partition in announcement.partitions.get(partition.topic, ())
            ]
            for refresh in (False, True):
                if refresh and not (candidates and await self._refresh_members()):
                    break
                found = [candidate for candidate in candidates if partition in self._members.get(candidate[1], ())]
                if found and (refresh or clock.now_s() - self._members_read_s < _MEMBERS_S):
                    return max(found)[2]
        return None

    async def workers(self) -> list[Announcement]:
        """Return the announcements of all workers that are in the group.

        Raises:
            AnabranchError: no broker answers, or no worker has announced itself yet.
        """
        async with self._lock:
            await self._read_on()
            await self._refresh_members()
            return [
                announcement for name, (_, announcement) in sorted(self._announced.items()) if name in self._members
            ]

    async def _read_on(self) -> None:
        if self._consumer is None:
            self._consumer = await daemon_thread(self._open)
        else:
            self._read(self._consumer.consume(_BATCH, 0))

    async def _refresh_members(self) -> bool:
        """Read the members of the group, unless that was done a moment ago; returns whether they were read."""
        now_s = clock.now_s()
        if now_s - self._members_read_s < _REFRESH_S:
            return False
        self._members_read_s = now_s
        if self._admin is None:
            self._admin = Admin(self._runtime.cluster, patience_s=_OPEN_S)
        self._members = await daemon_thread(self._admin.members, self._runtime.conf.id) or {}
        return True

    def _open(self) -> Consumer:
        """Read the topic to its end (blocking). The consumer that is returned reads later announcements."""
        consumer = self._runtime.cluster.consumer(
            group_id=self.topic,  # never joined
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_wait_max_ms=100,
        )
        consumer.assign([confluent_kafka.TopicPartition(self.topic, 0, 0)])
        deadline_s = clock.now_s() + _OPEN_S
        with on_failure(consumer.close):
            while not self._read(consumer.consume(_BATCH, 0.1)) and clock.now_s() < deadline_s:
                pass
        return consumer

    def _read(self, messages: list[confluent_kafka.Message]) -> bool:
        """Take over announcements; returns whether the end of the topic was reached."""
        ended = False
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage]
                    ended = True
                elif error.fatal() or error.code() in (
                    KafkaError.UNKNOWN_TOPIC_OR_PART,
                    KafkaError.TOPIC_AUTHORIZATION_FAILED,
                ):
                    raise from_kafka(KafkaException(error), f"read {self.topic}")
                continue
            name, value, offset = (message.key() or b"").decode(errors="replace"), message.value(), message.offset()
            self._announced.pop(name, None)
            if value is not None:
                position = f"{self.topic}[{message.partition()}]@{offset}"
                try:
                    announcement = self._decode(value)
                except (msgspec.MsgspecError, RecursionError) as exc:
                    logger.warning("%s: the announcement of %s cannot be read: %s", position, name, exc)
                    continue
                if announcement.origin is None:
                    logger.warning(
                        "%s: %s announces %r, which is not the address of a worker", position, name, announcement.url
                    )
                    continue
                self._announced[name] = offset or 0, announcement
        return ended

    async def close(self) -> None:
        """Close the consumer, if there is one."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await daemon_thread(consumer.close)


def _address(conf: Settings) -> URL:
    bind = conf.web_bind or "127.0.0.1"
    host = bind if is_loopback(bind) else conf.web_host.strip("[]")  # an address of IPv6 may have them
    return URL.build(scheme="https" if conf.web_ssl_context else "http", host=host, port=conf.web_port)
