"""Requests for a key find the worker that has its partition, whichever worker was asked.

The partition follows from the key as producers place it (`App.partitioner_of`), the owner from `directory.py`. The
worker that was asked fetches the answer from the owner (`asking.py`) and hands it on: clients need to reach one worker
only. A request that was handed on once is answered where it arrives, or refused, so it can never go round in circles.

A key of a path may be text or JSON (`7`, `["a","b/c"]`), and agents may write to a table from several topics. Where the
partitioners of these give several partitions, the owner of each is asked until one has the key.

| status | meaning |
| --- | --- |
| 404 | the owner has no such key |
| 502 | the owner's answer is not JSON, or too long |
| 503 | nobody can answer right now, and why: rebalancing, restoring, the owner not reached. Ask again |
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
from faust.app.router import Router as FaustRouter
from faust.exceptions import SameNode

from ...topics.errors import AnabranchError
from ..runtime import runtime_of
from ..tables.key_placement import partitions_of, topics_of_table
from .worker_client import FORWARDED, NoAnswer, WorkerClient
from .worker_registry import Claim

__all__ = ["FORWARDED", "KeyRouter"]

PARTITION = "X-Anabranch-Partition"
NOT_FOUND = 404


class KeyRouter(FaustRouter):
    """Who answers for a key; also of views with Faust's `@app.table_route`."""

    _asking: WorkerClient | None = None

    async def route_req(self, table_name: str, key: Any, web: Any, request: Any) -> Any:
        """The owner's answer, or 503; for views of the user's own.

        Raises:
            SameNode: this worker is the owner, and has the table restored.
        """
        runtime = runtime_of(self.app)
        places = self._places(self.app.tables[table_name], [key])
        if not places or runtime.status.serves(places[0][1]):
            raise SameNode
        return await self._ask(*places[0], web, request)

    async def ask_owners(self, table: Any, keys: Iterable[Any], web: Any, request: Any) -> Any:
        """The answer of the owner that has a table's key, else 404, or 503; this worker does not have it.

        Args:
            keys: what the path may mean.

        Raises:
            SameNode: no other worker can have it.
        """
        runtime = runtime_of(self.app)
        places = self._places(table, keys)
        if FORWARDED in request.headers:
            meant = request.headers.get(PARTITION)
            places = [place for place in places if str(place[1]) == meant] if meant else places[:1]
        elsewhere = [place for place in places if not runtime.status.serves(place[1])]
        answer = None
        for place in elsewhere:
            answer = await self._ask(*place, web, request)
            if answer.status != NOT_FOUND:
                break
        if answer is None:
            raise SameNode
        return answer

    async def _ask(self, topic: str, partition: int, web: Any, request: Any) -> Any:
        runtime = runtime_of(self.app)
        what = f"partition {partition} of {topic}"
        if any(at.partition == partition for at in runtime.status.owned):
            progress = runtime.status.restoring
            left = f": {progress.offsets_left:,} offsets left" if progress is not None else ""
            return _refused(web, f"{what} is being restored here{left}")
        if FORWARDED in request.headers:
            return _refused(web, f"{what} is not here: rebalancing")
        if not runtime.worker_registry.announces:
            return _refused(web, f"{what} is not here, and no topic {runtime.worker_registry.topic} says where it is")
        try:
            owner = await runtime.worker_registry.owner(topic, partition)
        except AnabranchError as exc:
            return _refused(web, f"who has {what} is not known: {exc}")
        if owner is None:
            return _refused(web, f"nobody has announced {what} yet: rebalancing")
        if owner.url == str(runtime.worker_registry.address):
            return _refused(web, f"{what} is on its way: rebalancing")
        if not owner.reachable:
            return _refused(
                web,
                f"{what} is with a worker that listens on loopback of {owner.host} only: start workers with "
                "--web-bind, and with --web-host where a machine's name is not known to the others",
            )
        return await self._forward(owner, web, request, what, partition)

    async def route_topic_req(self, topic: Any, key: Any, web: Any, request: Any) -> Any:
        """Topics have no answers of their own: here."""
        raise SameNode

    def _places(self, table: Any, keys: Iterable[Any]) -> list[tuple[str, int]]:
        """Topics that go with the table, and the key's partitions; several where it may be sent in several ways."""
        runtime = runtime_of(self.app)
        places: dict[int, str] = {}
        topics = topics_of_table(runtime, table, runtime.status.partition_counts)
        for key in keys:
            for name, channel in topics.items():
                typed = _typed(channel, key)
                for partition in partitions_of(runtime, {name: channel}, typed, table.changelog_partitions)[name]:
                    places.setdefault(partition, name)
        return [(name, partition) for partition, name in places.items()]

    async def _forward(self, owner: Claim, web: Any, request: Any, what: str, partition: int) -> Any:
        if self._asking is None:
            status = runtime_of(self.app).status
            self._asking = WorkerClient(status.instance, status.settings.forwarded_headers)
        assert owner.origin is not None
        try:
            answer = await self._asking.ask(owner.origin, request, {PARTITION: str(partition)})
        except NoAnswer as exc:
            return _refused(web, f"{what} is with {owner.url}, {exc}", exc.status)
        return web.bytes(answer.body, content_type="application/json", status=answer.status, headers=answer.headers)

    async def close(self) -> None:
        """Nobody asks any more."""
        if self._asking is not None:
            await self._asking.close()


def _typed(topic: Any, key: Any) -> Any:
    """A key of a path as the type that the topic declares."""
    if topic.key_type not in (None, str, bytes) and isinstance(key, str):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(key)
    return key


def _refused(web: Any, reason: str, status: int = 503) -> Any:
    return web.json({"error": reason}, status=status, headers={"Retry-After": "1"})
