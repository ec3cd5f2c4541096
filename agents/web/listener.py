"""The listening socket of the web port, and the limits of its connections.

Each connection takes a file descriptor, and a worker that has none left can neither reach its brokers nor open its
stores. So there are at most `MAX_CONNECTIONS`, and no more than a quarter of what the process may open. To make room
for a new connection, the one that has waited longest for a request is closed, else the one with the oldest request. A
probe is answered at once, so it gets its answer however many other connections are open.

| a connection waits | at most |
| --- | --- |
| for its first request | `FIRST_S` |
| for the next request, or for its answer to be read | `IDLE_S` |
| for the body of a request | `BODY_S` |

asyncio's own server stops accepting for a second when the process has no descriptor left, and logs a traceback each
time. `Listener` keeps a few descriptors in reserve and closes one of its connections for each further one. It accepts
one connection at each turn of the event loop, so the reserve is enough for a probe to get its answer before it is its
turn to be closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp.web import BaseRunner, BaseSite, Request, StreamResponse, middleware

from ...topics import clock
from .blocked_loop import BlockedLoop

if TYPE_CHECKING:
    pass

__all__ = ["BODY_S", "FIRST_S", "IDLE_S", "MAX_CONNECTIONS", "Connections", "Listener"]

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
FIRST_S = 10.0
IDLE_S = 30.0
BODY_S = 30.0

_RESERVE = 8
_HANDSHAKE_S = 10.0
_SWEEP_S = 1.0
_PAUSE_S = 0.1
_WARN_S = 60.0


class Connection(Protocol):
    """An open connection: aiohttp's `RequestHandler`."""

    transport: asyncio.Transport | None


class Connections:
    """The open connections.

    Args:
        now_s: returns seconds on the monotonic clock; None for the clock.

    Attributes:
        limit: the largest number of connections.
    """

    def __init__(self, now_s: Callable[[], float] | None = None) -> None:
        self._now_s = now_s or clock.now_s
        # Since when each waits for a request, or works on one.
        self._since_s: dict[Connection, float] = {}
        self._first: set[Connection] = set()
        self._requests: dict[Connection, Request] = {}
        self.limit = min(MAX_CONNECTIONS, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))

    def __len__(self) -> int:
        return len(self._since_s)

    def add(self, connection: Connection) -> None:
        """Add an open connection."""
        if connection not in self._since_s:
            self._since_s[connection] = self._now_s()
            self._first.add(connection)

    @middleware
    async def watch(self, request: Request, handler: Callable[[Request], Awaitable[StreamResponse]]) -> StreamResponse:
        """Record which connections have a request; a middleware of aiohttp."""
        connection = cast(Connection, request.protocol)
        self._since_s[connection] = self._now_s()
        self._first.discard(connection)
        self._requests[connection] = request
        try:
            return await handler(request)
        finally:
            if self._requests.pop(connection, None) is not None:
                self._since_s[connection] = self._now_s()

    def close_expired(self) -> int:
        """Close the connections that have waited for too long; return their number."""
        self._forget_closed()
        now_s = self._now_s()
        expired = [found for found, since_s in self._since_s.items() if now_s - since_s > self._limit_s(found)]
        for connection in expired:
            self._abort(connection)
        return len(expired)

    def make_room(self) -> bool:
        """Close one connection; its descriptor is free at the next turn of the event loop.

        Returns:
            Whether there was a connection to close.
        """
        self._forget_closed()
        waiting = [connection for connection in self._since_s if connection not in self._requests]
        candidates = waiting or list(self._since_s)
        if candidates:
            self._abort(min(candidates, key=lambda connection: self._since_s[connection]))
        return bool(candidates)

    def _limit_s(self, connection: Connection) -> float:
        request = self._requests.get(connection)
        if request is not None:
            return float("inf") if request.content.is_eof() else BODY_S
        return FIRST_S if connection in self._first else IDLE_S

    def _forget_closed(self) -> None:
        for connection in [connection for connection in self._since_s if connection.transport is None]:
            self._forget(connection)

    def _abort(self, connection: Connection) -> None:
        if connection.transport is not None:
            connection.transport.abort()  # `close` would wait until sent data has been read
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._since_s.pop(connection, None)
        self._first.discard(connection)
        self._requests.pop(connection, None)


class Listener(BaseSite):
    """One listening socket.

    Args:
        runner: aiohttp's runner, set up.
        listening: the socket; `stop` closes it.
        blocked: answers while the event loop is blocked; None: nothing does.
    """

    def __init__(
        self,
        runner: BaseRunner,
        listening: socket.socket,
        connections: Connections,
        ssl_context: ssl.SSLContext | None,
        blocked: BlockedLoop | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._blocked = blocked
        self._listening, self._connections = listening, connections
        # Connections that are being opened; with TLS that takes a few round trips.
        self._opening: dict[asyncio.Task[None], None] = {}
        self._reserve: list[int] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._warned_s = float("-inf")

    @property
    def name(self) -> str:
        """The URL of the port."""
        host, port = self._listening.getsockname()[:2]
        return f"{'https' if self._ssl_context else 'http'}://{host}:{port}"

    async def start(self) -> None:
        """Begin to accept connections."""
        await super().start()
        self._listening.setblocking(False)
        self._refill()
        self._listen()
        self._sweeper = asyncio.create_task(self._sweep())
        if self._blocked is not None:
            self._blocked.start()

    async def stop(self) -> None:
        """Stop accepting connections; open ones stay open until the runner ends."""
        asyncio.get_running_loop().remove_reader(self._listening)
        for task in (self._sweeper, *self._opening):
            if task is not None:
                task.cancel()
        self._sweeper = None
        if self._blocked is not None:
            self._blocked.stop()
        self._listening.close()
        while self._release_reserve():
            pass
        await super().stop()

    def _listen(self) -> None:
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        if len(self._connections) + len(self._opening) >= self._connections.limit and self._make_room():
            self._warn("%d connections are open: closing those that have waited longest", self._connections.limit)
        try:
            # Only once: without a descriptor left, Linux reports that even if no connection is waiting.
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            self._warn("cannot accept a connection: %s", exc.strerror)
            if not self._release_reserve() and not self._make_room():
                self._pause()
            return
        connection.setblocking(False)
        task = asyncio.ensure_future(self._open(connection))
        self._opening[task] = None
        task.add_done_callback(self._opening.pop)

    async def _open(self, connection: socket.socket) -> None:
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None
        handshake_s = _HANDSHAKE_S if self._ssl_context else None
        try:
            _, protocol = await loop.connect_accepted_socket(
                server, connection, ssl=self._ssl_context, ssl_handshake_timeout=handshake_s
            )
        except OSError as exc:
            logger.debug("a connection failed: %s", exc)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        else:
            self._connections.add(cast(Connection, protocol))

    def _make_room(self) -> bool:
        if self._connections.make_room():
            return True
        for task in self._opening:  # the oldest
            task.cancel()
            return True
        return False

    def _refill(self) -> None:
        while len(self._reserve) < _RESERVE:
            try:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                return

    def _release_reserve(self) -> bool:
        if not self._reserve:
            return False
        os.close(self._reserve.pop())
        return True

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        loop.call_later(_PAUSE_S, self._listen)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._connections.close_expired()
            self._refill()

    def _warn(self, message: str, *args: object) -> None:
        """Log a warning, once a minute at most."""
        now_s = clock.now_s()
        if now_s - self._warned_s >= _WARN_S:
            self._warned_s = now_s
            logger.warning(f"web port: {message}", *args)
