"""Asking another worker over HTTP, at an address that is only as trustworthy as who can write to `<app>-workers`.

It is asked with path and query alone. Of the client's headers only those go along that carry no secrets, and those that
`EngineSettings.forwarded_headers` names. No cookies are kept, no redirects followed, no proxies used. Its answer has to
be JSON of a bounded size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec
from yarl import URL

__all__ = ["ANSWER_BYTES", "FORWARDED", "Answer", "NoAnswer", "WorkerClient", "origin"]

FORWARDED = "X-Anabranch-Forwarded-By"

ANSWER_BYTES = 8 * 1024 * 1024
_ANSWER_S = aiohttp.ClientTimeout(total=10, connect=2)
_CONNECTIONS = 64
_ALONG = ("accept", "accept-language", "content-type", "traceparent", "tracestate", "x-request-id")


class NoAnswer(Exception):
    """The other worker gave none.

    Attributes:
        status: what to tell the client: 503 where it did not answer, 502 where it answered something else.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Answer(NamedTuple):
    """What it said, as JSON."""

    status: int
    body: bytes
    headers: dict[str, str]


class WorkerClient:
    """Connections to other workers.

    Args:
        name: ours; it goes along, so that a request is not handed on twice.
        along: names of headers that go along, besides the usual ones.
    """

    def __init__(self, name: str, along: tuple[str, ...] = ()) -> None:
        self._name = name
        self._along = (*_ALONG, *map(str.lower, along))
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, where: URL, request: Any, ours: Mapping[str, str] | None = None) -> Answer:
        """The answer of the worker at an address to a client's request.

        Args:
            ours: headers that we add.

        Raises:
            NoAnswer: it gave none, or one that is not JSON or too long.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        headers = {name: request.headers[name] for name in self._along if name in request.headers}
        headers |= {**(ours or {}), FORWARDED: self._name, "Accept-Encoding": "identity"}
        try:
            async with self._session.request(
                request.method,
                _target(where, request),
                headers=headers,
                data=await request.read() or None,
                timeout=_ANSWER_S,
                allow_redirects=False,
            ) as answer:
                return await _checked(answer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
            raise NoAnswer(f"which does not answer: {str(exc) or type(exc).__name__}", 503) from exc

    async def close(self) -> None:
        """Nobody asks any more."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def origin(url: str) -> URL | None:
    """A worker's address: scheme, host and port and nothing else; None for what is no such address."""
    try:
        found = URL(url)
        bare = found.scheme in ("http", "https") and bool(found.host) and not found.user and not found.password
        return found.origin() if bare and found.raw_path_qs in ("", "/") and not found.fragment else None
    except ValueError:
        return None


def _target(where: URL, request: Any) -> URL:
    # A request may name a whole URL (`GET http://elsewhere/ HTTP/1.1`), or a path with two slashes, which joined to an
    # address is another host.
    asked: URL = request.rel_url
    query = f"?{asked.raw_query_string}" if asked.raw_query_string else ""
    return URL(f"{str(where).rstrip('/')}/{asked.raw_path.lstrip('/')}{query}", encoded=True)


async def _checked(answer: aiohttp.ClientResponse) -> Answer:
    if 300 <= answer.status < 400:
        raise NoAnswer(f"which answers with a redirect ({answer.status})", 502)
    if answer.content_type != "application/json" or answer.headers.get("Content-Encoding", "identity") != "identity":
        raise NoAnswer(f"which answers {answer.content_type} and not JSON", 502)
    body = bytearray()
    async for chunk in answer.content.iter_chunked(65_536):
        body += chunk
        if len(body) > ANSWER_BYTES:
            raise NoAnswer(f"which answers more than {ANSWER_BYTES:,} bytes", 502)
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        raise NoAnswer("which answers something that is not JSON", 502) from None
    passed = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
    return Answer(answer.status, bytes(body), passed)
