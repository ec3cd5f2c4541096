"""JSON Lines as records: the value is the line, key and time are read out of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

import msgspec

from ..field_mapping import FieldMapping
from ..format import Format
from ..source_record import NO_LIMIT, BadLine, SourceRecord, check_sizes
from .lines import NO_FIELDS, Parsed, clean

__all__ = ["JsonLinesParser"]

_CACHED = 16_384
# A surrogate, unless it is the first of two.
_HALF = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_NO_OBJECT = "not a JSON object, so it has no fields"
_decode_any = msgspec.json.Decoder().decode


class JsonLinesParser:
    """Each line is one JSON value; its bytes travel as they are. Only what is asked for is decoded.

    A line that is not JSON is bad, and one without a field that is asked for. Blank lines are none.

    Args:
        fields: what each record has beside its own, because of the folder it lies in; a record's own fields win.
    """

    def __init__(
        self, source: str, format: Format, *, fields: Mapping[str, Any] = NO_FIELDS, max_bytes: int = NO_LIMIT
    ) -> None:
        self._source = source
        self._encoding = format.encoding
        self._fields = fields
        self._max_bytes = max_bytes
        self._names: list[bytes] = [msgspec.json.encode(name) for name in fields]
        pairs = [
            b"%b:%b" % (name, msgspec.json.encode(value))
            for name, value in zip(self._names, fields.values(), strict=True)
        ]
        self._more = b",".join(pairs) + b"}"
        self._shape = FieldMapping(format, source)
        short = self._shape.fields.isdisjoint(fields)
        self._key = self._shape.key_field if short else None
        self._time = self._shape.time_field if short else None
        self._plain = short and self._shape.plain
        # A field that is named for both is decoded once.
        self._both = self._key is not None and self._key == self._time
        # Keys are taken to be text until one is not: decoding text at once is twice as fast as looking at what it is.
        self._text_keys = not self._both
        self._decode = self._decoder()
        self._keys = _Keys()

    def parse(self, lines: Sequence[bytes], first: int, *, final: bool) -> Parsed:
        """See `LineParser`."""
        used = len(lines)
        lines, numbers, bad = clean(lines, first, source=self._source, encoding=self._encoding)
        if self._text_keys:
            try:
                return Parsed(self._items(lines), bad, 0, used)
            except (ValueError, RecursionError):
                self._text_keys = False
                self._decode = self._decoder()
        try:
            return Parsed(self._items(lines), bad, 0, used)
        except (ValueError, RecursionError):
            # One of them is bad: msgspec's errors and ours are ValueErrors. Look at each.
            return self._one_by_one(lines, numbers, bad, used)

    def _decoder(self) -> Callable[[bytes], Any]:
        fields: list[tuple[str, Any]] = []
        names: dict[str, str] = {}
        if self._key is not None:
            fields.append(("key", str if self._text_keys else msgspec.Raw))
            names["key"] = self._key
        if self._time is not None and not self._both:
            fields.append(("time", int | float | str | None))
            names["time"] = self._time
        kind: Any = msgspec.defstruct("Line", fields, rename=names, gc=False) if fields else msgspec.Raw
        return msgspec.json.Decoder(kind).decode

    def _items(self, lines: list[bytes]) -> list[SourceRecord]:
        if self._fields:
            lines = [self._with_fields(line) for line in lines]
        check_sizes(lines, self._max_bytes)
        if not self._plain:
            return [self._shaped(line) for line in lines]
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
            if self._both:
                stamps = self._shape.stamps.many([msgspec.json.decode(line.key) for line in found])
            else:
                stamps = self._shape.stamps.many([line.time for line in found])
        return list(zip(keys, lines, stamps, repeat(None), repeat(None)))

    def _shaped(self, line: bytes) -> SourceRecord:
        record = _decode_any(line)
        if not isinstance(record, dict):
            raise ValueError(_NO_OBJECT)
        key, time_ms, headers, partition = self._shape(record)
        if self._key is not None:
            # As it is written, as on the short way: 1.50 stays 1.50.
            own = self._decode(line).key
            key = own.encode() if self._text_keys else self._keys[bytes(own)]
        return key, line, time_ms, headers, partition

    def _with_fields(self, line: bytes) -> bytes:
        body = line.strip()
        if body[:1] != b"{" or body[-1:] != b"}":
            raise ValueError(_NO_OBJECT)
        if any(name in body for name in self._names):
            own = _decode_any(body)
            more = {name: value for name, value in self._fields.items() if name not in own}
            return msgspec.json.encode({**own, **more})
        inner = body[:-1].rstrip()
        return inner + (b"" if inner == b"{" else b",") + self._more

    def _one_by_one(self, lines: list[bytes], numbers: Sequence[int], bad: list[BadLine], used: int) -> Parsed:
        items: list[SourceRecord] = []
        blank = 0
        for number, line in zip(numbers, lines, strict=True):
            if not line.strip():
                blank += 1
                continue
            try:
                items.extend(self._items([line]))
            except ValueError as exc:
                bad.append(BadLine(self._source, number, self._reason(line, exc), line))
            except RecursionError:
                bad.append(
                    BadLine(self._source, number, "lists or objects within each other, too deep to be read", line)
                )
        return Parsed(items, bad, blank, used)

    def _reason(self, line: bytes, exc: ValueError) -> str:
        if isinstance(exc, msgspec.DecodeError) and not isinstance(exc, msgspec.ValidationError):
            return _why_no_json(line, exc)
        if not isinstance(exc, msgspec.ValidationError):
            return str(exc)
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            return _why_no_json(line, error)
        if not isinstance(value, dict):
            return _NO_OBJECT
        for field in (self._key, self._time):
            if field is not None and field not in value:
                return f"no field {field!r}; fields: {', '.join(map(str, value))}"
        return str(exc)


def _why_no_json(line: bytes, exc: Exception) -> str:
    if line.strip() in (b"[", b"{", b"[{"):
        return "JSON that goes on in the next line; JSON Lines has a value in each: jq -c '.[]' FILE writes a list so"
    half = _HALF.search(line.replace(rb"\\", b"  "))
    if half and ("truncated" in str(exc) or "surrogate" in str(exc)):
        return f"{half[0].decode()} is half of a character (a lone surrogate), which no UTF-8 can hold"
    return f"not JSON: {exc}"


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
