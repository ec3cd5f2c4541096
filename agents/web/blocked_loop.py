"""Health checks while the event loop is blocked: a thread answers them.

An agent that computes for a minute, or calls `time.sleep`, blocks the event loop, and with it the web server: a probe
would only time out. This thread notices that the loop does not turn. It then accepts the connections that wait at the
listening socket, and answers each with one line that names the agent and the time.

`/healthz` is answered with 200 until the loop has been blocked for as long as an agent may work on one record
(`broker_max_poll_interval`), then with 503, so that an orchestrator restarts the process. Other paths are answered with
503. With TLS, connections wait for the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Callable, Generator

from ...topics import clock
from ...topics.threads import Background
from ..runtime import Runtime

__all__ = ["BLOCKED_S", "BlockedLoop"]

logger = logging.getLogger("anabranch.web")

BLOCKED_S = 1.0
"""The event loop counts as blocked when it has not turned for this long."""

_BEAT_S = 0.25
_REQUEST_S = 1.0
_MAX_REQUEST_BYTES = 16 * 1024


class BlockedLoop:
    """Answers requests at a listening socket while the event loop is blocked.

    Args:
        listening: the socket, not blocking; without TLS.
        accepts: returns whether the server answers to the value of a `Host` header.
    """

    def __init__(self, runtime: Runtime, listening: socket.socket, accepts: Callable[[str], bool]) -> None:
        self._runtime, self._listening, self._accepts = runtime, listening, accepts
        self._turned_s = clock.now_s()
        self._stopped = False
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch the running event loop."""
        self._beating = asyncio.get_running_loop().create_task(self._beat())
        Background(self._watch, "anabranch-blocked-loop")

    def stop(self) -> None:
        """Stop; the listening socket may be closed then."""
        self._stopped = True
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self) -> None:
        while True:
            self._turned_s = clock.now_s()
            await asyncio.sleep(_BEAT_S)

    def _watch(self) -> Generator[float]:
        while not self._stopped:
            yield _BEAT_S
            if self._stopped or clock.now_s() - self._turned_s < BLOCKED_S:
                continue
            try:
                ready, _, _ = select.select([self._listening], [], [], _BEAT_S)
                connection = self._listening.accept()[0] if ready else None
            except (OSError, ValueError):  # none is waiting any more, or the socket is closed
                continue
            if connection is not None:
                with connection:
                    self._answer(connection, clock.now_s() - self._turned_s)

    def _answer(self, connection: socket.socket, blocked_s: float) -> None:
        try:
            connection.settimeout(_REQUEST_S)
            request = b""
            while b"\r\n\r\n" not in request and len(request) < _MAX_REQUEST_BYTES:
                data = connection.recv(4096)
                if not data:
                    return
                request += data
            connection.sendall(self._response(request, blocked_s))
        except OSError as exc:
            logger.debug("a connection failed: %s", exc)

    def _response(self, request: bytes, blocked_s: float) -> bytes:
        line, *headers = request.decode("latin-1").split("\r\n")
        path = (*line.split(" "), "", "")[1].partition("?")[0]
        hosts = [header.partition(":")[2].strip() for header in headers if header.lower().startswith("host:")]
        if not all(map(self._accepts, hosts)):
            return _http("421 Misdirected Request", "this is not a name of this worker\n")
        agent = self._runtime.status.current_agent if self._runtime.engine_runs else ""
        text = f"event loop blocked for {blocked_s:.0f} s" + (f" in agent {agent}" if agent else "")
        alive = path.rstrip("/") == "/healthz" and blocked_s <= self._runtime.settings.max_poll_interval_ms / 1000
        return _http("200 OK" if alive else "503 Service Unavailable", text)


def _http(status: str, text: str) -> bytes:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
