"""Keys and elements of records: what a flow makes of them before it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .aggregates import What, getter
from .steps import Map, Select, Step, WithColumns

__all__ = ["Pairs"]


class Pairs:
    """The steps of a flow, and how it finds keys.

    Args:
        topic: whose records they are.
        key, value: what is key and what is left of an element; without a key the record's own counts.

    Attributes:
        own_key: whether the record's own key counts.
    """

    def __init__(self, topic: Any, steps: tuple[Step, ...], keyed: tuple[What, What] | None) -> None:
        self.topic, self.steps, self.keyed = topic, steps, keyed
        self.own_key = keyed is None
        self._one_to_one = all(isinstance(step, (Map, Select, WithColumns)) for step in steps)
        self._key_of, self._value_of = (getter(None), getter(None)) if keyed is None else map(getter, keyed)

    def of(
        self, messages: Sequence[Any], values: Sequence[Any], own_key: Callable[[bytes], Any] = bytes.decode
    ) -> Iterator[tuple[Any, Any]]:
        """Keys and elements, in the order of the records; tombstones have none.

        Raises:
            ValueError: a value is JSON's null, or there is no key; and whatever the flow's functions raise.
        """
        messages, values = _there(messages, values)
        if self.own_key:
            return self._by_own_key(messages, values, own_key)
        key_of, value_of = self._key_of, self._value_of
        elements = self._stepped(values)
        return ((_known(key_of(element)), value_of(element)) for element in elements)

    def _by_own_key(
        self, messages: Sequence[Any], values: Sequence[Any], own_key: Callable[[bytes], Any]
    ) -> Iterator[tuple[Any, Any]]:
        declared = self.topic.key_type is not None and own_key is not bytes
        decode = self.topic.decode_key if declared else own_key
        keys: Iterable[Any] = (None if (raw := message.key()) is None else decode(raw) for message in messages)
        known = _same if own_key is bytes else _known
        if self._one_to_one:  # much faster than to send each element through all steps by itself
            return zip(map(known, keys), self._stepped(values), strict=True)
        return (
            (known(key), element)
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


def _known(key: Any) -> Any:
    if key is None:
        raise ValueError("no key: neither the record has one, nor does key_by find it")
    return key


def _same(key: Any) -> Any:
    return key
