"""Encoding and decoding of keys and values, by declared type.

| declared | on the wire |
| --- | --- |
| nothing | untyped JSON: dict, list, str, int, float, bool, None |
| `bytes` | the bytes themselves |
| `str` | UTF-8 text; in tables JSON |
| `msgspec.Struct`, dataclass, `list[int]`, … | JSON, checked against the type while it is decoded |
| a Faust `Record` | JSON (or the serializer it declares), by the model's own `loads` and `dumps` |

A missing payload (a tombstone) is None whatever the type.

There are two ways to encode. `encode` is for sending: a reader gets the value as closely as JSON can express it. `keep`
is for tables: the value that is read back after a commit has to be the value that was written, or the result of a
program would depend on when its commits happen. So `keep` refuses a NaN (JSON: null), a tuple or a date inside an
undeclared value (a list, a text), a value that does not fit the declared type, and a value that would come back equal
but of another type, at any depth (`equality.py`): a `Counter` for a dict, an `IntEnum` for a number, an int where a
float is declared. The values of a declared type have to support equality.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from math import isfinite
from types import GenericAlias
from typing import Any, TypeGuard, cast
from uuid import UUID

import msgspec
import msgspec.inspect

from .equality import identical, identical_json, plainly_exact, same_value
from .errors import BadRecord, Usage, described
from .keys import as_key, has_one_form, json_element, json_key, plain, without_minus_zero

__all__ = [
    "Codec",
    "check_declared",
    "checked_json",
    "codec",
    "decode_json_text",
    "is_finite",
    "json_lines",
    "key_codec",
    "set_codec",
    "value_codec",
]

Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]

# Sets have no order, so types that contain sets are written sorted. All others keep their order: a dict has to come
# back in the order in which it was filled, or a program that depends on it would depend on when its commits happen.
_json_sorted = msgspec.json.Encoder(order="deterministic")
_json_encoder = msgspec.json.Encoder()
_json_decoder = msgspec.json.Decoder()

# Types that JSON gives back unchanged. Values of other types need a declared type, or a restart would change them.
_JSON_ROUND_TRIP = frozenset({str, int, float, bool, type(None), list, dict})

# The types among them that need no comparison: a float may be NaN, a container may hold anything.
_JSON_TRUSTED = frozenset({str, int, bool, type(None)})

# Declared types that need none either, besides enums.
_TRUSTED = frozenset({int, bool, datetime, date, time, timedelta, Decimal, UUID})

_CODECS = 512


def json_lines(values: Collection[Any]) -> list[bytes]:
    """Return each value as JSON, for numbers in half the time of encoding them one by one.

    Raises:
        ValueError: the JSON of one has several lines (a `msgspec.Raw`).
    """
    lines = _json_encoder.encode_lines(values).split(b"\n")
    lines.pop()  # behind the last line
    if len(lines) != len(values):
        raise ValueError("JSON of several lines")
    return lines


# Codecs that decode any JSON document, so that validating it is enough.
_UNTYPED_JSON = frozenset({"JSON", "a JSON key"})
_json_documents = msgspec.json.Decoder(list[msgspec.Raw])


class Codec:
    """The encoding of one declared type.

    Args:
        trusted: values of exactly these types come back as they are; others are compared with what comes back.
        exact: returns whether many values of another type certainly come back unchanged.
        same: compares decoded values with the values: two lists of the same length.
        fast: encodes values of the `trusted` and `whole` types without looking at them first.
        fast_all: does so for many of them at once.
        decode_list: decodes a JSON array of values; with it many values are compared at once.
        whole: types of values that `decode_list` can decode, besides the trusted ones; None means any.

    Attributes:
        decode: bytes to value; raises whatever the library raises for bytes that do not fit.
        encode: value to bytes, for sending; raises `BadRecord` or what the library raises.
    """

    __slots__ = (
        "_decode_list",
        "_exact",
        "_fast",
        "_fast_all",
        "_same",
        "_trusted",
        "_whole",
        "decode",
        "encode",
        "name",
    )

    def __init__(
        self,
        name: str,
        decode: Decode,
        encode: Encode,
        *,
        trusted: frozenset[type] = frozenset(),
        exact: Callable[[list[object]], bool] | None = None,
        same: Callable[[list[object], list[object]], bool] = identical,
        fast: Encode | None = None,
        fast_all: Callable[[Collection[Any]], list[bytes]] | None = None,
        decode_list: Decode | None = None,
        whole: frozenset[type] | None = None,
    ) -> None:
        self.name, self.decode, self.encode = name, decode, encode
        self._trusted, self._exact, self._same, self._fast = trusted, exact, same, fast or encode
        self._fast_all, self._decode_list, self._whole = fast_all, decode_list, whole

    @property
    def trusted(self) -> frozenset[type]:
        """The types whose exact instances come back unchanged."""
        return self._trusted

    def decode_all(self, data: list[bytes]) -> list[Any]:
        """Return `decode` of each; the caller guarantees that each JSON value is a whole document."""
        if self._decode_list is None:
            return list(map(self.decode, data))
        return self._decode_list(b"[%b]" % b",".join(data))

    def all_decodable(self, data: list[bytes]) -> bool:
        """Return whether `decode` would accept all of them; may raise instead of returning False."""
        if self.name in _UNTYPED_JSON:
            return len(_json_documents.decode(b"[%b]" % b",".join(data))) == len(data)
        return len(self.decode_all(data)) == len(data)

    def keep(self, value: object) -> bytes:
        """Encode a value of a table.

        Raises:
            BadRecord: it cannot be encoded, or would come back as another value.
        """
        return self.kept(value)[0]

    def kept(self, value: object, draft: bytes = b"") -> tuple[bytes, Any]:
        """Return `keep(value)` and the decoded copy, which is the value itself for `trusted` types.

        Args:
            draft: the result of `draft(value)`, if there is one: values of `whole` types are not encoded again.
        """
        try:
            whole = draft and (self._whole is None or type(value) in self._whole)
            data = draft if whole else self.encode(value)
            if type(value) in self._trusted:
                return data, value
            back = self.decode(data)
            same = same_value(back, value) if self._same is identical else self._same([back], [value])
        except BadRecord:
            raise
        except Exception as exc:
            raise BadRecord(
                f"a {type(value).__qualname__} cannot be kept as {self.name}: {described(exc)}",
                hint=_DECLARE,
            ) from exc
        if not same:
            raise BadRecord(
                f"a value of type {type(value).__qualname__} would be read back from {self.name} as another type",
                hint=_DECLARE,
            )
        return data, back

    def draft(self, value: object) -> bytes:
        """Return the encoded value, to detect changes; empty if it cannot be encoded."""
        try:
            return self._fast(value)
        except Exception:  # noqa: BLE001 (`keep` says what is wrong)
            try:
                return self.encode(value)
            except Exception:  # noqa: BLE001
                return b""

    def keep_all(self, values: Collection[object], drafts: list[bytes] | None = None) -> list[bytes]:
        """Return `keep` of each value, several times faster for values of the usual types.

        Args:
            drafts: the results of `draft` for the values, so that they are not encoded again.
        """
        kinds = set(map(type, values))
        trusted = kinds <= self._trusted or (self._exact is not None and self._exact(list(values)))
        if trusted or (self._decode_list is not None and (self._whole is None or kinds <= self._whole)):
            try:
                kept = self._drafts(values) if drafts is None or b"" in drafts else drafts
                if trusted or self._come_back(kept, values):
                    return kept
            except Exception:  # noqa: BLE001, S110 (one by one, below, says which value it is and why)
                pass
        return list(map(self.keep, values))

    def _drafts(self, values: Collection[object]) -> list[bytes]:
        return list(map(self._fast, values)) if self._fast_all is None else self._fast_all(values)

    def _come_back(self, kept: list[bytes], values: Collection[object]) -> bool:
        assert self._decode_list is not None
        return self._same(self._decode_list(b"[%b]" % b",".join(kept)), list(values))

    def __repr__(self) -> str:
        return f"Codec({self.name})"


_DECLARE = "declare its type (value_type=… or key_type=…)"


def _to_sorted_json(value: object) -> bytes:
    try:
        return _json_sorted.encode(value)
    except TypeError:
        # Keys that are numbers or dates: the encoder does not sort those by itself.
        return _json_sorted.encode(msgspec.to_builtins(value, str_keys=True, order="deterministic"))


def _has_sets(declared: object) -> bool:
    try:
        return "SetType" in repr(msgspec.inspect.type_info(declared))
    except RecursionError:
        return True  # a type that contains itself; sorted is right for all


def _encode_json(value: object) -> bytes:
    if type(value) not in _JSON_ROUND_TRIP:
        raise BadRecord(
            f"a value of type {type(value).__qualname__} would be read back from JSON as another type", hint=_DECLARE
        )
    return _json_encoder.encode(value)


def _encode_text(value: object) -> bytes:
    if type(value) is str:
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise BadRecord(f"expected text, not {type(value).__qualname__}")


def _encode_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise BadRecord(f"expected bytes, not {type(value).__qualname__}")


_RAW = Codec("bytes", lambda data: data, _encode_bytes, trusted=frozenset({bytes}))
_TEXT = Codec("text", lambda data: data.decode(), _encode_text, trusted=frozenset({str}))
_JSON = Codec(
    "JSON",
    _json_decoder.decode,
    _encode_json,
    trusted=_JSON_TRUSTED,
    same=identical_json,
    fast=_json_encoder.encode,
    fast_all=json_lines,
    decode_list=_json_decoder.decode,
    whole=_JSON_ROUND_TRIP,
)


@lru_cache(maxsize=_CODECS)
def codec(declared: object = None) -> Codec:
    """Return the codec of a declared type; see the table at the head of this module.

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
        return _faust_codec(declared)
    decoder, name = msgspec.json.Decoder(declared), getattr(declared, "__name__", str(declared))
    decode_list, sets = msgspec.json.Decoder(_list_of(declared)).decode, _has_sets(declared)
    return Codec(
        name,
        decoder.decode,
        _to_sorted_json if sets else _json_encoder.encode,
        trusted=frozenset({declared}) if _is_trusted(declared) else frozenset(),
        exact=plainly_exact(declared),
        fast=_to_sorted_json if sets else _json_encoder.encode,
        decode_list=decode_list,
    )


def check_declared(what: str, *, is_read: bool = True, **types: object) -> None:
    """Refuse what is no type, and types of which no value can be read.

    Args:
        what: what declares them, for the error.
        is_read: whether values are read; what is only sent may be of any class, such as a `Counter`.
        types: option -> type; None: it is not declared.

    Raises:
        Usage: it is no type, or a class that says nothing of its fields: each record would fail.
    """
    for option, declared in types.items():
        if declared is None or hasattr(declared, "from_data"):  # a Faust model
            continue
        hint = "a msgspec.Struct, a dataclass, a TypedDict, int, str, bytes, dict, list[…], …"
        try:
            known = msgspec.inspect.type_info(declared)
            # msgspec takes what JSON gives for a class that it does not know, if it is of this class.
            unknown = (
                is_read
                and isinstance(known, msgspec.inspect.CustomType)
                and not any(issubclass(kind, known.cls) for kind in _FROM_JSON)
            )
        except TypeError as exc:
            raise Usage(f"{what}: {option}={declared!r}: {exc}", hint=hint) from None
        if unknown:
            name = getattr(declared, "__qualname__", declared)
            raise Usage(f"{what}: {option}={name}: JSON cannot be read as this class", hint=hint)


_FROM_JSON = (dict, list, str, int, float, bool)


def _list_of(declared: object) -> Any:
    # As `list[declared]`, which type checkers take for an annotation.
    return GenericAlias(list, (declared,))


def _is_trusted(declared: object) -> TypeGuard[type]:
    return isinstance(declared, type) and (declared in _TRUSTED or issubclass(declared, Enum))


def _faust_codec(model: Any) -> Codec:
    # A model without a serializer of its own takes JSON: Faust's default for topics, and without one `loads` fails.
    serializer = model._options.serializer or "json"

    def decode(data: bytes) -> Any:
        return model.loads(data, serializer=serializer)

    def encode(value: Any) -> bytes:
        return checked_json(value, value.dumps(serializer=serializer), serializer)

    return Codec(model.__name__, decode, encode)


def _encode_json_text(value: object) -> bytes:
    if type(value) is not str:
        raise BadRecord(f"expected text, not {type(value).__qualname__}")
    return _json_encoder.encode(value)


# Text in tables is JSON, as in Faust's changelogs, whether a type is declared or not.
decode_json_text = msgspec.json.Decoder(str).decode
_JSON_TEXT = Codec("text", decode_json_text, _encode_json_text, trusted=frozenset({str}), fast=_json_encoder.encode)


def value_codec(table: str, declared: object, default: Callable[[], object] | None) -> Codec:
    """Return the codec of a table's values: without a declared type, that of the default's type if JSON would lose it.

    Raises:
        Usage: the default would not come back unchanged (a `Counter`, a `defaultdict`).
    """
    if declared is str:
        return _JSON_TEXT
    if declared is not None or default is None:
        return codec(declared)
    value = default()
    kind = type(value)
    try:
        chosen = codec(None if kind in _JSON_ROUND_TRIP else kind)
        chosen.keep(value)
    except (BadRecord, TypeError) as exc:
        raise Usage(
            f"table {table}: its default, a {kind.__qualname__}, would be read back from the changelog as another type",
            hint="use a dict, a list, a number, text, a dataclass or a msgspec.Struct, and declare value_type=…",
        ) from exc
    return chosen


def key_codec(declared: object = None) -> Codec:
    """Return the codec of a table's keys.

    As `codec`, but keys that are equal in Python have equal bytes (see `keys.py`), and JSON arrays come back as tuples,
    since lists cannot be keys.

    So the undeclared keys 1, 1.0 and True are one key, kept as 1; if `bool` or `float` is declared, 1 is kept as that.
    """
    if declared is None or declared is Any:
        return _JSON_KEY
    if declared is str:
        return _JSON_TEXT
    chosen = codec(declared)
    if chosen is _RAW or hasattr(declared, "from_data"):
        return chosen
    exact = frozenset({declared}) if isinstance(declared, type) and has_one_form(declared) else frozenset[type]()

    def encode(key: object) -> bytes:
        if type(key) in exact:
            return chosen.encode(key)
        key = plain(key)
        try:
            found = chosen.decode(chosen.encode(key))
        except msgspec.ValidationError:
            found = msgspec.convert(key, declared, strict=False)  # 1 where a bool is declared; `keep` compares
        return chosen.encode(without_minus_zero(found))

    return Codec(
        chosen.name,
        chosen.decode,
        encode,
        trusted=exact if _is_trusted(declared) else frozenset(),
        same=_equal,
        fast=encode,
    )


def _equal(back: list[object], values: list[object]) -> bool:
    return back == values


def _encode_json_key(key: object) -> bytes:
    kind = type(key)
    return _json_encoder.encode(key if kind is str or kind is int else json_key(key))


_JSON_KEY = Codec(
    "a JSON key",
    lambda data: as_key(_json_decoder.decode(data)),
    _encode_json_key,
    trusted=frozenset({str, int, type(None)}),
    same=_equal,
    fast=_json_encoder.encode,
    fast_all=json_lines,
)


_JSON_ELEMENT = Codec(
    "a JSON key",
    _JSON_KEY.decode,
    lambda element: _json_encoder.encode(json_element(element)),
    trusted=frozenset({str, int, bool, type(None)}),
    same=_equal,
    fast=_json_encoder.encode,
    fast_all=json_lines,
)


def set_codec(table: str, declared: object = None) -> Codec:
    """Return the codec of sets in a table: sorted JSON arrays, so that equal sets have equal bytes.

    Args:
        declared: type of the elements; undeclared elements are encoded as undeclared keys, tuples included.

    Raises:
        Usage: JSON cannot hold such elements, or a set cannot.
    """
    try:
        element = _JSON_ELEMENT if declared is None else _json_element(declared)
    except TypeError as exc:
        raise Usage(f"table {table}: no sets of {declared!r}: {exc}", hint="elements have to be JSON values") from exc

    def fast(value: Any) -> bytes:
        return b"[%b]" % b",".join(sorted(element.keep_all(value)))

    def encode(value: Any) -> bytes:
        if type(value) is not set:
            raise BadRecord(f"a {type(value).__qualname__} is not a set", hint="assign a set to a key of a SetTable")
        return fast(value)

    if declared is None:
        decode, decode_list = (
            _decode_set,
            lambda data: [set(map(as_key, found)) for found in _json_lists(data)],
        )
    else:
        decode = msgspec.json.Decoder(GenericAlias(set, (declared,))).decode
        decode_list = msgspec.json.Decoder(_list_of(GenericAlias(set, (declared,)))).decode
    return Codec(
        f"a set of {element.name}",
        decode,
        encode,
        same=_equal,  # each element is compared when it is encoded
        fast=fast,
        decode_list=decode_list,
        whole=frozenset({set}),
    )


# A text or an object can be iterated as well, but is not a set.
_json_list, _json_lists = msgspec.json.Decoder(list[object]).decode, msgspec.json.Decoder(list[list[object]]).decode


def _decode_set(data: bytes) -> set[object]:
    return set(map(as_key, _json_list(data)))


def _json_element(declared: Any) -> Codec:
    """Return the codec of a set's elements: as `codec`, but text and bytes are JSON too, inside of an array."""
    if hasattr(declared, "from_data"):
        raise TypeError("Faust records cannot be in a set")
    trusted = frozenset({declared}) if _is_trusted(declared) or declared is str else ()
    decoder = msgspec.json.Decoder(declared)
    return Codec(
        getattr(declared, "__name__", str(declared)), decoder.decode, _to_sorted_json, trusted=frozenset(trusted)
    )


def is_finite(value: object) -> bool:
    """Return whether a value that JSON can hold is, and holds, no NaN and no infinity: JSON has null for them."""
    return _is_finite(msgspec.to_builtins(value, enc_hook=_plain))


def _plain(value: Any) -> object:
    # Faust records, known by their shape; others do not hold numbers of their own.
    return value.to_representation() if hasattr(value, "to_representation") else str(value)


def checked_json(value: object, data: bytes, serializer: object) -> bytes:
    """Return `data`, which one of Faust's serializers has made of a value.

    Faust writes a float that is not finite as `NaN` or `Infinity`, which is no JSON: other readers fail at it.

    Raises:
        BadRecord: the serializer writes JSON, and the value is, or holds, such a float.
    """
    steps = str(serializer).split("|")
    if "json" not in steps or isinstance(value, str):
        return data
    plain_json = len(steps) == 1
    if plain_json and not (b"NaN" in data or b"Infinity" in data or b"null" in data):
        return data
    if not is_finite(value):
        raise BadRecord(
            f"a {type(value).__qualname__} is, or holds, NaN or infinity, which JSON does not have",
            hint="send None where there is no number, or text",
        )
    return data


def _is_finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, cast("dict[object, object]", value).values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, cast("list[object]", value)))
    return not isinstance(value, float) or isfinite(value)
