"""Lines that stay together: a block of bytes, so that columns can be made of them without making each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, overload

from ..column_batch import ColumnBatch
from .lines import MAX_LINE_BYTES, LineBuffer, LineParser, Parsed

__all__ = ["BLOCK_BYTES", "Block", "BlockBuffer", "BlockParser", "MadeColumns", "counted"]

BLOCK_BYTES = 4 * 1024 * 1024

# Where columns cannot be made of a block, it is tried with so many lines at a time: those that cannot go line by line.
_PIECE_LINES = 5_000
_FEW_LINES = 64


def counted(data: bytes, byte: bytes) -> int:
    """`data.count(byte)`, in an eighth of the time where there are many, and in less where there is none."""
    if byte not in data:
        return 0
    import numpy

    found: Any = numpy.frombuffer(data, numpy.uint8) == byte[0]
    return int(numpy.count_nonzero(found))


class Block(Sequence[bytes]):
    """Whole lines. `data` holds each with its `\\n`, but the last of a file may have none."""

    __slots__ = ("_count", "_sized", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data, self._count = data, count
        # What was asked for last is asked for again, when the lines are done with.
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
        """Each by itself, without its end."""
        lines = self.data.split(b"\n")
        return lines[:-1] if len(lines) > self._count else lines

    def head(self, count: int) -> Block:
        """The first of them."""
        return self if count >= self._count else Block(self.data[: self.size_of(count)], count)

    def size_of(self, count: int) -> int:
        """Bytes of the first lines."""
        if count >= self._count:
            return len(self.data)
        if self._sized[0] != count:
            self._sized = count, _end_of(self.data, count)
        return self._sized[1]


def _end_of(data: bytes, count: int) -> int:
    """Where so many lines end."""
    if count > _FEW_LINES:
        import numpy

        ends: Any = numpy.flatnonzero(numpy.frombuffer(data, numpy.uint8) == 10)
        return int(ends[count - 1]) + 1
    end = 0
    for _ in range(count):
        end = data.index(b"\n", end) + 1
    return end


class BlockBuffer(LineBuffer):
    """A `LineBuffer` whose lines are a block, all of them at once."""

    def __init__(
        self, source: str, *, byte: int = 0, line: int = 0, skip_bom: bool = True, most_waiting: int = MAX_LINE_BYTES
    ) -> None:
        super().__init__(source, byte=byte, line=line, skip_bom=skip_bom, most_waiting=most_waiting)
        self._block = Block(b"", 0)

    @property
    def waiting(self) -> int:
        """See `LineBuffer`."""
        return len(self._block)

    def _take(self, data: bytes) -> None:
        end = data.rfind(b"\n") + 1
        whole = b"".join((self._block.data, *self._tail, data[:end]))
        # What is in the tail holds no line's end.
        self._block = Block(whole, len(self._block) + counted(data, b"\n"))
        self._tail, self._tail_bytes = [data[end:]], len(data) - end
        self._waiting_bytes = len(whole)

    def finish(self) -> None:
        """See `LineBuffer`."""
        tail = b"".join(self._tail)
        if tail:
            self._block = Block(self._block.data + tail, len(self._block) + 1)
        self._tail, self._tail_bytes = [], 0

    def peek(self, limit: int) -> Block:
        """See `LineBuffer`."""
        return self._block.head(limit)

    def drop(self, count: int) -> None:
        """See `LineBuffer`."""
        size = self._block.size_of(count)
        self._block = Block(self._block.data[size:], len(self._block) - count)
        self._waiting_bytes = len(self._block.data)
        self.byte += size
        self.line += count


class MadeColumns(Protocol):
    """What makes columns of a block."""

    def __call__(self, block: Block) -> ColumnBatch:
        """All lines of a block as columns: the very records that a `LineParser` makes of them.

        Raises:
            ValueError: it cannot, or one of them is blank or bad.
        """
        ...


class BlockParser:
    """A `LineParser` of blocks: columns where that gives the same records, else records line by line.

    Args:
        plain: what the same records are that line by line are made.
    """

    def __init__(self, plain: LineParser, columns: MadeColumns) -> None:
        self._plain, self._columns = plain, columns
        # So many lines of the block at hand are tried in pieces, because all of it was in vain.
        self._in_pieces = 0

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        assert isinstance(lines, Block)
        if not self._in_pieces:
            try:
                return Parsed(self._columns(lines), [], 0, len(lines))
            except ValueError:
                self._in_pieces = len(lines)
        wanted = _PIECE_LINES
        while True:
            piece = lines.head(wanted)
            try:
                parsed = Parsed(self._columns(piece), [], 0, len(piece))
            except ValueError:
                parsed = self._plain.parse(piece.lines(), first, final=final and len(piece) == len(lines))
            if parsed.used or len(piece) == len(lines):
                break
            wanted *= 2
        self._in_pieces = max(0, self._in_pieces - parsed.used)
        return parsed
