"""Records that a new partition leader refuses once are not lost."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from typing import Self

import pytest
from anabranch.agents.engine.committer import AtLeastOnce, CommitRequest, ExactlyOnce
from anabranch.agents.tables.store import Changes
from anabranch.topics.cluster import Cluster
from anabranch.topics.output import Output
from anabranch.topics.producer import Aborted

pytestmark = pytest.mark.needs_real_kafka("requests are changed on their way to the broker")

_PRODUCE = 0


class Refusing:
    """A cable between clients and one broker; a context manager.

    The first request that produces to `topic` asks for a topic that is not there: the broker refuses it, and takes what
    was sent right behind it.

    Attributes:
        cluster: the broker as it is reached this way.
        refused: how many requests were.
    """

    def __init__(self, cluster: Cluster, topic: str, options: dict[str, str]) -> None:
        host, _, port = cluster.bootstrap_servers.rpartition(":")
        self._host, self._to_port = host, int(port)
        self._topic, self._wrong = topic.encode(), topic[:-1].encode() + b"~"
        self._options = options
        self._changed: set[tuple[int, int]] = set()
        self.refused = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._join, self._host, 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self._port = self._server.sockets[0].getsockname()[1]
        self.cluster = Cluster(f"{self._host}:{self._port}", self._options)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        links = asyncio.all_tasks() - {asyncio.current_task()}
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, onward = await asyncio.open_connection(self._host, self._to_port)
        link = id(writer)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._pass(reader, onward, lambda frame: self._request(link, frame)),
                self._pass(answers, writer, lambda frame: self._answer(link, frame)),
            )

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, change) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                (size,) = struct.unpack(">i", await source.readexactly(4))
                sink.write(struct.pack(">i", size) + change(await source.readexactly(size)))
        sink.close()

    def _request(self, link: int, frame: bytes) -> bytes:
        kind, _, number = struct.unpack_from(">hhi", frame)
        if kind != _PRODUCE or self._topic not in frame or self.refused:
            return frame
        self.refused += 1
        self._changed.add((link, number))
        return frame.replace(self._topic, self._wrong)

    def _answer(self, link: int, frame: bytes) -> bytes:
        (number,) = struct.unpack_from(">i", frame)
        if (link, number) in self._changed:
            return frame.replace(self._wrong, self._topic)
        # What tells where brokers are leads here instead.
        host = self._host.encode()
        return frame.replace(host + struct.pack(">i", self._to_port), host + struct.pack(">i", self._port))


@pytest.mark.parametrize("kind", ["outputs", "changes", "without transactions"])
def test_what_was_refused_once_is_not_taken_for_delivered(lab, drain, kind) -> None:
    #  request 1 ── refused ─────────────── sent again ✗ out of order: librdkafka takes it for delivered
    #  request 2 ──────────── accepted
    topic = lab.topic()
    keys, values = [[b"%d" % i for i in range(since, since + 20)] for since in (0, 100)]
    with Refusing(lab.cluster, topic, {"batch.num.messages": "1"}) as cable:
        if kind == "without transactions":
            committer = AtLeastOnce(cable.cluster, None)
        else:
            committer = ExactlyOnce(cable.cluster, lab.fresh("tx"))
        committer.open()
        if kind == "changes":
            plan = CommitRequest([], {topic: {0: Changes(keys, values, deletes=False)}}, [], None)
        else:
            outputs = [Output(topic, value, key, -1, 0, None) for key, value in zip(keys, values, strict=True)]
            plan = CommitRequest(outputs, {}, [], None)
        try:
            positions = committer.commit(plan)
        except Aborted:
            assert kind == "without transactions", "else it is sent again by itself"
            positions = committer.commit(plan)
        committer.close()
    assert cable.refused
    found = [message.value() for message in drain(topic)]
    assert set(found) == set(values), "nothing is lost"
    if kind == "changes":
        assert positions[topic, 0] == lab.ends(topic)[0] - 1, "the commit's marker follows"
    if kind != "without transactions":
        assert found == values
