"""Lines from a listening TCP socket, as `nc -lk 9999` serves them.

Not promised: what was received and not yet committed when the process dies cannot be received again, so a socket is
exempt from the exactly-once contract; its `snapshot` says how many lines were taken and opens nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from ...topics.errors import Stop, Usage
from .csvfile import CsvParser
from .format import OF_LINES, Format, Kind
from .item import BadLine, Item
from .jsonlines import JsonLinesParser
from .lines import BATCH_LINES, LineBuffer, LineParser, LineTooLong, is_utf8
from .source import Position
from .text import TextParser

__all__ = ["SocketSource", "parse_address"]

_RECEIVE_BYTES = 256 * 1024
_CONNECT_S = 5.0
_ASK_AGAIN_S = 0.02
_BACK_OFF_S = (0.1, 5.0)


def parse_address(spec: str) -> tuple[str, int]:
    """Host and port of `tcp://host:port`.

    Raises:
        Usage: it is not of this form.
    """
    try:
        parts = urlsplit(spec)
        host, port, path = parts.hostname, parts.port, parts.path
    except ValueError:
        host, port, path = None, None, ""
    if not host or not port or path not in ("", "/"):
        raise Usage(f"{spec}: expected tcp://host:port", hint="for example tcp://localhost:9999")
    return host, port


class SocketSource:
    """A client that reads lines until the server closes the connection; a last line without an end is a line too.

    Args:
        spec: `tcp://host:port`.
        format: `auto` is text; CSV needs `columns`.
        follow: connect again after the end, with growing pauses of 0.1 to 5 seconds; it then never ends.
        clock: seconds that only grow.

    Raises:
        Usage: the address or an option does not fit.
        Stop: nobody listens there (without `follow`).
    """

    def __init__(
        self, spec: str, format: Format, *, follow: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bad: list[BadLine] = []
        self.blank = 0
        self.ended = False
        self.done_bytes = 0
        self._spec = spec
        self._address = parse_address(spec)
        self._follow = follow
        self._clock = clock
        self._pause_s = _BACK_OFF_S[0]
        self._next_try_s = 0.0
        self._buffer = LineBuffer(spec, skip_bom=is_utf8(format.encoding))
        self._parser = _make_parser(spec, format)
        self._socket: socket.socket | None = None
        self._connect()

    @property
    def ask_again_s(self) -> float:
        """See `Source`."""
        if self._socket is None and not self.ended:
            return max(_ASK_AGAIN_S, self._next_try_s - self._clock())
        return _ASK_AGAIN_S

    def next_batch(self) -> Sequence[Item]:
        """See `Source`; does not wait for the peer."""
        buffer = self._buffer
        if self._socket is None and not buffer.waiting and not self.ended:
            self._connect()
        self._receive()
        lines = buffer.peek(BATCH_LINES)
        if not lines:
            self.ended = self._socket is None and not self._follow
            return []
        final = self._socket is None and len(lines) == buffer.waiting
        parsed = self._parser.parse(lines, buffer.line + 1, final=final)
        if not parsed.used and len(lines) < buffer.waiting:
            lines = buffer.peek(buffer.waiting)
            parsed = self._parser.parse(lines, buffer.line + 1, final=self._socket is None)
        buffer.drop(parsed.used)
        self.bad += parsed.bad
        self.blank += parsed.blank
        self.ended = self._socket is None and not buffer.waiting and not self._follow
        return parsed.items

    def snapshot(self) -> Position:
        """How many lines were taken."""
        return {"line": self._buffer.line}

    def close(self) -> None:
        """See `Source`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        now = self._clock()
        if now < self._next_try_s:
            return
        host, port = self._address
        try:
            self._socket = socket.create_connection((host, port), timeout=_CONNECT_S)
        except OSError as exc:
            if not self._follow:
                raise Stop(
                    f"{self._spec}: {exc.strerror or exc}", hint=f"start the server first, for example: nc -lk {port}"
                ) from None
            self._back_off()
            return
        self._socket.setblocking(False)

    def _receive(self) -> None:
        while self._socket is not None and self._buffer.waiting < BATCH_LINES:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as exc:
                if not self._follow:
                    raise Stop(f"{self._spec}: line {self._buffer.line + 1}: {exc.strerror or exc}") from None
                data = b""
            if data:
                self.done_bytes += len(data)
                self._pause_s = _BACK_OFF_S[0]
                try:
                    self._buffer.feed(data)
                except LineTooLong as exc:
                    raise Stop(f"{self._spec}:{self._buffer.line + 1}: {exc}") from None
            else:
                self._buffer.finish()
                self.close()
                self._back_off()

    def _back_off(self) -> None:
        self._next_try_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _BACK_OFF_S[1])


def _make_parser(spec: str, format: Format) -> LineParser:
    kind: Kind = "text" if format.kind == "auto" else format.kind
    if kind not in OF_LINES:
        raise Usage(f"{spec}: {kind} is not made of lines", hint="--format text|csv|jsonl")
    format.checked(kind, spec)
    if kind == "csv":
        if format.columns is None:
            raise Usage(f"{spec}: CSV from a socket has no header", hint="--columns names its columns")
        return CsvParser(spec, format, format.columns)
    return JsonLinesParser(spec, format) if kind == "jsonl" else TextParser(spec, format)
