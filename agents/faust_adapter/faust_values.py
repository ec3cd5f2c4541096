"""Serdes for values that Faust may have written and that anabranch would otherwise read differently.

- Text. With `value_type=str`, anabranch reads and writes UTF-8 text, as most Kafka clients do. Faust reads and writes
  a JSON string, `"vv"`. A value in quotes that is a valid JSON string is ambiguous. It is refused unless the topic
  declares its format: `value_serializer="json"` (Faust's) or `"raw"` (the quotes are part of the text).
- Values without a declared type. Faust marks values of a model with the name of the model,
  `{"__faust": {"ns": "shop.Order"}}`, and decodes them as an `Order` where no type is declared. anabranch does the
  same. A model that the program does not define is an error. Windowed tables without a declared type do so at any
  depth, for lists of records.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgspec
from faust import Record
from faust.models.base import registry

from ...topics.errors import BadRecord
from ...topics.serde import Codec, codec, decode_json_text

__all__ = ["MODELS", "UNMARKED_TEXT", "UNTYPED", "models_kept"]

_MARK = "__faust"
_TEXT, _JSON = codec(str), codec(None)
_decode_json = _JSON.decode


@contextmanager
def models_kept() -> Generator[None]:
    """Restore Faust's registry of models behind the block: a module that is loaded again replaces its models there."""
    before = dict(registry)
    try:
        yield
    finally:
        registry.clear()
        registry.update(before)


def _check_text(data: bytes) -> None:
    try:
        decode_json_text(data)
    except msgspec.DecodeError:
        return
    raise BadRecord(
        "ambiguous text in quotes: a JSON string, as Faust writes text, or text that contains quotes",
        hint='declare value_serializer="json" for the topic, or "raw" if the quotes belong to the text',
    )


def _decode_text(data: bytes) -> str:
    if data[:1] == b'"':
        _check_text(data)
    return data.decode()


def _encode_text(value: Any) -> bytes:
    data = _TEXT.encode(value)
    if data[:1] == b'"':
        _check_text(data)
    return data


def _model(value: Any) -> Any:
    mark = value[_MARK]
    if not isinstance(mark, dict) or "ns" not in mark:
        return value
    name = mark["ns"]
    model: Any = registry.get(name) if isinstance(name, str) else None
    if model is None:
        raise BadRecord(
            f"a record of the Faust model {name}, which this program does not have",
            hint="import the module that defines it, or declare value_type=dict to read the fields alone",
        )
    return model.from_data(value)


def _decode_untyped(data: bytes) -> Any:
    value = _decode_json(data)
    return _model(value) if type(value) is dict and _MARK in value else value


def _plain_record(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_representation()
    raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")


_encode_models = msgspec.json.Encoder(enc_hook=_plain_record).encode


def _decode_models(data: bytes) -> Any:
    value = _decode_json(data)
    return _with_models(value) if b'"__faust"' in data else value


def _with_models(value: Any) -> Any:
    if type(value) is list:
        return [_with_models(one) for one in value]
    if type(value) is dict:
        return _model(value) if _MARK in value else {key: _with_models(one) for key, one in value.items()}
    return value


class _Untyped(Codec):
    __slots__ = ()

    def decode_all(self, encoded: list[bytes]) -> list[Any]:
        """Decode many values at once; see `Codec.decode_all`."""
        values = super().decode_all(encoded)
        return [_model(value) if type(value) is dict and _MARK in value else value for value in values]


UNMARKED_TEXT = Codec("text", _decode_text, _encode_text)
"""Codec of topics with `value_type=str` that declare no serializer."""

UNTYPED = _Untyped("JSON", _decode_untyped, _JSON.encode, decode_list=_decode_json)
"""Codec of topics without a `value_type`."""

MODELS = Codec("JSON", _decode_models, _encode_models, trusted=_JSON.trusted)
"""Codec of values of windowed tables without a declared type: JSON, with the records of Faust models in it."""
