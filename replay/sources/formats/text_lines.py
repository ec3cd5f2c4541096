"""Lines of text as records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from ..format import Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord, check_sizes
from .lines import Parsed, clean

__all__ = ["TextParser"]


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
