"""The codec of window tables' keys: (key, start, end), as JSON arrays.

It gives what the codec of undeclared keys gives. A window table encodes each of its keys several times, so those that
hold text and whole numbers, which is nearly all of them, take the way that needs no second look.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from types import GenericAlias
from typing import Any

import msgspec

from ...topics.keys import as_key
from ...topics.serde import Codec, json_lines, key_codec

__all__ = ["window_key_codec"]

_PLAIN = frozenset({str, int})
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Any, int, int]).decode


def window_key_codec(declared: object = None) -> Codec:
    """Return the codec of (key, start, end).

    Args:
        declared: type of the keys without their windows; None is untyped JSON.
    """
    if declared is not None:
        return key_codec(GenericAlias(tuple, (declared, int, int)))
    slow = key_codec()

    def encode(key: object) -> bytes:
        return _encode(key) if _is_plain([key]) else slow.encode(key)

    return Codec(slow.name, _decoded, encode, exact=_is_plain, same=_equal, fast=_encode, fast_all=json_lines)


def _is_plain(keys: Collection[Any]) -> bool:
    """Return whether the parts of all keys are text and whole numbers, which come back as they are. Start and end need
    not be: a program may ask for a window with floats."""
    return {tuple} >= set(map(type, keys)) and _PLAIN.issuperset(map(type, chain.from_iterable(keys)))


def _decoded(data: bytes) -> Any:
    key = _decode(data)
    return key if type(key[0]) is not list else (as_key(key[0]), key[1], key[2])


def _equal(back: list[object], values: list[object]) -> bool:
    return back == values
