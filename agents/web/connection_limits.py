"""The connections of the web port: how many there may be, and how long one may wait.

Each takes a descriptor, and a worker that has none left can neither reach its brokers nor open its stores. So there are
at most `MOST`, and no more than a quarter of what the process may open. To make room for another, the connection is
closed that has waited longest for a request, else the one with the oldest request. A probe is answered at once, so it
gets its answer however many others are open.

| a connection waits | at most |
| --- | --- |
| for its first request | `FIRST_S` |
| for a request after another, or for its answer to be taken | `IDLE_S` |
| for the body of a request | `BODY_S` |
"""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.web import StreamResponse, middleware

from ...topics import clock

__all__ = ["BODY_S", "FIRST_S", "IDLE_S", "MOST", "Connections"]

MOST = 256
FIRST_S = 10.0
IDLE_S = 30.0
BODY_S = 30.0


class Connections:
    """Those that are open, by their protocol (aiohttp's `RequestHandler`)."""

    def __init__(self, now_s: Callable[[], float] | None = None) -> None:
        self._now_s = now_s or clock.now_s
        # Since when each has waited for a request, or has been at one.
        self._since_s: dict[Any, float] = {}
        self._first: set[Any] = set()
        self._requests: dict[Any, Any] = {}
        self.most = min(MOST, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))

    def __len__(self) -> int:
        return len(self._since_s)

    def add(self, protocol: Any) -> None:
        """A connection is open."""
        if protocol not in self._since_s:
            self._since_s[protocol] = self._now_s()
            self._first.add(protocol)

    @middleware
    async def watch(self, request: Any, handler: Callable[[Any], Awaitable[StreamResponse]]) -> StreamResponse:
        """aiohttp's middleware: notes which connections have a request."""
        protocol = request.protocol
        self._since_s[protocol] = self._now_s()
        self._first.discard(protocol)
        self._requests[protocol] = request
        try:
            return await handler(request)
        finally:
            if self._requests.pop(protocol, None) is not None:
                self._since_s[protocol] = self._now_s()

    def close_expired(self) -> int:
        """Close those that have waited for too long; how many."""
        self._forget_closed()
        now_s = self._now_s()
        expired = [protocol for protocol, since_s in self._since_s.items() if now_s - since_s > self._limit_s(protocol)]
        for protocol in expired:
            self._abort(protocol)
        return len(expired)

    def make_room(self) -> bool:
        """Close one; whether there was one. Its descriptor is free at the next turn of the event loop."""
        self._forget_closed()
        waiting = [protocol for protocol in self._since_s if protocol not in self._requests]
        candidates = waiting or list(self._since_s)
        if candidates:
            self._abort(min(candidates, key=lambda protocol: self._since_s[protocol]))
        return bool(candidates)

    def _limit_s(self, protocol: Any) -> float:
        request = self._requests.get(protocol)
        if request is not None:
            return float("inf") if request.content.is_eof() else BODY_S
        return FIRST_S if protocol in self._first else IDLE_S

    def _forget_closed(self) -> None:
        for protocol in [protocol for protocol in self._since_s if protocol.transport is None]:
            self._forget(protocol)

    def _abort(self, protocol: Any) -> None:
        # Not `close`, which waits until what was sent has been taken.
        protocol.transport.abort()
        self._forget(protocol)

    def _forget(self, protocol: Any) -> None:
        self._since_s.pop(protocol, None)
        self._first.discard(protocol)
        self._requests.pop(protocol, None)
