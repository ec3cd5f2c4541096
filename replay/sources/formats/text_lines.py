"""Reads lines of text as records: `TextParser` line by line, `TextColumns` a block at once, with the same records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from ....topics.packed import arrow
from ..column_batch import TEXT, ColumnBatch
from ..format import RAW_BYTES, Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord, check_sizes
from .line_buffer import LineBlock, Parsed, check_text, decode_lines

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = ["TextColumns", "TextParser"]


class TextParser:
    """Makes each line a value, even if it is empty.

    With `key_before`, blank lines are skipped, and lines without the delimiter are bad.
    """

    def __init__(self, source: str, format: Format, *, max_bytes: int = NO_LIMIT) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._encoding = format.encoding
        self._before = None if format.key_before is None else format.key_before.encode()

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """Parse lines one by one; see `LineParser`."""
        used = len(lines)
        lines, numbers, bad = decode_lines(lines, first, source=self._source, encoding=self._encoding)
        before = self._before
        if before is None and max(map(len, lines), default=0) <= self._max_bytes:
            return Parsed(list(zip(repeat(None), lines, repeat(0), repeat(None), repeat(None))), bad, 0, used)
        records: list[SourceRecord] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            key, delimiter, _ = (None, True, None) if before is None else line.partition(before)
            try:
                if delimiter:
                    check_sizes((line,), self._max_bytes)
                    records.append((key, line, 0, None, None))
                elif line:
                    raise ValueError(f"no delimiter {(before or b'').decode()!r}, so the line has no key")
                else:
                    blank += 1
            except ValueError as exc:
                bad.append(BadLine(self._source, number, str(exc), line))
        return Parsed(records, bad, blank, used)


_LINE_END, _RETURN = 10, 13


class TextColumns:
    """Makes a column of the lines of a block, and one of their keys; a `ColumnParser`."""

    def __init__(self, format: Format, max_bytes: int) -> None:
        self._encoding, self._max_bytes = format.encoding, max_bytes
        self._before = None if format.key_before is None else format.key_before.encode()

    def __call__(self, block: LineBlock) -> ColumnBatch:
        """Return the lines of a block as columns; see `ColumnParser`."""
        import numpy

        pyarrow = arrow()
        raw = self._encoding == RAW_BYTES
        if not raw:
            check_text(block.data, self._encoding)
        data = numpy.frombuffer(block.data, numpy.uint8)
        ends = numpy.flatnonzero(data == _LINE_END)
        if len(ends) < len(block):
            ends = numpy.append(ends, len(data))
        starts = numpy.concatenate(([0], ends[:-1] + 1))
        kept = data != _LINE_END
        if b"\r" in block.data:
            returned = (ends > starts) & (data[ends - 1] == _RETURN)
            kept[ends[returned] - 1] = False
            ends = ends - returned
        lengths = ends - starts
        if int(lengths.max()) > self._max_bytes:
            raise ValueError("a line that is too large")
        column = _column(pyarrow.binary() if raw else pyarrow.string(), data[kept], lengths)
        keys = None
        if self._before is not None:
            firsts = self._key_ends(data, starts, ends)
            # 1 between the start of a line and the end of its key, 0 elsewhere.
            steps = numpy.zeros(len(data), numpy.int8)
            steps[starts] = 1
            steps[firsts] -= 1
            chosen = numpy.cumsum(steps, dtype=numpy.int8).view(bool)
            keys = _column(column.type, data[chosen], firsts - starts)
        return ColumnBatch(pyarrow.record_batch([column], [TEXT]), kind="text", keys=keys)

    def _key_ends(self, data: numpy.ndarray, starts: numpy.ndarray, ends: numpy.ndarray) -> numpy.ndarray:
        """Return the end of the key in each line."""
        import numpy

        if self._before is None or len(self._before) != 1 or self._before in b"\r\n":
            raise ValueError("the delimiter of keys is not one byte")
        delimiters = numpy.flatnonzero(data == self._before[0])
        at = numpy.searchsorted(delimiters, starts)
        if not len(delimiters) or int(at[-1]) == len(delimiters):
            raise ValueError("a line without a key")
        firsts = delimiters[at]
        if not bool((firsts < ends).all()):
            raise ValueError("a line without a key")
        return firsts


def _column(kind: pyarrow.DataType, values: numpy.ndarray, lengths: numpy.ndarray) -> pyarrow.Array:
    import numpy

    pyarrow = arrow()
    ends = numpy.zeros(len(lengths) + 1, numpy.int32)
    numpy.cumsum(lengths, out=ends[1:])
    return pyarrow.Array.from_buffers(kind, len(lengths), [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(values)])
