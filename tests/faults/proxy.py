"""A TCP proxy between workers and their broker that can reset, silence and delay connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any

__all__ = ["Proxy", "free_port"]

_CHUNK_BYTES = 65_536


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """Forwards TCP connections on loopback; a context manager.

    Attributes:
        port: the port that workers connect to; the broker must advertise it to them.
    """

    def __init__(self, to_port: int) -> None:
        self.port, self._to_port = free_port(), to_port
        self._loop = asyncio.new_event_loop()
        self._links: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._flows: asyncio.Event | None = None
        self._refuses, self._delay_s = False, 0.0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset all connections, and each new one at once."""
        self._call(self._cut())

    def blackhole(self) -> None:
        """Forward nothing and keep connections open, as a firewall that has lost its state."""
        self._call(self._set(flows=False))

    def slow(self, delay_s: float) -> None:
        """Delay all data by `delay_s`."""
        self._call(self._set(delay_s=delay_s))

    def restore(self) -> None:
        """Forward again, including the data held back."""
        self._call(self._set())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)

    async def _set(self, *, flows: bool = True, delay_s: float = 0.0) -> None:
        self._refuses, self._delay_s = False, delay_s
        if flows:
            self._flows.set()
        else:
            self._flows.clear()

    async def _cut(self) -> None:
        self._refuses = True
        for writer in self._links:
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            answers, onward = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self._links |= {writer, onward}
        for source, sink in ((reader, onward), (answers, writer)):
            pipe = asyncio.ensure_future(self._pipe(source, sink, (writer, onward)))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, both: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        for writer in both:
            writer.transport.abort()
            self._links.discard(writer)
