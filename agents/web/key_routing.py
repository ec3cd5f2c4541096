"""Routes requests for a key to the worker that has its partition, whichever worker receives them.

The partition follows from the key as producers place it (`Runtime.partitioner_of`), the owner from the worker registry.
The worker that receives a request fetches the answer from the owner (`worker_client.py`) and returns it, so clients
need to reach one worker only. A forwarded request is answered or refused where it arrives, so it never loops.

The key of a path may mean text or JSON (`7`, `["a","b/c"]`), and agents may write to a table from several topics. If
their partitioners give several partitions, the owners are queried in turn until one has the key.

| status | meaning |
| --- | --- |
| 404 | the owner has no such key |
| 502 | the owner's answer is not JSON, or too long |
| 503 | no worker can answer now, and why: rebalancing, restoring, owner unreachable. Ask again |
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
from faust.app.router import Router as FaustRouter
from faust.exceptions import SameNode

from ...topics.errors import AnabranchError
from ...topics.topic_partition import TopicPartition
from ..runtime import runtime_of
from ..tables.key_placement import partitions_of, topics_of_table
from .worker_client import FORWARDED, NoAnswer, WorkerClient
from .worker_registry import Announcement

if TYPE_CHECKING:
    from aiohttp.web import Request
    from faust.types.web import Response, Web

    from ..tables.table import Table

__all__ = ["FORWARDED", "KeyRouter"]

PARTITION = "X-Anabranch-Partition"
NOT_FOUND = 404


class KeyRouter(FaustRouter):
    """Finds the worker that answers for a key; also for views with Faust's `@app.table_route`."""

    _client: WorkerClient | None = None

    async def route_req(self, table_name: str, key: object, web: Web, request: Request) -> Response:
        """Return the owner's answer to a request for a key, or 503; called by users' views.

        Raises:
            SameNode: this worker is the owner and has restored the partition.
        """
        table = cast("Table", self.app.tables[table_name])
        partitions = self._partitions(table, [key])
        if not partitions or runtime_of(self.app).status.serves(table.name, partitions[0].partition):
            raise SameNode
        return await self._ask(partitions[0], web, request)

    async def ask_owners(self, table: Table, keys: Iterable[object], web: Web, request: Request) -> Response:
        """Return the answer of another worker that has a key of a table, else 404 or 503.

        Args:
            keys: the possible meanings of the path's key.

        Raises:
            SameNode: no other worker can have the key.
        """
        status = runtime_of(self.app).status
        partitions = self._partitions(table, keys)
        if FORWARDED in request.headers:
            meant = request.headers.get(PARTITION)
            partitions = [at for at in partitions if str(at.partition) == meant] if meant else partitions[:1]
        answer = None
        for at in [at for at in partitions if not status.serves(table.name, at.partition)]:
            answer = await self._ask(at, web, request)
            if answer.status != NOT_FOUND:
                break
        if answer is None:
            raise SameNode
        return answer

    async def _ask(self, at: TopicPartition, web: Web, request: Request) -> Response:
        runtime = runtime_of(self.app)
        registry, partition = runtime.worker_registry, f"partition {at.partition} of {at.topic}"
        if at in runtime.status.owned:
            progress = runtime.status.restoring
            left = f": {progress.offsets_left:,} offsets left" if progress is not None else ""
            return _refused(web, f"{partition} is being restored here{left}")
        if FORWARDED in request.headers:
            return _refused(web, f"{partition} is not here: rebalancing")
        if not registry.announces:
            return _refused(web, f"{partition} is not here, and there is no topic {registry.topic} to look it up")
        try:
            owner = await registry.owner(at)
        except AnabranchError as exc:
            return _refused(web, f"cannot look up the owner of {partition}: {exc}")
        if owner is None:
            return _refused(web, f"no worker has announced {partition} yet: rebalancing")
        if owner.url == str(registry.address):
            return _refused(web, f"{partition} is being assigned to this worker: rebalancing")
        if not owner.reachable:
            return _refused(
                web,
                f"{partition} belongs to a worker that listens on loopback of {owner.host} only: start workers with "
                "--web-bind, and with --web-host if other machines do not know a machine's name",
            )
        return await self._forward(owner, web, request, at.partition, f"{partition} belongs to {owner.url}")

    async def route_topic_req(self, topic: object, key: object, web: Web, request: Request) -> NoReturn:
        """Answer requests for a topic on this worker.

        Raises:
            SameNode: always.
        """
        raise SameNode

    def _partitions(self, table: Table, keys: Iterable[object]) -> list[TopicPartition]:
        """Return the partitions that may hold one of the keys, each with one of the topics that is read with it."""
        runtime = runtime_of(self.app)
        found: dict[int, str] = {}
        topics = topics_of_table(runtime, table, runtime.status.partition_counts)
        for key in keys:
            for name, topic in topics.items():
                typed = _typed(topic, key)
                for partition in partitions_of(runtime, {name: topic}, typed, table.changelog_partitions)[name]:
                    found.setdefault(partition, name)
        return [TopicPartition(name, partition) for partition, name in found.items()]

    async def _forward(self, owner: Announcement, web: Web, request: Request, partition: int, fact: str) -> Response:
        if self._client is None:
            status = runtime_of(self.app).status
            self._client = WorkerClient(status.instance, status.settings.forwarded_headers)
        assert owner.origin is not None
        try:
            answer = await self._client.ask(owner.origin, request, {PARTITION: str(partition)})
        except NoAnswer as exc:
            return _refused(web, f"{fact}, which {exc}", exc.status)
        return web.bytes(answer.body, content_type="application/json", status=answer.status, headers=answer.headers)

    async def close(self) -> None:
        """Close connections to other workers."""
        if self._client is not None:
            await self._client.close()


def _typed(topic: Any, key: object) -> object:
    """Return the key of a path as the type that the topic declares."""
    if topic.key_type not in (None, str, bytes) and isinstance(key, str):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(key)
    return key


def _refused(web: Web, reason: str, status: int = 503) -> Response:
    return web.json({"error": reason}, status=status, headers={"Retry-After": "1"})
