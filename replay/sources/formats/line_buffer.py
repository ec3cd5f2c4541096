"""Splits bytes into lines: the buffers, and the parser protocol, that all formats of lines share.

Lines are buffered as a list (`LineBuffer`), or together as a block of bytes (`BlockBuffer`), so that columns can be
made of them without creating each line.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple, Protocol, overload

from ..column_batch import ColumnBatch
from ..format import COMPRESSED_ENDINGS, RAW_BYTES
from ..source_record import BadLine, SourceRecord

__all__ = [
    "BATCH_LINES",
    "BLOCK_BYTES",
    "MAX_LINE_BYTES",
    "NO_FIELDS",
    "BlockBuffer",
    "BlockParser",
    "ColumnParser",
    "LineBlock",
    "LineBuffer",
    "LineParser",
    "LineTooLong",
    "Parsed",
    "StreamStart",
    "check_text",
    "count_byte",
    "decode_lines",
    "is_utf8",
    "keeps_ascii",
    "other_encoding",
]

BATCH_LINES = 5_000
MAX_LINE_BYTES = 16 * 1024 * 1024

# No fields from folder names.
NO_FIELDS: Mapping[str, str | int | None] = MappingProxyType({})

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Parsed(NamedTuple):
    """The result of parsing lines: each line is part of a record, bad, blank, or not used yet."""

    records: Sequence[SourceRecord]
    bad: list[BadLine]
    blank: int
    used: int


class LineTooLong(Exception):
    """A line, or the unused part of a record, is longer than the buffer may be."""


class LineParser(Protocol):
    """Turns lines into records. The same lines give the same records, wherever a batch is cut."""

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse whole lines, given without their line ends.

        Args:
            lines: at least one.
            first: number of the first line, from 1.
            final: no lines follow. Otherwise the parser may leave lines of an incomplete record at the end unused
                (`used`); they are passed again, with more. `used` 0 means that more lines are needed.
        """
        ...


class StreamStart:
    """Removes a byte order mark of UTF-8 at the start of a stream, in whatever pieces its bytes arrive.

    Attributes:
        skipped_bytes: size of the mark, once it is removed.
    """

    def __init__(self) -> None:
        self.skipped_bytes = 0
        self._held = b""

    def feed(self, data: bytes) -> bytes | None:
        """Return the data so far without a mark; None if it could still be one. Call `feed` until it returns data."""
        self._held += data
        if len(self._held) < len(_BOM) and _BOM.startswith(self._held):
            return None
        if self._held.startswith(_BOM):
            self.skipped_bytes = len(_BOM)
        return self._held[self.skipped_bytes :]

    def rest(self) -> bytes:
        """Return the data for which `feed` has returned None, at the end of the stream."""
        return self._held


class LineBuffer:
    """Buffers lines between reading and parsing. It does no I/O of its own.

    Args:
        skip_bom: skip a byte order mark of UTF-8 at the beginning.
        most_waiting: maximum size in bytes of the lines that a record may leave unused.

    Attributes:
        byte: number of bytes in the stream before the next line.
        line: number of lines before it.
    """

    def __init__(
        self, source: str, *, byte: int = 0, line: int = 0, skip_bom: bool = True, most_waiting: int = MAX_LINE_BYTES
    ) -> None:
        self._source, self._most_waiting = source, most_waiting
        self._start = StreamStart() if skip_bom and not byte else None
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
        """Number of complete lines in the buffer."""
        return len(self._lines) - self._at

    @property
    def waiting_bytes(self) -> int:
        """Size of the complete lines in the buffer."""
        return self._waiting_bytes

    def feed(self, data: bytes) -> None:
        """Add data.

        Raises:
            LineTooLong: a line is longer than `MAX_LINE_BYTES`, or the unused lines are larger than `most_waiting`.
        """
        if self._start is not None:
            begun = self._start.feed(data)
            if begun is None:
                return
            self.byte += self._start.skipped_bytes
            data, self._start = begun, None
        if b"\n" in data:
            self._take(data)
        else:
            self._tail.append(data)
            self._tail_bytes += len(data)
        if self._tail_bytes > MAX_LINE_BYTES or self._waiting_bytes > self._most_waiting:
            raise LineTooLong(
                f"a line or row longer than {MAX_LINE_BYTES:,} bytes: is this a text file? "
                f"A compressed file needs its extension ({', '.join(COMPRESSED_ENDINGS)}, .zip)"
            )

    def _take(self, data: bytes) -> None:
        """Add data that contains a line end."""
        lines = b"".join((*self._tail, data)).split(b"\n")
        tail = lines.pop()
        self._waiting_bytes += self._tail_bytes + len(data) - len(tail)
        self._tail, self._tail_bytes = [tail], len(tail)
        self._lines = self._lines[self._at :] + lines if self.waiting else lines
        self._at = 0

    def finish(self) -> None:
        """Mark the end of the stream: data after the last line end is a line too, if it is not empty."""
        tail = self._finished_tail()
        if tail:
            self._lines.append(tail)
            self._unterminated = 1
        self._tail, self._tail_bytes = [], 0

    def _finished_tail(self) -> bytes:
        if self._start is not None:
            self._tail.append(self._start.rest())
            self._start = None
        return b"".join(self._tail)

    def drop_unfinished_line(self) -> int:
        """Remove the data after the last line end; return its size in bytes."""
        size = len(self._finished_tail())
        self._tail, self._tail_bytes = [], 0
        return size

    def peek(self, limit: int) -> Sequence[bytes]:
        """Return the next lines, at most `limit`, without their line ends (a `\\r` stays)."""
        return self._lines[self._at : self._at + limit]

    def drop(self, count: int) -> None:
        """Remove the next `count` lines, which have been parsed."""
        size = sum(map(len, self._lines[self._at : self._at + count])) + count
        self._at += count
        self._waiting_bytes -= size
        self.byte += size
        self.line += count
        if not self.waiting:
            self._lines, self._at, self._waiting_bytes = [], 0, 0
            self.byte -= self._unterminated
            self._unterminated = 0


def decode_lines(
    given: Sequence[bytes], first: int, *, source: str, encoding: str, keep_cr: bool = False
) -> tuple[list[bytes], Sequence[int], list[BadLine]]:
    """Decode lines to UTF-8 and remove a `\\r` at their ends.

    Returns:
        The lines that are valid in `encoding`, their numbers, and the invalid lines.
    """
    lines = given if isinstance(given, list) else list(given)
    joined = b"\n".join(lines)
    numbers: Sequence[int] = range(first, first + len(lines))
    bad: list[BadLine] = []
    plain = joined.isascii() and keeps_ascii(encoding)
    if encoding != RAW_BYTES and not plain and not (is_utf8(encoding) and _decodes(joined)):
        lines, numbers, bad = _decoded_one_by_one(lines, first, source, encoding)
    if not keep_cr and b"\r" in joined:
        lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
    return lines, numbers, bad


def check_text(data: bytes, encoding: str) -> None:
    """Check that data need not be decoded line by line.

    Raises:
        ValueError: it is neither ASCII nor, if the encoding is UTF-8, valid UTF-8.
    """
    if not data.isascii() or not keeps_ascii(encoding):
        if not is_utf8(encoding):
            raise ValueError("another encoding")
        data.decode()


def other_encoding(data: bytes, encoding: str) -> str | None:
    """Return why a file is not text of the encoding that the user names, by its first bytes; None if it may be.

    Encodings of one byte a character have a character for every byte, so nothing else would tell.
    """
    if encoding == RAW_BYTES or is_utf8(encoding):
        return None
    if data.startswith(_BOM):
        return f"it begins like UTF-8 and is not {encoding}: omit --encoding"
    if data.startswith(_UTF_16):
        return f"it begins like UTF-16 and is not {encoding}: iconv -f UTF-16 -t UTF-8 FILE converts it to UTF-8"
    return None


_ASCII = bytes(range(128))
# How UTF-7, HZ, ISO-2022 and Python write characters that ASCII does not have.
_ESCAPED = (b"+AOk-", b"~{VP~}", b"\x1b$B%9\x1b(B", b"\x0eAA\x0f", b"\\u00e9")


@cache
def keeps_ascii(encoding: str) -> bool:
    """Return whether bytes below 128 are ASCII in an encoding. They are not in ISO-2022-JP, UTF-7 and others."""
    try:
        return encoding == RAW_BYTES or all(data.decode(encoding) == data.decode() for data in (_ASCII, *_ESCAPED))
    except UnicodeError:
        return False


@cache
def is_utf8(encoding: str) -> bool:
    """Return whether an encoding is UTF-8, by whatever name."""
    try:
        return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:  # the name of raw bytes
        return False


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
            # A mark inside of the file is text, so "utf-8-sig" is not asked to remove it.
            good.append(line.decode("utf-8" if is_utf8(encoding) else encoding).encode())
            numbers.append(number)
        except UnicodeError as exc:
            at = f" at byte {exc.start + 1} of the line" if isinstance(exc, UnicodeDecodeError) else ""
            if number == 1 and line[:2] in _UTF_16:
                at += "; it begins like UTF-16: iconv -f UTF-16 -t UTF-8 FILE converts it to UTF-8"
            bad.append(BadLine(source, number, f"not valid {encoding}{at}", line))
    return good, numbers, bad


BLOCK_BYTES = 4 * 1024 * 1024

# A block that cannot become columns is tried again in pieces of this many lines; pieces that fail go line by line.
_PIECE_LINES = 5_000
_FEW_LINES = 64


def count_byte(data: bytes, byte: bytes) -> int:
    """Return `data.count(byte)`, in an eighth of the time if there are many, and in less if there are none."""
    if byte not in data:
        return 0
    import numpy

    found = numpy.frombuffer(data, numpy.uint8) == byte[0]
    return int(numpy.count_nonzero(found))


class LineBlock(Sequence[bytes]):
    """Lines as one piece of bytes: `data` has each line with its `\\n`; the last of a file may lack it."""

    __slots__ = ("_count", "_sized", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data, self._count = data, count
        # The last result of `size_of`, which is called again when the lines are dropped.
        self._sized = 0, 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return self.lines()[index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.lines())

    def lines(self) -> list[bytes]:
        """Return the lines one by one, without line ends."""
        lines = self.data.split(b"\n")
        return lines[:-1] if len(lines) > self._count else lines

    def head(self, count: int) -> LineBlock:
        """Return the first lines as a block."""
        return self if count >= self._count else LineBlock(self.data[: self.size_of(count)], count)

    def size_of(self, count: int) -> int:
        """Return the size of the first lines in bytes."""
        if count >= self._count:
            return len(self.data)
        if self._sized[0] != count:
            self._sized = count, _end_of(self.data, count)
        return self._sized[1]


def _end_of(data: bytes, count: int) -> int:
    """Return the byte at which the first `count` lines end."""
    if count > _FEW_LINES:
        import numpy

        ends = numpy.flatnonzero(numpy.frombuffer(data, numpy.uint8) == 10)
        return int(ends[count - 1]) + 1
    end = 0
    for _ in range(count):
        end = data.index(b"\n", end) + 1
    return end


class BlockBuffer(LineBuffer):
    """A `LineBuffer` that returns its lines as a `LineBlock`."""

    def __init__(
        self, source: str, *, byte: int = 0, line: int = 0, skip_bom: bool = True, most_waiting: int = MAX_LINE_BYTES
    ) -> None:
        super().__init__(source, byte=byte, line=line, skip_bom=skip_bom, most_waiting=most_waiting)
        self._block = LineBlock(b"", 0)

    @property
    def waiting(self) -> int:
        """Number of complete lines in the buffer."""
        return len(self._block)

    def _take(self, data: bytes) -> None:
        end = data.rfind(b"\n") + 1
        whole = b"".join((self._block.data, *self._tail, data[:end]))
        # The tail contains no line end.
        self._block = LineBlock(whole, len(self._block) + count_byte(data, b"\n"))
        self._tail, self._tail_bytes = [data[end:]], len(data) - end
        self._waiting_bytes = len(whole)

    def finish(self) -> None:
        """Mark the end of the stream; see `LineBuffer.finish`."""
        tail = self._finished_tail()
        if tail:
            self._block = LineBlock(self._block.data + tail, len(self._block) + 1)
        self._tail, self._tail_bytes = [], 0

    def peek(self, limit: int) -> LineBlock:
        """Return the next lines, at most `limit`."""
        return self._block.head(limit)

    def drop(self, count: int) -> None:
        """Remove the next `count` lines, which have been parsed."""
        size = self._block.size_of(count)
        self._block = LineBlock(self._block.data[size:], len(self._block) - count)
        self._waiting_bytes = len(self._block.data)
        self.byte += size
        self.line += count


class ColumnParser(Protocol):
    """Turns a block of lines into columns."""

    def __call__(self, block: LineBlock) -> ColumnBatch:
        """Return the lines of a block as columns: exactly the records that the format's `LineParser` makes of them.

        Raises:
            ValueError: that is not possible, or a line is blank or bad.
        """
        ...


class ParseLines(Protocol):
    """The method `parse` of a `LineParser`."""

    def __call__(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed: ...


class BlockParser:
    """A `LineParser` for blocks: parses a block at once, a block that fails in pieces, a piece that fails line by line.

    Args:
        parse_block: parses a block, given with the number of its first line; raises ValueError if it cannot.
        parse_lines: makes the same records line by line.
    """

    def __init__(self, parse_block: Callable[[LineBlock, int], Parsed], parse_lines: ParseLines) -> None:
        self._parse_block, self._parse_lines = parse_block, parse_lines
        # Number of lines of the current block that are parsed in pieces, because the whole block failed.
        self._in_pieces = 0

    @classmethod
    def of_columns(cls, columns: ColumnParser, plain: LineParser) -> BlockParser:
        """Return a parser of columns where they give the same records as `plain`, which parses the rest."""
        return cls(lambda block, _: Parsed(columns(block), [], 0, len(block)), plain.parse)

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse a block; see `LineParser`."""
        assert isinstance(lines, LineBlock)
        if not self._in_pieces:
            try:
                return self._parse_block(lines, first)
            except ValueError:
                self._in_pieces = len(lines)
        wanted = _PIECE_LINES
        while True:
            piece = lines.head(wanted)
            try:
                parsed = self._parse_block(piece, first)
            except ValueError:
                parsed = self._parse_lines(piece.lines(), first, final=final and len(piece) == len(lines))
            if parsed.used or len(piece) == len(lines):
                break
            wanted *= 2
        self._in_pieces = max(0, self._in_pieces - parsed.used)
        return parsed
