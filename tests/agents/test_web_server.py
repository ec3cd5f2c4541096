"""The web port among strangers: whom it answers, whom it asks, how long it waits, how many it serves at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import faust
import msgspec
import pytest
import trustme
from aiohttp import web
from anabranch.agents.runtime import runtime_of
from anabranch.agents.web import listener, table_views, worker_client
from anabranch.agents.web.web_server import Hosts
from anabranch.agents.web.worker_client import NoAnswer, WorkerClient, origin
from anabranch.agents.web.worker_registry import Announcement
from anabranch.replay.cli import time
from anabranch.topics.topic_partition import TopicPartition
from multidict import CIMultiDict
from yarl import URL

pytestmark = pytest.mark.memory_suffices(
    "test_a_table_is_shown_within_a_bound_and_any_text_may_be_a_key",
    "test_an_announcement_counts_if_the_group_has_such_a_member",
)


@pytest.fixture
def app(lab, free_port) -> Any:
    """A worker with a web port and nothing to read."""
    made = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())

    @made.agent(made.topic(lab.topic()), name="idle")
    async def idle(stream):
        async for _ in stream:
            pass

    @made.page("/body/")
    class Body(faust.web.View):
        async def post(self, request):
            return self.json({"bytes": len(await request.read())})

    return made


async def raw(app: Any, request: bytes) -> bytes:
    """Send some bytes, and return all that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.conf.web_port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def probe(app: Any) -> int:
    """The status of /healthz, asked over a connection of its own."""
    return status(await raw(app, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))


# Whom it answers -----------------------------------------------------------------------------------------------------


async def test_on_loopback_only_its_own_names_are_answered(lab, app) -> None:
    async with lab.running(app):
        port = app.conf.web_port
        own = ["localhost", "127.0.0.1", f"localhost:{port}", f"[::1]:{port}", "app.localhost", socket.gethostname()]
        for host in own:
            line = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert status(await raw(app, line.encode())) == 200, host
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
        ):
            line = f"GET /tables/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert status(await raw(app, line.encode())) == 421, host
        whole = b"GET http://evil.example/tables/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert status(await raw(app, whole)) == 421
        assert status(await raw(app, b"GET /healthz HTTP/1.0\r\n\r\n")) == 200, "no browser, no Host"


def test_names_that_are_added_are_answered() -> None:
    hosts = Hosts()
    hosts.add("shop.example")
    assert [hosts.accepts(name) for name in ("SHOP.example:80", "shop.example.", "other.example", "a:b:c", "")] == [
        *[True] * 2,
        *[False] * 3,
    ]


async def test_what_is_too_long_is_refused_and_logged_without_a_traceback(lab, app, caplog) -> None:
    async with lab.running(app):
        for request in (
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
            b"\x16\x03\x01 no request at all\r\n\r\n",
        ):
            assert status(await raw(app, request)) == 400
        head = b"POST /body/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        assert status(await raw(app, head % 5 + b"hello")) == 200
        assert status(await raw(app, head % 2_000_000 + b"a" * 2_000_000)) == 413
        assert await probe(app) == 200
    assert not [found for found in caplog.records if found.exc_info]


# How long it waits, how many it serves -------------------------------------------------------------------------------


async def test_connections_that_send_nothing_or_half_a_request_are_closed(lab, app, monkeypatch) -> None:
    for name in ("FIRST_S", "IDLE_S", "BODY_S"):
        monkeypatch.setattr(listener, name, 0.5)
    async with lab.running(app):
        done = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        half_a_body = b"POST /body/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhel"
        for request in (b"", b"GET /healthz HTTP/1.1\r\nHost: loc", done, half_a_body):
            # It ends by itself, or this runs into the deadline of `raw`.
            assert (await raw(app, request)).startswith(b"HTTP/1.1 200" if request == done else b"")
        assert await probe(app) == 200


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """The process can open only so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_any_number_of_connections_leaves_the_probe_its_answer(lab, app, caplog) -> None:
    app.web._connections.limit = 20
    async with lab.running(app):
        held = [await asyncio.open_connection("127.0.0.1", app.conf.web_port) for _ in range(60)]
        for _, writer in held[::2]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: loc")
        assert await probe(app) == 200
        for _, writer in held:
            writer.close()
    assert len([line for line in caplog.messages if "connections are open" in line]) == 1


async def test_without_descriptors_the_probe_is_answered_and_the_log_is_not_flooded(lab, app, caplog) -> None:
    caplog.set_level(logging.WARNING)
    async with lab.running(app):
        clients = [socket.socket() for _ in range(30)]
        for client in clients:
            client.setblocking(False)
        last = clients.pop()
        with few_descriptors(8):
            taken = []
            while True:  # all but what the port keeps in reserve
                try:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    break
            loop = asyncio.get_running_loop()
            for client in clients:
                await loop.sock_connect(client, ("127.0.0.1", app.conf.web_port))
            await loop.sock_connect(last, ("127.0.0.1", app.conf.web_port))
            await loop.sock_sendall(last, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status(await asyncio.wait_for(loop.sock_recv(last, 1_000), 60)) == 200
            for number in taken:
                os.close(number)
        for client in (*clients, last):
            client.close()
        assert await probe(app) == 200
    assert len([found for found in caplog.records if "accept" in found.getMessage()]) == 1


# Whom it asks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("http://10.0.0.7:6066", True),
        ("https://node-7:6066/", True),
        ("http://[::1]:6066", True),
        ("ftp://node-7:6066", False),
        ("file:///etc/passwd", False),
        ("http://ann:secret@node-7:6066", False),
        ("http://ann@node-7:6066", False),
        ("http://node-7:6066/latest/meta-data", False),
        ("http://node-7:6066/?x=1", False),
        ("http://node-7:6066/#x", False),
        ("http://:6066", False),
        ("http://node-7:99999", False),
        ("node-7:6066", False),
        ("", False),
    ],
)
def test_a_worker_is_at_an_http_address_and_nothing_else(url: str, taken: bool) -> None:
    assert (origin(url) is not None) is taken


@asynccontextmanager
async def server(answer: Any) -> AsyncIterator[tuple[URL, list[Any]]]:
    """Answers everything by a function, and remembers what it was asked."""
    asked: list[Any] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        return await answer(request)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    try:
        yield URL(f"http://127.0.0.1:{listening.getsockname()[1]}"), asked
    finally:
        await runner.cleanup()


def client(target: str, method: str = "GET", **headers: str) -> Any:
    """A client's request as aiohttp parses it."""

    async def read() -> bytes:
        return b""

    return SimpleNamespace(method=method, rel_url=URL(target, encoded=True), headers=CIMultiDict(headers), read=read)


async def asked_of(answer: Any, request: Any, along: tuple[str, ...] = ()) -> Any:
    asking_ = WorkerClient("me", along)
    try:
        async with server(answer) as (where, asked):
            try:
                return await asking_.ask(where, request), asked[0]
            except NoAnswer as exc:
                return exc, asked[0] if asked else None
    finally:
        await asking_.close()


async def in_json(request: Any) -> web.Response:
    return web.json_response([1], headers={"Set-Cookie": "a=b"})


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/tables/t/a%20b%2Fc%3Fd/?x=%26&y", "/tables/t/a%20b%2Fc%3Fd/?x=%26&y"),
        ("http://evil.example/tables/t/k/", "/tables/t/k/"),
        ("//evil.example/tables/", None),
        ("/../x", None),
        ("/@evil.example/", "/@evil.example/"),
    ],
)
async def test_only_path_and_query_of_a_request_go_to_the_worker(target: str, path: str | None) -> None:
    answer, asked = await asked_of(in_json, client(target))
    assert (answer.status, answer.body) == (200, b"[1]")
    assert asked.headers["Host"].startswith("127.0.0.1:")
    if path is not None:
        assert asked.raw_path == path


async def test_no_secrets_go_along_unless_they_are_named() -> None:
    headers = {"Authorization": "Bearer x", "Cookie": "s=1", "X-Api-Key": "k", "Accept": "a/b", "traceparent": "00-1"}
    _, asked = await asked_of(in_json, client("/", **headers))
    assert (asked.headers["Accept"], asked.headers["traceparent"]) == ("a/b", "00-1")
    assert {"Authorization", "Cookie", "X-Api-Key"}.isdisjoint(asked.headers)
    _, asked = await asked_of(in_json, client("/", **headers), ("authorization",))
    assert asked.headers["Authorization"] == "Bearer x"
    assert "Cookie" not in asked.headers


async def html(request: Any) -> web.Response:
    return web.Response(text="<b>", content_type="text/html")


async def no_json(request: Any) -> web.Response:
    return web.Response(text="<b>", content_type="application/json")


async def elsewhere(request: Any) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def endless(request: Any) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    await answer.prepare(request)
    while True:
        await answer.write(b"[" * 100_000)


async def squeezed(request: Any) -> web.Response:
    answer = web.Response(text=f"[{' ' * 10_000_000}]", content_type="application/json")
    answer.enable_compression(web.ContentCoding.gzip)
    return answer


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (html, "not JSON"),
        (no_json, "invalid JSON"),
        (elsewhere, "redirect"),
        (endless, "more than"),
        (squeezed, "not|more"),
    ],
)
async def test_an_answer_that_is_not_json_or_too_long_is_none(answer: Any, why: str, monkeypatch) -> None:
    monkeypatch.setattr(worker_client, "ANSWER_BYTES", 1_000_000)
    found, _ = await asked_of(answer, client("/"))
    assert isinstance(found, NoAnswer)
    assert found.status == 502
    assert re.search(why, str(found))


async def test_anabranch_time_takes_no_other_answers_than_workers_do() -> None:
    asking_ = WorkerClient("me")
    try:
        for answer, why in ((in_json, None), (elsewhere, "answers with a redirect (302)"), (html, "text/html")):
            async with server(answer) as (where, asked):
                found: Any = await time._ask(asking_, Announcement(str(where), socket.gethostname(), {}))
            assert asked[0].raw_path == "/time/"
            assert found == [1] if why is None else found.startswith(f"{where} ") and why in found
    finally:
        await asking_.close()


async def test_a_table_is_shown_within_a_bound_and_any_text_may_be_a_key(lab, free_port, monkeypatch) -> None:
    topic, app = lab.topic(), lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())
    table = app.Table("texts")

    @app.agent(app.topic(topic), name="fill")
    async def fill(stream):
        async for key, value in stream.items():
            table[key.decode()] = value

    async def get(path: str) -> bytes:
        return await raw(app, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    monkeypatch.setattr(table_views, "MAX_PAIRS_BYTES", 2_500)
    lab.produce(topic, [(f"k{n}", ["a" * 1_000]) for n in range(8)])
    async with lab.running(app):
        await lab.caught_up(topic, app)
        page = msgspec.json.decode((await get("/tables/texts/")).partition(b"\r\n\r\n")[2])
        assert (page["keys"], len(page["pairs"])) == (8, 2)
        for key in ("[" * 5_000, "9" * 5_000, "%00", "%ff", "[[1],{}]", "{}", "-", "1e999", "NaN"):
            assert status(await get(f"/tables/texts/{key}/")) == 404, key


async def test_an_announcement_counts_if_the_group_has_such_a_member(lab, free_port) -> None:
    # A stranger writes to the topic of announcements: for every partition, under a name of its own, and without.
    topic = lab.topic(2)
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port())
    table = app.Table("counts", default=int)

    @app.agent(app.topic(topic), name="count")
    async def count(stream):
        async for key, _ in stream.items():
            table[key.decode()] += 1

    lab.produce(topic, [(f"k{n}", 1) for n in range(8)])
    async with server(in_json) as (url, asked), lab.running(app):
        await lab.caught_up(topic, app)
        await lab.until(lambda: runtime_of(app).worker_registry.topic in lab.admin.partitions())
        real = await owner_of(lab, app, topic, 0)
        forged = {"url": str(url), "host": socket.gethostname(), "partitions": {topic: [0, 1]}}
        bad = [{**forged, "url": f"http://u@127.0.0.1:{url.port}"}, {**forged, "url": "ftp://127.0.0.1"}]
        lab.produce(
            runtime_of(app).worker_registry.topic,
            [("stranger", forged), *[(f"s{n}", claim) for n, claim in enumerate(bad)]],
        )
        for partition in (0, 1):
            assert await owner_of(lab, app, topic, partition) == real
        key = b"GET /tables/counts/k1/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await raw(app, key)).endswith(b"\r\n\r\n1")
        assert asked == []


async def owner_of(lab: Any, app: Any, topic: str, partition: int) -> Any:
    async with asyncio.timeout(90):
        while (found := await runtime_of(app).worker_registry.owner(TopicPartition(topic, partition))) is None:
            await asyncio.sleep(0.05)
    return found


async def test_over_tls_it_is_the_same_and_a_handshake_that_does_not_end_is_closed(lab, free_port, monkeypatch) -> None:
    monkeypatch.setattr(listener, "_HANDSHAKE_S", 0.5)
    authority, server_context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    app = lab.app(lab.fresh("app"), web_enabled=True, web_port=free_port(), web_ssl_context=server_context)

    @app.agent(app.topic(lab.topic()), name="idle")
    async def idle(stream):
        async for _ in stream:
            pass

    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with lab.running(app):
        assert await raw(app, b"\x16\x03") == b""
        reader, writer = await asyncio.open_connection("localhost", app.conf.web_port, ssl=trusting)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert status(await asyncio.wait_for(reader.read(), 60)) == 200
        writer.close()
