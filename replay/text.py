"""Lines of text as records."""

from __future__ import annotations

from itertools import repeat

from .format import Format
from .item import BadLine, Item
from .lines import Parsed, clean

__all__ = ["TextParser"]


class TextParser:
    """Each line is a value, empty ones too; with `key_before`, blank lines are none and a line without it is bad."""

    def __init__(self, source: str, format: Format) -> None:
        self._source = source
        self._encoding = format.encoding
        self._before = None if format.key_before is None else format.key_before.encode()

    def parse(self, lines: list[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        used = len(lines)
        lines, numbers, bad = clean(lines, first, source=self._source, encoding=self._encoding)
        before = self._before
        if before is None:
            return Parsed(list(zip(repeat(None), lines, repeat(0), repeat(None), repeat(None))), bad, 0, used)
        items: list[Item] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            key, delimiter, _ = line.partition(before)
            if delimiter:
                items.append((key, line, 0, None, None))
            elif line:
                reason = f"no {before.decode()!r} ends a key"
                bad.append(BadLine(self._source, number, reason, line))
            else:
                blank += 1
        return Parsed(items, bad, blank, used)
