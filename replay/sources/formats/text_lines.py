"""Lines of text as records.

Lines of text as a column, and their keys as another: what `TextParser` makes, without making each line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from ....topics.packed import arrow
from ..column_batch import TEXT, ColumnBatch
from ..format import RAW_BYTES, Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord, check_sizes
from .lines import Block, Parsed, checked_text, clean

__all__ = ["TextColumns", "TextParser"]


class TextParser:
    """Each line is a value, empty ones too; with `key_before`, blank lines are none and a line without it is bad."""

    def __init__(self, source: str, format: Format, *, max_bytes: int = NO_LIMIT) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._encoding = format.encoding
        self._before = None if format.key_before is None else format.key_before.encode()

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        used = len(lines)
        lines, numbers, bad = clean(lines, first, source=self._source, encoding=self._encoding)
        before = self._before
        if before is None and max(map(len, lines), default=0) <= self._max_bytes:
            return Parsed(list(zip(repeat(None), lines, repeat(0), repeat(None), repeat(None))), bad, 0, used)
        items: list[SourceRecord] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            key, delimiter, _ = (None, True, None) if before is None else line.partition(before)
            try:
                if delimiter:
                    check_sizes((line,), self._max_bytes)
                    items.append((key, line, 0, None, None))
                elif line:
                    raise ValueError(f"no {(before or b'').decode()!r} ends a key")
                else:
                    blank += 1
            except ValueError as exc:
                bad.append(BadLine(self._source, number, str(exc), line))
        return Parsed(items, bad, blank, used)


_LINE_END, _RETURN = 10, 13


class TextColumns:
    """See `MadeColumns`."""

    def __init__(self, format: Format, max_bytes: int) -> None:
        self._encoding, self._max_bytes = format.encoding, max_bytes
        self._before = None if format.key_before is None else format.key_before.encode()

    def __call__(self, block: Block) -> ColumnBatch:
        """See `MadeColumns`."""
        import numpy

        pyarrow = arrow()
        raw = self._encoding == RAW_BYTES
        if not raw:
            checked_text(block.data, self._encoding)
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
            firsts = self._firsts(data, starts, ends)
            # 1 from a line's start to where its key ends.
            steps = numpy.zeros(len(data), numpy.int8)
            steps[starts] = 1
            steps[firsts] -= 1
            chosen = numpy.cumsum(steps, dtype=numpy.int8).view(bool)
            keys = _column(column.type, data[chosen], firsts - starts)
        return ColumnBatch(pyarrow.record_batch([column], [TEXT]), kind="text", keys=keys)

    def _firsts(self, data: Any, starts: Any, ends: Any) -> Any:
        """Where each line's key ends."""
        import numpy

        if self._before is None or len(self._before) != 1 or self._before in b"\r\n":
            raise ValueError("not one byte ends a key")
        marks = numpy.flatnonzero(data == self._before[0])
        at = numpy.searchsorted(marks, starts)
        if not len(marks) or int(at[-1]) == len(marks):
            raise ValueError("a line without a key")
        firsts = marks[at]
        if not bool((firsts < ends).all()):
            raise ValueError("a line without a key")
        return firsts


def _column(kind: Any, values: Any, lengths: Any) -> Any:
    import numpy

    pyarrow = arrow()
    ends = numpy.zeros(len(lengths) + 1, numpy.int32)
    numpy.cumsum(lengths, out=ends[1:])
    return pyarrow.Array.from_buffers(kind, len(lengths), [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(values)])
