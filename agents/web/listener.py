"""Accepts the connections of the web port, also while the process has no descriptor left.

asyncio's own server stops accepting for a second then, and logs a traceback each time. This one keeps a few in
reserve, and closes one of its connections for each further one (see `connections.py`). One is accepted at each turn of
the event loop, so those in reserve are enough for a probe to get its answer before it is its turn to be closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from typing import Any

from aiohttp.web import BaseSite

from ...topics import clock
from .connection_limits import Connections

__all__ = ["Listener"]

logger = logging.getLogger(__name__)

_RESERVE = 8
_HANDSHAKE_S = 10.0
_SWEEP_S = 1.0
_PAUSE_S = 0.1
_WARN_S = 60.0


class Listener(BaseSite):
    """One listening socket.

    Args:
        runner: aiohttp's, set up.
        listening: the socket; it is closed at the end.
    """

    def __init__(
        self, runner: Any, listening: socket.socket, connections: Connections, ssl_context: ssl.SSLContext | None
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._listening, self._connections = listening, connections
        # Connections that are being opened; with TLS that takes a few round trips.
        self._opening: dict[asyncio.Task[None], None] = {}
        self._reserve: list[int] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._warned_s = float("-inf")

    @property
    def name(self) -> str:
        """Its address."""
        host, port = self._listening.getsockname()[:2]
        return f"{'https' if self._ssl_context else 'http'}://{host}:{port}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self._listening.setblocking(False)
        self._refill()
        self._listen()
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Accept no more; what is open stays open until the runner ends."""
        asyncio.get_running_loop().remove_reader(self._listening)
        for task in (self._sweeper, *self._opening):
            if task is not None:
                task.cancel()
        self._sweeper = None
        self._listening.close()
        while self._give_reserve():
            pass
        await super().stop()

    def _listen(self) -> None:
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        if len(self._connections) + len(self._opening) >= self._connections.most and self._make_room():
            self._warn("%d connections are open: those that wait longest are closed", self._connections.most)
        try:
            # Once: without a descriptor left, Linux says so even where there is nobody to be accepted.
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            self._warn("no connection can be accepted: %s", exc.strerror)
            if not self._give_reserve() and not self._make_room():
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
            self._connections.add(protocol)

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

    def _give_reserve(self) -> bool:
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
        """Log, once a minute at most."""
        now_s = clock.now_s()
        if now_s - self._warned_s >= _WARN_S:
            self._warned_s = now_s
            logger.warning(f"web port: {message}", *args)
