"""`SocketSource`: lines from a listening TCP socket, as `nc -lk 9999` serves them.

Data that was received but not committed when the process dies cannot be received again. So a socket on its own is
exempt from the exactly-once contract: its position counts the lines read, and cannot be opened. With a spool it is a
source like any other: whole lines are written to the spool before they are used; opened at a position, it returns the
spool's lines from there on, and connects after them.

Not promised with a spool: that a CSV row of several lines that the end of a connection cut off is reported as bad in
the same way after a crash.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from ...topics import clock
from ...topics.errors import Stop, Usage
from .format import LINE_KINDS, Format, FormatKind
from .formats.csv_parser import CsvParser
from .formats.csv_type_inference import infer_row_types
from .formats.json_lines import JsonLinesParser
from .formats.line_buffer import (
    BATCH_LINES,
    MAX_LINE_BYTES,
    LineBuffer,
    LineParser,
    LineTooLong,
    Parsed,
    StreamStart,
    is_utf8,
)
from .formats.text_lines import TextParser
from .socket_spool import Spool
from .source import SourceBatch, SourcePosition
from .source_record import NO_LIMIT

__all__ = ["SocketSource", "parse_address"]

_logger = logging.getLogger("anabranch.replay")

_RECEIVE_BYTES = 256 * 1024
_CONNECT_S = 5.0
_ASK_AGAIN_S = 0.02
_BACK_OFF_S = (0.1, 5.0)


def parse_address(spec: str) -> tuple[str, int]:
    """Return host and port of `tcp://host:port`.

    Raises:
        Usage: the spec does not have this form.
    """
    try:
        parts = urlsplit(spec)
        host, port, path = parts.hostname, parts.port, parts.path
    except ValueError:
        host, port, path = None, None, ""
    if not host or not port or path not in ("", "/") or "@" in spec:
        raise Usage(f"{spec}: expected tcp://host:port", hint="for example tcp://localhost:9999")
    return host, port


class SocketSource:
    """A client that reads lines until the server closes the connection; a last line needs no line end.

    Args:
        spec: `tcp://host:port`.
        format: `auto` is text; CSV needs `columns`. The first row determines the types that are not declared.
        position: where to begin, in the spool.
        spool: file in which what is received is kept.
        max_record_bytes: larger values are bad lines.
        follow: connect again after the end, with growing pauses of 0.1 to 5 seconds; it then never ends.

    Raises:
        Usage: the address or an option is invalid.
        Stop: nothing listens at the address (without `follow`).
    """

    def __init__(
        self,
        spec: str,
        format: Format,
        position: SourcePosition | None = None,
        *,
        spool: str | None = None,
        follow: bool = False,
        batch_lines: int = BATCH_LINES,
        max_record_bytes: int = NO_LIMIT,
    ) -> None:
        self.ended = False
        self.done_bytes = 0
        self._spec = spec
        self._address = parse_address(spec)
        self._follow = follow
        self._pause_s = _BACK_OFF_S[0]
        self._next_try_s = 0.0
        self._batch_lines = batch_lines
        self._format, self._max_record_bytes = format, max_record_bytes
        self._parser = _make_parser(spec, format, max_record_bytes)
        # Types of CSV columns from the first row, kept in the position so that a restart from the spool uses the same.
        self._types: dict[str, str] | None = None
        if position is not None and "types" in position:
            self._set_types(position["types"])
        at: SourcePosition = position if position and spool else {"byte": 0, "line": 0, "seam": None}
        self._buffer = LineBuffer(spec, byte=at["byte"], line=at["line"], skip_bom=is_utf8(format.encoding))
        self._socket: socket.socket | None = None
        # Each connection may begin with a byte order mark.
        self._start: StreamStart | None = None
        self._spool = Spool(spool, at["byte"], at["seam"]) if spool else None
        self._spooled: Iterator[bytes] | None = self._spool.read(at["byte"]) if self._spool else None
        # With a spool: the received part of an incomplete line.
        self._partial_line = b""
        self._spool_was_read = self._closed = False
        self.begins = self._position()
        if self._spooled is None:
            self._connect()

    @property
    def poll_again_s(self) -> float:
        """Seconds to wait; while disconnected, until the next attempt to connect."""
        if self._socket is None and not self.ended:
            return max(_ASK_AGAIN_S, self._next_try_s - clock.now_s())
        return _ASK_AGAIN_S

    def next_batch(self) -> SourceBatch:
        """Return the lines that have arrived; does not wait for the peer."""
        buffer = self._buffer
        if self._spooled is not None:
            self._read_spool(self._batch_lines)
        elif self._socket is None and not buffer.waiting and not self.ended:
            # One empty batch follows the spool's lines, so that they are committed before a failing connection
            # ends the run.
            if not self._spool_was_read:
                self._connect()
            self._spool_was_read = False
        self._receive()
        lines = buffer.peek(self._batch_lines)
        if lines and self._spool is not None:
            self._spool.sync()
        parsed = self._parse(lines)
        while not parsed.used and (len(lines) < buffer.waiting or self._spooled is not None):
            if len(lines) == buffer.waiting:
                self._read_spool(2 * len(lines))
            lines = buffer.peek(buffer.waiting)
            parsed = self._parse(lines)
        buffer.drop(parsed.used)
        self.ended = self._closed and not buffer.waiting and not self._follow
        return SourceBatch(parsed.records, self._position(), parsed.bad, parsed.blank)

    def _position(self) -> SourcePosition:
        """Return the next byte of the spool; without a spool, the number of lines read."""
        buffer = self._buffer
        types = {} if self._types is None else {"types": self._types}
        if self._spool is None:
            return {"line": buffer.line, **types}
        return {"byte": buffer.byte, "line": buffer.line, "seam": self._spool.seam(buffer.byte), **types}

    def close(self) -> None:
        """Close connection and spool. May be called more than once."""
        self._disconnect()
        if self._spool is not None:
            self._spool.close()

    def _parse(self, lines: Sequence[bytes]) -> Parsed:
        # The end of the spool is the end of a connection too.
        if lines and self._types is None and isinstance(self._parser, CsvParser):
            self._set_types(infer_row_types(lines[:1], self._format.columns or (), self._format, final=True))
        over = self._socket is None and self._spooled is None and len(lines) == self._buffer.waiting
        return self._parser.parse(lines, self._buffer.line + 1, final=over) if lines else Parsed([], [], 0, 0)

    def _set_types(self, types: dict[str, str]) -> None:
        self._types = types
        format = replace(self._format, inferred=tuple(types.items()))
        self._parser = _make_parser(self._spec, format, self._max_record_bytes)

    def _read_spool(self, lines: int) -> None:
        assert self._spooled is not None
        for data in self._spooled:
            self._spool_was_read = True
            self._feed(data)
            if self._buffer.waiting >= lines:
                return
        self._spooled = None

    def _feed(self, data: bytes) -> None:
        self.done_bytes += len(data)
        try:
            self._buffer.feed(data)
        except LineTooLong as exc:
            raise Stop(f"{self._spec}:{self._buffer.line + 1}: {exc}") from None

    def _connect(self) -> None:
        now = clock.now_s()
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
        self._start = StreamStart() if is_utf8(self._format.encoding) else None

    def _receive(self) -> None:
        while self._socket is not None and self._buffer.waiting < self._batch_lines:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as exc:
                if not self._follow:
                    raise Stop(f"{self._spec}: line {self._buffer.line + 1}: {exc.strerror or exc}") from None
                self._drop_partial_line(exc)
                data = b""
            if data:
                self._pause_s = _BACK_OFF_S[0]
                self._keep_without_mark(data)
            else:
                if self._start is not None:
                    self._keep(self._start.rest())
                if self._partial_line:
                    self._keep(b"\n")
                self._buffer.finish()
                self._disconnect()
                self._closed = True
                self._back_off()

    def _drop_partial_line(self, exc: OSError) -> None:
        """Remove a line that a broken connection cut off. An orderly end is the end of the last line instead."""
        size = self._buffer.drop_unfinished_line() + len(self._partial_line)
        self._partial_line, self._start = b"", None
        if size:
            why = exc.strerror or exc
            _logger.warning("%s: %s: removed an incomplete line of %d bytes", self._spec, why, size)

    def _keep_without_mark(self, data: bytes) -> None:
        if self._start is not None:
            begun = self._start.feed(data)
            if begun is None:
                return
            data, self._start = begun, None
        self._keep(data)

    def _keep(self, data: bytes) -> None:
        if self._spool is None:
            self._feed(data)
            return
        cut = data.rfind(b"\n") + 1
        if cut:
            whole = self._partial_line + data[:cut]
            self._spool.append(whole)
            self._feed(whole)
            self._partial_line = data[cut:]
        else:
            self._partial_line += data
            if len(self._partial_line) > MAX_LINE_BYTES:
                self._feed(self._partial_line)  # raises: the line is too long

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _back_off(self) -> None:
        self._next_try_s = clock.now_s() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _BACK_OFF_S[1])


def _make_parser(spec: str, format: Format, most: int) -> LineParser:
    kind: FormatKind = "text" if format.kind == "auto" else format.kind
    if kind not in LINE_KINDS:
        raise Usage(f"{spec}: {kind} does not consist of lines", hint="--format text|csv|jsonl")
    format.checked(kind, spec)
    if kind == "csv":
        if format.columns is None:
            raise Usage(f"{spec}: CSV from a socket has no header", hint="name them with --columns")
        return CsvParser(spec, format, format.columns, max_bytes=most)
    return (JsonLinesParser if kind == "jsonl" else TextParser)(spec, format, max_bytes=most)
