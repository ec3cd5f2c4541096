"""Which names a web port on loopback answers to.

A stranger's page can let its own name point at 127.0.0.1 (DNS rebinding). A browser on this machine then lets the page
read our answers, because they come from its own host. Such requests bear that name as `Host`, and are refused.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.web import Response, StreamResponse, middleware
from yarl import URL

from .loopback import is_loopback

__all__ = ["Hosts"]


class Hosts:
    """The names: those of loopback, this machine's own, and those that are added.

    Attributes:
        checked: whether requests for other hosts are refused.
    """

    def __init__(self) -> None:
        self._names = {socket.gethostname().lower()}
        self.checked = False

    def add(self, name: str | None) -> None:
        """Answer to this name, too."""
        if name:
            self._names.add(name.lower())

    def takes(self, authority: str) -> bool:
        """Whether a `Host` is ours."""
        try:
            host = (URL(f"//{authority}").host or "").lower().rstrip(".")
        except ValueError:
            return False
        return host in self._names or host.endswith(".localhost") or is_loopback(host)

    @middleware
    async def check(self, request: Any, handler: Callable[[Any], Awaitable[StreamResponse]]) -> StreamResponse:
        """aiohttp's middleware: refuse requests for other hosts, where that is to be checked."""
        if self.checked:
            asked = request.headers.getall("Host", [])  # a program may leave it out, a browser never does
            for authority in (*asked, *_whole(request.raw_path)):
                if not self.takes(authority):
                    text = f"{authority} is none of this worker's names; --web-host NAME makes it one\n"
                    return Response(status=421, text=text)
        return await handler(request)


def _whole(target: str) -> list[str]:
    """The host of a request that names a whole URL (`GET http://localhost/ HTTP/1.1`)."""
    scheme, there, rest = target.partition("://")
    return [rest.partition("/")[0].partition("?")[0]] if there and "/" not in scheme and "?" not in scheme else []
