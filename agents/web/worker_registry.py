"""Who answers for which partitions: what the workers of an app announce to each other in the topic `<app>-workers`.

The topic is compacted and has one partition. Key is a worker's name in the group, value is JSON,
`{"url": "http://10.0.0.7:6066", "host": "node-7", "partitions": {"orders": [0, 1]}}`; a tombstone takes a worker out
that was told to end. An announcement is part of the worker's next epoch, so one that is fenced cannot make any, and the
last one that names a partition says who has it: who gives it away announces less before, or nothing at all when it was
killed. One that is out of date leads to a worker that says that it does not have the partition, or to nobody; whoever
asked is told to ask again.

Who can write to the topic can announce anything. So an announcement counts only where the group itself has a member of
that name, with that partition, and where its URL is an http(s) address and nothing else.

Not promised: that an answer is there during a rebalance.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from yarl import URL

from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.cleanup import on_failure
from ...topics.errors import from_kafka
from ...topics.output import Output
from .loopback import is_loopback
from .worker_client import origin

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["Claim", "WorkerRegistry"]

logger = logging.getLogger(__name__)

_OPEN_S = 10.0
_MOST = 1_000
# How long the group's answer stands, and how soon it is asked again where it contradicts an announcement.
_MEMBERS_S = 5.0
_ASK_AGAIN_S = 0.2


class Claim(msgspec.Struct, frozen=True):
    """What a worker announces.

    Attributes:
        url: where its web views are.
        host: the machine it runs on; a URL on loopback is of use there only.
        partitions: topic -> numbers of the partitions it has.
    """

    url: str
    host: str
    partitions: dict[str, list[int]]

    @property
    def reachable(self) -> bool:
        """Whether this machine can reach it, as far as the address tells."""
        return self.host == socket.gethostname() or not is_loopback(URL(self.url).host or "")

    @property
    def origin(self) -> URL | None:
        """Its URL, where that is the http(s) address of a server and nothing else."""
        return origin(self.url)


class WorkerRegistry:
    """The announcements of an app's workers; read only once somebody asks for one.

    Args:
        runtime: of the app whose workers these are.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.topic = f"{runtime.conf.id}-workers"
        self._claims: dict[str, tuple[int, Claim]] = {}
        self._consumer: Any = None
        self._admin: Admin | None = None
        self._lock = asyncio.Lock()
        # Member of the group -> its partitions, and when the group was asked.
        self._members: dict[str, set[tuple[str, int]]] = {}
        self._asked_s = float("-inf")
        self._decode = msgspec.json.Decoder(Claim).decode

    # Announcing -----------------------------------------------------------------------------------------------------

    @property
    def address(self) -> URL:
        """Where this worker's web views are."""
        return _address(self._runtime.conf)

    @property
    def announces(self) -> bool:
        """Whether workers of this app announce themselves: they have tables to show and a topic to do it in."""
        runtime = self._runtime
        if not runtime.conf.web_enabled or not list(runtime.tables):
            return False
        return runtime.conf.topic_allow_declare or self.topic in runtime.status.partition_counts

    def announce(self) -> None:
        """This worker has the partitions it has now."""
        if not self.announces:
            return
        partitions: dict[str, list[int]] = {}
        for at in sorted(self._runtime.status.owned):
            partitions.setdefault(at.topic, []).append(at.partition)
        self._send(msgspec.json.encode(Claim(str(self.address), socket.gethostname(), partitions)))

    def withdraw(self) -> None:
        """This worker ends, and leaves its partitions to others."""
        if self.announces and self._runtime.status.instance:
            self._send(None)

    def _send(self, value: bytes | None) -> None:
        config = {"cleanup.policy": "compact"}
        self._runtime.provisioner.add(
            TopicSpec(self.topic, 1, self._runtime.conf.topic_replication_factor or 1, config)
        )
        key = self._runtime.status.instance.encode()
        self._runtime.context.send(Output(self.topic, value, key, 0, None, None))

    # Asking ---------------------------------------------------------------------------------------------------------

    async def owner(self, topic: str, partition: int) -> Claim | None:
        """Who has a partition, as far as it is announced and the group agrees.

        Raises:
            AnabranchError: no broker answers.
        """
        async with self._lock:
            if self._consumer is None:
                await asyncio.to_thread(self._open)
            else:
                self._note(self._consumer.consume(_MOST, 0))
            having = [
                (offset, name, claim)
                for name, (offset, claim) in self._claims.items()
                if partition in claim.partitions.get(topic, ())
            ]
            for may_ask in (False, True):
                if may_ask and not (having and await self._ask_group()):
                    break
                found = [one for one in having if (topic, partition) in self._members.get(one[1], ())]
                if found and (may_ask or clock.now_s() - self._asked_s < _MEMBERS_S):
                    return max(found)[2]
        return None

    async def _ask_group(self) -> bool:
        """Ask the group for its members, unless that was a moment ago; whether they are known anew."""
        now_s = clock.now_s()
        if now_s - self._asked_s < _ASK_AGAIN_S:
            return False
        self._asked_s = now_s
        if self._admin is None:
            self._admin = Admin(self._runtime.cluster, patience_s=_OPEN_S)
        self._members = await asyncio.to_thread(self._admin.members, self._runtime.conf.id) or {}
        return True

    def _open(self) -> None:
        """Read the topic to its end; what comes later is there when it is asked for."""
        consumer: Any = self._runtime.cluster.consumer(
            group_id=self.topic,  # never joined
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_wait_max_ms=100,
        )
        consumer.assign([TopicPartition(self.topic, 0, 0)])
        deadline_s = clock.now_s() + _OPEN_S
        with on_failure(consumer.close):
            while not self._note(consumer.consume(_MOST, 0.1)) and clock.now_s() < deadline_s:
                pass
        self._consumer = consumer

    def _note(self, messages: list[Any]) -> bool:
        """Take over announcements; whether the end was seen."""
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
            name = (message.key() or b"").decode(errors="replace")
            self._claims.pop(name, None)
            if message.value() is not None:
                at = f"{self.topic}[{message.partition()}]@{message.offset()}"
                try:
                    claim = self._decode(message.value())
                except (msgspec.MsgspecError, RecursionError) as exc:
                    logger.warning("%s: %s announces something else: %s", at, name, exc)
                    continue
                if claim.origin is None:
                    logger.warning("%s: %s announces %r, which is no address of a worker", at, name, claim.url)
                    continue
                self._claims[name] = message.offset(), claim
        return ended

    async def close(self) -> None:
        """Nobody asks any more."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.to_thread(consumer.close)


def _address(conf: Any) -> URL:
    bind = conf.web_bind or "127.0.0.1"
    host = bind if is_loopback(bind) else conf.web_host
    return URL.build(scheme="https" if conf.web_ssl_context else "http", host=host, port=conf.web_port)
