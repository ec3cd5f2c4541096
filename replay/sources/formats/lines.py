"""Bytes cut into lines, and lines into records: what all sources of lines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from ..format import AS_THEY_ARE, COMPRESSED
from ..source_record import BadLine, SourceRecord

__all__ = [
    "BATCH_LINES",
    "MAX_LINE_BYTES",
    "NO_FIELDS",
    "LineBuffer",
    "LineParser",
    "LineTooLong",
    "Parsed",
    "clean",
    "is_utf8",
]

BATCH_LINES = 5_000
MAX_LINE_BYTES = 16 * 1024 * 1024

# A record's fields beside its own: none.
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Parsed(NamedTuple):
    """What became of some lines: each is in an item, is bad, is blank, or was not used yet."""

    items: Sequence[SourceRecord]
    bad: list[BadLine]
    blank: int
    used: int


class LineTooLong(Exception):
    """More without a line's end than fits into memory."""


class LineParser(Protocol):
    """Turns lines into records. Pure: the same lines give the same records, wherever a batch is cut."""

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse whole lines, without their ends.

        Args:
            lines: at least one.
            first: number of the first of them, from 1.
            final: nothing follows. Otherwise the parser may leave lines at the end unused (`used`), where a record is
                not complete yet; they are given again, with more. With `used` 0 more lines are needed for anything.
        """
        ...


class LineBuffer:
    """Lines that have been read and not yet become records. Pure: knows no file and no socket.

    Args:
        skip_bom: leave out the mark that some programs put before UTF-8.
        most_waiting: bytes of lines that a record may leave unused.

    Attributes:
        byte: how many bytes of the stream lie before the next line.
        line: how many lines lie before it.
    """

    def __init__(
        self, source: str, *, byte: int = 0, line: int = 0, skip_bom: bool = True, most_waiting: int = MAX_LINE_BYTES
    ) -> None:
        self._source, self._most_waiting = source, most_waiting
        self._bom = skip_bom and not byte
        self._lines: list[bytes] = []
        self._at = 0
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._waiting_bytes = 0
        self._unterminated = 0
        self.byte = byte
        self.line = line

    @property
    def waiting(self) -> int:
        """Number of complete lines at hand."""
        return len(self._lines) - self._at

    @property
    def waiting_bytes(self) -> int:
        """Size of the complete lines at hand."""
        return self._waiting_bytes

    def feed(self, data: bytes) -> None:
        """Take what was read.

        Raises:
            LineTooLong: a line is longer than `MAX_LINE_BYTES`, or what a record leaves unused than it may be.
        """
        if self._bom:
            self._bom = False
            if data.startswith(_BOM):
                data = data[len(_BOM) :]
                self.byte = len(_BOM)
        if b"\n" in data:
            self._take(data)
        else:
            self._tail.append(data)
            self._tail_bytes += len(data)
        if self._tail_bytes > MAX_LINE_BYTES or self._waiting_bytes > self._most_waiting:
            raise LineTooLong(
                f"a line or row longer than {MAX_LINE_BYTES:,} bytes: are these lines at all? "
                f"A compressed file needs its ending ({', '.join(COMPRESSED)}, .zip)"
            )

    def _take(self, data: bytes) -> None:
        """Data that holds a line's end."""
        lines = b"".join((*self._tail, data)).split(b"\n")
        tail = lines.pop()
        self._waiting_bytes += self._tail_bytes + len(data) - len(tail)
        self._tail, self._tail_bytes = [tail], len(tail)
        self._lines = self._lines[self._at :] + lines if self.waiting else lines
        self._at = 0

    def finish(self) -> None:
        """Nothing follows: what came after the last line's end is a line too, if it is not empty."""
        tail = b"".join(self._tail)
        if tail:
            self._lines.append(tail)
            self._unterminated = 1
        self._tail, self._tail_bytes = [], 0

    def peek(self, limit: int) -> Sequence[bytes]:
        """The next lines, at most `limit`, without their ends (a `\\r` stays)."""
        return self._lines[self._at : self._at + limit]

    def drop(self, count: int) -> None:
        """The next `count` lines are done with."""
        size = sum(map(len, self._lines[self._at : self._at + count])) + count
        self._at += count
        self._waiting_bytes -= size
        self.byte += size
        self.line += count
        if not self.waiting:
            self._lines, self._at, self._waiting_bytes = [], 0, 0
            self.byte -= self._unterminated
            self._unterminated = 0


def clean(
    given: Sequence[bytes], first: int, *, source: str, encoding: str, keep_cr: bool = False
) -> tuple[list[bytes], Sequence[int], list[BadLine]]:
    """Lines as valid UTF-8 without `\\r` at their ends.

    Returns:
        The lines that are valid in `encoding`; their numbers; the others.
    """
    lines = given if isinstance(given, list) else list(given)
    joined = b"\n".join(lines)
    numbers: Sequence[int] = range(first, first + len(lines))
    bad: list[BadLine] = []
    if encoding != AS_THEY_ARE and not joined.isascii() and not (is_utf8(encoding) and _decodes(joined)):
        lines, numbers, bad = _decoded_one_by_one(lines, first, source, encoding)
    if not keep_cr and b"\r" in joined:
        lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
    return lines, numbers, bad


def is_utf8(encoding: str) -> bool:
    """Whether this names UTF-8."""
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded_one_by_one(
    lines: list[bytes], first: int, source: str, encoding: str
) -> tuple[list[bytes], list[int], list[BadLine]]:
    good: list[bytes] = []
    numbers: list[int] = []
    bad: list[BadLine] = []
    for number, line in enumerate(lines, first):
        try:
            good.append(line.decode(encoding).encode())
            numbers.append(number)
        except UnicodeError as exc:
            at = f" at byte {exc.start + 1} of the line" if isinstance(exc, UnicodeDecodeError) else ""
            if number == 1 and line[:2] in _UTF_16:
                at += "; it begins as UTF-16 does: iconv -f UTF-16 -t UTF-8 FILE turns it into UTF-8"
            bad.append(BadLine(source, number, f"not valid {encoding}{at}", line))
    return good, numbers, bad
