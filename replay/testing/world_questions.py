"""Requests of a test to the workers of a world: to agents and to web views."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ...topics.errors import Usage
from ...topics.topic_partition import TopicPartition
from .duration import Duration, seconds_of
from .environment import Environment
from .stillness import Stillness
from .virtual_loop import owning
from .worker_life import WorkerLife

if TYPE_CHECKING:
    from ...agents.app import App

__all__ = ["WebAnswer", "ask_agent", "ask_web"]

# An answer arrives within this time after everything is processed and committed.
_REPLY_S = 1.0
_VIEW_S = 60.0


def ask_agent(
    environment: Environment,
    stillness: Stillness,
    life: WorkerLife,
    agent: Any,
    value: object,
    key: object,
    within: Duration,
) -> Any:
    """Let a worker ask an agent, and return the answer; None if a worker has ended meanwhile.

    Raises:
        BadRecord: the agent has failed at the value.
        Usage: it has processed the value and has yielded nothing.
        TimeoutError: there is no answer within that time.
    """
    with environment.loading(), owning(life.owner):
        question = environment.loop.create_task(agent.ask(value, key=key))
    clock = environment.clock
    deadline_s, busy_s = clock.now_s() + seconds_of(within), clock.now_s()

    def is_over() -> bool:
        nonlocal busy_s
        if question.done() or stillness.failed:
            return True
        if next(stillness.unsettled(), None) is not None:
            busy_s = clock.now_s()
        return clock.now_s() - busy_s > _REPLY_S

    silent = environment.run_until(is_over, deadline_s)
    if question.done():
        return question.result()
    question.cancel()
    if stillness.failed:
        return None
    if silent:
        raise Usage(
            f"agent {agent.name} has processed what it was asked, and has yielded no answer",
            hint="an agent answers with `yield`; to an agent that does not, send records: world.send(…)",
        )
    raise TimeoutError(f"agent {agent.name} has not answered within {within} of virtual time")


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """The answer of a web view.

    Attributes:
        status: HTTP status, such as 200.
        headers: names and values.
        body: its bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


def ask_web(
    environment: Environment,
    lives: list[WorkerLife],
    method: str,
    path: str,
    value: object = None,
    headers: Mapping[str, str] | None = None,
) -> WebAnswer:
    """Return the answer of a web view of the first worker, which asks the others for keys that they hold.

    Args:
        lives: the workers that run.
        path: with the query, such as `/tables/totals/ann/`.
        value: the body: bytes, or what is sent as JSON; None for no body.

    Raises:
        Usage: `path` does not begin with a slash.
        TimeoutError: a view does not answer within a minute of virtual time.
    """
    if not path.startswith("/"):
        raise Usage(f"a path begins with a slash, and {path!r} does not", hint=f'"/{path}"')
    with environment.loading(), owning(lives[0].owner), _connected(lives):
        asked = environment.loop.create_task(_fetch(lives[0].app, method, path, value, headers or {}))
        if environment.run_until(asked.done, environment.clock.now_s() + _VIEW_S):
            return asked.result()
        asked.cancel()
    raise TimeoutError(f"{method} {path} has not answered within {_VIEW_S:.0f} s of virtual time")


@contextmanager
def _connected(lives: list[WorkerLife]) -> Generator[None]:
    """Let workers find each other and ask each other for keys, inside of the block."""
    hosts = {f"http://worker-{number}": life for number, life in enumerate(lives)}
    for url, life in hosts.items():
        cast(Any, life.runtime)._worker_registry = _Workers(url, hosts)
        cast(Any, life.app.router)._client = _Client(hosts)
    try:
        yield
    finally:
        for life in lives:
            cast(Any, life.runtime)._worker_registry = None
            cast(Any, life.app.router)._client = None


class _Workers:
    """Stands for the worker registry of one worker, which announces nothing in a world."""

    announces = True
    announce = withdraw = staticmethod(lambda: None)

    def __init__(self, address: str, hosts: Mapping[str, WorkerLife]) -> None:
        self.address, self._hosts = address, hosts

    async def owner(self, partition: TopicPartition) -> object:
        """Return the worker that has a partition; None if there is none."""
        from ...agents.web.worker_registry import Announcement

        for url, life in self._hosts.items():
            if any(owned.partition == partition.partition for owned in life.runtime.status.owned):
                return Announcement(url, socket.gethostname(), {})
        return None


class _Client:
    """Stands for the HTTP client with which workers ask each other."""

    def __init__(self, hosts: Mapping[str, WorkerLife]) -> None:
        self._hosts = hosts

    async def ask(self, address: object, request: Any, added: Mapping[str, str]) -> object:
        """Return the answer of another worker to the same request."""
        from ...agents.web.worker_client import FORWARDED, Answer

        life = self._hosts[str(address).rstrip("/")]
        headers = {**request.headers, **added, FORWARDED: "world"}
        answer = await _fetch(life.app, request.method, str(request.rel_url), await request.read() or None, headers)
        return Answer(answer.status, answer.body, {})


async def _fetch(app: App, method: str, path: str, value: object, headers: Mapping[str, str]) -> WebAnswer:
    """Call the handler of a path, as aiohttp's server does, without a connection."""
    from aiohttp.test_utils import make_mocked_request
    from aiohttp.web import HTTPException, Response

    web = cast(Any, app.web)
    server = web.web_app
    if not server.frozen:
        web.init_server()
        server.freeze()
    body = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
    sent = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    if value is not None and not isinstance(value, bytes):
        sent.setdefault("Content-Type", "application/json")
    request = make_mocked_request(method, path, headers=sent, app=server)
    request._read_bytes = body  # pyright: ignore[reportPrivateUsage]  # as if it had been read from a connection
    handle: Callable[[Any], Awaitable[Any]] = server._handle
    try:
        answer = await handle(request)
    except HTTPException as exc:
        answer = Response(status=exc.status_code, headers=exc.headers, text=exc.text)
    if not isinstance(answer, Response):
        raise NotImplementedError(f"{path} answers with a stream, which a world does not read")
    content = answer.body
    return WebAnswer(
        answer.status, dict(answer.headers), bytes(content) if isinstance(content, bytes | bytearray) else b""
    )
