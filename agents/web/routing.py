"""Requests for a key find the worker that has its partition, whichever worker was asked.

The partition follows from the key as producers place it (murmur2, as Java's), the owner from `directory.py`. The worker
that was asked fetches the answer from the owner and hands it on: clients need to reach one worker only. A request that
was handed on once is answered where it arrives, or refused, so it can never go round in circles.

| status | meaning |
| --- | --- |
| 404 | the owner has no such key |
| 503 | nobody can answer right now, and why: rebalancing, restoring, the owner not reached. Ask again |
"""

from __future__ import annotations

import contextlib
from typing import Any, cast

import aiohttp
import msgspec
from faust.app.router import Router as FaustRouter
from faust.exceptions import SameNode
from yarl import URL

from ...topics.errors import AnabranchError, BadRecord
from ...topics.partition import HashPlan
from .directory import Claim

__all__ = ["FORWARDED", "Router"]

FORWARDED = "X-Anabranch-Forwarded-By"

_ANSWER_S = aiohttp.ClientTimeout(total=10, connect=2)
_DROPPED = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})


class Router(FaustRouter):
    """Who answers for a key; also of views with Faust's `@app.table_route`."""

    async def route_req(self, table_name: str, key: Any, web: Any, request: Any) -> Any:
        """The owner's answer, or 503.

        Raises:
            SameNode: this worker is the owner, and has the table restored.
        """
        app = cast(Any, self.app)
        found = self._place(app.tables[table_name], key)
        if found is None:
            raise SameNode
        topic, partition = found
        if app.engine.serves(partition):
            raise SameNode
        what = f"partition {partition} of {topic}"
        if any(at.partition == partition for at in app.engine.owned):
            progress = app.engine.restoring
            left = f": {progress.offsets_left:,} offsets left" if progress is not None else ""
            return _refused(web, f"{what} is being restored here{left}")
        if FORWARDED in request.headers:
            return _refused(web, f"{what} is not here: rebalancing")
        if not app.directory.announces:
            return _refused(web, f"{what} is not here, and no topic {app.directory.topic} says where it is")
        try:
            owner = await app.directory.owner(topic, partition)
        except AnabranchError as exc:
            return _refused(web, f"who has {what} is not known: {exc}")
        if owner is None:
            return _refused(web, f"nobody has announced {what} yet: rebalancing")
        if owner.url == str(app.directory.address):
            return _refused(web, f"{what} is on its way: rebalancing")
        if not owner.reachable:
            return _refused(
                web,
                f"{what} is with a worker that listens on loopback of {owner.host} only: start workers with "
                "--web-bind, and with --web-host where a machine's name is not known to the others",
            )
        return await self._forward(owner, web, request, what)

    async def route_topic_req(self, topic: Any, key: Any, web: Any, request: Any) -> Any:
        """Topics have no answers of their own: here."""
        raise SameNode

    def _place(self, table: Any, key: Any) -> tuple[str, int] | None:
        """A topic that goes with the table, and the key's partition; None where keys are not placed by a topic."""
        app = cast(Any, self.app)
        counts = app.engine.partition_counts
        for channel in app.topics:
            for name in channel.topics:
                if counts.get(name) == table.changelog_partitions:
                    raw = _raw(channel, key)
                    return (name, HashPlan(counts[name]).partition(raw)) if raw is not None else None
        return None

    async def _forward(self, owner: Claim, web: Any, request: Any, what: str) -> Any:
        app = cast(Any, self.app)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
        headers[FORWARDED] = app.engine.instance
        url = URL(owner.url).join(URL(request.raw_path, encoded=True))
        try:
            async with app.http_client.request(
                request.method,
                url,
                headers=headers,
                data=await request.read(),
                timeout=_ANSWER_S,
                allow_redirects=False,
            ) as answer:
                passed = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
                return web.bytes(
                    await answer.read(), content_type=answer.content_type, status=answer.status, headers=passed
                )
        except (TimeoutError, aiohttp.ClientError) as exc:
            reason = str(exc) or type(exc).__name__
            return _refused(web, f"{what} is with {owner.url}, which does not answer: {reason}")


def _raw(topic: Any, key: Any) -> bytes | None:
    """A key of a path as a record of the topic carries it."""
    if topic.key_type not in (None, str, bytes) and isinstance(key, str):
        with contextlib.suppress(msgspec.DecodeError):
            key = msgspec.json.decode(key)
    try:
        return topic.encode_key(key.encode() if topic.key_type is bytes and isinstance(key, str) else key)
    except (BadRecord, TypeError, ValueError):
        return None


def _refused(web: Any, reason: str) -> Any:
    return web.json({"error": reason}, status=503, headers={"Retry-After": "1"})
