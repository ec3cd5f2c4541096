"""Operators of a flow, and the pairs of key and element at its end.

An operator takes elements and returns elements (`apply`). Operators that use only fields and expressions are
*columnar*: they can do the same to a frame (`apply_columns`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from ...topics.keys import as_key
from ...topics.serde import key_codec
from .aggregates import What, getter
from .expressions import Expression

if TYPE_CHECKING:
    from ...topics.message import Message
    from ...topics.serde import Codec
    from ..topic import Topic
    from .columnar_frame import Frame

__all__ = ["Filter", "FlatMap", "Keying", "Map", "Operator", "Select", "WithColumns", "is_columnar"]


def is_columnar(what: What) -> bool:
    """Return whether `what` can be read from columns: a field's name or an expression."""
    return isinstance(what, (str, Expression))


@dataclass(frozen=True)
class Operator:
    """Base class of the operators."""

    @property
    def columnar(self) -> bool:
        """True if `apply_columns` is implemented for this operator."""
        return False

    def apply(self, elements: Iterable[object]) -> Iterable[object]:
        """Return the elements that the operator makes of `elements`, lazily."""
        raise NotImplementedError

    def apply_columns(self, frame: Frame) -> None:
        """Do the same to a frame, in place.

        Raises:
            NotVectorizable: the result might differ from that of `apply`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Map(Operator):
    """Replaces each element by a function's result."""

    function: Callable[..., object]

    def apply(self, elements: Iterable[object]) -> Iterable[object]:
        return map(self.function, elements)


@dataclass(frozen=True)
class FlatMap(Operator):
    """Replaces each element by all elements that a function returns for it."""

    function: Callable[..., Iterable[object]]

    def apply(self, elements: Iterable[object]) -> Iterable[object]:
        return chain.from_iterable(map(self.function, elements))


@dataclass(frozen=True)
class Filter(Operator):
    """Keeps the elements for which a function is true."""

    function: Callable[..., object]

    @property
    def columnar(self) -> bool:
        return isinstance(self.function, Expression)

    def apply(self, elements: Iterable[object]) -> Iterable[object]:
        return filter(self.function, elements)

    def apply_columns(self, frame: Frame) -> None:
        frame.keep(self.function)


@dataclass(frozen=True)
class Select(Operator):
    """Replaces each element by a dict of some fields, by name."""

    fields: Mapping[str, What]

    @property
    def columnar(self) -> bool:
        return all(map(is_columnar, self.fields.values()))

    def apply(self, elements: Iterable[object]) -> Iterable[object]:
        return map(_field_reader(self.fields), elements)

    def apply_columns(self, frame: Frame) -> None:
        frame.select(self.fields)


@dataclass(frozen=True)
class WithColumns(Operator):
    """Replaces each element by a dict of its fields and more of them."""

    fields: Mapping[str, What]

    @property
    def columnar(self) -> bool:
        return all(map(is_columnar, self.fields.values()))

    def apply(self, elements: Iterable[object]) -> Iterable[object]:
        read = _field_reader(self.fields)
        return (_fields_of(element) | read(element) for element in elements)

    def apply_columns(self, frame: Frame) -> None:
        frame.with_columns(self.fields)


def _field_reader(fields: Mapping[str, What]) -> Callable[[object], dict[str, object]]:
    getters = {name: getter(what) for name, what in fields.items()}
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
    ) -> None:
        self.topic, self.steps, self.keyed = topic, steps, keyed
        self._keys = keys or key_codec()
        self.exact = self._keys.trusted - {type(None)}
        self.own_key = keyed is None
        self._one_to_one = all(isinstance(step, (Map, Select, WithColumns)) for step in steps)
        self._key_of, self._value_of = (getter(None), getter(None)) if keyed is None else map(getter, keyed)

    def pairs(
        self, messages: Sequence[Message], values: Sequence[object], own_key: Callable[[bytes], object] = bytes.decode
    ) -> Iterator[tuple[object, object]]:
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

    def _by_key(
        self, elements: Iterable[object], normal: Callable[[object], object]
    ) -> Iterator[tuple[object, object]]:
        key_of, value_of, exact = self._key_of, self._value_of, self.exact
        for element in elements:
            key = key_of(element)
            yield key if type(key) in exact else normal(key), value_of(element)

    def _normal(self, key: object) -> object:
        """Return a key in the codec's form; for errors see `pairs`."""
        keys = self._keys
        return keys.decode(keys.keep(as_key(_present(key))))

    def _by_own_key(
        self, messages: Sequence[Message], values: Sequence[object], own_key: Callable[[bytes], object]
    ) -> Iterator[tuple[object, object]]:
        declared = self.topic.key_type is not None and own_key is not bytes
        decode = self.topic.decode_key if declared else own_key
        keys: Iterable[object] = (None if (raw := message.key()) is None else decode(raw) for message in messages)
        exact, normal = self.exact, self._normal if own_key is not bytes else _same
        if self._one_to_one:  # much faster than to send each element through all operators by itself
            keys = (key if type(key) in exact else normal(key) for key in keys)
            return zip(keys, self._apply(values), strict=True)
        return (
            (key if type(key) in exact else normal(key), element)  # a record that is filtered out needs no key
            for key, value in zip(keys, values, strict=True)
            for element in self._apply((value,))
        )

    def _apply(self, elements: Iterable[object]) -> Iterable[object]:
        for step in self.steps:
            elements = step.apply(elements)
        return elements


def _without_tombstones(
    messages: Sequence[Message], values: Sequence[object]
) -> tuple[Sequence[Message], Sequence[object]]:
    if None not in values:
        return messages, values
    present = [index for index, value in enumerate(values) if value is not None]
    if len(present) < len(values) and any(
        value is None and message.value() is not None for message, value in zip(messages, values, strict=True)
    ):
        raise ValueError("the value is null, which is not an element; a tombstone has no value at all")
    return [messages[index] for index in present], [values[index] for index in present]


def _present(key: object) -> object:
    if key is None:
        raise ValueError("no key: the record has none, or key_by returns none")
    return key


def _same(key: object) -> object:
    return key
