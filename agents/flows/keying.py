"""Keys and elements of records: what a flow makes of them before it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ...topics.keys import as_key
from ...topics.serde import Codec, key_codec
from .aggregates import What, getter
from .operators import Map, Operator, Select, WithColumns

__all__ = ["Keying"]


class Keying:
    """The steps of a flow, and how it finds keys.

    Args:
        topic: whose records they are.
        keyed: what is key and what is left of an element; without it the record's own key counts.
        keys: the codec of the table that the keys are for; they come in the one form that it gives back for all that
            are equal (see `anabranch.topics.keys`). Without it, that of undeclared keys.

    Attributes:
        own_key: whether the record's own key counts.
        sure: types of keys that are in that form already.
    """

    def __init__(
        self, topic: Any, steps: tuple[Operator, ...], keyed: tuple[What, What] | None, keys: Codec | None = None
    ) -> None:
        self.topic, self.steps, self.keyed = topic, steps, keyed
        self._keys = keys or key_codec()
        self.sure = self._keys.trusted - {type(None)}
        self.own_key = keyed is None
        self._one_to_one = all(isinstance(step, (Map, Select, WithColumns)) for step in steps)
        self._key_of, self._value_of = (getter(None), getter(None)) if keyed is None else map(getter, keyed)

    def of(
        self, messages: Sequence[Any], values: Sequence[Any], own_key: Callable[[bytes], Any] = bytes.decode
    ) -> Iterator[tuple[Any, Any]]:
        """Keys and elements, in the order of the records; tombstones have none.

        Args:
            own_key: decodes the records' own keys; `bytes` where the pairs are not for a table, so that keys are left
                as they are.

        Raises:
            ValueError: a value is JSON's null, or there is no key.
            BadRecord: the table cannot have the key; besides what the flow's functions raise.
        """
        messages, values = _there(messages, values)
        if self.own_key:
            return self._by_own_key(messages, values, own_key)
        return self._by_key(self._stepped(values), _some if own_key is bytes else self._looked_at)

    def _by_key(self, elements: Iterable[Any], look: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
        key_of, value_of, sure = self._key_of, self._value_of, self.sure
        for element in elements:
            key = key_of(element)
            yield key if type(key) in sure else look(key), value_of(element)

    def _looked_at(self, key: Any) -> Any:
        """The form that the table has for a key; see `of` for what it raises."""
        keys = self._keys
        return keys.decode(keys.keep(as_key(_some(key))))

    def _by_own_key(
        self, messages: Sequence[Any], values: Sequence[Any], own_key: Callable[[bytes], Any]
    ) -> Iterator[tuple[Any, Any]]:
        declared = self.topic.key_type is not None and own_key is not bytes
        decode = self.topic.decode_key if declared else own_key
        keys: Iterable[Any] = (None if (raw := message.key()) is None else decode(raw) for message in messages)
        sure, look = self.sure, self._looked_at if own_key is not bytes else _same
        if self._one_to_one:  # much faster than to send each element through all steps by itself
            keys = (key if type(key) in sure else look(key) for key in keys)
            return zip(keys, self._stepped(values), strict=True)
        return (
            (key if type(key) in sure else look(key), element)  # of a record that is filtered out nobody asks for a key
            for key, value in zip(keys, values, strict=True)
            for element in self._stepped((value,))
        )

    def _stepped(self, elements: Iterable[Any]) -> Iterable[Any]:
        for step in self.steps:
            elements = step.rows(elements)
        return elements


def _there(messages: Sequence[Any], values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Records and values without tombstones."""
    if None not in values:
        return messages, values
    there = [place for place, value in enumerate(values) if value is not None]
    if len(there) < len(values) and any(
        value is None and message.value() is not None for message, value in zip(messages, values, strict=True)
    ):
        raise ValueError("the value is null, which is no element; a tombstone has no value at all")
    return [messages[place] for place in there], [values[place] for place in there]


def _some(key: Any) -> Any:
    if key is None:
        raise ValueError("no key: neither the record has one, nor does key_by find it")
    return key


def _same(key: Any) -> Any:
    return key
