"""How the elements of one key become one value: of a batch, then of batches, then with what the table has.

element ─start─▶ state ◀─add─ element        in the agent that sees elements
state ◀─merge─ state                         where partial results meet
state ─stored─▶ value of the table ─opened─▶ state
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .aggregates import Aggregate

__all__ = ["Aggregating", "Folding", "Joining", "folded"]


class Joining:
    """By a function of two elements; the state is such an element."""

    def __init__(self, join: Callable[[Any, Any], Any]) -> None:
        self.add = self.merge = join

    def start(self, element: Any) -> Any:
        """The state of one element."""
        return element

    def stored(self, state: Any) -> Any:
        """What the table holds."""
        return state

    def opened(self, value: Any) -> Any:
        """The state that a value of the table stands for."""
        return value


class Aggregating:
    """By several aggregates side by side; the state is theirs in a list."""

    def __init__(self, columns: Mapping[str, Aggregate]) -> None:
        self._columns = dict(columns)
        self._hows = list(columns.values())
        self._taken = [how.taken() for how in self._hows]

    def start(self, element: Any) -> list[Any]:
        """The state of one element."""
        return self.add([how.zero() for how in self._hows], element)

    def add(self, state: list[Any], element: Any) -> list[Any]:
        """The state with one more element."""
        return [how.add(s, take(element)) for how, s, take in zip(self._hows, state, self._taken, strict=True)]

    def merge(self, state: list[Any], other: list[Any]) -> list[Any]:
        """The state of both."""
        return [how.merge(a, b) for how, a, b in zip(self._hows, state, other, strict=True)]

    def stored(self, state: list[Any]) -> dict[str, Any]:
        """Results by name, and beside each what is needed to go on where that is more."""
        value: dict[str, Any] = {}
        for (name, how), part in zip(self._columns.items(), state, strict=True):
            value[name] = how.result(part)
            if _keeps_more(how):
                value[f"_{name}"] = part
        return value

    def opened(self, value: Mapping[str, Any]) -> list[Any]:
        """The state that a value of the table stands for."""
        return [value[f"_{name}" if _keeps_more(how) else name] for name, how in self._columns.items()]


Folding = Joining | Aggregating


def folded(
    pairs: Iterable[tuple[Any, Any]], start: Callable[[Any], Any], add: Callable[[Any, Any], Any]
) -> dict[Any, Any]:
    """Key -> state, in the order in which keys came first.

    >>> folded([("a", 1), ("b", 2), ("a", 3)], lambda x: x, lambda a, b: a + b)
    {'a': 4, 'b': 2}
    """
    states: dict[Any, Any] = {}
    for key, element in pairs:
        states[key] = add(states[key], element) if key in states else start(element)
    return states


def _keeps_more(how: Aggregate) -> bool:
    return type(how).result is not Aggregate.result
