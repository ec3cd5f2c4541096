"""JSON Lines as records: the value is the line, key and time are read out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import msgspec

from .format import Format
from .item import BadLine, Item
from .lines import Parsed, clean
from .stamp import Stamps, parse_time_ms

__all__ = ["JsonLinesParser"]

_CACHED = 16_384


class JsonLinesParser:
    """Each line is one JSON value; its bytes travel as they are. Only the fields asked for are decoded.

    A line that is not JSON is bad, and one without the key's or the time's field. Blank lines are none.
    """

    def __init__(self, source: str, format: Format) -> None:
        self._source = source
        self._encoding = format.encoding
        self._key = format.key
        self._time = format.time
        # A field that is named for both is decoded once.
        self._both = format.key is not None and format.key == format.time
        # Keys are taken to be text until one is not: decoding text at once is twice as fast as looking at what it is.
        self._text_keys = not self._both
        self._decode = self._decoder()
        self._keys = _Keys()
        self._stamps = _JsonStamps()

    def parse(self, lines: list[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        used = len(lines)
        lines, numbers, bad = clean(lines, first, source=self._source, encoding=self._encoding)
        if self._text_keys:
            try:
                return Parsed(self._items(lines), bad, 0, used)
            except ValueError:
                self._text_keys = False
                self._decode = self._decoder()
        try:
            return Parsed(self._items(lines), bad, 0, used)
        except ValueError:
            # One of them is bad: msgspec's errors and ours are ValueErrors. Look at each.
            return self._one_by_one(lines, numbers, bad, used)

    def _decoder(self) -> Callable[[bytes], Any]:
        fields: list[tuple[str, Any]] = []
        names: dict[str, str] = {}
        if self._key is not None:
            fields.append(("key", str if self._text_keys else msgspec.Raw))
            names["key"] = self._key
        if self._time is not None and not self._both:
            fields.append(("time", msgspec.Raw))
            names["time"] = self._time
        kind: Any = msgspec.defstruct("Line", fields, rename=names, gc=False) if fields else msgspec.Raw
        return msgspec.json.Decoder(kind).decode

    def _items(self, lines: list[bytes]) -> list[Item]:
        found: list[Any] = list(map(self._decode, lines))
        keys: Any = repeat(None)
        stamps: Any = repeat(0)
        if self._key is not None:
            known_keys = self._keys
            if self._text_keys:
                keys = [line.key.encode() for line in found]
            else:
                keys = [known_keys[bytes(line.key)] for line in found]
        if self._time is not None:
            known_stamps = self._stamps
            written = [line.key for line in found] if self._both else [line.time for line in found]
            stamps = [known_stamps[bytes(time)] for time in written]
        return list(zip(keys, lines, stamps, repeat(None), repeat(None)))

    def _one_by_one(self, lines: list[bytes], numbers: Sequence[int], bad: list[BadLine], used: int) -> Parsed:
        items: list[Item] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            if not line.strip():
                blank += 1
                continue
            try:
                items.extend(self._items([line]))
            except ValueError as exc:
                bad.append(BadLine(self._source, number, self._reason(line, exc), line))
        return Parsed(items, bad, blank, used)

    def _reason(self, line: bytes, exc: ValueError) -> str:
        if not isinstance(exc, msgspec.ValidationError):
            return str(exc)
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            return str(error)
        if not isinstance(value, dict):
            return "not a JSON object, so it has no fields"
        for field in (self._key, self._time):
            if field is not None and field not in value:
                return f"no field {field!r}; fields: {', '.join(map(str, value))}"
        return str(exc)


class _Keys(dict[bytes, bytes | None]):
    """A key as JSON, to the record's key."""

    def __missing__(self, written: bytes) -> bytes | None:
        key: bytes | None = written
        if written[:1] == b'"':
            key = written[1:-1] if b"\\" not in written else msgspec.json.decode(written, type=str).encode()
        elif written == b"null":
            key = None
        elif written[:1] in (b"{", b"["):
            raise ValueError("the key is an object or a list; text, a number, true, false or null can be one")
        if len(self) >= _CACHED:
            self.clear()
        self[written] = key
        return key


class _JsonStamps(Stamps):
    """A time as JSON, to milliseconds."""

    def parse(self, written: object) -> int:
        assert isinstance(written, bytes)
        return parse_time_ms(msgspec.json.decode(written))
