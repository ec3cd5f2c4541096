"""Operators of a flow, and the pairs of key and element at its end.

An operator takes elements and returns elements (`function`). Operators that use only fields and expressions are
*columnar*: they can do the same to a frame (`apply_columns`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from itertools import chain, islice
from operator import attrgetter, itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ...topics.errors import Usage
from ...topics.keys import as_key
from ...topics.serde import key_codec
from .aggregates import What, getter
from .expressions import Expression, part

if TYPE_CHECKING:
    from ...topics.message import Message
    from ...topics.serde import Codec
    from ..topic import Topic
    from .column_evaluation import Frame

__all__ = ["Filter", "FlatMap", "Keying", "Map", "Operator", "Select", "WithColumns", "field_reader", "is_columnar"]


def is_columnar(what: What) -> bool:
    """Return whether `what` can be read from columns: a field's name or an expression."""
    return isinstance(what, (str, Expression))


Pair = tuple[object, object]
"""A key and an element."""

# Elements whose keys are looked at together.
_CHUNK = 4_096

OfElements = Callable[[Iterable[object]], Iterable[object]]
"""A function of elements, which it takes and returns lazily and in order."""

FieldReader = Callable[[str], Callable[..., object]]
"""Returns a function that takes a field out of an element."""


@dataclass(frozen=True)
class Operator:
    """Base class of the operators.

    Each defines its meaning twice, side by side: for elements (`function`) and for columns (`apply_columns`).
    """

    @property
    def columnar(self) -> bool:
        """True if `apply_columns` is implemented for this operator."""
        return False

    def function(self, field: FieldReader = part) -> tuple[OfElements, FieldReader]:
        """Return the function of elements that the operator stands for, and how fields are taken out of its results.

        Args:
            field: takes fields out of the operator's elements.
        """
        raise NotImplementedError

    def apply_columns(self, frame: Frame) -> None:
        """Do the same to a frame, in place.

        Raises:
            NotVectorizable: the result might differ from that of `function`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Map(Operator):
    """Replaces each element by a function's result."""

    of: Callable[..., object]

    def __post_init__(self) -> None:
        _refuse_unfinished(self.of, "map", generator_hint="flat_map takes each value that a generator yields")

    def function(self, field: FieldReader = part) -> tuple[OfElements, FieldReader]:
        return _mapped(getter(self.of, field)), part


@dataclass(frozen=True)
class FlatMap(Operator):
    """Replaces each element by all elements that a function returns for it."""

    of: Callable[..., Iterable[object]]

    def __post_init__(self) -> None:
        _refuse_unfinished(self.of, "flat_map")

    def function(self, field: FieldReader = part) -> tuple[OfElements, FieldReader]:
        of = self.of
        return lambda elements: (made for element in elements for made in of(element)), part


@dataclass(frozen=True)
class Filter(Operator):
    """Keeps the elements for which a function is true."""

    of: Callable[..., object]

    def __post_init__(self) -> None:
        _refuse_unfinished(self.of, "filter", generator_hint="return True or False; do not yield it")

    @property
    def columnar(self) -> bool:
        return isinstance(self.of, Expression)

    def function(self, field: FieldReader = part) -> tuple[OfElements, FieldReader]:
        of = getter(self.of, field)
        return lambda elements: (element for element in elements if of(element)), field

    def apply_columns(self, frame: Frame) -> None:
        frame.keep(self.of)


@dataclass(frozen=True)
class Select(Operator):
    """Replaces each element by a dict of some fields, by name."""

    fields: Mapping[str, What]

    @property
    def columnar(self) -> bool:
        return all(map(is_columnar, self.fields.values()))

    def function(self, field: FieldReader = part) -> tuple[OfElements, FieldReader]:
        return _mapped(_field_reader(self.fields, field)), itemgetter

    def apply_columns(self, frame: Frame) -> None:
        frame.select(self.fields)


@dataclass(frozen=True)
class WithColumns(Operator):
    """Replaces each element by a dict of its fields and more of them."""

    fields: Mapping[str, What]

    @property
    def columnar(self) -> bool:
        return all(map(is_columnar, self.fields.values()))

    def function(self, field: FieldReader = part) -> tuple[OfElements, FieldReader]:
        read = _field_reader(self.fields, field)
        return lambda elements: (_fields_of(element) | read(element) for element in elements), itemgetter

    def apply_columns(self, frame: Frame) -> None:
        frame.with_columns(self.fields)


def _refuse_unfinished(of: object, operator: str, *, generator_hint: str = "") -> None:
    """Refuse functions that return a coroutine or a generator instead of a result: it would be taken for an element, or
    for true.

    Args:
        generator_hint: what to do instead of a generator; empty if generators are allowed.

    Raises:
        Usage: it is such a function.
    """
    name = getattr(of, "__name__", type(of).__name__)
    for function in (of, getattr(type(of), "__call__", None)):  # noqa: B004
        if iscoroutinefunction(function) or isasyncgenfunction(function):
            raise Usage(
                f"{operator}({name}): an async function", hint="functions of a flow are plain; agents can await"
            )
        if generator_hint and isgeneratorfunction(function):
            raise Usage(f"{operator}({name}): a generator, which is no result", hint=generator_hint)


def _mapped(of: Callable[..., object]) -> OfElements:
    """Return what applies a function to each element."""
    # Not `map`, here and above: a StopIteration of the user's function would end it, as if there were no more elements.
    return lambda elements: (of(element) for element in elements)


def _field_reader(fields: Mapping[str, What], field: FieldReader) -> Callable[[object], dict[str, object]]:
    getters = {name: getter(what, field) for name, what in fields.items()}
    return lambda element: {name: get(element) for name, get in getters.items()}


def _fields_of(element: Any) -> dict[str, object]:
    if isinstance(element, dict):
        return element
    if isinstance(element, msgspec.Struct):
        return msgspec.structs.asdict(element)
    raise TypeError(f"with_columns needs elements with fields, not {type(element).__name__}")


class Keying:
    """The operators of a flow, and how it finds keys.

    Keys have the one form that the table's codec returns for all equal keys (see `anabranch.topics.keys`).

    Args:
        topic: the topic of the records.
        steps: the operators, in order.
        keyed: what is the key and what is left of an element; None: the record's own key counts.
        keys: the codec of the table that the keys are for; default: that of undeclared keys.
        fields: how fields are taken out of elements; default: as declared for the topic.

    Attributes:
        own_key: whether the record's own key counts.
        exact: types of keys that are in the codec's form already.
    """

    def __init__(
        self,
        topic: Topic,
        steps: tuple[Operator, ...],
        keyed: tuple[What, What] | None,
        keys: Codec | None = None,
        fields: FieldReader | None = None,
    ) -> None:
        self.topic, self.steps, self.keyed = topic, steps, keyed
        self._keys = keys or key_codec()
        self.exact = self._keys.trusted - {type(None)}
        self.own_key = keyed is None
        self._one_to_one = all(isinstance(step, (Map, Select, WithColumns)) for step in steps)
        field, self._functions = fields or field_reader(topic.declared), list[OfElements]()
        for step in steps:
            function, field = step.function(field)
            self._functions.append(function)
        key, value = keyed or (None, None)
        self._key_of = getter(key, field)
        self._value_of = None if value is None else getter(value, field)

    def pairs(
        self, messages: Sequence[Message], values: Sequence[object], own_key: Callable[[bytes], object] = bytes.decode
    ) -> Iterator[Pair]:
        """Return pairs of key and element, in the order of the records, lazily; tombstones have none.

        Args:
            messages, values: records and their decoded values.
            own_key: decodes the records' own keys; `bytes` leaves keys as they are, for pairs that go to a topic.

        Raises:
            ValueError: a value is JSON's null, or there is no key.
            BadRecord: the table cannot hold the key; and whatever the flow's functions raise.
        """
        messages, values = _without_tombstones(messages, values)
        if self.own_key:
            return self._by_own_key(messages, values, own_key)
        return self._by_key(self._apply(values), _present if own_key is bytes else self._normal)

    def pairs_of(self, element: object, own_key: object) -> Iterator[Pair]:
        """Return the pairs of key and element that become of one element that is no record, lazily.

        Args:
            own_key: the key of the element, in the codec's form.

        Raises:
            ValueError, BadRecord, and others: see `pairs`.
        """
        made = self._apply((element,))
        return ((own_key, each) for each in made) if self.own_key else self._by_key(made, self._normal)

    def _by_key(self, elements: Iterable[object], normal: Callable[[object], object]) -> Iterator[Pair]:
        return chain.from_iterable(self._chunks(iter(elements), normal))

    def _chunks(self, elements: Iterator[object], normal: Callable[[object], object]) -> Iterator[Iterator[Pair]]:
        key_of, value_of = self._key_of, self._value_of
        while chunk := list(islice(elements, _CHUNK)):
            keys = self._exact([key_of(element) for element in chunk], normal)
            yield zip(keys, chunk if value_of is None else _mapped(value_of)(chunk), strict=True)

    def _exact(self, keys: list[object], normal: Callable[[object], object]) -> list[object]:
        """Return keys in the codec's form."""
        exact = self.exact
        if exact.issuperset(map(type, keys)):
            return keys
        return [key if type(key) in exact else normal(key) for key in keys]

    def _normal(self, key: object) -> object:
        """Return a key in the codec's form; for errors see `pairs`."""
        keys = self._keys
        return keys.decode(keys.keep(as_key(_present(key))))

    def _by_own_key(
        self, messages: Sequence[Message], values: Sequence[object], own_key: Callable[[bytes], object]
    ) -> Iterator[Pair]:
        declared = self.topic.key_type is not None and own_key is not bytes
        decode = self.topic.decode_key if declared else own_key
        raw = [message.key() for message in messages]
        keys: list[object]
        try:
            keys = list(map(decode, cast("list[bytes]", raw)))
        except Exception:  # noqa: BLE001 (one of them is None, or the decoder below raises again)
            keys = [None if key is None else decode(key) for key in raw]
        normal = self._normal if own_key is not bytes else _same
        if self._one_to_one:  # much faster than to send each element through all operators by itself
            return zip(self._exact(keys, normal), self._apply(values), strict=True)
        exact = self.exact
        return (
            (key if type(key) in exact else normal(key), element)  # a record that is filtered out needs no key
            for key, value in zip(keys, values, strict=True)
            for element in self._apply((value,))
        )

    def _apply(self, elements: Iterable[object]) -> Iterable[object]:
        for function in self._functions:
            elements = function(elements)
        return elements


def field_reader(declared: object) -> FieldReader:
    """Return how fields are taken out of values of a declared type."""
    attributes = isinstance(declared, type) and (issubclass(declared, msgspec.Struct) or is_dataclass(declared))
    return attrgetter if attributes else part


def _without_tombstones(
    messages: Sequence[Message], values: Sequence[object]
) -> tuple[Sequence[Message], Sequence[object]]:
    if NoneType not in map(type, values):
        return messages, values
    present = [index for index, value in enumerate(values) if value is not None]
    if any(value is None and message.value() is not None for message, value in zip(messages, values, strict=True)):
        raise ValueError("the value is null, which is not an element; a tombstone has no value at all")
    return [messages[index] for index in present], [values[index] for index in present]


def _present(key: object) -> object:
    if key is None:
        raise ValueError("no key: the record has none, or key_by returns none")
    return key


def _same(key: object) -> object:
    return key
