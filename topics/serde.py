"""Bytes to values and back, by declared type.

| declared | on the wire |
| --- | --- |
| nothing | JSON, as it comes: dict, list, str, int, float, bool, None |
| `bytes` | the bytes themselves |
| `str` | UTF-8 text |
| `msgspec.Struct`, dataclass, `list[int]`, … | JSON, checked against the type while it is decoded |
| a Faust `Record` | JSON, by the model's own `loads` and `dumps` |

A missing payload (a tombstone) is None whatever the type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from .errors import BadRecord

__all__ = ["Codec", "codec", "key_codec"]

Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]

_json_encoder = msgspec.json.Encoder(order="deterministic")

# What JSON gives back as the same type it was given. Anything else needs a declared type, or a restart would change it.
_JSON_ROUND_TRIP = frozenset({str, int, float, bool, type(None), list, dict})


class Codec:
    """How one type travels.

    Attributes:
        decode: bytes to value; raises whatever the library raises for bytes that do not fit.
        encode: value to bytes; raises `BadRecord` for a value that would come back as something else.
    """

    __slots__ = ("_fast", "_safe", "decode", "encode", "name")

    def __init__(
        self, name: str, decode: Decode, encode: Encode, *, fast: Encode | None = None, safe: frozenset[type] = frozenset()
    ) -> None:
        """`fast` encodes values of the `safe` types without looking at them first."""
        self.name, self.decode, self.encode = name, decode, encode
        self._fast, self._safe = fast or encode, safe

    def encode_all(self, values: Collection[Any]) -> list[bytes]:
        """`encode` of each value, several times faster where all are of safe types."""
        return list(map(self._fast if self._safe.issuperset(map(type, values)) else self.encode, values))

    def __repr__(self) -> str:
        return f"Codec({self.name})"


def _encode_json(value: Any) -> bytes:
    if type(value) not in _JSON_ROUND_TRIP:
        raise BadRecord(
            f"a {type(value).__qualname__} would come back from JSON as something else",
            hint="declare its type (value_type=… or key_type=…)",
        )
    return _json_encoder.encode(value)


def _encode_text(value: Any) -> bytes:
    if type(value) is str:
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise BadRecord(f"expected text, not {type(value).__qualname__}")


def _encode_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise BadRecord(f"expected bytes, not {type(value).__qualname__}")


_RAW = Codec("bytes", lambda data: data, _encode_bytes)
_TEXT = Codec("text", lambda data: data.decode(), _encode_text)
_JSON = Codec(
    "json", msgspec.json.Decoder().decode, _encode_json, fast=_json_encoder.encode, safe=_JSON_ROUND_TRIP
)


def codec(declared: Any = None) -> Codec:
    """The codec of a declared type; see the table above.

    Raises:
        TypeError: msgspec cannot build a decoder for it.
    """
    if declared is None:
        return _JSON
    if declared is bytes:
        return _RAW
    if declared is str:
        return _TEXT
    if hasattr(declared, "_options") and hasattr(declared, "from_data"):  # a Faust model, known by its shape
        return Codec(declared.__name__, declared.loads, lambda value: value.dumps())
    decoder = msgspec.json.Decoder(declared)
    return Codec(getattr(declared, "__name__", str(declared)), decoder.decode, _json_encoder.encode)


def key_codec(declared: Any = None) -> Codec:
    """The codec of a table's keys: as `codec`, but JSON arrays come back as tuples, since lists cannot be keys."""
    if declared is None:
        return Codec(
            "json key", _decode_json_key, _encode_json_key, fast=_json_encoder.encode, safe=frozenset({str, int})
        )
    return codec(declared)


def _decode_json_key(data: bytes) -> Any:
    return _hashable(_JSON.decode(data))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


def _encode_json_key(key: Any) -> bytes:
    kind = type(key)
    if kind is str or kind is int:
        return _json_encoder.encode(key)
    if kind is tuple:
        for item in key:
            _encode_json_key(item)
        return _json_encoder.encode(key)
    return _encode_json(key)
