"""Asks other workers over HTTP. Whoever can write to `<app>-workers` can name an address, so a request reveals little.

It carries the path and the query. Of the client's headers it forwards those that carry no secrets, and those that
`EngineSettings.forwarded_headers` names. Cookies are not kept, redirects not followed, proxies not used. The answer
must be JSON of a bounded size.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import msgspec
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.web import Request

__all__ = ["ANSWER_BYTES", "FORWARDED", "Answer", "NoAnswer", "WorkerClient", "is_loopback", "origin"]

FORWARDED = "X-Anabranch-Forwarded-By"

ANSWER_BYTES = 8 * 1024 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=2)
_CONNECTIONS = 64
_FORWARDED_HEADERS = ("accept", "accept-language", "content-type", "traceparent", "tracestate", "x-request-id")


class NoAnswer(Exception):
    """The other worker gave no usable answer. The text is a predicate, such as `answers with a redirect`.

    Attributes:
        status: HTTP status for the client: 503 if the worker did not answer, 502 if its answer cannot be used.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Answer(NamedTuple):
    """The answer of another worker; the body is JSON."""

    status: int
    body: bytes
    headers: dict[str, str]


class WorkerClient:
    """Connections to other workers.

    Args:
        name: the name of this worker; it marks a request as forwarded, so that it is not forwarded again.
        headers: names of headers to forward, besides the usual ones.
    """

    def __init__(self, name: str, headers: tuple[str, ...] = ()) -> None:
        self._name = name
        self._headers = (*_FORWARDED_HEADERS, *map(str.lower, headers))
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, address: URL, request: Request, added: Mapping[str, str] | None = None) -> Answer:
        """Forward a client's request to the worker at an address and return its answer.

        Args:
            added: headers to add to the request.

        Raises:
            NoAnswer: there is no answer, or it is not JSON or too long.
        """
        headers = {name: request.headers[name] for name in self._headers if name in request.headers}
        return await self._answer(_target(address, request), {**headers, **(added or {})}, request)

    async def get(self, url: URL) -> Answer:
        """Return the answer of a worker to a request of our own.

        Raises:
            NoAnswer: as for `ask`.
        """
        return await self._answer(url, {})

    async def _answer(self, url: URL, headers: Mapping[str, str], forwarded: Request | None = None) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        headers = {**headers, FORWARDED: self._name, "Accept-Encoding": "identity"}
        try:
            async with self._session.request(
                "GET" if forwarded is None else forwarded.method,
                url,
                headers=headers,
                data=None if forwarded is None else await forwarded.read() or None,
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as answer:
                return await _checked(answer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
            raise NoAnswer(f"does not answer: {str(exc) or type(exc).__name__}", 503) from exc

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def is_loopback(host: str) -> bool:
    """Return whether an address or a name belongs to this machine only."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def origin(url: str) -> URL | None:
    """Return a worker's address: scheme, host and port; None if the URL holds anything else."""
    try:
        found = URL(url)
        bare = found.scheme in ("http", "https") and bool(found.host) and not found.user and not found.password
        return found.origin() if bare and found.raw_path_qs in ("", "/") and not found.fragment else None
    except ValueError:
        return None


def _target(address: URL, request: Request) -> URL:
    # A request may name a whole URL (`GET http://elsewhere/ HTTP/1.1`), or a path that begins with two slashes, which
    # joined to an address would name another host.
    wanted: URL = request.rel_url
    query = f"?{wanted.raw_query_string}" if wanted.raw_query_string else ""
    return URL(f"{str(address).rstrip('/')}/{wanted.raw_path.lstrip('/')}{query}", encoded=True)


async def _checked(answer: aiohttp.ClientResponse) -> Answer:
    if 300 <= answer.status < 400:
        raise NoAnswer(f"answers with a redirect ({answer.status})", 502)
    if answer.content_type != "application/json" or answer.headers.get("Content-Encoding", "identity") != "identity":
        raise NoAnswer(f"answers {answer.content_type} and not JSON", 502)
    body = bytearray()
    async for chunk in answer.content.iter_chunked(65_536):
        body += chunk
        if len(body) > ANSWER_BYTES:
            raise NoAnswer(f"answers more than {ANSWER_BYTES:,} bytes", 502)
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        raise NoAnswer("answers with invalid JSON", 502) from None
    passed = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
    return Answer(answer.status, bytes(body), passed)
