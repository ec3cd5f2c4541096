"""The audit of a world: its outcome is compared with the outcomes of worlds without faults.

Exactly once: tables, output topics (each record as often) and dead letters are equal. At least once: nothing is
missing, and numbers are not smaller. Headers and partitions of records are compared in topics where they are equal in
the worlds without faults: headers may carry identifiers, and records without a key go to any partition.

The order of the records of one key is compared in topics that are named as ordered. Between records of several
partitions it does not follow from the app, so it is not compared elsewhere. The worlds without faults differ in their
scheduling; tables and outputs that differ between them depend on it, and the audit says so instead.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["Expectation", "Outcome", "Written"]

_SHOWN = 6

T = TypeVar("T")

# What records with the same key and value may differ in. Where those without a key go is left to chance.
_DETAILS: dict[str, Callable[[Written], object]] = {
    "headers": lambda record: record.headers,
    "partition": lambda record: None if record.key is None else record.partition,
}


@dataclass(frozen=True, slots=True)
class Written:
    """A record of an output topic; key and value as bytes."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(slots=True)
class Outcome:
    """How a world ended.

    Attributes:
        tables: table -> key -> value, over all partitions.
        topics: output topic -> its committed records, partition by partition in their order.
        dead_letters: topic of dead letters -> values of its records.
        wrong: what must never happen, whatever the faults.
        has_changed: tables have been written, though they may be empty at the end.
    """

    tables: dict[str, dict[object, object]] = field(default_factory=dict[str, dict[object, object]])
    topics: dict[str, list[Written]] = field(default_factory=dict[str, list[Written]])
    dead_letters: dict[str, list[bytes | None]] = field(default_factory=dict[str, list[bytes | None]])
    wrong: list[str] = field(default_factory=list[str])
    has_changed: bool = False

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to compare."""
        return not any((self.has_changed, *self.tables.values(), *self.topics.values(), *self.dead_letters.values()))


class Expectation:
    """The outcome that a world with faults must have.

    Args:
        references: outcomes of worlds without faults; at least one.
        exactly_once: whether outcomes have to be equal, or may contain results twice.
        ordered: topics in which the order of the records of each key is compared.

    Attributes:
        unstable: what differs between the worlds without faults.
    """

    def __init__(
        self, references: Sequence[Outcome], *, exactly_once: bool = True, ordered: Iterable[str] = ()
    ) -> None:
        self._first, self._exactly_once = references[0], exactly_once
        self._orders = {topic: _orders(self._first.topics.get(topic, [])) for topic in ordered}
        self.unstable: list[str] = []
        for other in references[1:]:
            found = self._contents(other, equal=True) or self._order(other)
            self.unstable += [one for one in found if one not in self.unstable]
        self._same = [(topic, detail) for topic in self._first.topics for detail in _DETAILS if exactly_once]
        for other in references[1:]:
            self.learn_details(other)

    @property
    def dead_letters(self) -> dict[str, int]:
        """Topic of dead letters -> number of its records in a world without faults, where there are any."""
        return {topic: len(values) for topic, values in self._first.dead_letters.items() if values}

    def differences(self, outcome: Outcome) -> list[str]:
        """Return how an outcome differs from the expected one; empty if it does not."""
        found = [*outcome.wrong, *self._contents(outcome, equal=self._exactly_once)]
        return found or [*self._details(outcome), *(self._order(outcome) if self._exactly_once else [])]

    def differs_in_details(self, outcome: Outcome) -> bool:
        """Return whether an outcome differs in details of records, and not in what records there are."""
        return bool(self._details(outcome)) and not self._contents(outcome, equal=self._exactly_once)

    def learn_details(self, other: Outcome) -> None:
        """No longer compare details that differ in the outcome of another world without faults."""
        self._same = [one for one in self._same if _detailed(other, *one) == _detailed(self._first, *one)]

    def _details(self, outcome: Outcome) -> list[str]:
        found: list[str] = []
        for topic, detail in self._same:
            expected, others = (_detailed(side, topic, detail) for side in (self._first, outcome))
            wrong = [f"{_pair(one[:2])} has {reprlib.repr(one[2])}" for one in others - expected]
            if wrong:
                found.append(f"topic {topic}: other {detail}: {_listed(sorted(wrong))}")
        return found

    def _order(self, outcome: Outcome) -> list[str]:
        found: list[str] = []
        for topic, orders in self._orders.items():
            found += _order_differences(topic, orders, _orders(outcome.topics.get(topic, [])))
        return found

    def _contents(self, outcome: Outcome, *, equal: bool) -> list[str]:
        expected = self._first
        found: list[str] = []
        for name in sorted(expected.tables.keys() | outcome.tables.keys()):
            found += _table_differences(name, expected.tables.get(name, {}), outcome.tables.get(name, {}), equal=equal)
        for topic in sorted(expected.topics.keys() | outcome.topics.keys()):
            pairs = [
                Counter((record.key, record.value) for record in side.topics.get(topic, []))
                for side in (expected, outcome)
            ]
            found += _count_differences(f"topic {topic}", *pairs, equal=equal, show=_pair)
        for topic in sorted(expected.dead_letters.keys() | outcome.dead_letters.keys()):
            values = [Counter(side.dead_letters.get(topic, [])) for side in (expected, outcome)]
            found += _count_differences(f"dead letters {topic}", *values, equal=equal, show=_text)
        return found


def _table_differences(
    name: str, expected: Mapping[object, object], found: Mapping[object, object], *, equal: bool
) -> list[str]:
    wrong: list[str] = []
    for key in sorted(expected.keys() | found.keys(), key=repr):
        if key not in found:
            wrong.append(f"{_key(key)} is missing ({reprlib.repr(expected[key])})")
        elif key not in expected:
            if equal:
                wrong.append(f"{_key(key)} is {reprlib.repr(found[key])}, and should not exist")
        elif found[key] != expected[key] and (equal or _is_less(found[key], expected[key])):
            wrong.append(f"{_key(key)} is {reprlib.repr(found[key])}, not {reprlib.repr(expected[key])}")
    return [f"table {name}: {_listed(wrong)}"] if wrong else []


def _is_less(found: object, expected: object) -> bool:
    """Return whether a number is smaller; at least once promises nothing about other values."""
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return found < expected
    return False


def _count_differences(
    what: str, expected: Counter[T], found: Counter[T], *, equal: bool, show: Callable[[T], str]
) -> list[str]:
    missing, more = expected - found, found - expected if equal else Counter[T]()
    wrong = [f"{show(one)} is missing{_times(count)}" for one, count in missing.items()]
    for one, count in more.items():
        wrong.append(f"{show(one)} is there {f'{count} times too often' if count > 1 else 'once too often'}")
    return [f"{what}: {_listed(sorted(wrong))}"] if wrong else []


Orders = dict[tuple[int, bytes | None], list[bytes | None]]
"""(partition, key) -> values in their order."""


def _orders(records: Sequence[Written]) -> Orders:
    found: Orders = {}
    for record in records:
        found.setdefault((record.partition, record.key), []).append(record.value)
    return found


def _order_differences(topic: str, expected: Orders, found: Orders) -> list[str]:
    wrong: list[str] = []
    for at, values in expected.items():
        others = found.get(at, [])
        if others != values and Counter(others) == Counter(values):
            place = next(i for i, (a, b) in enumerate(zip(values, others, strict=True)) if a != b)
            wrong.append(
                f"record {place + 1} of key {_text(at[1])} is {_text(others[place])}, not {_text(values[place])}"
            )
    return [f"topic {topic}: other order: {_listed(wrong)}"] if wrong else []


def _detailed(outcome: Outcome, topic: str, detail: str) -> Counter[tuple[bytes | None, bytes | None, object]]:
    return Counter((record.key, record.value, _DETAILS[detail](record)) for record in outcome.topics.get(topic, ()))


def _listed(found: Sequence[str]) -> str:
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _times(count: int) -> str:
    return f" {count} times" if count > 1 else ""


def _key(key: object) -> str:
    return reprlib.repr(key)


def _text(data: object) -> str:
    return reprlib.repr(data.decode(errors="replace")) if isinstance(data, bytes) else repr(data)


def _pair(pair: tuple[bytes | None, bytes | None]) -> str:
    return " → ".join(map(_text, pair))
