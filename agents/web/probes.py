"""What asks for a worker's health over HTTP, and a server that finds itself a port.

| path | answer |
| --- | --- |
| `/healthz` | 200 while the process is worth keeping; 503 when it should be killed and started again |
| `/readyz` | 200 with partitions assigned, tables restored, lag under `EngineSettings.ready_lag_records`; or 503 |
| `/metrics` | the catalogue of `metrics.py`, as Prometheus reads it |

Both probes say why in a line of text.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import AppRunner
from faust import web
from faust.web.drivers.aiohttp import Web
from yarl import URL

from ...topics import clock
from ...topics.errors import Usage
from ..runtime import runtime_of
from .connection_limits import IDLE_S, Connections
from .health import not_alive, not_ready, samples
from .host_check import Hosts
from .listener import Listener
from .loopback import is_loopback
from .metrics import CONTENT_TYPE, exposition

__all__ = ["WebServer", "blueprint"]

_BACKLOG = 128
# How long requests may take to end once the worker ends.
_SHUTDOWN_S = 2.0


class _OfTheServer(logging.Filter):
    """Leaves out what strangers send instead of requests: aiohttp logs a traceback of each."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is logged."""
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger("anabranch.web")
_log.addFilter(_OfTheServer())


class _Probe(web.View):
    def verdict(self, trouble: str) -> Any:
        """200, or 503 with the reason."""
        return self.text(trouble or "ok", status=503 if trouble else 200)


class Alive(_Probe):
    """Liveness."""

    async def get(self, request: Any) -> Any:
        """GET."""
        del request
        return self.verdict(not_alive(runtime_of(self.app), clock.now_s()))


class Ready(_Probe):
    """Readiness."""

    async def get(self, request: Any) -> Any:
        """GET."""
        del request
        return self.verdict(not_ready(runtime_of(self.app)))


class Metrics(web.View):
    """Prometheus."""

    async def get(self, request: Any) -> Any:
        """GET."""
        del request
        text = exposition(samples(runtime_of(self.app), clock.now_s()))
        return self.bytes(text.encode(), headers={"Content-Type": CONTENT_TYPE})


def blueprint() -> web.Blueprint:
    """The views; they stand at the root, where probes look for them."""
    made = web.Blueprint("probes")
    made.route("/healthz", name="healthz")(Alive)
    made.route("/readyz", name="readyz")(Ready)
    made.route("/metrics", name="metrics")(Metrics)
    return made


class WebServer(Web):
    """Faust's server on the port it is told, or on a free one where another process has that.

    The port is taken, not looked for: two workers that start in the same instant both find it free.
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
        """Faust's, within `client_max_size` of the `web_application_options`, 1 MiB unless given."""
        return await request.read()

    def _new_transport_tcp(self) -> Any:
        conf = self.app.conf
        listening = _listen(conf.web_bind or "127.0.0.1", conf.web_port)
        port = listening.getsockname()[1]
        runtime_of(self.app).configure(web_port=port, canonical_url=URL(f"http://{conf.web_host}:{port}"))
        self._hosts.checked = is_loopback(listening.getsockname()[0])
        self._hosts.add(conf.web_host)
        return Listener(self._runner, listening, self._connections, conf.web_ssl_context)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket at `port`, or at a free one.

    Raises:
        Usage: this machine has no such address, or we may not use the port.
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
