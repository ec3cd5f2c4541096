"""The web server of a worker: its port, and the host names that it answers to.

A port on loopback answers to known host names only. A page of another site can make its own host name resolve to
127.0.0.1 (DNS rebinding). A browser on this machine then lets the page read our answers, because they come from the
page's own host. Such requests carry that name in `Host`, and are refused.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import AppRunner, Request, Response, StreamResponse, middleware
from faust.web.drivers.aiohttp import Web
from yarl import URL

from ...topics.errors import Usage
from ..runtime import runtime_of
from .blocked_loop import BlockedLoop
from .listener import IDLE_S, Connections, Listener
from .worker_client import is_loopback

__all__ = ["Hosts", "WebServer"]

_BACKLOG = 128
# How long running requests may take to finish when the worker ends.
_SHUTDOWN_S = 2.0


class _BadRequestFilter(logging.Filter):
    """Drops log records about malformed requests: aiohttp logs a traceback for each."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger("anabranch.web")
_log.addFilter(_BadRequestFilter())


class Hosts:
    """The host names that the server answers to: those of loopback, this machine's name, and added ones.

    Attributes:
        checked: whether requests for other hosts are refused.
    """

    def __init__(self) -> None:
        self._names = {socket.gethostname().lower()}
        self.checked = False

    def add(self, name: str | None) -> None:
        """Answer to this name as well."""
        if name:
            self._names.add(name.lower().strip("[]"))

    def accepts(self, authority: str) -> bool:
        """True if the server answers to the value of a `Host` header."""
        try:
            host = (URL(f"//{authority}").host or "").lower().rstrip(".")
        except ValueError:
            return False
        return host in self._names or host.endswith(".localhost") or is_loopback(host)

    @middleware
    async def check(self, request: Request, handler: Callable[[Request], Awaitable[StreamResponse]]) -> StreamResponse:
        """Refuse requests for other hosts if `checked` is set; a middleware of aiohttp."""
        if self.checked:
            hosts = request.headers.getall("Host", [])  # a program may omit it, a browser never does
            for authority in (*hosts, *_absolute_host(request.raw_path)):
                if not self.accepts(authority):
                    text = f"{authority} is not a name of this worker; add it with --web-host NAME\n"
                    return Response(status=421, text=text)
        return await handler(request)


def _absolute_host(target: str) -> list[str]:
    """Return the host of a request whose target is a whole URL (`GET http://localhost/ HTTP/1.1`); else nothing."""
    scheme, separator, rest = target.partition("://")
    is_url = separator and "/" not in scheme and "?" not in scheme
    return [rest.partition("/")[0].partition("?")[0]] if is_url else []


class WebServer(Web):
    """Faust's web server on the configured port, or on a free one if another process has that.

    It binds the port instead of searching for a free one: two workers that start at the same instant would both find
    the same port free.
    """

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._connections = Connections()
        self._hosts = Hosts()
        self.web_app.middlewares[:0] = [self._connections.watch, self._hosts.check]
        self._runner = AppRunner(
            self.web_app, access_log=None, logger=_log, keepalive_timeout=IDLE_S, shutdown_timeout=_SHUTDOWN_S
        )

    async def read_request_content(self, request: Any) -> bytes:
        """Return the body of a request; at most `client_max_size` of `web_application_options`, 1 MiB by default."""
        return await request.read()

    def _new_transport_tcp(self) -> Listener:
        conf = self.app.conf
        listening = _listen(conf.web_bind or "127.0.0.1", conf.web_port)
        port = listening.getsockname()[1]
        runtime_of(self.app).configure(web_port=port, canonical_url=_url(conf.web_host, port))
        self._hosts.checked = is_loopback(listening.getsockname()[0])
        self._hosts.add(conf.web_host)
        checked, hosts = self._hosts.checked, self._hosts
        blocked = None
        if not conf.web_ssl_context:
            blocked = BlockedLoop(runtime_of(self.app), listening, lambda host: not checked or hosts.accepts(host))
        return Listener(self._runner, listening, self._connections, conf.web_ssl_context, blocked)


def _url(host: str, port: int) -> URL:
    """Return the address under which other workers reach this one.

    Raises:
        Usage: the host is not a name or an address.
    """
    try:
        return URL.build(scheme="http", host=host.strip("[]"), port=port)
    except ValueError as exc:
        raise Usage(
            f"web: {host!r} is not the name or the address of a machine",
            hint="--web-host NAME, without scheme and port",
        ) from exc


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket at `port`, or at a free port if it is in use.

    Raises:
        Usage: this machine does not have the address, or the process may not use the port.
    """
    for candidate in (port, 0):
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind)
        except OSError as exc:
            raise Usage(f"web: no address {host}: {exc.strerror}", hint="--web-bind ADDRESS") from exc
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
            return listening
        except OSError as exc:
            listening.close()
            if exc.errno != errno.EADDRINUSE or not candidate:
                raise Usage(
                    f"web: cannot listen at {host} port {candidate}: {exc.strerror}",
                    hint="--web-bind ADDRESS, --web-port PORT, or --without-web",
                ) from exc
    raise AssertionError("unreachable")
